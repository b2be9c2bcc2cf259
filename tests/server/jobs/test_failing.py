"""Attempts that fail: retries with durable delays, dead letters, timeouts, deadlines."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from longshore_server import (
    Job,
    JobRetry,
    JobState,
    OperationError,
    ServiceError,
)
from longshore_server.job_lifecycle import Stand
from longshore_server.store.mutations.job import DismissJob, RetryJob
from tests.server.jobs.conftest import Load, Yard, failed


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


async def test_a_payload_that_cannot_be_read_any_more_is_a_dead_letter(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        raise AssertionError

    await yard.start()
    ref = await load.create(Load(), delay=10)
    await yard.harness.stop()
    with sqlite3.connect(yard.data / "longshore.db") as database:
        database.execute("""UPDATE job_bodies SET body = CAST('{"name":7}' AS BLOB) WHERE part = 1""")
    database.close()
    await yard.harness.start()
    yard.clock.advance(10)
    error = await failed(ref)
    assert (error.state, error.reason) == (JobState.DEAD, "PAYLOAD_UNREADABLE")
