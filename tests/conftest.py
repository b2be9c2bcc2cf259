"""What all tests share: a laboratory, which is a server whose handlers the test writes on the spot."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

sys.path.append(str(Path(__file__).parents[1]))

from lab.v1 import lab_longshore, lab_pb2, lab_pb2_grpc

from longshore.v1 import operation_pb2, operations_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Server
from longshore_server.testing import Harness

Handler = Callable[[Any, Any], Awaitable[Any]]
State = operation_pb2.OperationSnapshot.State


class LabHandlers(lab_longshore.LabService):
    """Every operation runs `handler`, which the test sets; by default it returns at once."""

    def __init__(self) -> None:
        self.handler: Handler | None = None

    async def _play(self, request: Any, op: Any) -> Any:
        if self.handler is not None:
            return await self.handler(request, op)
        return lab_pb2.PlayResult(text="played")

    async def play(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_on(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_through(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_once(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_named(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_again(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_short(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_minute(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def climb(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def count(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def fire(self, request: Any, op: Any, /) -> Any:
        if self.handler is not None:
            return await self.handler(request, op)
        return None

    async def play_by_rules(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)

    async def play_live(self, request: Any, op: Any, /) -> Any:
        return await self._play(request, op)


class Lab:
    """A server, a stock client to it, and the handler between them."""

    TYPE = "lab.v1.LabService/Play"

    def __init__(self, data: Path, **settings: Any) -> None:
        self.handlers = LabHandlers()
        self.server = Server(self.handlers)
        self.harness = Harness(self.server, data, **settings)
        self._channel: grpc.aio.Channel | None = None

    def plays(self, handler: Handler) -> Handler:
        """Decorator: the handler of every operation from here on."""
        self.handlers.handler = handler
        return handler

    async def start(self) -> None:
        await self.harness.start()
        await self.connect()

    async def connect(self) -> None:
        """A new channel, with nothing of the old one's back-off."""
        if self._channel is not None:
            await self._channel.close()
        self._channel = grpc.aio.insecure_channel(self.harness.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(self._channel)
        self.lab = lab_pb2_grpc.LabServiceStub(self._channel)

    @property
    def channel(self) -> grpc.aio.Channel:
        assert self._channel is not None
        return self._channel

    @property
    def clock(self) -> Any:
        return self.harness.clock

    @property
    def engine(self) -> Any:
        return self.harness.running.engine

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        await self.harness.stop()

    async def restart(self, *, crash: bool = True) -> None:
        """Kill (or stop) the server and start it again on the same data."""
        await (self.harness.crash() if crash else self.harness.stop())
        await self.harness.start()
        await self.connect()

    async def begin(self, type: str = "Play", request: Message | None = None, **fields: Any) -> pb.StartResponse:
        """Start an operation by the generic RPC."""
        packed = AnyMessage()
        packed.Pack(request if request is not None else lab_pb2.PlayRequest(**fields))
        return await self.operations.Start(pb.StartRequest(type=f"lab.v1.LabService/{type}", input=packed))

    async def events(self, name: str, after: int = 0, **options: Any) -> list[operation_pb2.OperationEvent]:
        """All events after a sequence, to the end."""
        request = pb.WatchRequest(name=name, after_sequence=after, **options)
        return [m.event async for m in self.operations.Watch(request) if m.HasField("event")]

    async def end(self, name: str) -> operation_pb2.OperationSnapshot:
        """The snapshot once the operation has ended."""
        return await self.operations.Wait(pb.WaitRequest(name=name))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A laboratory that has started, with a manual clock."""
    found = Lab(tmp_path / "data")
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The `google.rpc.Status` of a refused call; fails the test when there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            return status
    raise AssertionError(f"{error.code()} without details: {error.details()}")


def reason_of(status: status_pb2.Status) -> str:
    """The reason in the first detail, which is always an `ErrorInfo`."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info), status
    return info.reason


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """The code, reason and status with which `call` is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = status_of(caught.value)
    return caught.value.code(), reason_of(status), status


async def first(stream: Any) -> Any:
    """The first message of a stream."""
    async for message in stream:
        return message
    raise AssertionError("the stream ended without a message")


async def turns(count: int = 20) -> None:
    """Let the event loop turn: for what happens without anybody waiting for it."""
    for _ in range(count):
        await asyncio.sleep(0)
