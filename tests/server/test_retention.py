"""Ended operations are deleted when their retention is over, in batches that hold nobody up."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.engine import sweeper
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Accept, Nothing, Settle, Sweep
from longshore_server.store.mutations.upkeep import SWEEP_EVENTS, SWEEP_OPERATIONS
from longshore_server.store.transaction import new_record
from tests.conftest import Lab, State
from tests.server.retrying import RetryHandlers

DAYS = 86_400


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


async def kept(lab: Lab, type: str = "RetryService/Keep", **fields: Any) -> Any:
    return await lab.end((await lab.begin(type, **{"key": "a", **fields})).operation.name)


async def is_gone(lab: Lab, name: str) -> bool:
    await lab.catch_up()
    try:
        await lab.get(name)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def test_an_ended_operation_goes_when_its_time_is_over(lab: Lab) -> None:
    snapshot = await kept(lab)
    assert snapshot.expire_time.ToMicroseconds() == snapshot.end_time.ToMicroseconds() + 60_000_000
    lab.clock.advance(59.999)
    assert not await is_gone(lab, snapshot.name)
    lab.clock.advance(0.001)
    assert await is_gone(lab, snapshot.name)
    assert await is_gone(lab, f"operations/{snapshot.uid}")
    tables = lab.tables()
    assert not any(tables[name] for name in ("operations", "events", "inputs", "names", "requests", "journal"))


async def test_a_live_operation_stays_however_old_it_is(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin("RetryService/Keep", key="a")).operation.name
    lab.clock.advance(3600)
    assert not await is_gone(lab, name)
    gate.set()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    lab.clock.advance(60)
    assert await is_gone(lab, name)


async def test_zero_in_the_contract_is_for_ever(lab: Lab) -> None:
    snapshot = await kept(lab, "RetryService/KeepForEver")
    assert not snapshot.HasField("expire_time")
    lab.clock.advance(1000 * DAYS)
    assert not await is_gone(lab, snapshot.name)


@pytest.mark.parametrize(("setting", "days"), [({}, 30), ({"default_retention": 7.0 * DAYS}, 7)])
async def test_a_contract_without_retention_has_the_default_of_the_server(
    make_lab: Any, setting: Any, days: int
) -> None:
    lab = await make_lab(**setting)
    snapshot = await lab.run()
    lab.clock.advance(days * DAYS - 1)
    assert not await is_gone(lab, snapshot.name)
    lab.clock.advance(1)
    assert await is_gone(lab, snapshot.name)


async def test_zero_in_the_configuration_is_for_ever(make_lab: Any) -> None:
    lab = await make_lab(default_retention=0.0, services=[RetryHandlers])
    for_ever, minute = await lab.run(), await kept(lab)
    lab.clock.advance(1000 * DAYS)
    assert not await is_gone(lab, for_ever.name)
    assert await is_gone(lab, minute.name)


async def test_each_goes_at_its_own_time(lab: Lab) -> None:
    default = await lab.run()
    first = await kept(lab, key="first")
    lab.clock.advance(30)
    second = await kept(lab, key="second")
    lab.clock.advance(30)
    assert await is_gone(lab, first.name)
    assert not await is_gone(lab, second.name)
    lab.clock.advance(30)
    assert await is_gone(lab, second.name)
    assert not await is_gone(lab, default.name)
    lab.clock.advance(30 * DAYS)
    assert await is_gone(lab, default.name)


async def test_those_that_end_one_after_the_other_go_together(lab: Lab) -> None:
    """The next sweep is a second after the last at the earliest, whatever expires meanwhile."""
    sweeps = count_sweeps(lab)
    names = []
    for number in range(20):
        names.append((await kept(lab, key=str(number))).name)
        lab.clock.advance(0.01)
    lab.clock.advance(59.8)
    assert await is_gone(lab, names[0])
    for _ in range(100):
        lab.clock.advance(0.01)
        await lab.catch_up()
    assert [await is_gone(lab, name) for name in names] == [True] * 20
    assert len(sweeps) <= 3


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_what_is_over_while_no_server_runs_goes_at_the_next_start(lab: Lab, crash: bool) -> None:
    over, later = await kept(lab, key="over"), await kept(lab, "Play")
    await (lab.harness.crash() if crash else lab.harness.stop())
    lab.clock.advance(60)
    await lab.harness.start()
    await lab.connect()
    assert await is_gone(lab, over.name)
    assert not await is_gone(lab, later.name)
    lab.clock.advance(30 * DAYS)
    assert await is_gone(lab, later.name)


async def test_a_name_and_a_key_are_free_again(lab: Lab) -> None:
    old = await kept(lab, request_id="key")
    lab.clock.advance(60)
    assert await is_gone(lab, old.name)
    new = await lab.begin("RetryService/Keep", key="a", script="another", request_id="key")
    assert (new.disposition, new.operation.name) == (pb.StartResponse.DISPOSITION_CREATED, old.name)
    assert new.operation.uid != old.uid


async def test_nothing_waits_in_memory_for_what_is_deleted(lab: Lab) -> None:
    for number in range(10):
        await kept(lab, key=str(number))
    lab.clock.advance(60)
    await lab.catch_up()
    assert not lab.engine.table._ended
    assert lab.engine.table._ended_bytes == 0
    assert lab.engine.sweeper._timer is None


async def test_no_sweep_without_anything_to_delete(lab: Lab) -> None:
    sweeps = count_sweeps(lab)
    before = lab.clock.pending
    await kept(lab, "RetryService/KeepForEver")
    lab.clock.advance(1000 * DAYS)
    await lab.catch_up()
    assert (sweeps, lab.clock.pending) == ([], before)


async def test_a_stop_in_the_midst_leaves_the_rest_to_the_next_server(lab: Lab) -> None:
    await expire(lab, 600)
    await lab.harness.stop()
    left = len(lab.tables()["operations"])
    assert left > 0
    await lab.harness.start()
    await lab.connect()
    await swept(lab)
    assert not lab.tables()["operations"]


async def test_a_batch_is_bounded_in_events_as_well(lab: Lab) -> None:
    """Five with more events each than half a batch may have: each but the first goes in a batch of its own."""

    @lab.plays
    async def handler(request, op):
        for number in range(SWEEP_EVENTS // 2):
            report = op.progress(lab_pb2.PlayProgress(number=number))
            if number % 500 == 0:
                await report
        return lab_pb2.PlayResult()

    for key in "abcde":
        await kept(lab, key=key)
    sweeps = count_sweeps(lab)
    lab.clock.advance(60)
    await swept(lab)
    assert (sum(sweeps), max(sweeps)) == (5, 1)


async def test_callers_commits_go_on_between_the_batches_of_5000(lab: Lab) -> None:
    sweeps = count_sweeps(lab)
    await expire(lab, 5000)
    kind = lab.engine.types["lab.v1.RetryService/KeepForEver"]
    waited = []
    while await is_left(lab):
        before = len(sweeps)
        await lab.engine.start(kind, lab_pb2.PlayRequest())
        waited.append(len(sweeps) - before)
    assert (sum(sweeps), max(sweeps)) == (5000, SWEEP_OPERATIONS)
    # For the batch that was under way, and for one that went into the same commit.
    assert max(waited) <= 2
    assert len(waited) >= 5000 // SWEEP_OPERATIONS // 2


async def test_a_batch_waits_while_the_writer_has_much_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    backlog = [500, 500, 65, 64]

    class Busy:
        """A writer that has more to do than it can, for a while."""

        @property
        def backlog(self) -> int:
            return backlog[min(len(turns), len(backlog) - 1)]

        async def submit(self, mutation: Any) -> int:
            if isinstance(mutation, Nothing | Sweep):
                turns.append(isinstance(mutation, Sweep))
            return 0

    class Store:
        writer = Busy()

        async def next_expiry(self) -> int | None:
            return None if True in turns else lab.clock.now()

        async def read(self, query: Any) -> bool:
            return False  # nothing is left of generations that are over

    found = sweeper.Sweeper(lab.clock)
    await found.start(Store())  # type: ignore[arg-type]
    await lab.catch_up()
    assert turns == [False, False, False, True]
    turns.clear()
    backlog[:] = [500]
    found.note(lab.clock.now())
    lab.clock.advance(1)
    await lab.catch_up()
    assert turns == [False] * sweeper.PATIENCE + [True], "one that never rests does not keep everything for ever"
    found.stop()


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), ServiceError(Reason.STORE_UNAVAILABLE, "")]
)
async def test_a_sweep_that_fails_is_made_again(
    lab: Lab, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise error

    first, second = await kept(lab, key="first"), await kept(lab, key="second")
    monkeypatch.setattr(Sweep, "apply", lambda self, tx: 0)
    monkeypatch.setattr(lab.engine.store, "next_expiry", broken)
    lab.clock.advance(60)
    assert not await is_gone(lab, first.name)
    assert "the sweep of old operations failed, the next one is in 60 s" in caplog.text
    third = await kept(lab, key="third")
    monkeypatch.undo()
    lab.clock.advance(59)
    assert not await is_gone(lab, first.name)
    lab.clock.advance(1)
    assert await is_gone(lab, first.name)
    assert await is_gone(lab, second.name)
    lab.clock.advance(60)
    assert await is_gone(lab, third.name)


def count_sweeps(lab: Lab) -> list[int]:
    """How many operations each batch from here on deletes."""
    found: list[int] = []
    writer = lab.engine.store.writer
    submit = writer.submit

    def counting(mutation: Any, settled: Any = None) -> Any:
        future = submit(mutation, settled)
        if isinstance(mutation, Sweep):
            future.add_done_callback(lambda done: found.append(done.result()))
        return future

    writer.submit = counting
    return found


async def expire(lab: Lab, count: int) -> None:
    """That many operations, all of whose retention is over."""
    writer = lab.engine.store.writer
    uids = lab.engine._starts._uids
    changes = []
    for _ in range(count):
        uid = uids.next()
        lab.engine._live.take("local")
        record = new_record(
            uid=uid, id=uid.hex(), type="lab.v1.RetryService/Keep", created=lab.clock.now(), deadline=None, labels={},
            owner="local", request_id="", parent="", deferred=True,
        )  # fmt: skip
        changes.append(writer.submit(Accept(record, b"", b"", template=False, renew=False, begin=False)))
        changes.append(writer.submit(Settle(uid, None, Move.FAIL, failure(Reason.FAILED))))
    await asyncio.gather(*changes)
    lab.clock.advance(60)


async def is_left(lab: Lab) -> bool:
    return await lab.engine.store.next_expiry() is not None


async def swept(lab: Lab) -> None:
    """Return once everything that is due is deleted."""
    while await is_left(lab):
        await lab.catch_up()
