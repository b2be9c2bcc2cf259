"""What all tests share: a laboratory, which is a server whose handlers the test writes on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

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
from longshore_server.clock import SECOND
from longshore_server.reasons import Reason
from longshore_server.testing import Harness, ManualClock
from tests.answers import answered

Handler = Callable[[Any, Any], Awaitable[Any]]
HandlerT = TypeVar("HandlerT", bound=Handler)
State = operation_pb2.OperationSnapshot.State


def pytest_configure(config: pytest.Config) -> None:
    """In the background of a shell Ctrl-C is ignored, and then by every program that is started from there, too: those
    that tests interrupt would never end. And what takes long with hypothesis says something of the machine alone.

    What hypothesis tries is the same in every run, so that a change is judged by what it changes. With
    `--hypothesis-seed=N`, or `random`, it tries something else.
    """
    from hypothesis import HealthCheck, settings  # the programs that import this module have no use for it

    same = config.getoption("--hypothesis-seed", None) is None
    settings.register_profile(
        "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=same
    )
    settings.load_profile("any machine")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """A thread that a test has left behind, a store that was not closed for example, would keep the run from ending."""
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in left:
        thread.join(10)  # one that has been told to end may still want for a processor to do so
    if names := [thread.name for thread in left if thread.is_alive()]:
        sys.stderr.write(f"threads were left behind, which is a failure: {', '.join(names)}\n")
        sys.stderr.flush()
        os._exit(1)


class LabClock(ManualClock):
    """A manual clock on which a test can wait for a timer to be set: only then is moving it certain to fire that."""

    def __init__(self) -> None:
        super().__init__()
        self._armed: list[tuple[int, int, asyncio.Future[None]]] = []

    def call_at(self, when: int, callback: Callable[[], object]) -> Any:
        timer = super().call_at(when, callback)
        for due, count, future in self._armed:
            if not future.done() and self._count(due) >= count:
                future.set_result(None)
        return timer

    def timers(self, seconds: float) -> int:
        """How many timers fire exactly `seconds` from now."""
        return self._count(self.now() + int(seconds * SECOND))

    async def armed(self, seconds: float, count: int = 1) -> None:
        """Return once `count` timers are set that fire exactly `seconds` from now."""
        due = self.now() + int(seconds * SECOND)
        if self._count(due) < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._armed.append((due, count, future))
            await future

    def _count(self, due: int) -> int:
        return sum(1 for when, _, timer in self._timers if when == due and timer.callback is not None)


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

    async def play_while(self, request: Any, op: Any, /) -> Any:
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

    def __init__(
        self, data: Path, *, services: Iterable[Callable[[LabHandlers], object]] = (), lifespan: Any = None,
        clock: Any = None, stores: Any = None, **settings: Any,
    ) -> None:  # fmt: skip
        """`services`: further ones, each made of the handlers that run what the test writes."""
        self.data = data
        self.handlers = LabHandlers()
        self.server = Server(
            self.handlers, *(make(self.handlers) for make in services), lifespan=lifespan, stores=stores
        )
        self.harness = Harness(self.server, data, clock=clock or LabClock(), **settings)
        self._channel: grpc.aio.Channel | None = None

    def plays(self, handler: HandlerT) -> HandlerT:
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

    async def restart(self, *, crash: bool = True, **settings: Any) -> None:
        """Kill (or stop) the server and start it again on the same data, with other settings if any are given."""
        await (self.harness.crash() if crash else self.harness.stop())
        self.harness.configure(**settings)
        await self.harness.start()
        await self.connect()

    async def begin(self, type: str = "Play", request: Message | None = None, **fields: Any) -> pb.StartResponse:
        """Start an operation by the generic RPC; a type with a service in its name is not one of `LabService`."""
        packed = AnyMessage()
        packed.Pack(request if request is not None else lab_pb2.PlayRequest(**fields))
        name = f"lab.v1.{type}" if "/" in type else f"lab.v1.LabService/{type}"
        return await self.operations.Start(pb.StartRequest(type=name, input=packed))

    async def catch_up(self) -> None:
        """Let everything that is under way go as far as it can without a clock, a caller or a gate that moves."""
        for _ in range(4):
            await turns()  # what the network has brought is known to the loop only when it turns
            await self.harness.settle()

    def tables(self) -> dict[str, list[Any]]:
        """Every row of every table: what a refused call must leave as it was."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'longshore.db'}?mode=ro", uri=True)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for name in names}

    async def get(self, name: str, view: int = 0) -> operation_pb2.OperationSnapshot:
        """The latest snapshot."""
        return await self.operations.Get(pb.GetRequest(name=name, view=view))  # type: ignore[arg-type]

    async def reached(self, name: str, kind: str, count: int = 1) -> operation_pb2.OperationEvent:
        """Return the `count`-th event of a kind once it is visible."""
        seen = 0
        # Not over the network: there a watch, and the timer of its heartbeat, outlives its caller by a while.
        inside = operations_service_pb2_grpc.OperationsServiceStub(self.harness.channel())
        call = inside.Watch(pb.WatchRequest(name=name, after_sequence=0))
        async for message in call:
            seen += message.HasField("event") and message.event.WhichOneof("event") == kind
            if seen == count:
                call.cancel()
                return message.event
        raise AssertionError(f"{name} ended without {kind}")

    async def kinds(self, name: str) -> list[str | None]:
        """The kinds of all events, to the end."""
        return [event.WhichOneof("event") for event in await self.events(name)]

    async def events(self, name: str, after: int = 0, **options: Any) -> list[operation_pb2.OperationEvent]:
        """All events after a sequence, to the end."""
        request = pb.WatchRequest(name=name, after_sequence=after, **options)
        return [m.event async for m in self.operations.Watch(request) if m.HasField("event")]

    async def end(self, name: str) -> operation_pb2.OperationSnapshot:
        """The snapshot once the operation has ended."""
        return await self.operations.Wait(pb.WaitRequest(name=name))

    async def run(self, type: str = "Play", **fields: Any) -> operation_pb2.OperationSnapshot:
        """Start an operation and return its snapshot once it has ended."""
        return await self.end((await self.begin(type, **fields)).operation.name)


