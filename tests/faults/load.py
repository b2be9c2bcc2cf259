"""Callers that use a server in every way they can while it is being killed, and write down what they were told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Any

import grpc
from torture.v1 import torture_pb2_grpc
from torture.v1.torture_pb2 import WorkRequest

from longshore.v1 import operations_service_pb2 as pb
from tests.faults.calls import Calls, Serving
from tests.faults.history import History
from tests.faults.process import SERVICE, ServerProcess
from tests.faults.steering import Session, Steering

# How often each kind is started, and how much of it at most.
KINDS = {
    "Quick": (3, 1), "Steps": (3, 5), "Sleeps": (2, 4), "Chatty": (1, 150), "Family": (1, 4), "Named": (2, 4),
    "Hand": (2, 3), "Spread": (1, 4),
}  # fmt: skip
OWN = KINDS.keys() - {"Hand", "Spread"}
"""Those that need no jobs."""
NAMES = 4000
"""How many template names there are: few enough that callers meet on them."""


class Load:
    """One caller with a channel of its own and several sessions at a time, each from start to end of an operation."""

    def __init__(
        self, server: ServerProcess, history: History, serving: Serving, seed: str, kinds: Collection[str] = KINDS
    ) -> None:
        """`kinds`: of operations, those that are started."""
        self._kinds = {kind: weight for kind, (weight, _) in KINDS.items() if kind in kinds}
        self._calls = Calls(server, history, serving)
        self._caller = self._calls.caller
        self._typed = torture_pb2_grpc.TortureServiceStub(self._caller.channel)
        self._run: Callable[..., Any] = self._caller.channel.unary_stream(
            "/longshore.v1.OperationsService/Run", pb.RunRequest.SerializeToString
        )
        self._steering = Steering(self._calls, seed.partition("/")[0])
        self._history = history
        self._seed = seed
        self._stopping = False
        self._number = 0

    async def run(self, sessions: int, steered: int) -> None:
        """Sessions one after the other, so many at a time, until `stop`; returns when the last have ended.

        `steered`: how many more at a time in which somebody steers, see `steering`.
        """
        what = [self._session] * sessions + [self._steering.session] * steered
        async with self._caller:
            loops = (self._loop(session, random.Random(f"{self._seed}/{n}")) for n, session in enumerate(what))
            await asyncio.gather(*loops)

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping = True

    async def _loop(self, session: Session, rng: random.Random) -> None:
        while not self._stopping:
            self._number += 1
            try:
                await session(rng, f"{self._seed}/{self._number}")
            except grpc.aio.AioRpcError as error:
                self._history.wrong(f"a call failed: {error.code()} {error.details()}")
            except Exception as error:  # noqa: BLE001 - a caller that breaks is a finding, not the end of the test
                self._history.wrong(f"a caller broke: {error!r}")

    async def _session(self, rng: random.Random, id: str) -> None:
        kind = rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        count = rng.randint(1, KINDS[kind][1])
        request = WorkRequest(count=count, text=f"{id} " + "x" * rng.choice([0, 10, 300]))
        if kind == "Named":
            key = f"{self._seed.partition('/')[0]}-{rng.randrange(NAMES)}"
            request = WorkRequest(key=key, count=1 + int(key.rpartition("-")[2]) % 4, text=key)
        how = rng.choices(["id", "twice", "typed", "run", "anonymous"], [4, 2, 2, 1, 1])[0]
        follow = rng.choices(["watch", "watches", "leave", "wait", "cancel", "nothing"], [4, 2, 2, 2, 3, 1])[0]
        if how == "run":
            await self._run_to_the_end(kind, request, "" if kind == "Named" else id)
            return
        started = await self._start(how, kind, request, id)
        if started is None:
            return
        name, uid = started
        if rng.random() < 0.2:
            await self._calls.get(uid)
        match follow:
            case "watch":
                await self._calls.follow(name, uid, rng.choice([None, 0]))
            case "watches":
                await asyncio.gather(
                    self._calls.follow(name, uid, 0),
                    self._calls.follow(name, uid, None),
                    self._calls.follow(name, uid, 0, conflate=True),
                )
            case "leave":
                last = await self._calls.follow(name, uid, 0, leave_after=rng.randint(1, 4))
                await asyncio.sleep(rng.random() * 0.3)
                await self._calls.follow(name, uid, last)
            case "wait":
                await self._wait(name)
            case "cancel":
                watching = asyncio.create_task(self._calls.follow(name, uid, 0))
                await asyncio.sleep(rng.random() * 0.3)
                await asyncio.gather(*(self._calls.cancel(name, uid) for _ in range(rng.randint(1, 2))))
                await watching
        if kind != "Named" and how != "anonymous" and follow != "nothing":
            await self._steering.afterwards(rng, f"{SERVICE}/{kind}", request, uid, id)

    async def _start(self, how: str, kind: str, request: WorkRequest, id: str) -> tuple[str, str] | None:
        history, type = self._history, f"{SERVICE}/{kind}"
        key = request.key
        if key:
            history.keys.add(key)
        if how == "anonymous" and not key:
            history.anonymous_tries += 1
            history.counts["starts sent"] += 1
            try:
                response = await self._caller.start(kind, request)
            except grpc.aio.AioRpcError as error:
                await self._calls.unavailable(error)
                history.counts["starts of unknown fate"] += 1
                return None
            history.started(type, response)
            return response.operation.name, response.operation.uid
        id = "" if key else id
        if id:
            history.request_ids.add(id)
        if how == "typed":
            return await self._start_typed(kind, request, id)
        send = 2 if how == "twice" else 1
        responses = await asyncio.gather(
            *(self._calls.insist(lambda: self._caller.start(kind, request, request_id=id)) for _ in range(send))
        )
        for response in responses:
            history.started(type, response, request_id=id, key=key)
        return responses[0].operation.name, responses[0].operation.uid

    async def _start_typed(self, kind: str, request: WorkRequest, id: str) -> tuple[str, str]:
        """By the contract's own method, as its callers do."""
        request.request_id = id

        async def start() -> tuple[str, str, bool]:
            call = getattr(self._typed, kind)(request, wait_for_ready=True)
            operation = await call
            # Through a tuple: in grpcio 1.76 `Metadata` iterates over pairs, but dict() would use its keys().
            metadata = dict(tuple(await call.initial_metadata()))
            return operation.name, metadata["longshore-uid"], metadata["longshore-disposition"] == "created"

        name, uid, created = await self._calls.insist(start)
        response = pb.StartResponse(
            disposition=pb.StartResponse.DISPOSITION_CREATED if created else pb.StartResponse.DISPOSITION_EXISTING
        )
        response.operation.name, response.operation.uid = name, uid
        self._history.started(f"{SERVICE}/{kind}", response, request_id=id, key=request.key)
        self._history.snapshots.pop()  # this answer holds none
        self._history.counts["typed starts"] += 1
        return name, uid

    async def _run_to_the_end(self, kind: str, request: WorkRequest, id: str) -> None:
        """Start and watch in one call; after a break the watch goes on by itself."""
        history = self._history
        (history.keys if request.key else history.request_ids).add(request.key or id)
        run = pb.RunRequest(type=f"{SERVICE}/{kind}", request_id=id)
        run.input.Pack(request)
        while True:
            name, uid, last = "", "", 0
            try:
                async for raw in self._run(run, wait_for_ready=True):
                    message = pb.WatchResponse.FromString(raw)
                    if message.HasField("snapshot"):
                        name, uid, last = message.snapshot.name, message.snapshot.uid, message.snapshot.sequence
                        history.snapshot(message.snapshot)
                    elif message.HasField("event"):
                        last = self._calls.see(uid, raw, message, last)
            except grpc.aio.AioRpcError as error:
                await self._calls.unavailable(error)
            if name:
                # From the start, so that what the run has shown is seen again.
                history.counts["runs"] += 1
                await self._calls.follow(name, uid, 0)
                return

    async def _wait(self, name: str) -> None:
        snapshot = await self._calls.insist(lambda: self._caller.end(name))
        self._history.snapshot(snapshot)
        self._history.counts["waits"] += 1
        if not snapshot.HasField("end_time"):
            self._history.wrong(f"{name}: a wait without a limit was answered before the end")
