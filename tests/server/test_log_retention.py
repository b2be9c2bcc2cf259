"""How long lines of logs are kept, and that they go in bounded batches."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server.store import queries
from longshore_server.store.logs import Level, LogLine
from longshore_server.store.mutations import AddLine, OperationAttempt, Sweep, upkeep
from tests.conftest import Lab
from tests.server.records import ALL, DAY, HOUR, messages, uid_of


async def test_a_line_goes_when_its_own_time_is_over(make_lab: Any) -> None:
    lab = await make_lab(log_retention=2 * HOUR)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        op.log.info("first")
        await op.sleep(HOUR)
        op.log.info("second")
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.clock.armed(HOUR)
    lab.clock.advance(HOUR)
    assert await messages(lab, name) == ["first", "second"]
    lab.clock.advance(HOUR - 1)
    assert await messages(lab, name) == ["first", "second"]
    lab.clock.advance(1)
    assert await messages(lab, name) == ["second"]
    lab.clock.advance(HOUR)
    assert await messages(lab, name) == []
    gate.set()
    await lab.end(name)


async def test_lines_are_deleted_in_bounded_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(await lab.run()).name for _ in range(3)]
    uids = [await uid_of(lab, name) for name in names]
    monkeypatch.setattr(upkeep, "SWEEP_OPERATIONS", 2)
    monkeypatch.setattr(upkeep, "SWEEP_EVENTS", 5)
    now, writer = lab.clock.now(), lab.engine.store.writer
    for uid in uids:
        for _ in range(4):
            await writer.submit(AddLine(OperationAttempt(uid, 1), LogLine(now, 1, Level.INFO, "", "", "{}")))

    async def left() -> list[int]:
        await writer.submit(Sweep(now))
        return [len((await lab.engine.store.lines(uid, 0, 0, ALL)).lines) for uid in uids]

    assert [sorted(await left()) for _ in range(4)] == [[0, 3, 4], [0, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert [(await lab.engine.store.lines(uid, 0, 0, ALL)).dropped for uid in uids] == [4, 4, 4]


async def test_lines_that_are_due_at_the_start_go(make_lab: Any) -> None:
    lab = await make_lab()

    @lab.plays
    async def handler(request, op):
        op.log.info("old")
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    assert await messages(lab, name) == ["old"]
    await lab.harness.stop()
    lab.clock.advance(7 * DAY)
    await lab.harness.start()
    assert await messages(lab, name) == []


async def test_lines_may_stay_as_long_as_their_operation(make_lab: Any) -> None:
    lab = await make_lab(log_retention=0)

    @lab.plays
    async def handler(request, op):
        op.log.info("here")
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    lab.clock.advance(29 * DAY)
    assert await messages(lab, name) == ["here"]


async def test_many_lines_count_when_operations_are_deleted(lab: Lab) -> None:
    """A batch of the sweeper is bounded by them, too."""
    uid = await uid_of(lab, (await lab.run()).name)
    line = LogLine(lab.clock.now(), 1, Level.INFO, "", "", "{}")
    await asyncio.gather(*(lab.engine.store.writer.submit(AddLine(OperationAttempt(uid, 1), line)) for _ in range(50)))
    with contextlib.closing(sqlite3.connect(lab.engine.store.path)) as database:
        ((found, weight),) = queries.expired(database, lab.clock.now() + 10**15, 10)
    assert found == uid
    assert weight > 50
