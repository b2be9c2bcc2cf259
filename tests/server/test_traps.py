"""The traps of grpc.aio and aiosqlite that the server walks around, each pinned, so that a new version is noticed."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sqlite3
import threading
import tracemalloc
import weakref
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiosqlite
import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import ServiceError, StoreError
from longshore_server.histogram import Histogram
from longshore_server.rpc import boundary, listener
from longshore_server.rpc.callers import Callers
from longshore_server.store.database import Database, open_reader, open_writer
from longshore_server.store.mutations import Delete, Mutation, Nothing
from longshore_server.store.transaction import Transaction
from longshore_server.tracer import Tracer
from tests.conftest import Lab, State, refused, turns

ANYONE = Callers(None, certificates=False)
UNTRACED = partial(Tracer().call, "/a.Service/Method")

OPTIONS = dict(listener.OPTIONS)


async def test_a_burst_of_calls_loses_none_because_the_core_may_hold_them_all(lab: Lab) -> None:
    """With the core's own `max_pending_requests` some of these end as CANCELLED (grpc#34782).

    And with its own thirty seconds for a call to be taken, where the machine needs longer for all of them.
    """
    assert OPTIONS["grpc.server_max_unrequested_time_in_server"] >= 3600
    assert OPTIONS["grpc.server.max_pending_requests"] >= 5000
    assert OPTIONS["grpc.server.max_pending_requests_hard_limit"] >= OPTIONS["grpc.server.max_pending_requests"]
    name = (await lab.run()).name
    answers = await asyncio.gather(*(lab.get(name) for _ in range(3000)), return_exceptions=True)
    assert [a for a in answers if isinstance(a, BaseException)] == []


async def test_two_servers_cannot_share_a_port(lab: Lab) -> None:
    assert OPTIONS["grpc.so_reuseport"] == 0
    address = lab.harness.address
    careless = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    with pytest.raises(RuntimeError):
        careless.add_insecure_port(address)
    await careless.stop(0)


@pytest.mark.parametrize("make", [boundary.unary, boundary.stream])
def test_handlers_take_and_give_bytes(make: Any) -> None:
    """A protobuf deserializer at the gRPC layer would answer malformed bytes with UNKNOWN."""

    async def function(request: Any, context: Any) -> bytes:
        return b""

    handler = make(pb.GetRequest, function)(boundary.Durations(Histogram), ANYONE, UNTRACED)
    assert (handler.request_deserializer, handler.response_serializer) == (None, None)


def test_streams_are_async_generators() -> None:
    """Interceptors of others break streams that are written as coroutines."""

    async def function(request: Any, context: Any) -> Any:
        yield [b""]

    handler = boundary.stream(pb.WatchRequest, function)(boundary.Durations(Histogram), ANYONE, UNTRACED)
    assert inspect.isasyncgenfunction(handler.unary_stream)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancelled_call_is_not_swallowed_by_its_handler(streams: bool) -> None:
    """A handler that answers after its cancellation leaks in the core (grpc#43360)."""
    entered = asyncio.Event()

    async def wait(request: Any, context: Any) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b""

    async def follow(request: Any, context: Any) -> Any:
        yield [await wait(request, context)]

    method = boundary.stream(pb.GetRequest, follow) if streams else boundary.unary(pb.GetRequest, wait)
    handler: Any = method(boundary.Durations(Histogram), ANYONE, UNTRACED)
    context = SimpleNamespace(invocation_metadata=tuple)
    call = anext(handler.unary_stream(b"", context)) if streams else handler.unary_unary(b"", context)
    task = asyncio.ensure_future(call)
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_caller_that_leaves_while_it_is_answered_is_no_error(
    refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC cancels the call a moment after its core has refused to send; there is nobody to be told of anything."""

    async def gone(*_: object) -> None:
        raise grpc.aio.InternalError

    async def answer(request: Any, context: Any) -> bytes:
        await context.send_initial_metadata(())
        return b""

    durations = boundary.Durations(Histogram)
    handler: Any = boundary.unary(pb.GetRequest, answer)(durations, ANYONE, UNTRACED)
    context = SimpleNamespace(invocation_metadata=tuple, send_initial_metadata=gone, abort=gone)
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_unary(b"\xff" if refuses else b"", context)
    assert [*durations] == ["INVALID_ARGUMENT" if refuses else "CANCELLED"]
    assert caplog.records == []


async def test_watches_end_by_our_own_hand_before_the_server_stops(lab: Lab) -> None:
    """`stop(grace)` alone would let them run into UNAVAILABLE without a reason or a hint, at the end of the grace."""

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    call: Any = lab.operations.Watch(pb.WatchRequest(name=(await lab.begin()).operation.name))
    await call.read()
    await lab.catch_up()
    stopping = asyncio.ensure_future(lab.harness.stop())
    while True:
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait([reading])
        if reading.exception() is not None:
            break
    code, reason, _ = await refused(reading)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    await stopping


async def test_an_ended_operation_goes_without_the_collector(lab: Lab) -> None:
    """In a circle it would wait for the collector, which then walks every operation of the last seconds at once."""
    seen = []

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=1))
        seen.append(weakref.ref(op))
        return lab_pb2.PlayResult()

    gc.disable()
    try:
        await lab.run()
        await lab.catch_up()
        assert [ref() for ref in seen] == [None]
    finally:
        gc.enable()


async def test_idle_watches_that_come_and_go_leave_no_memory(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name

    async def come_and_go(count: int) -> None:
        for _ in range(count):
            call: Any = lab.operations.Watch(pb.WatchRequest(name=name))
            await call.read()
            call.cancel()
        while lab.engine.watches.count:
            await lab.catch_up()
        gc.collect()

    await come_and_go(20)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    await come_and_go(100)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100 * 2000


# aiosqlite.


def test_the_version_of_aiosqlite_is_the_one_whose_inside_we_know() -> None:
    assert version("aiosqlite").split(".")[:2] == ["0", "22"]
    assert list(inspect.signature(aiosqlite.Connection._execute).parameters) == ["self", "fn", "args", "kwargs"]
    assert isinstance(inspect.getattr_static(aiosqlite.Connection, "_conn"), property)


async def test_a_function_runs_whole_in_the_thread_of_the_connection(tmp_path: Path) -> None:
    database = await open_writer(tmp_path / "longshore.db")
    try:

        def function(a: int, *, b: int) -> tuple[threading.Thread, int, int]:
            return threading.current_thread(), a, b

        ran = await database.run(function, 1, b=2)
        assert ran[0] is not threading.current_thread()
        assert ran[1:] == (1, 2)
        with pytest.raises(ValueError, match="invalid literal"):
            await database.run(int, "no number")
    finally:
        await database.close()


def test_a_connection_that_cannot_be_made_leaves_no_thread_that_answers_to_a_closed_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "longshore.db"
    lost: list[Any] = []
    path.write_bytes(b"This is a text, and a long one at that. " * 100)
    monkeypatch.setattr(threading, "excepthook", lost.append)
    for _ in range(50):
        with pytest.raises(StoreError):
            asyncio.run(open_writer(path))
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join()
    assert not lost


async def test_a_cancelled_await_still_runs(tmp_path: Path) -> None:
    database = await open_writer(tmp_path / "longshore.db")
    try:
        ran: list[int] = []
        waiting = asyncio.ensure_future(database.run(ran.append, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await database.run(ran.append, 2)
        assert ran == [1, 2]
    finally:
        await database.close()


async def test_the_connections_are_what_durability_needs(tmp_path: Path) -> None:
    database = await open_writer(tmp_path / "longshore.db")
    reader = await open_reader(tmp_path / "longshore.db")

    async def pragma(connection: Database, name: str) -> Any:
        return await connection.run(lambda: connection.raw.execute(f"PRAGMA {name}").fetchone()[0])

    try:
        assert await pragma(database, "journal_mode") == "wal"
        assert await pragma(database, "synchronous") == 2  # FULL
        assert await pragma(database, "foreign_keys") == 1
        assert database.raw.isolation_level is None
        assert await pragma(reader, "query_only") == 1
        with pytest.raises(sqlite3.OperationalError):
            await reader.run(lambda: reader.raw.execute("DELETE FROM operations"))
    finally:
        await reader.close()
        await database.close()


@pytest.mark.parametrize("crash", [False, True])
async def test_its_threads_end_with_the_server(lab: Lab, crash: bool) -> None:
    """They are no daemons: one that is left open keeps the process from ending."""
    await lab.run()
    threads = [thread for thread in threading.enumerate() if "connection_worker" in thread.name]
    assert len(threads) == 3
    await (lab.harness.crash() if crash else lab.harness.stop())
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
    await lab.harness.start()


async def test_one_item_that_breaks_a_batch_costs_its_neighbours_nothing(lab: Lab) -> None:
    class Breaks(Mutation[None]):
        def apply(self, tx: Transaction) -> None:
            tx.connection.execute("INSERT INTO events VALUES (x'00', 1, 1, x'')")

    submit = lab.engine.store.writer.submit
    kind = lab.engine.types[Lab.TYPE]
    starting = asyncio.gather(*(lab.engine.start(kind, lab_pb2.PlayRequest(request_id=f"k{n % 3}")) for n in range(9)))
    broken = submit(Breaks())
    later = asyncio.gather(*(lab.engine.start(kind, lab_pb2.PlayRequest(request_id=f"k{n % 4}")) for n in range(9)))
    await submit(Nothing())
    started = [s.live.record for s in (*await starting, *await later)]
    with pytest.raises(ServiceError) as caught:
        await broken
    assert caught.value.reason.name == "INTERNAL"
    assert len({record.uid for record in started}) == 4
    for record in started:
        assert (await lab.end(record.name)).state == State.STATE_COMPLETED


async def test_a_delete_and_a_start_of_the_same_key_in_one_batch(lab: Lab) -> None:
    """The key dies with its operation: the start after it makes a new one, whatever was looked up before."""
    kind = lab.engine.types["lab.v1.LabService/PlayNamed"]
    request = lab_pb2.PlayRequest(key="k", request_id="r")
    old = (await lab.engine.start(kind, request)).live.record
    await lab.end(old.name)
    begun, go = threading.Event(), threading.Event()

    class Hold(Mutation[None]):
        def apply(self, tx: Any) -> None:
            begun.set()
            assert go.wait(10)

    writer = lab.engine.store.writer
    writer.submit(Hold())
    await asyncio.to_thread(begun.wait)  # the writer is busy: what comes now goes into one batch
    deleting = writer.submit(Delete(old.uid))
    others = [lab_pb2.PlayRequest(key=key, request_id=key) for key in ("a", "b", "a")]
    starting = [asyncio.ensure_future(lab.engine.start(kind, r)) for r in (request, *others, request)]
    await turns(1)
    assert writer.backlog == 6
    go.set()
    await deleting
    one, a, b, again, two = await asyncio.gather(*starting)
    assert [s.created for s in (one, a, b, again, two)] == [True, True, True, False, False]
    assert one.live is two.live
    assert one.live.record.uid != old.uid
    assert (await lab.end(old.name)).state == State.STATE_COMPLETED