class Crash:
    """Await it in a handler to be killed there in the first attempt, and to go on in later ones."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.reached = lab, asyncio.Event()

    async def here(self, op: Any) -> None:
        if op.attempt == 1:
            self.reached.set()
            await asyncio.Event().wait()

    async def happen(self) -> None:
        await self.reached.wait()
        await self.lab.restart()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A laboratory that has started, with a manual clock."""
    found = Lab(tmp_path / "data")
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


@pytest.fixture
async def make_lab(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Lab]]]:
    """Starts laboratories with settings of their own; stops them after the test."""
    labs: list[Lab] = []

    async def make(**settings: Any) -> Lab:
        made = Lab(tmp_path / f"data{len(labs)}", **settings)
        labs.append(made)
        await made.start()
        return made

    yield make
    for made in labs:
        await made.stop()


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


def detail(status: status_pb2.Status, kind: type[Message]) -> Any:
    """The detail of a kind; fails the test when there is none."""
    found = kind()
    for packed in status.details:
        if packed.Unpack(found):
            return found
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {status}")


def fields_of(status: status_pb2.Status) -> list[str]:
    """The fields that the violations name."""
    return [violation.field for violation in detail(status, error_details_pb2.BadRequest).field_violations]


def retry_after(status: status_pb2.Status) -> float:
    """The seconds after which the server says that trying again makes sense."""
    return float(detail(status, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds())


def reason_of_end(snapshot: operation_pb2.OperationSnapshot) -> str:
    """Why an operation has no result."""
    return reason_of(snapshot.error)


def result_of(snapshot: operation_pb2.OperationSnapshot) -> lab_pb2.PlayResult:
    """The result of an operation; fails the test when there is none."""
    result = lab_pb2.PlayResult()
    assert snapshot.result.Unpack(result), snapshot
    return result


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """The code, reason and status with which `call` is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (answered(call) if isinstance(call, grpc.aio.StreamUnaryCall) else call)
    status = status_of(caught.value)
    reason = reason_of(status)
    # What docs/errors.md says that it carries: whatever is refused in any test is held against it.
    carried = {detail.type_url.rpartition(".")[2] for detail in status.details}
    promised = set(Reason[reason].details)
    allowed = promised | {"BadRequest", "ResourceInfo"}
    assert promised <= carried <= allowed, f"{reason} carries {carried}, not {promised}"
    return caught.value.code(), reason, status


async def first(stream: Any) -> Any:
    """The first message of a stream."""
    async for message in stream:
        return message
    raise AssertionError("the stream ended without a message")


async def turns(count: int = 20) -> None:
    """Let the event loop turn: for what happens without anybody waiting for it."""
    for _ in range(count):
        await asyncio.sleep(0)
