"""Queues as lines: slots, rates, pauses; and one that is gone."""

from __future__ import annotations

import asyncio

import pytest

from longshore_server import (
    Job,
    Rate,
    StoreError,
)
from longshore_server.clock import SECOND
from tests.server.jobs.conftest import Load, Yard


async def test_a_queue_that_is_gone_keeps_the_server_from_starting_while_it_has_jobs(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        pass

    await yard.start()
    await load.create(Load(), delay=10)
    await yard.harness.stop()
    del yard.server.queues["load"]
    with pytest.raises(StoreError, match="1 in 'load'"):
        await yard.harness.start()


async def test_a_rate_is_kept_over_a_restart(yard: Yard) -> None:
    ran: list[int] = []

    @yard.job("load", rate=Rate(2, per=10))
    async def load(payload: Load, job: Job[None]) -> None:
        ran.append(yard.clock.now() // SECOND % 100)

    await yard.start()
    start = yard.clock.now() // SECOND % 100
    for _ in range(4):
        await load.create(Load())
    await yard.catch_up()
    assert [when - start for when in ran] == [0, 0]
    await yard.restart()
    await yard.catch_up()
    assert len(ran) == 2
    for _ in range(2):
        yard.clock.advance(5)
        await yard.catch_up()
    assert [when - start for when in ran] == [0, 0, 5, 10]


async def test_a_paused_queue_begins_nothing_after_a_restart_either(yard: Yard) -> None:
    ran: list[str] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        ran.append(payload.name)

    await yard.start()
    await yard.engine.jobs.pause("load", True)
    ref = await load.create(Load("later"))
    await yard.restart()
    await yard.catch_up()
    assert ran == []
    await yard.engine.jobs.pause("load", False)
    await ref.wait()


async def test_no_more_run_at_once_than_the_queue_has_slots(yard: Yard) -> None:
    running, most = 0, 0
    gate = asyncio.Event()

    @yard.job("load", concurrency=3)
    async def load(payload: Load, job: Job[None]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        await asyncio.sleep(0)
        running -= 1

    await yard.start()
    refs = await load.create_many([Load()] * 20)
    await yard.catch_up()
    gate.set()
    for ref in refs:
        await ref.wait()
    assert (most, running) == (3, 0)
    assert yard.engine.jobs.scheduler.lines["load"].slots.held == 0
