"""Attempts that are not heard of, that crash, and that are cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_server import (
    Job,
    JobCancelledError,
    JobNotEnqueuedError,
    JobState,
    Reason,
    ServiceError,
)
from longshore_server.store.mutations.job import RetryJob
from tests.server.jobs.conftest import Load, Yard, failed


@pytest.mark.parametrize("policy", ["retry", "fail", "block"])
async def test_an_attempt_that_is_not_heard_of_is_fenced_off(yard: Yard, policy: Any) -> None:
    stale: list[BaseException] = []
    tried = asyncio.Event()

    @yard.job("load", key="{name}", heartbeat=10, on_stale=policy, when_full="coalesce")
    async def load(payload: Load, job: Job[int]) -> int:
        if job.attempt == 1:
            await job.heartbeat()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                try:
                    await job.progress(1)
                except ServiceError as error:
                    stale.append(error)
                tried.set()
                raise
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    await yard.clock.armed(10)
    await yard.catch_up()
    yard.clock.advance(10)
    await tried.wait()
    assert isinstance(stale[0], ServiceError)
    assert stale[0].reason is Reason.STALE_ATTEMPT
    if policy == "retry":
        assert await ref.wait() == 2
    elif policy == "fail":
        error = await failed(ref)
        assert (error.state, error.reason) == (JobState.FAILED, "HEARTBEAT_LOST")
    else:
        assert (await ref.get()).state is JobState.STALE
        with pytest.raises(JobNotEnqueuedError) as caught:
            await load.create(Load())
        assert caught.value.reason.value == "STALE_BLOCKED"
        assert await load.submit(Load()) == caught.value.rejection, "nobody is given a job that nobody does"
        await yard.restart()
        assert (await ref.get()).state is JobState.STALE, "until somebody acts"
        await yard.engine.store.writer.submit(RetryJob((await yard.jobs())[0].uid, False, None))
        assert await ref.wait() == 2


async def test_who_is_heard_of_in_time_goes_on(yard: Yard) -> None:
    going = asyncio.Event()

    @yard.job("load", heartbeat=10)
    async def load(payload: Load, job: Job[int]) -> int:
        for count in range(3):
            await job.progress(count, 3)
            going.set()
            await job.sleep(9)
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    for _ in range(3):
        await going.wait()
        going.clear()
        await yard.clock.armed(9)
        yard.clock.advance(9)
    assert await ref.wait() == 1
    shown = (await ref.get()).progress
    assert (shown.current, shown.total) == (2, 3)


async def test_progress_that_is_none_is_refused_where_it_is_reported(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        told: list[tuple[tuple[Any, ...], str]] = [
            ((1.5, 2), "progress is numbers or a protobuf message, not float"),
            ((1, 2, 5), "the message of progress is a text, not int"),
        ]
        for values, problem in told:
            with pytest.raises(TypeError, match=problem):
                job.progress(*values)
        return len(told)

    await yard.start()
    assert await (await load.create(1)).wait() == 2


async def test_a_sign_that_the_store_hears_late_puts_off_the_loss_and_does_not_prevent_it(yard: Yard) -> None:
    begun = asyncio.Event()

    @yard.job("load", heartbeat=10, on_stale="fail")
    async def load(payload: Load, job: Job[None]) -> None:
        told = job.heartbeat()
        yard.clock.advance(1)  # before the store has it
        await told
        begun.set()
        await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await begun.wait()
    yard.clock.advance(9)
    await yard.catch_up()
    assert (await ref.get()).state is JobState.ACTIVE
    yard.clock.advance(1)
    assert (await failed(ref)).reason == "HEARTBEAT_LOST"


async def test_a_crash_runs_the_job_again_and_its_steps_once(yard: Yard) -> None:
    calls: list[str] = []
    here = asyncio.Event()

    @yard.job("load")
    async def load(payload: Load, job: Job[str]) -> str:
        await job.step("first", calls.append, "first")
        if job.attempt == 1:
            here.set()
            await job.step("second", asyncio.Event().wait)
        return f"done in {job.attempt}"

    await yard.start()
    ref = await load.create(Load())
    await here.wait()
    await yard.restart()
    assert await load.job(ref.id).wait() == "done in 2"
    assert calls == ["first"]


async def test_a_crash_between_the_creation_and_the_claim_loses_nothing(yard: Yard) -> None:
    @yard.job("load", concurrency=1)
    async def load(payload: Load, job: Job[str]) -> str:
        if job.attempt == 1 and payload.name == "first":
            await asyncio.Event().wait()
        return payload.name

    await yard.start()
    refs = [await load.create(Load(name)) for name in ("first", "second")]
    await yard.restart()
    assert [await ref.wait() for ref in refs] == ["first", "second"]
    assert [record.attempt for record in await yard.jobs()] == [2, 1]


async def test_a_job_that_crashes_its_server_is_buried_after_max_claims(yard: Yard) -> None:
    begun = asyncio.Event()

    @yard.job("load", max_claims=2)
    async def load(payload: Load, job: Job[None]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    for _ in range(2):
        await begun.wait()
        begun.clear()
        await yard.restart()
    error = await failed(ref)
    assert (error.state, error.reason) == (JobState.DEAD, "CRASH_LOOP")


async def test_a_stop_in_good_order_is_no_crash(yard: Yard) -> None:
    begun = asyncio.Event()

    @yard.job("load", max_claims=2)
    async def load(payload: Load, job: Job[int]) -> int:
        begun.set()
        if job.attempt < 3:
            await asyncio.Event().wait()
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    for crash in (False, True):
        await begun.wait()
        begun.clear()
        await yard.restart(crash=crash)
    assert await ref.wait() == 3


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_has_its_grace(yard: Yard) -> None:
    begun, flagged = asyncio.Event(), asyncio.Event()

    @yard.job("load", concurrency=1, cancel_grace=5)
    async def load(payload: Load, job: Job[str]) -> str:
        begun.set()
        await job.cancelled.wait()
        flagged.set()
        if payload.name == "kind":
            return "too late"
        await asyncio.Event().wait()
        return ""

    await yard.start()
    kind, waiting = await load.create(Load("kind")), await load.create(Load("rude"))
    await begun.wait()
    assert await waiting.cancel() is JobState.CANCELLED
    assert await kind.cancel("enough") is JobState.CANCELLING
    with pytest.raises(JobCancelledError, match="enough"):
        await kind.wait()
    flagged.clear()
    begun.clear()
    rude = await load.create(Load("rude"))
    await begun.wait()
    await rude.cancel()
    await flagged.wait()
    await yard.clock.armed(5)
    yard.clock.advance(5)
    with pytest.raises(JobCancelledError):
        await rude.wait()
    assert await rude.cancel() is JobState.CANCELLED, "repeatable"


async def test_a_cancel_request_is_kept_by_a_crash(yard: Yard) -> None:
    begun = asyncio.Event()

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await begun.wait()
    await ref.cancel("stop")
    await yard.restart()
    with pytest.raises(JobCancelledError, match="stop"):
        await ref.wait()


async def test_a_function_says_that_it_is_cancelled(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        raise JobCancelledError

    await yard.start()
    with pytest.raises(JobCancelledError):
        await (await load.create(Load())).wait()
