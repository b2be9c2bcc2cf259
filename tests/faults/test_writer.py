"""The one writer where it cannot write: nobody who waits for it is forgotten, and it goes on by itself or stops."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Mutation, Nothing, Settle
from longshore_server.store.transaction import Transaction
from longshore_server.store.writer import BATCH
from tests.conftest import Lab, State, refused, result_of, retry_after

LINES = BATCH + 100


class Disk:
    """Lets a store have no page more than it has, and then as many as it likes."""

    def __init__(self, lab: Lab) -> None:
        self._database: Any = lab.engine.store.writer._database

    async def full(self) -> None:
        await self._database.run(lambda: self._limit(self._pragma("page_count")))

    async def empty(self) -> None:
        await self._database.run(lambda: self._limit(1 << 30))

    def _pragma(self, text: str) -> int:
        return int(self._database.raw.execute(f"PRAGMA {text}").fetchone()[0])

    def _limit(self, pages: int) -> None:
        self._pragma(f"max_page_count = {pages}")


async def test_callers_are_refused_however_much_waits_for_room(lab: Lab) -> None:
    """What a handler logs fills a whole batch, and the next one, and waits; a caller who comes then does not."""
    disk, running, may_log, may_end = Disk(lab), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if not request.script:
            running.set()
            await may_log.wait()
            for number in range(LINES):
                op.log.info("x" * 500, number=number)
            await may_end.wait()
        return lab_pb2.PlayResult(text="went on")

    name = (await lab.begin()).operation.name
    await running.wait()
    await disk.full()
    may_log.set()
    writer = lab.engine.store.writer
    async with asyncio.timeout(60):
        start = asyncio.create_task(refused(lab.begin(script="x" * 10_000)))
        while not start.done():
            await lab.clock.armed(1)
            lab.clock.advance(1)
        await writer.turn()
        assert writer.backlog >= BATCH, "what the server has promised to keep still waits"
        code, reason, status = start.result()
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "full" in status.message
        assert retry_after(status) > 0
        await disk.empty()
        lab.clock.advance(1)
        assert result_of(await lab.run(script="once there is room")).text == "went on"
        may_end.set()
        assert (await lab.end(name)).state == State.STATE_COMPLETED
        await lab.catch_up()
    assert len(lab.tables()["logs"]) == LINES


@dataclass(slots=True)
class Meets(Mutation[None]):
    """A change at which SQLite says something of the file."""

    code: int

    def apply(self, tx: Transaction) -> None:
        error = sqlite3.DatabaseError("it says so")
        error.sqlite_errorcode = self.code
        raise error


async def test_a_damaged_file_stops_the_server(lab: Lab) -> None:
    """Refused, the end of an operation would be forgotten, and it would run for ever. The next server goes on."""
    may_end = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if op.attempt == 1:
            await may_end.wait()
        return lab_pb2.PlayResult(text="ended")

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    with pytest.raises(ServiceError, match="The store has stopped"):
        await lab.engine.store.writer.submit(Meets(sqlite3.SQLITE_CORRUPT | 1 << 8))
    assert lab.harness.running.failed.is_set()
    code, reason, _ = await refused(lab.begin())
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    await lab.restart(crash=False)
    assert result_of(await lab.end(name)).text == "ended"


PASSING = {
    "a full disk": sqlite3.SQLITE_FULL,
    "a disk that fails": sqlite3.SQLITE_IOERR,
    "another program's lock": sqlite3.SQLITE_BUSY,
    "no room for another open file": sqlite3.SQLITE_CANTOPEN,
}


@pytest.mark.parametrize("code", PASSING.values(), ids=PASSING)
async def test_what_passes_refuses_a_caller_and_keeps_the_servers_own_work(lab: Lab, code: int) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    writer, uid = lab.engine.store.writer, (await lab.engine.find(name)).record.uid
    # Submitted in one step of the loop, so that they are one batch.
    asked = writer.submit(Meets(code))
    own = writer.submit(Settle(uid, None, Move.FAIL, failure(Reason.DEADLINE_EXCEEDED)))
    with pytest.raises(ServiceError, match="The store cannot write"):
        await asked
    await lab.clock.armed(1)
    assert not own.done()
    lab.clock.advance(1)
    await own
    assert (await lab.end(name)).state == State.STATE_FAILED


async def test_a_writer_that_breaks_leaves_nobody_waiting(lab: Lab) -> None:
    """Not even those of the batch in which it did."""

    def breaks(_: object) -> None:
        raise RuntimeError("a mistake of ours")

    writer = lab.engine.store.writer
    before, broken = writer.submit(Nothing()), writer.submit(Nothing(), breaks)
    after = [writer.submit(Nothing(), breaks), writer.submit(Nothing())]
    async with asyncio.timeout(60):
        await before
        await broken
        for future in after:
            with pytest.raises(ServiceError, match="The store has stopped"):
                await future
    assert lab.harness.running.failed.is_set()
