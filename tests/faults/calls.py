"""The calls of one caller: each is made until it is answered, across restarts, and what it shows is written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operations_service_pb2 as pb
from tests.faults.history import TERMINAL, Asked, History
from tests.faults.process import Caller, ServerProcess

T = TypeVar("T")
REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)


class Serving:
    """Whether there is a server, and whether another one is still to come."""

    def __init__(self) -> None:
        self._up = asyncio.Event()
        self._next = asyncio.Event()
        self._last = False

    def up(self) -> None:
        """A server has begun to serve."""
        self._up.set()
        if not self._last:
            self._next.set()
            self._next = asyncio.Event()

    def down(self) -> None:
        """It is about to end."""
        self._up.clear()

    def last(self) -> None:
        """No other server will follow this one."""
        self._last = True
        self._next.set()

    async def wait(self) -> None:
        """Return once there is a server."""
        await self._up.wait()

    async def another(self) -> None:
        """Return once another server serves, or at once if none will."""
        await self._next.wait()


class Calls:
    """One channel to the server."""

    def __init__(self, server: ServerProcess, history: History, serving: Serving) -> None:
        self.caller = Caller(server)
        self.operations = self.caller.operations
        self.control = control_grpc.OperationControlServiceStub(self.caller.channel)
        # As the stock stubs do it, only without a deserializer: the bytes themselves are compared with the store.
        self._watch: Callable[..., Any] = self.caller.channel.unary_stream(
            "/longshore.v1.OperationsService/Watch", pb.WatchRequest.SerializeToString
        )
        self.history = history
        self.serving = serving

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until there is an answer. Raises `grpc.aio.AioRpcError` for a refusal."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                await self.unavailable(error)

    async def ask(self, method: Callable[..., Awaitable[T]], request: Message) -> tuple[T | None, str]:
        """Call until there is an answer or a refusal: the one or the reason of the other."""
        try:
            return await self.insist(lambda: method(request, wait_for_ready=True)), ""
        except grpc.aio.AioRpcError as error:
            if error.code() not in REFUSALS:
                raise
            return None, reason_of(error)

    async def unavailable(self, error: grpc.aio.AioRpcError) -> None:
        """Return once there is a server again; anything else than that there was none is raised."""
        # What has reached a server that stops, and no handler yet, gRPC itself answers with a bare CANCELLED.
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise error
        self.history.counts["calls broken off"] += 1
        self.history.counts["calls cancelled by a stop"] += error.code() is grpc.StatusCode.CANCELLED
        # And what a handler has still when the grace of a stop is over.
        self.history.counts["calls cut by a stop"] += error.details() == "Cancelling all calls"
        await self.serving.wait()

    def missing(self, uid: str) -> None:
        """The server does not know of it any more."""
        self.history.missing.setdefault(uid, time.time_ns() // 1000)

    async def get(self, uid: str) -> Any:
        """Its snapshot; None: it is gone."""
        request = pb.GetRequest(name=f"operations/{uid}")
        snapshot, _ = await self.ask(self.operations.Get, request)
        if snapshot is None:
            self.missing(uid)
        else:
            self.history.snapshot(snapshot)
        return snapshot

    async def cancel(self, name: str, uid: str) -> None:
        """Ask to cancel."""
        request = pb.CancelRequest(name=name, reason="no longer wanted")
        snapshot = await self.insist(lambda: self.operations.Cancel(request, wait_for_ready=True))
        self.history.snapshot(snapshot)
        self.history.cancels.append(Asked(uid, snapshot.state))

    async def stop(self, name: str, uid: str) -> None:
        """Ask to stop."""
        request = pb.StopRequest(name=name, reason="enough")
        snapshot = await self.insist(lambda: self.operations.Stop(request, wait_for_ready=True))
        self.history.snapshot(snapshot)
        self.history.stops.append(Asked(uid, snapshot.state))

    async def follow(
        self, name: str, uid: str, after: int | None, *, leave_after: int = 0, conflate: bool = False
    ) -> int:
        """Watch to the end, or until some events were seen, across restarts; the last sequence that was seen."""
        last, seen = after, 0
        ended = bool(after) and self.history.is_end(uid, after or 0)
        while True:
            request = pb.WatchRequest(name=name, uid=uid, conflate=conflate)
            if last is not None:
                request.after_sequence = last
            call = self._watch(request, wait_for_ready=True)
            try:
                async for raw in call:
                    message = pb.WatchResponse.FromString(raw)
                    if message.HasField("snapshot"):
                        self.history.snapshot(message.snapshot)
                        if last is not None and message.reset and message.snapshot.HasField("end_time"):
                            self.missing(uid)  # its log has gone while this watch read it: it was deleted
                        elif last is not None:
                            self.history.wrong(f"{name}: a snapshot in a watch that resumed after {last}")
                        last = message.snapshot.sequence
                        ended = message.snapshot.HasField("end_time")
                    elif message.HasField("event"):
                        if ended or last is None:
                            self.history.wrong(f"{name}: an event after the end, or before the snapshot")
                        last = self.see(uid, raw, message, last or 0, conflate=conflate)
                        ended = message.event.WhichOneof("event") in TERMINAL
                        seen += 1
                        if seen == leave_after:
                            call.cancel()
                            return last
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    self.missing(uid)
                    return last or 0
                await self.unavailable(error)
                self.history.counts["watches resumed"] += 1
                continue
            if not ended:
                self.history.wrong(f"{name}: the watch ended at {last}, and the operation had not")
            self.history.counts["watches to the end"] += 1
            return last or 0

    def see(self, uid: str, raw: bytes, message: Any, last: int, *, conflate: bool = False) -> int:
        """An event of a watch, `last` being the one before it; its sequence."""
        sequence = message.event.sequence
        covered = conflate and message.HasField("covers_after") and message.covers_after == last < sequence
        if sequence != last + 1 and not covered:
            self.history.wrong(f"{uid}: event {sequence} followed {last}")
        self.history.event(uid, raw, message)
        return int(sequence)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the details of a refusal; empty: it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            if status_pb2.Status.FromString(value).details[0].Unpack(info):  # type: ignore[arg-type]
                return info.reason
    return ""
