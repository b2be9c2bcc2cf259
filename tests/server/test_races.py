"""What meets at the same moment: a read and a delete, a slow reader and a fast writer, two who want one name."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import ServiceError
from longshore_server.engine.starts import Terms
from longshore_server.store import queries
from longshore_server.store.record import Event
from tests.conftest import Crash, Lab, State, refused, result_of


async def delete(lab: Lab, name: str) -> None:
    """Remove an ended operation, as a caller does."""
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    await stub.DeleteOperation(lro.DeleteOperationRequest(name=name))


class Window:
    """Holds the first read of an operation's row between the read and what is made of it."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.may_close = asyncio.Event(), asyncio.Event()
        self._load = lab.engine.store.load
        monkeypatch.setattr(lab.engine.store, "load", self._read)

    async def _read(self, uid: bytes) -> Any:
        record = await self._load(uid)
        if not self.open.is_set():
            self.open.set()
            await self.may_close.wait()
        return record


async def ended_and_forgotten(lab: Lab, count: int, **fields: Any) -> list[str]:
    """The names of operations that have ended, of which the server has none in memory."""
    names = [(await lab.begin(**fields)).operation.name for _ in range(count)]
    for name in names:
        await lab.end(name)
    await lab.restart(crash=False)
    return names


async def test_a_get_that_meets_a_delete_brings_nothing_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    [name] = await ended_and_forgotten(lab, 1)
    window = Window(lab, monkeypatch)
    get = asyncio.ensure_future(refused(lab.operations.Get(pb.GetRequest(name=name))))
    await window.open.wait()
    await delete(lab, name)
    window.may_close.set()
    code, reason, _ = await get
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
    table = lab.engine.table
    assert (dict(table.live), dict(table._ended), table._ended_bytes) == ({}, {}, 0)
    # Nor later: what is gone is gone for everyone.
    for call in (
        lab.operations.Get(pb.GetRequest(name=name)),
        lab.operations.Wait(pb.WaitRequest(name=name)),
        lab.operations.Cancel(pb.CancelRequest(name=name)),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")


async def test_a_get_that_meets_the_delete_of_another_is_answered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = await ended_and_forgotten(lab, 2)
    window = Window(lab, monkeypatch)
    get = asyncio.ensure_future(lab.get(name))
    await window.open.wait()
    await delete(lab, other)
    window.may_close.set()
    assert (await get).state == State.STATE_COMPLETED


@pytest.mark.parametrize("waits", [False, True])
async def test_a_start_that_meets_the_delete_of_what_it_finds_is_answered(lab: Lab, waits: bool) -> None:
    [name] = await ended_and_forgotten(lab, 1, request_id="once")
    engine, input, terms = lab.engine, lab_pb2.PlayRequest(), Terms(request_id="once")
    live, type = await engine.find(name), engine.type_named("lab.v1.LabService/Play")
    engine.table._ended.clear()
    start = engine.start_and_wait(type, input, terms, None) if waits else engine.start(type, input, terms)
    started, _ = await asyncio.gather(start, engine.requests.delete(live))
    found, created = started[0] if waits else started
    assert (found.record.name, found.record.state, created) == (name, State.STATE_COMPLETED, False)
    assert await engine.store.load(found.record.uid) is None


async def test_two_gets_at_once_find_one_operation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is answered while the first still reads. It is kept in memory once, and counted once."""
    [name] = await ended_and_forgotten(lab, 1)
    window = Window(lab, monkeypatch)
    slow = asyncio.ensure_future(lab.engine.find(name))
    await window.open.wait()
    quick = await lab.engine.find(name)
    window.may_close.set()
    assert await slow is quick
    assert lab.engine.table._ended_bytes == quick.weight


async def test_a_watcher_far_behind_reads_the_log_in_bounded_pieces(
    make_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes behind it gets every event, once and in order, and never has more of them in memory than the bound."""
    lab = await make_lab(max_payload=3_500_000)
    reads: list[list[Event]] = []
    log = queries.log

    def counted(*arguments: Any) -> list[Event]:
        reads.append(log(*arguments))
        return reads[-1]

    monkeypatch.setattr(queries, "log", counted)
    gate, written = asyncio.Event(), asyncio.Event()
    # One is larger than a piece by itself: a watcher has to get past it.
    sizes = [200_000] * 30 + [3_000_000] + [70] * 600 + [400_000] * 20

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        for number, size in enumerate(sizes):
            await op.progress(lab_pb2.PlayProgress(number=number, text="x" * size))
        written.set()
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await written.wait()
    watch = lab.operations.Watch(pb.WatchRequest(name=name, after_sequence=0))
    events = []
    async for message in watch:
        events.append(message.event)
        # So near to the end the rest comes from memory.
        if message.event.sequence == len(sizes) + 2:
            gate.set()
    assert [event.sequence for event in events] == list(range(1, len(sizes) + 4))
    assert events[-1].HasField("completed")
    progress = lab_pb2.PlayProgress()
    for number, event in enumerate(events[2:-1]):
        event.progress.value.Unpack(progress)
        assert (progress.number, len(progress.text)) == (number, sizes[number])
    assert sum(len(event.body) for read in reads for event in read) > 10 * queries.LOG_BYTES
    for read in reads:
        # The one that goes over the bound ends the piece.
        assert sum(len(event.body) for event in read[:-1]) <= queries.LOG_BYTES
    # Nothing is read twice.
    sequences = [event.sequence for read in reads for event in read]
    assert sequences == sorted(set(sequences))


async def test_a_child_that_was_refused_may_be_started_again_under_its_name(lab: Lab) -> None:
    """Its name was somebody else's. The handler waits until it is free and asks again, as often as that takes."""
    crash, may_retry, tried = Crash(lab), asyncio.Event(), asyncio.Event()
    reasons: list[str] = []
    children: list[tuple[str, bool]] = []
    kind = "lab.v1.LabService/PlayNamed"

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script != "parent":
            return lab_pb2.PlayResult(text=request.script)
        wanted = lab_pb2.PlayRequest(key="k", script="child")
        child = None
        while child is None:
            try:
                child = await lab.server.operations.start(kind, wanted)
            except ServiceError as error:
                reasons.append(error.reason.name)
                if len(reasons) == 3:
                    tried.set()
                    await may_retry.wait()
        children.append((child.uid, child.created))
        await crash.here(op)
        return await child.wait()

    taken = (await lab.begin("PlayNamed", key="k", script="somebody else's")).operation.name
    await lab.end(taken)
    parent = (await lab.begin(script="parent")).operation.name
    await tried.wait()
    await delete(lab, taken)
    may_retry.set()
    await crash.happen()
    assert result_of(await lab.end(parent)).text == "child"
    assert reasons == ["NAME_IN_USE"] * 3
    # The refusals left no entry behind: the next attempt finds the child at its first try.
    (uid, created), (again, created_again) = children
    assert (uid, created, created_again) == (again, True, False)
    assert len(lab.tables()["operations"]) == 2
