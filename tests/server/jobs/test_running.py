"""Attempts: retries with durable delays, dead letters, timeouts, heartbeats, fences, cancels, and crashes."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import Any

import pytest

from longshore_server import (
    Job,
    JobCancelledError,
    JobFailedError,
    JobNotEnqueuedError,
    JobRetry,
    JobState,
    OperationError,
    Rate,
    Reason,
    ServiceError,
    StoreError,
)
from longshore_server.clock import SECOND
from longshore_server.job_lifecycle import Stand
from longshore_server.store.mutations.job import DismissJob, RetryJob
from tests.server.jobs.conftest import Yard


@dataclass
class Load:
    name: str = "x"


async def failed(ref: Any) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        await ref.wait()
    return caught.value


async def test_a_job_without_a_retry_fails_once_with_the_error_of_its_code(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        if payload.name == "told":
            raise OperationError("OUT_OF_STOCK", "None left.")
        raise RuntimeError("secret")

    await yard.start()
    told, untold = await load.create(Load("told")), await load.create(Load("untold"))
    error = await failed(told)
    assert (error.state, error.reason, error.status.message) == (JobState.FAILED, "OUT_OF_STOCK", "None left.")
    error = await failed(untold)
    assert (error.state, error.reason) == (JobState.FAILED, "HANDLER_ERROR")
    assert "secret" not in str(error)
    assert (await untold.get()).problem == "RuntimeError: secret", "operators see it"


async def test_retries_wait_durably_and_a_used_up_job_is_a_dead_letter_with_its_last_error(yard: Yard) -> None:
    attempts: list[tuple[int, int]] = []

    @yard.job("load", retry=JobRetry(max_attempts=3, initial_delay=10), retention="1h")
    async def load(payload: Load, job: Job[None]) -> None:
        attempts.append((job.attempt, job.failures))
        raise ValueError(f"no {job.attempt}")

    await yard.start()
    ref = await load.create(Load())
    await yard.catch_up()
    assert ((await ref.get()).state, (await yard.jobs())[0].stand) == (JobState.QUEUED, Stand.DELAYED)
    await yard.restart()
    yard.clock.advance(9)
    await yard.catch_up()
    assert attempts == [(1, 0)]
    yard.clock.advance(1)
    await yard.catch_up()
    assert attempts == [(1, 0), (2, 1)]
    yard.clock.advance(20)
    error = await failed(ref)
    assert (error.state, error.reason, attempts) == (JobState.DEAD, "HANDLER_ERROR", [(1, 0), (2, 1), (3, 2)])
    yard.clock.advance(7200)
    await yard.catch_up()
    assert (await ref.get()).problem == "ValueError: no 3", "kept until somebody has looked at it"
    await yard.engine.store.writer.submit(DismissJob((await yard.jobs())[0].uid))
    assert (await ref.get()).state is JobState.DISMISSED
    yard.clock.advance(3600)
    await yard.catch_up()
    with pytest.raises(ServiceError, match="does not exist"):
        await ref.get()
    assert not yard.tables()["job_bodies"]


async def test_a_final_error_and_a_named_reason_are_not_tried_again(yard: Yard) -> None:
    @yard.job("load", retry=JobRetry(max_attempts=3, non_retryable_reasons=["DECLINED"]))
    async def load(payload: Load, job: Job[None]) -> None:
        raise OperationError(payload.name, final=payload.name == "FINAL")

    await yard.start()
    for reason in ("FINAL", "DECLINED"):
        error = await failed(await load.create(Load(reason)))
        assert (error.state, error.reason) == (JobState.FAILED, reason)
    assert [record.attempt for record in await yard.jobs()] == [1, 1]


async def test_a_retry_goes_on_from_the_step_that_failed_and_attempts_count_on(yard: Yard) -> None:
    calls: list[str] = []
    broken = True

    def first() -> str:
        calls.append("first")
        return "1"

    def second() -> str:
        calls.append("second")
        if broken:
            raise RuntimeError("broken")
        return "2"

    @yard.job("load", retry=JobRetry(max_attempts=1))
    async def load(payload: Load, job: Job[str]) -> str:
        return (
            f"{await job.step('first', first)}{await job.step('second', second)} in {job.attempt} after {job.failures}"
        )

    await yard.start()
    ref = await load.create(Load())
    assert (await failed(ref)).state is JobState.DEAD
    broken = False
    uid = (await yard.jobs())[0].uid
    await yard.engine.store.writer.submit(RetryJob(uid, False, None))
    assert await ref.wait() == "12 in 2 after 0"
    assert calls == ["first", "second", "second"]


async def test_a_fresh_replay_forgets_what_was_recorded(yard: Yard) -> None:
    calls: list[int] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        await job.step("first", lambda: calls.append(job.attempt))
        if job.attempt == 1:
            raise RuntimeError("no")

    await yard.start()
    ref = await load.create(Load())
    await failed(ref)
    await yard.engine.store.writer.submit(RetryJob((await yard.jobs())[0].uid, True, None))
    await ref.wait()
    assert calls == [1, 2]


async def test_a_wrong_result_fails_and_is_not_tried_again(yard: Yard) -> None:
    @yard.job("load", retry=JobRetry(max_attempts=3))
    async def load(payload: Load, job: Job[str]) -> str:
        return 5  # type: ignore[return-value]

    await yard.start()
    ref = await load.create(Load())
    error = await failed(ref)
    assert (error.state, error.reason) == (JobState.FAILED, "WRONG_RESULT_TYPE")
    assert (await ref.get()).problem == "it returned int instead of str"


async def test_an_attempt_that_takes_too_long_is_cut_off_and_made_again(yard: Yard) -> None:
    @yard.job("load", timeout=5, retry=JobRetry(max_attempts=2, initial_delay=0))
    async def load(payload: Load, job: Job[int]) -> int:
        if job.attempt == 1:
            await asyncio.Event().wait()
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    await yard.clock.armed(5)
    yard.clock.advance(5)
    assert await ref.wait() == 2
    assert (await ref.get()).failures == 1


async def test_a_deadline_expires_what_waits_and_what_runs(yard: Yard) -> None:
    stopped = asyncio.Event()

    @yard.job("load", deadline="1m", concurrency=1)
    async def load(payload: Load, job: Job[None]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await yard.start()
    refs = [await load.create(Load()) for _ in range(2)]
    yard.clock.advance(60)
    for ref in refs:
        error = await failed(ref)
        assert (error.state, error.reason) == (JobState.EXPIRED, "DEADLINE_EXCEEDED")
    await stopped.wait()
    assert [record.attempt for record in await yard.jobs()] == [1, 0]


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


async def test_a_payload_that_cannot_be_read_any_more_is_a_dead_letter(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        raise AssertionError

    await yard.start()
    ref = await load.create(Load(), delay=10)
    await yard.harness.stop()
    with sqlite3.connect(yard.data / "longshore.db") as database:
        database.execute("UPDATE job_bodies SET codec = 'dataclass:gone:Gone' WHERE part = 1")
    database.close()
    await yard.harness.start()
    yard.clock.advance(10)
    error = await failed(ref)
    assert (error.state, error.reason) == (JobState.DEAD, "PAYLOAD_UNREADABLE")


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
    assert yard.engine.jobs.scheduler.lines["load"].running == 0
