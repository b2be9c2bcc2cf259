"""A server with authentication, over a contract whose types say in every way who may do what."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from gates.v1 import gates_longshore, gates_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.v1 import operation_pb2, operations_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Server
from longshore_server.instances.task import Task
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction
from longshore_server.store.transfers import UploadRecord
from longshore_server.testing import Harness
from longshore_server.transfers.stores import LocalStore
from tests.conftest import LabClock, turns
from tests.server.auth.identities import bearer
from tests.server.transfers import fetching

ALL = ("gates.start", "gates.see", "gates.cancel", "gates.steer")


class Handlers(gates_longshore.GatesService):
    """Every operation waits for its end, unless its input says that it is done."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.handler: Any = None

    async def _do(self, request: gates_pb2.GatesRequest, op: Any) -> Any:
        if self.handler is not None:
            return await self.handler(request, op)
        self.seen.append(op.caller)
        await op.progress(gates_pb2.GatesProgress(text="secret"))
        if not request.done:
            await asyncio.Event().wait()
        return gates_pb2.GatesResult(text="secret")

    async def open(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def gated(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def bare(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def both(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def own(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def own_named(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)

    async def named(self, request: Any, op: Any, /) -> Any:
        return await self._do(request, op)


@dataclasses.dataclass(slots=True)
class TakeUpload(Mutation[OperationRecord]):
    """The operation takes bytes, whatever its contract says: each of this one's types may be crossed with uploads."""

    uid: bytes

    def apply(self, tx: Transaction) -> OperationRecord:
        upload = UploadRecord(
            store="exports", key="sent", content_type="", metadata={}, max_bytes=0, expiry=10**9,
            require_checksum=False, refuse_existing=False, drop_mismatch=False, owned=False, expires=tx.now + 10**9,
        )  # fmt: skip
        return tx.amend(tx.head(self.uid), upload=upload)


Metadata = tuple[tuple[str, str], ...]


async def _nothing(ctx: Any) -> None: ...


class Nothing(Task[dict[str, Any], dict[str, Any]]):
    async def on_event(self, event: Any, ctx: Any) -> None: ...

    async def execute(self, ctx: Any) -> None: ...


class Guarded:
    """A server that knows its callers by tokens, and whatever else its settings say."""

    def __init__(self, data: Path, *, authenticators: Any = (), tokens: bool | Path = True, **settings: Any) -> None:
        self.handlers = Handlers()
        self.clock = LabClock()
        data.mkdir(exist_ok=True)
        self.tokens = data / "tokens.toml"
        self._made: dict[Any, str] = {}
        if tokens is True:
            self.tokens.touch()
        elif tokens:
            self.tokens = tokens
        if tokens:
            settings["tokens"] = self.tokens
        self.server = Server(self.handlers, authenticators=authenticators, stores={"exports": LocalStore()})
        self.server.recurring("gated", every=3600, state=None)(_nothing)
        self.server.debounce("gated", flush_after=3600, event=dict)(_nothing)
        self.server.task("gated", Nothing)
        self.harness = Harness(self.server, data / "data", clock=self.clock, **settings)
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        await self.harness.start()
        await self.connect()

    async def connect(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        """A new channel."""
        if self._channel is not None:
            await self._channel.close()
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = self.harness.address
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(self._channel)

    @property
    def channel(self) -> grpc.aio.Channel:
        assert self._channel is not None
        return self._channel

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        await self.harness.stop()

    async def restart(self, **settings: Any) -> None:
        await self.harness.crash()
        self.harness.configure(**settings)
        await self.harness.start()
        await self.connect()

    def token(self, principal: str, *capabilities: str, seconds: float | None = None) -> Metadata:
        """What a caller sends who is `principal` and has these capabilities, for so long. The server learns of it."""
        key = (principal, capabilities, seconds)
        if key not in self._made:
            now = datetime.fromtimestamp(self.clock.now() / 1e6, UTC)
            expires = None if seconds is None else now + timedelta(seconds=seconds)
            self._made[key] = bearer(self.tokens, principal, *capabilities, expires=expires)
        return (("authorization", f"Bearer {self._made[key]}"),)

    async def learn(self) -> None:
        """Let the server read its files again."""
        await self.harness.running.reload()

    async def looked(self) -> None:
        """Return once the files have been looked at, at the time that it is now: the look takes real time, and has only
        so much of the clock's, which a test moves by more at once."""
        authentication = self.harness.running._authentication
        assert authentication is not None
        while authentication._due:
            await turns()
        assert authentication._looking is not None
        await asyncio.wait([authentication._looking])

    async def silent(self, count: int) -> None:
        """Return once that many streams have nothing more to tell, and wait for the time of their heartbeat.

        Their timers alone do not say so: the start of a handler may still be told, which puts the heartbeat off.
        """
        await self.clock.armed(15, count)
        await self.harness.settle()
        while any(pulse._waiting is None for pulse in self.harness.running.engine.watches._open):
            await turns()

    async def begin(self, type: str, caller: Metadata, **fields: Any) -> operation_pb2.OperationSnapshot:
        """Start an operation by the generic RPC."""
        request = start(type, **fields)
        return (await self.operations.Start(request, metadata=caller)).operation

    async def offer(self, operation: operation_pb2.OperationSnapshot, size: int = 0) -> str:
        """Let an operation that has not ended offer so many bytes; the name of that download."""
        await self.server.stores["exports"].put("key", bytes(size))
        return await fetching.offer(self.harness.running.engine, fetching.uid_of(operation))

    async def take(self, operation: operation_pb2.OperationSnapshot) -> str:
        """Let an operation that has not ended take bytes; the name of that upload."""
        await self.harness.running.engine.store.writer.submit(TakeUpload(fetching.uid_of(operation)))
        return f"uploads/{operation.uid}"

    async def get(self, name: str, caller: Metadata) -> operation_pb2.OperationSnapshot:
        return await self.operations.Get(pb.GetRequest(name=name), metadata=caller)


def start(type: str, request_id: str = "", **fields: Any) -> pb.StartRequest:
    packed = AnyMessage()
    packed.Pack(gates_pb2.GatesRequest(**fields))
    return pb.StartRequest(type=f"gates.v1.GatesService/{type}", input=packed, request_id=request_id)


@pytest.fixture
async def make_guarded(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Guarded]]]:
    """Starts servers with settings of their own; stops them after the test."""
    made: list[Guarded] = []

    async def make(**settings: Any) -> Guarded:
        found = Guarded(tmp_path / f"server{len(made)}", **settings)
        made.append(found)
        await found.start()
        return found

    yield make
    for found in made:
        await found.stop()


@pytest.fixture
async def guarded(make_guarded: Callable[..., Awaitable[Guarded]]) -> Guarded:
    """A server that knows tokens."""
    return await make_guarded()
