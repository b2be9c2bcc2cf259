"""Jobs after quick crashes: run apart in groups, until only the one that kills the process reaches its bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1.operation_pb2 import OperationSnapshot
from longshore_server import Job
from longshore_server.ids import parse_uid
from longshore_server.job_lifecycle import JobState
from longshore_server.store.mutations.job import ClaimJob
from tests.conftest import State
from tests.server.jobs.conftest import Yard


class Poisoned:
    """A queue one job of which kills its server whenever it runs; the others run for as long as the gate is shut."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.dead = asyncio.Event()
        self.gate = asyncio.Event()

        @yard.job("load", concurrency=100)
        async def load(payload: str, job: Job[None]) -> None:
            if payload == "poison":
                self.dead.set()
                await asyncio.Event().wait()
            await self.gate.wait()

        self.load = load

    async def until_it_is_buried(self, uid: str) -> int:
        """Crash and restart as long as the poison runs. Returns how many crashes there were."""
        yard, crashes = self.yard, 0
        while True:
            host = yard.engine.jobs
            buried = asyncio.ensure_future(asyncio.wait([asyncio.ensure_future(self.load.job(uid).wait())]))
            waits = [buried, asyncio.ensure_future(self.dead.wait())]
            if host.scheduler.held:
                waits.append(asyncio.ensure_future(yard.clock.armed(1)))  # the probation of a group without it
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            done = buried.done()
            await yard.catch_up()
            # A group has begun before its functions run: time must not pass until each has had its first step.
            while any(run._job is None for run in host.runs.values()):
                await yard.catch_up()
            for wait in waits:
                wait.cancel()
            if self.dead.is_set():
                crashes += 1
                await yard.harness.crash()
                self.dead.clear()
                await yard.harness.start()
            elif done:
                return crashes
            else:
                yard.clock.advance(1)
                await yard.catch_up()


@pytest.mark.parametrize("count", [5, 90])
async def test_only_the_job_that_kills_the_process_is_buried(yard: Yard, count: int) -> None:
    poisoned = Poisoned(yard)

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        await poisoned.gate.wait()
        return lab_pb2.PlayResult()

    await yard.start()
    names = [(await yard.begin()).operation.name for _ in range(count)]
    await poisoned.load.create_many([f"{n}" for n in range(count)])
    poison = await poisoned.load.create("poison")
    assert await poisoned.until_it_is_buried(poison.id) == 5
    poisoned.gate.set()
    await yard.connect()
    for name in names:
        assert (await yard.end(name)).state == State.STATE_COMPLETED, "operations are no more to blame than jobs"
    yard.clock.advance(1)
    for record in await yard.jobs():
        if record.name != poison.name:
            await poisoned.load.job(record.name).wait()
    states = [record.state for record in await yard.jobs()]
    assert (states.count(JobState.COMPLETED), states.count(JobState.DEAD)) == (count, 1)
    (buried,) = await yard.jobs("state = 10")
    assert (buried.name, buried.reason) == (poison.name, "CRASH_LOOP")


async def test_jobs_wait_while_a_suspect_is_run_apart_and_go_on_after(yard: Yard) -> None:
    @yard.job("load", concurrency=2)
    async def load(payload: str, job: Job[str]) -> str:
        if payload == "long":
            await asyncio.Event().wait()
        return payload

    await yard.start()
    long = await load.create("long")
    for _ in range(2):
        await yard.catch_up()
        await yard.restart()
    new = await load.create("new")
    await yard.clock.armed(1)
    assert (await new.get()).state is JobState.QUEUED
    assert (await load.job(long.id).get()).state is JobState.ACTIVE, "it is run apart at once"
    name = (await yard.begin()).operation.name
    assert (await yard.get(name)).state == OperationSnapshot.STATE_PENDING, "and operations wait, too"
    yard.clock.advance(1)
    assert await new.wait() == "new"
    assert (await yard.end(name)).state == State.STATE_COMPLETED


async def test_a_suspect_of_a_paused_queue_waits_and_keeps_nobody(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: str, job: Job[str]) -> str:
        if job.attempt < 3:
            await asyncio.Event().wait()
        return payload

    @yard.job("other")
    async def other(payload: str, job: Job[str]) -> str:
        return payload

    await yard.start()
    ref = await load.create("x")
    await yard.catch_up()
    await yard.restart()
    await yard.catch_up()
    await yard.engine.jobs.pause("load", True)
    await yard.restart()
    assert await (await other.create("y")).wait() == "y"
    assert (await load.job(ref.id).get()).state is JobState.QUEUED
    await yard.engine.jobs.pause("load", False)
    assert await load.job(ref.id).wait() == "x"


async def test_a_suspect_is_run_apart_once_its_queue_is_resumed(yard: Yard) -> None:
    @yard.job("load", concurrency=2)
    async def load(payload: str, job: Job[str]) -> str:
        if payload == "long":
            await asyncio.Event().wait()
        return payload

    await yard.start()
    long = await load.create("long")
    for _ in range(2):
        await yard.catch_up()
        await yard.engine.jobs.pause("load", True)
        await yard.restart()
        await yard.catch_up()
        assert not yard.engine.jobs.scheduler.held, "nobody waits for one that cannot begin"
        await yard.engine.jobs.pause("load", False)
    assert yard.engine.jobs.scheduler.held
    new = await load.create("new")
    await yard.clock.armed(1)
    assert (await load.job(long.id).get()).state is JobState.ACTIVE
    assert (await new.get()).state is JobState.QUEUED, "nothing else begins meanwhile"
    yard.clock.advance(1)
    assert await new.wait() == "new"


async def test_a_suspect_that_the_store_refuses_to_begin_keeps_nobody(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that are run apart with it nor, once that is over, those whom the next crash accuses."""

    @yard.job("load", concurrency=2)
    async def load(payload: str, job: Job[str]) -> str:
        if job.attempt < 4:
            await asyncio.Event().wait()
        return payload

    @yard.job("other")
    async def other(payload: str, job: Job[str]) -> str:
        return payload

    await yard.start()
    refs = await load.create_many(["x", "y"])
    await yard.catch_up()
    await yard.restart()
    await yard.catch_up()
    apply, refused = ClaimJob.apply, asyncio.Event()
    loop = asyncio.get_running_loop()

    def broken(self: ClaimJob, tx: Any) -> Any:
        if self.uid == parse_uid(refs[0].id):
            loop.call_soon_threadsafe(refused.set)
            raise RuntimeError("a mistake of ours")
        return apply(self, tx)

    monkeypatch.setattr(ClaimJob, "apply", broken)
    await yard.restart()
    await refused.wait()
    await yard.clock.armed(1)
    new = await other.create("z")
    assert (await new.get()).state is JobState.QUEUED, "the other one is run apart all the same"
    yard.clock.advance(1)
    assert await new.wait() == "z"
    assert (await load.job(refs[0].id).get()).attempt == 3, "it has begun with all others"
    assert [row[3] for row in yard.tables()["boots"]] == [0, 0, 0]
