"""Another process holds a lock on the database: a backup, a shell that was left open. It is waited for, but not while
the server starts."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import StoreError
from longshore_server.store import database
from tests.conftest import Lab, State, reason_of_end, refused, result_of, retry_after

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM operations").fetchone()
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""
Release = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def held(lab: Lab, begin: str = "BEGIN IMMEDIATE") -> AsyncIterator[Release]:
    """The lock is another process's, until what is yielded is called. By default it is the one for writing."""
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(lab.data / "longshore.db"), begin, stdin=pipe, stdout=pipe
    )
    assert holder.stdin is not None
    assert holder.stdout is not None

    async def release() -> None:
        await holder.communicate(b"\n")
        assert holder.returncode == 0

    try:
        assert await holder.stdout.readline() == b"held\n"
        yield release
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.communicate()


async def in_the_writer(lab: Lab, use: Callable[[Any], object]) -> None:
    """Run `use` on the connection that writes, in its thread."""
    database = lab.engine.store.writer._database
    await database.run(lambda: use(database.raw))


async def impatient(lab: Lab) -> None:
    """SQLite itself waits five seconds for a lock; what comes after those is here at once."""
    await in_the_writer(lab, lambda connection: connection.execute("PRAGMA busy_timeout = 0"))


async def test_a_caller_is_not_refused_for_a_lock_that_is_soon_released(lab: Lab) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def trace(statement: str) -> None:
        if statement.startswith("BEGIN"):
            loop.call_soon_threadsafe(begun.set)

    known = (await lab.begin()).operation.name
    await lab.end(known)
    await in_the_writer(lab, lambda connection: connection.set_trace_callback(trace))
    async with held(lab) as release:
        start = asyncio.ensure_future(lab.begin(script="s"))
        await begun.wait()
        # Reading goes on; and whatever would refuse the start has had the time of a call to do it.
        assert (await lab.get(known)).state == State.STATE_COMPLETED
        assert not start.done()
        await release()
        assert result_of(await lab.end((await start).operation.name)).text == "played"


async def test_handlers_wait_for_a_long_lock_and_lose_nothing(make_lab: Any) -> None:
    """What a handler did meanwhile, in every way it can, is there afterwards: in order, once, in the same attempt."""
    lab = await make_lab(concurrency=1)
    running, gate = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script == "work":
            running.set()
            await gate.wait()
            for number in range(1, 4):
                op.progress(lab_pb2.PlayProgress(number=number))
            await op.step("step", lambda: None)
            child = await lab.server.operations.start("lab.v1.LabService/PlayOn", lab_pb2.PlayRequest())
            await op.output("said")
            await child.wait()
        return lab_pb2.PlayResult(text=request.script)

    worker = (await lab.begin(script="work")).operation.name
    waiter = (await lab.begin(script="waited for a slot")).operation.name
    watch = asyncio.ensure_future(lab.events(worker))
    await running.wait()
    await impatient(lab)
    async with held(lab) as release:
        gate.set()
        await lab.clock.armed(1)
        # A caller is told instead, and may try again.
        start = asyncio.ensure_future(lab.begin(script="refused"))
        while not start.done():
            assert (await lab.get(worker)).sequence == 2
            lab.clock.advance(1)
            await lab.clock.armed(1)
        code, reason, status = await refused(start)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "locked" in status.message
        assert retry_after(status) > 0
        await release()
    lab.clock.advance(1)
    ended = await lab.end(worker)
    assert (ended.state, ended.attempt) == (State.STATE_COMPLETED, 1)
    events = await watch
    assert [event.sequence for event in events] == list(range(1, 8))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["accepted", "started", *["progress"] * 3, "output", "completed"]
    progress = lab_pb2.PlayProgress()
    assert [event.progress.value.Unpack(progress) and progress.number for event in events[2:5]] == [1, 2, 3]
    assert result_of(await lab.end(waiter)).text == "waited for a slot"
    # The worker, its child and the waiter; of what was refused nothing is stored.
    assert len(lab.tables()["operations"]) == 3


async def test_a_deadline_that_passes_under_a_lock_is_kept_after_it(make_lab: Any) -> None:
    lab = await make_lab(default_timeout=3.0)

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    await impatient(lab)
    async with held(lab) as release:
        lab.clock.advance(3)
        await lab.clock.armed(1)
        assert (await lab.get(name)).state == State.STATE_RUNNING
        await release()
    lab.clock.advance(1)
    ended = await lab.operations.Wait(pb.WaitRequest(name=name))
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"], ids=["reads", "writes"])
async def test_a_server_does_not_start_on_a_log_that_it_cannot_write_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """The other program's lock keeps the log as it is: what a failed sync has dropped would stay dropped, unseen."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0)
    name = (await lab.begin()).operation.name
    await lab.end(name)
    async with held(lab, begin) as release:
        await lab.harness.crash()
        with pytest.raises(StoreError, match=r"longshore\.db is in use by another program.*; end it, then start again"):
            await lab.harness.start()
        await release()
    await lab.harness.start()
    await lab.connect()
    assert (await lab.get(name)).state == State.STATE_COMPLETED
