"""What was proven wrong with the jobs of durably and of Trellis, each held here under its own name.

Others have their tests elsewhere. test_failing.py: an error of the code that nobody tries again, backoff without a
delay, dead letters and deadlines that need another process, a run that crashes its server for ever, a late finisher, a
run whose job has no definition any more. test_creation.py: a handle that does not outlive its process. test_attach.py:
an attach that maps no result, a cancel that reaches no handler.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from longshore_server import (
    DuplicateNameError,
    Job,
    JobFailedError,
    JobState,
    OperationError,
    Reason,
    ServiceError,
    StoreError,
)
from longshore_server.store.mutations.job import RetryJob
from tests.server.jobs.conftest import Yard


@dataclass
class Load:
    sku: str = "A1"


# durably: P1 to P7.


async def test_p1_a_second_step_of_a_name_silently_got_the_output_of_the_first(yard: Yard) -> None:
    calls: list[str] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[str]) -> str:
        await job.step("a", calls.append, "A")
        try:
            await job.step("a", calls.append, "B")
        except DuplicateNameError as error:
            return str(error)
        return ""

    await yard.start()
    told = await (await load.create(Load())).wait()
    assert calls == ["A"]
    assert told.count("test_faults_of_upstream.py") == 2, "both places"


async def test_p2_the_number_of_a_step_drifted_with_every_replay(yard: Yard) -> None:
    here = asyncio.Event()

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        for n in range(3):
            await job.step(f"s{n}", lambda: None)
            if n == 1 and job.attempt < 3:
                here.set()
                await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    for _ in range(2):
        await here.wait()
        here.clear()
        await yard.restart()
    await ref.wait()
    steps = [(kind, name, occurrence, attempt) for _, kind, name, occurrence, attempt, *_ in yard.tables()["journal"]]
    assert steps == [("step", "s0", 0, 1), ("step", "s1", 0, 1), ("step", "s2", 0, 3)]


@pytest.mark.parametrize("end", ["completed", "cancelled"])
async def test_p3_logs_went_at_the_end_and_steps_of_a_cancelled_run_never(yard: Yard, end: str) -> None:
    here = asyncio.Event()

    @yard.job("load", retention="1h", cancel_grace=0)
    async def load(payload: Load, job: Job[None]) -> None:
        job.log.info("begun")
        await job.step("first", lambda: None)
        here.set()
        if end == "cancelled":
            await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await here.wait()
    if end == "cancelled":
        await ref.cancel()
    await yard.harness.settle()
    assert (await ref.get()).state is JobState[end.upper()]
    kept = yard.tables()
    assert [len(kept[name]) for name in ("jobs", "journal", "logbooks")] == [1, 1, 1]
    await yard.harness.advance(hours=1)
    gone = yard.tables()
    assert [len(gone[name]) for name in ("jobs", "job_bodies", "journal", "logbooks")] == [0, 0, 0, 0]


async def test_p4_a_live_run_and_a_replay_saw_different_types(yard: Yard) -> None:
    seen: list[tuple[int, Any]] = []
    here = asyncio.Event()

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        values: dict[str, Any] = {"nothing": None, "data": Load("B2"), "list": [1, 2]}
        seen.extend([(job.attempt, await job.step(name, values.get, name)) for name in values])
        try:
            await job.step("time", lambda: datetime.now(UTC))
        except TypeError as error:
            seen.append((job.attempt, "datetime" in str(error)))
        if job.attempt == 1:
            here.set()
            await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await here.wait()
    await yard.restart()
    await ref.wait()
    live, again = ([value for attempt, value in seen if attempt == number] for number in (1, 2))
    assert live == again == [None, Load("B2"), [1, 2], True]


async def test_p4_a_run_of_an_unknown_job_name_failed_and_nobody_was_told(yard: Yard) -> None:
    """A job whose queue is gone is not taken up to fail: the next version does not start without saying so."""

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None: ...

    await yard.start()
    await load.create(Load(), delay="1h")
    await yard.stop()
    next_version = Yard(yard.data)
    with pytest.raises(StoreError, match=r"1 in 'load'\. Declare the queues again"):
        await next_version.start()
    await next_version.stop()
    await yard.start()
    assert [record.state for record in await yard.jobs()] == [JobState.QUEUED], "it waits for its queue"


async def test_p5_a_key_of_one_queue_blocked_all_others(yard: Yard) -> None:
    running: list[str] = []

    @yard.job("one", key="{sku}")
    async def one(payload: Load, job: Job[None]) -> None:
        running.append(job.queue)
        await asyncio.Event().wait()

    @yard.job("two", key="{sku}")
    async def two(payload: Load, job: Job[None]) -> None:
        running.append(job.queue)

    await yard.start()
    await one.create(Load())
    await (await two.create(Load())).wait()
    assert running == ["one", "two"]


async def test_p6_who_waited_for_an_unknown_id_hung(yard: Yard) -> None:
    @yard.job("load", retention="1m")
    async def load(payload: Load, job: Job[None]) -> None: ...

    await yard.start()
    ref = await load.create(Load())
    await ref.wait()
    await yard.harness.advance(minutes=1)
    with pytest.raises(ServiceError) as caught:
        await load.job(ref.id).wait()
    assert caught.value.reason is Reason.JOB_NOT_FOUND, "of one that is gone, too"


async def test_p7_a_failed_run_kept_its_key_and_answered_another_input_with_its_own(yard: Yard) -> None:
    @yard.job("load", idempotency_ttl="1h")
    async def load(payload: Load, job: Job[str]) -> str:
        if job.attempt == 1:
            raise OperationError("BROKEN", final=True)
        return payload.sku

    await yard.start()
    ref = await load.create(Load(), idempotency_key="order")
    with pytest.raises(JobFailedError):
        await ref.wait()
    with pytest.raises(ServiceError) as caught:
        await load.create(Load("B2"), idempotency_key="order")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    same = await load.create(Load(), idempotency_key="order")
    assert (same.id, same.created) == (ref.id, False)
    await yard.engine.store.writer.submit(RetryJob((await yard.jobs())[0].uid, False, None))
    assert await same.wait() == "A1", "and it can be run again, as itself"
    await yard.harness.advance(hours=1, seconds=1)
    assert (await load.create(Load("B2"), idempotency_key="order")).created


async def test_retrigger_made_another_run_and_lost_the_steps_of_the_first(yard: Yard) -> None:
    calls: list[int] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[int]) -> int:
        await job.step("first", lambda: calls.append(job.attempt))
        if job.attempt == 1:
            raise RuntimeError("no")
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    with pytest.raises(JobFailedError):
        await ref.wait()
    await yard.engine.store.writer.submit(RetryJob((await yard.jobs())[0].uid, False, None))
    assert await ref.wait() == 2
    assert calls == [1]
    assert len(await yard.jobs()) == 1


# Trellis.


async def test_a_job_behind_its_key_used_up_its_deliveries_by_waiting(yard: Yard) -> None:
    go = asyncio.Event()

    @yard.job("load", key="{sku}", max_queued=1, max_claims=1)
    async def load(payload: Load, job: Job[int]) -> int:
        await go.wait()
        return job.attempt

    await yard.start()
    first, second = await load.create(Load()), await load.create(Load())
    await yard.harness.advance(hours=10)
    assert ((await second.get()).attempt, (await second.get()).claims) == (0, 0)
    go.set()
    assert [await first.wait(), await second.wait()] == [1, 1]


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), asyncio.CancelledError(), BaseException("odd")])
async def test_what_escaped_a_handler_ended_the_loop_of_its_queue(yard: Yard, error: BaseException) -> None:
    @yard.job("load", concurrency=1)
    async def load(payload: Load, job: Job[str]) -> str:
        if payload.sku == "bad":
            raise error
        return payload.sku

    await yard.start()
    bad, good = await load.create(Load("bad")), await load.create(Load("good"))
    with pytest.raises(JobFailedError):
        await bad.wait()
    assert await good.wait() == "good"


async def test_create_answered_before_the_job_was_durable(yard: Yard) -> None:
    @yard.job("load", concurrency=1)
    async def load(payload: Load, job: Job[str]) -> str:
        return payload.sku

    await yard.start()
    ref = await load.create(Load(), delay=1)
    assert [row[0] for row in yard.tables()["jobs"]] == [(await yard.jobs())[0].uid], "in the file, when it answers"
    await yard.restart()
    yard.clock.advance(1)
    assert await ref.wait() == "A1"


async def test_only_a_failed_job_could_be_retried(yard: Yard) -> None:
    @yard.job("load", deadline="1m", cancel_grace=0)
    async def load(payload: Load, job: Job[str]) -> str:
        if job.attempt == 1:
            await asyncio.Event().wait()
        return payload.sku

    await yard.start()
    expired, cancelled = await load.create(Load("expired")), await load.create(Load("cancelled"))
    await cancelled.cancel()
    await yard.harness.advance(minutes=1)
    assert [(await ref.get()).state for ref in (expired, cancelled)] == [JobState.EXPIRED, JobState.CANCELLED]
    for record in await yard.jobs():
        await yard.engine.store.writer.submit(RetryJob(record.uid, False, None))
    assert [await expired.wait(), await cancelled.wait()] == ["expired", "cancelled"]


async def test_a_mutation_was_published_and_answered_with_a_timeout_of_the_projection(yard: Yard) -> None:
    """What an answer says is what the next read says: there is no projection that lags behind."""

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None: ...

    await yard.start()
    ref = await load.create(Load(), delay=60)
    assert (await ref.get()).state is JobState.QUEUED
    assert await ref.cancel() is (await ref.get()).state is JobState.CANCELLED
