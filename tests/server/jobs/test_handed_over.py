"""A job that was handed over is its attempt's no more; and what a cancel reaches, wherever the job stands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from longshore_server import Coalesced, Job, JobCancelledError, JobState, Reason, Rejected, ServiceError
from longshore_server.errors import failure
from longshore_server.job_lifecycle import JobMove
from longshore_server.store.job_record import JobRecord
from longshore_server.store.job_rows import load
from longshore_server.store.mutations import Record
from longshore_server.store.mutations.job import ClaimJobs, LoseJob, ReportJob, RetryJob, SettleJob
from longshore_server.store.mutations.job_end import AttachJob, CancelJob, JobAttempt
from longshore_server.store.record import JournalEntry
from tests.server.jobs.conftest import DONE, Site, Yard


@dataclass
class Page:
    name: str


async def look(site: Site, uid: bytes) -> JobRecord:
    found = await site.store.read(lambda connection: load(connection, uid))
    assert found is not None
    return found


async def claimed(site: Site, count: int, **facts: Any) -> list[bytes]:
    """Jobs that run."""
    uids = await site.create(*(site.new(**facts) for _ in range(count)))
    await site.store.writer.submit(ClaimJobs("q", count, None))
    return uids


async def test_an_attempt_that_is_interrupted_while_it_attaches_ends_nothing(site: Site) -> None:
    outer, inner = await site.chain(1)
    for move in (JobMove.FAIL, JobMove.REQUEUE, JobMove.COMPLETE):
        with pytest.raises(ServiceError) as caught:
            await site.store.writer.submit(SettleJob(outer, 1, move, error=failure(Reason.ATTEMPT_TIMEOUT)))
        assert caught.value.reason is Reason.STALE_ATTEMPT
    assert (await look(site, outer)).state is JobState.ACTIVE
    await site.store.writer.submit(SettleJob(inner, 1, JobMove.COMPLETE, DONE))
    assert (await look(site, outer)).state is JobState.COMPLETED


async def test_nobody_listens_for_an_attempt_that_has_attached_another_job(site: Site) -> None:
    outer, _ = await site.chain(1)
    await site.store.writer.submit(ReportJob(JobAttempt(outer, 1), 10))
    assert (await look(site, outer)).lease is None
    site.clock.advance(1)
    await site.store.writer.submit(LoseJob(outer, 1, JobMove.REQUEUE, 5))
    assert (await look(site, outer)).state is JobState.ACTIVE


async def test_a_job_is_handed_over_once(site: Site) -> None:
    outer, _ = await site.chain(1)
    (other,) = await claimed(site, 1)
    with pytest.raises(ServiceError, match="has attached another job") as caught:
        await site.store.writer.submit(AttachJob(JobAttempt(outer, 1), other, shared=True))
    assert caught.value.reason is Reason.STALE_ATTEMPT
    assert (await look(site, other)).attachments == ()


async def test_a_job_that_is_run_again_does_not_end_with_what_it_had_attached(site: Site) -> None:
    outer, before, after = await claimed(site, 3)
    submit = site.store.writer.submit
    await submit(AttachJob(JobAttempt(outer, 1), before, shared=True))
    await submit(CancelJob(outer, ""))
    await submit(RetryJob(outer, False, None))
    await submit(ClaimJobs("q", 1, None))
    await submit(AttachJob(JobAttempt(outer, 2), after, shared=True))
    await submit(SettleJob(before, 1, JobMove.FAIL, error=failure(Reason.INTERNAL)))
    assert (await look(site, outer)).state is JobState.ACTIVE
    await submit(SettleJob(after, 1, JobMove.COMPLETE, DONE))
    assert (await look(site, outer)).state is JobState.COMPLETED


async def test_a_job_that_is_being_cancelled_ends_when_it_is_handed_over(yard: Yard) -> None:
    begun = asyncio.Event()

    @yard.job("outer")
    async def outer(payload: str, job: Job[None]) -> None:
        begun.set()
        await job.cancelled.wait()
        return await job.attach(elsewhere if payload else await inner.create("", delay="1h"), shared=True)

    @yard.job("inner")
    async def inner(payload: str, job: Job[None]) -> None: ...

    await yard.start()
    elsewhere = await inner.create("", delay="30d")
    for payload in ("", "shared"):
        ref = await outer.create(payload)
        await begun.wait()
        begun.clear()
        await ref.cancel("enough")
        with pytest.raises(JobCancelledError, match="enough"):
            await ref.wait()
    states = [record.state for record in await yard.jobs("queue = 'inner'")]
    assert states == [JobState.QUEUED, JobState.CANCELLED], "its own one is cancelled with it"


@pytest.mark.parametrize("stand", ["retry", "stale", "cancelling", "gives up"])
async def test_a_cancel_reaches_what_a_job_has_created_wherever_it_stands(site: Site, stand: str) -> None:
    (parent,) = await claimed(site, 1)
    submit = site.store.writer.submit
    if stand == "cancelling":
        await submit(CancelJob(parent, "enough"))
    child, kept = await site.create(site.new(parent=parent), site.new(parent=parent, detached=True))
    if stand == "retry":
        await submit(SettleJob(parent, 1, JobMove.REQUEUE, error=failure(Reason.INTERNAL), delay=60))
    elif stand == "stale":
        await submit(ReportJob(JobAttempt(parent, 1), 1))
        site.clock.advance(1)
        await submit(LoseJob(parent, 1, JobMove.LOSE, 5))
    if stand in ("retry", "stale"):
        await submit(CancelJob(parent, "enough"))
    else:
        await submit(SettleJob(parent, 1, JobMove.CANCEL, error=failure(Reason.CANCELLED)))
    assert (await look(site, parent)).state is JobState.CANCELLED
    found = await look(site, child)
    assert (found.state, found.cancel_reason) == (JobState.CANCELLED, "" if stand == "gives up" else "enough")
    assert (await look(site, kept)).state is JobState.QUEUED


async def test_why_it_was_cancelled_goes_up_a_chain(site: Site) -> None:
    uids = await site.chain(3)
    await site.store.writer.submit(CancelJob(uids[-1], "enough"))
    await site.store.writer.submit(SettleJob(uids[-1], 1, JobMove.CANCEL, error=failure(Reason.CANCELLED)))
    assert {(await look(site, uid)).cancel_reason for uid in uids} == {"enough"}


async def test_nothing_coalesces_with_a_job_that_is_being_cancelled(yard: Yard) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @yard.job("index", key="{name}", when_full="coalesce", max_active=2)
    async def index(payload: Page, job: Job[None]) -> None:
        begun.set()
        await go.wait()

    await yard.start()
    first = await index.create(Page("k"))
    await begun.wait()
    assert await first.cancel() is JobState.CANCELLING
    second = await index.create(Page("k"))
    outcome = await index.submit(Page("k"))
    assert isinstance(outcome, Coalesced)
    assert outcome.job.name == second.name
    await second.cancel()
    outcome = await index.submit(Page("k"))
    assert isinstance(outcome, Rejected)
    assert (outcome.reason.value, outcome.active, outcome.existing) == ("ACTIVE_LIMIT", 2, first.name)


async def test_a_fresh_run_forgets_what_was_recorded_a_moment_ago(site: Site) -> None:
    (uid,) = await claimed(site, 1)
    submit = site.store.writer.submit
    entry = JournalEntry("step", "first", 0, 1, b"", "", "json", b"1")
    submit(Record(JobAttempt(uid, 1), entry))
    submit(SettleJob(uid, 1, JobMove.FAIL, error=failure(Reason.INTERNAL)))
    await submit(RetryJob(uid, True, None))
    assert await site.store.journal(uid) == []
