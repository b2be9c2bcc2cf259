"""What the store does not take of jobs: an end, a claim, a look, and what a server leaves behind on a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from longshore_server import Job, JobFailedError
from longshore_server.job_lifecycle import JobMove, JobState
from longshore_server.jobs.admin import Admin
from longshore_server.store.mutations.job import ClaimJobs, LoseJob, ReleaseJobs, SettleJob
from tests.server.jobs.conftest import Yard


async def test_an_error_that_quotes_half_of_a_character_is_one_as_any(yard: Yard) -> None:
    @yard.job("quote")
    async def quote(payload: list[str], job: Job[None]) -> None:
        raise ValueError(f"not a word: {payload[0]}\ud800")

    await yard.start()
    ref = await quote.create(["x"])
    with pytest.raises(JobFailedError):
        await ref.wait()
    (record,) = await yard.jobs()
    assert record.problem == "ValueError: not a word: x?"


async def test_an_end_that_the_store_does_not_take_fails_the_job(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = SettleJob.apply

    def broken(self: SettleJob, tx: Any) -> Any:
        if self.move is JobMove.COMPLETE:
            raise RuntimeError("a mistake of ours")
        return applied(self, tx)

    monkeypatch.setattr(SettleJob, "apply", broken)

    @yard.job("count")
    async def count(payload: int, job: Job[int]) -> int:
        return payload

    await yard.start()
    with pytest.raises(JobFailedError) as failed:
        await (await count.create(1)).wait()
    assert failed.value.reason == "INTERNAL"


def refusing(monkeypatch: pytest.MonkeyPatch, kind: type[Any], times: int = 1) -> None:
    """The first mutations of a kind break."""
    applied, left = kind.apply, times

    def broken(self: Any, tx: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise RuntimeError("a mistake of ours")
        return applied(self, tx)

    monkeypatch.setattr(kind, "apply", broken)


async def test_a_queue_whose_claim_the_store_does_not_take_asks_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    @yard.job("count", concurrency=2)
    async def count(payload: int, job: Job[int]) -> int:
        return payload

    await yard.start()
    await Admin(yard.engine.jobs).pause("count", paused=True)
    refs = await count.create_many([1, 2, 3])
    refusing(monkeypatch, ClaimJobs)
    await Admin(yard.engine.jobs).pause("count", paused=False)
    await yard.clock.armed(60)
    assert [record.state for record in await yard.jobs()] == [JobState.QUEUED] * 3
    yard.clock.advance(60)
    assert [await ref.wait() for ref in refs] == [1, 2, 3]


async def test_an_attempt_at_which_the_store_does_not_look_is_taken_away_later(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    @yard.job("hang", heartbeat=10)
    async def hang(payload: int, job: Job[int]) -> int:
        if job.attempt == 1:
            await asyncio.Event().wait()
        return job.attempt

    await yard.start()
    refusing(monkeypatch, LoseJob)
    ref = await hang.create(1)
    await yard.clock.armed(10)
    yard.clock.advance(10)
    await yard.clock.armed(10)
    yard.clock.advance(10)
    assert await ref.wait() == 2


async def test_an_attempt_that_has_ended_is_looked_at_no_more(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    left = asyncio.Event()

    @yard.job("hang", heartbeat=10)
    async def hang(payload: int, job: Job[None]) -> None:
        beating = asyncio.create_task(left.wait())
        beating.add_done_callback(lambda _: job.heartbeat())

    await yard.start()
    await (await hang.create(1)).wait()
    left.set()
    await yard.catch_up()
    assert yard.clock.timers(10) == 0


async def test_a_server_with_a_job_under_way_stops_with_a_full_disk(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, tx: Any) -> Any:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    @yard.job("hang")
    async def hang(payload: int, job: Job[int]) -> int:
        if job.attempt == 1:
            await asyncio.Event().wait()
        return job.attempt

    await yard.start()
    ref = await hang.create(1)
    await yard.catch_up()
    with monkeypatch.context() as patched:
        patched.setattr(ReleaseJobs, "apply", full)
        await asyncio.wait_for(yard.stop(), 60)
    await yard.start()
    assert await hang.job(ref.id).wait() == 2
