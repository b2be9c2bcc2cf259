"""A server that stops, and handlers that wait for jobs: for what runs they wait, for what does not they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1.operation_pb2 import OperationSnapshot
from longshore_server import Job, JobRetry
from tests.conftest import reason_of
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import admin

DRAIN = 30.0
"""Seconds, which nobody lets pass: a stop that ends has not waited for them."""


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """A laboratory that takes its time to stop."""
    found = Yard(tmp_path / "data", drain=DRAIN)
    try:
        yield found
    finally:
        found.clock.advance(DRAIN)
        await found.stop()


async def stopped(yard: Yard) -> None:
    """Return once the server has, in less than the time of its drain."""
    await asyncio.wait_for(yard.stop(), 60)


async def paused(yard: Yard, queue: str, *, paused: bool = True) -> None:
    name = f"queues/{queue}"
    if paused:
        await admin(yard).PauseQueue(pb.PauseQueueRequest(name=name))
    else:
        await admin(yard).ResumeQueue(pb.ResumeQueueRequest(name=name))


async def test_a_job_that_sleeps_goes_on_at_the_next_server(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        await job.sleep(3600)
        return job.attempt

    await yard.start()
    ref = await load.create(1)
    await yard.clock.armed(3600)
    await stopped(yard)
    await yard.start()
    await yard.clock.armed(3600)
    yard.clock.advance(3600)
    assert await load.job(ref.id).wait() == 2


async def test_one_that_sleeps_while_it_is_cancelled_has_all_of_the_drain(yard: Yard) -> None:
    """No server runs it again."""
    tidied = []

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None:
        await job.cancelled.wait()
        await job.sleep(5)
        tidied.append(job.attempt)

    await yard.start()
    ref = await load.create(1)
    await yard.catch_up()
    await ref.cancel()
    await yard.clock.armed(5)
    stop = asyncio.ensure_future(stopped(yard))
    await yard.clock.armed(DRAIN)
    yard.clock.advance(5)
    await stop
    assert tidied == [1]


async def test_a_job_whose_function_has_yet_to_begin_goes_on_at_the_next_server(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, gate = asyncio.Event(), asyncio.Event()

    @yard.job("load", retry=JobRetry(max_attempts=2, initial_delay=5))
    async def load(payload: int, job: Job[int]) -> int:
        if job.attempt == 1:
            raise ValueError
        await job.sleep(3600)
        return job.attempt

    await yard.start()
    ref = await load.create(1)
    await yard.clock.armed(5)
    found = yard.engine.store.journal

    async def journal(uid: bytes) -> Any:
        reading.set()
        await gate.wait()
        return await found(uid)

    monkeypatch.setattr(yard.engine.store, "journal", journal)
    yard.clock.advance(5)
    await reading.wait()
    stop = asyncio.ensure_future(stopped(yard))
    await yard.clock.armed(DRAIN)
    gate.set()
    await stop
    await yard.start()
    await yard.clock.armed(3600)
    yard.clock.advance(3600)
    assert await load.job(ref.id).wait() == 3


async def test_a_handler_that_waits_for_a_queued_job_is_left_to_the_next_server(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[str]) -> str:
        return "loaded"

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        return lab_pb2.PlayResult(text=await (await load.create(1)).wait())

    await yard.start()
    await paused(yard, "load")
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    await stopped(yard)
    await yard.start()
    await paused(yard, "load", paused=False)
    ended = await yard.end(name)
    assert (ended.state, ended.attempt, ended.crashes) == (OperationSnapshot.STATE_COMPLETED, 2, 0)
    assert len(await yard.jobs()) == 1


@pytest.mark.parametrize("attached", [False, True])
async def test_so_is_one_that_waits_for_a_job_that_does(yard: Yard, attached: bool) -> None:
    @yard.job("inner")
    async def inner(payload: int, job: Job[str]) -> str:
        return "loaded"

    @yard.job("outer")
    async def outer(payload: int, job: Job[str]) -> str:
        made = await inner.create(payload)
        return await job.attach(made) if attached else await made.wait()

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        return lab_pb2.PlayResult(text=await (await outer.create(1)).wait())

    await yard.start()
    await paused(yard, "inner")
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    await stopped(yard)
    await yard.start()
    await paused(yard, "inner", paused=False)
    assert (await yard.end(name)).state == OperationSnapshot.STATE_COMPLETED
    outer_job, inner_job = await yard.jobs()
    assert (outer_job.attempt, outer_job.claims, inner_job.attempt) == ((1, 1, 1) if attached else (2, 1, 1))


async def test_so_is_one_that_waits_for_an_operation_that_does(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[str]) -> str:
        return "loaded"

    @yard.plays
    async def handler(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        if request.key == "child":
            return lab_pb2.PlayResult(text=await (await load.create(1)).wait())
        found: lab_pb2.PlayResult = await (
            await yard.server.operations.start("lab.v1.LabService/Play", lab_pb2.PlayRequest(key="child"))
        ).wait()
        return found

    await yard.start()
    await paused(yard, "load")
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    await stopped(yard)
    await yard.start()
    await paused(yard, "load", paused=False)
    ended = await yard.end(name)
    assert (ended.state, ended.attempt, ended.crashes) == (OperationSnapshot.STATE_COMPLETED, 2, 0)


async def test_and_one_that_waits_for_an_operation_without_a_slot(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(drain=DRAIN, concurrency=1)

    @yard.plays
    async def handler(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        if request.key == "child":
            return lab_pb2.PlayResult(text="loaded")
        child = await yard.server.operations.start("lab.v1.LabService/Play", lab_pb2.PlayRequest(key="child"))
        found: lab_pb2.PlayResult = await child.wait()
        return found

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    await stopped(yard)
    yard.harness.configure(concurrency=2)
    await yard.start()
    assert (await yard.end(name)).state == OperationSnapshot.STATE_COMPLETED


async def test_a_handler_that_waits_for_a_job_that_runs_has_the_time_of_the_drain(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("load")
    async def load(payload: int, job: Job[str]) -> str:
        await gate.wait()
        return "loaded"

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        return lab_pb2.PlayResult(text=await (await load.create(1)).wait())

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    stop = asyncio.ensure_future(yard.stop())
    await yard.clock.armed(DRAIN, 2)
    gate.set()
    await stop
    await yard.start()
    ended = await yard.end(name)
    assert (ended.state, ended.attempt) == (OperationSnapshot.STATE_COMPLETED, 1)


async def test_a_job_that_fails_while_the_server_drains_is_waited_for_no_more(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("load", retry=JobRetry(max_attempts=2, initial_delay=5))
    async def load(payload: int, job: Job[int]) -> int:
        await gate.wait()
        if job.attempt == 1:
            raise ValueError
        return job.attempt

    @yard.job("waits")
    async def waits(payload: int, job: Job[int]) -> int:
        found: int = await (await load.create(1)).wait()
        return found

    await yard.start()
    ref = await waits.create(1)
    await yard.catch_up()
    stop = asyncio.ensure_future(stopped(yard))
    await yard.clock.armed(DRAIN)
    gate.set()
    await stop
    await yard.start()
    yard.clock.advance(5)
    assert await waits.job(ref.id).wait() == 2
    assert [record.attempt for record in await yard.jobs()] == [2, 2]


async def test_a_step_that_runs_beside_the_wait_is_not_cut_short(yard: Yard) -> None:
    gate, calls = asyncio.Event(), []

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None: ...

    async def lift() -> str:
        calls.append("lift")
        await gate.wait()
        return "lifted"

    @yard.job("waits")
    async def waits(payload: int, job: Job[str]) -> str:
        made = await load.create(1)
        lifted, _ = await asyncio.gather(job.step("lift", lift), made.wait())
        return lifted

    await yard.start()
    await paused(yard, "load")
    ref = await waits.create(1)
    await yard.catch_up()
    stop = asyncio.ensure_future(stopped(yard))
    await yard.clock.armed(DRAIN)
    gate.set()
    await stop
    await yard.start()
    await paused(yard, "load", paused=False)
    assert await waits.job(ref.id).wait() == "lifted"
    assert calls == ["lift"]


async def test_an_operation_that_no_server_runs_again_has_all_of_the_drain(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None: ...

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        await (await load.create(1)).wait()
        return lab_pb2.PlayResult()

    await yard.start()
    await paused(yard, "load")
    name = (await yard.begin("PlayOnce")).operation.name
    await yard.catch_up()
    stop = asyncio.ensure_future(yard.stop())
    await yard.clock.armed(DRAIN)
    assert not stop.done()
    yard.clock.advance(DRAIN)
    await stop
    await yard.start()
    assert reason_of((await yard.get(name)).error) == "INTERRUPTED"
