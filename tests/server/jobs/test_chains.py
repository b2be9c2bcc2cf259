"""Thousands that end with one job, or are cancelled with one: bounded work in each transaction, and none forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import Job, JobRequest
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.job_lifecycle import JobMove, JobState
from longshore_server.store.job_record import Attachment, JobRecord
from longshore_server.store.mutations import job_end
from longshore_server.store.mutations.job import AdvanceJobs, ClaimJobs, DeleteJob, ReleaseJobs, RetryJob, SettleJob
from longshore_server.store.mutations.job_creation import CreateJobs, WhenFull
from longshore_server.store.mutations.job_end import BATCH, MOST_ATTACHED, AttachJob, CancelJob, JobAttempt
from longshore_server.store.transaction import Transaction
from tests.server.jobs.conftest import DONE, Site, Yard
from tests.server.jobs.operating import admin


@pytest.mark.parametrize("links", [500, 5000])
async def test_the_end_of_a_long_chain_is_that_of_all_its_jobs_in_bounded_transactions(site: Site, links: int) -> None:
    uids = await site.chain(links)
    await site.store.writer.submit(SettleJob(uids[-1], 1, JobMove.COMPLETE, DONE))
    assert len(site.changed) == 1
    await site.follow()
    assert await site.states() == {JobState.COMPLETED: links + 1}
    assert max(site.changed) <= BATCH + 2


async def test_a_chain_within_the_bound_ends_in_one_transaction(site: Site) -> None:
    uids = await site.chain(BATCH - 1)
    await site.store.writer.submit(SettleJob(uids[-1], 1, JobMove.COMPLETE, DONE))
    assert await site.states() == {JobState.COMPLETED: BATCH}


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_a_cancel_and_a_deadline_go_down_a_long_chain(site: Site, way: str) -> None:
    facts = {"deadline": site.clock.now() + 1} if way == "deadline" else {}
    uids = await site.chain(2000, **facts)
    if way == "cancel":
        assert (await site.store.writer.submit(CancelJob(uids[0], "enough"))).state is JobState.CANCELLED
    else:
        site.clock.advance_to(site.clock.now() + 1)
    await site.follow()
    first = JobState.CANCELLED if way == "cancel" else JobState.EXPIRED
    last: Any = await site.store.read(
        lambda connection: connection.execute("SELECT cancel_reason FROM jobs WHERE state = 3").fetchall()
    )
    expected = {JobState.CANCELLING: 1, JobState.CANCELLED: 2000}
    if way == "deadline":
        expected = {JobState.CANCELLING: 1, JobState.CANCELLED: 1999, first: 1}
    assert await site.states() == expected
    assert len(last) == 1
    assert max(site.changed) <= BATCH + 2


async def test_what_one_parent_has_created_is_cancelled_in_batches_over_a_restart(site: Site, tmp_path: Path) -> None:
    (parent,) = await site.create(site.new())
    await site.store.writer.submit(ClaimJobs("q", 1, None))
    await site.create(*(site.new(parent=parent) for _ in range(1000)))
    site.changed.clear()
    await site.store.writer.submit(CancelJob(parent, "enough"))
    assert (await site.states())[JobState.CANCELLED] == BATCH
    await site.store.close()
    again = Site(tmp_path / "site")
    await again.store.open()
    try:
        await again.follow()
        assert await again.states() == {JobState.CANCELLING: 1, JobState.CANCELLED: 1000}
        assert max(site.changed + again.changed) <= BATCH + 1
    finally:
        await again.store.close()


async def test_a_cancel_that_goes_on_reaches_nothing_of_a_retry(site: Site) -> None:
    (parent,) = await site.create(site.new())
    submit = site.store.writer.submit
    await submit(ClaimJobs("q", 1, None))
    await site.create(*(site.new(parent=parent) for _ in range(BATCH + 10)))
    await submit(CancelJob(parent, "enough"))
    await submit(SettleJob(parent, 1, JobMove.CANCEL, error=failure(Reason.CANCELLED)))
    with pytest.raises(ServiceError, match="has yet to be cancelled with it: retry it after that") as caught:
        await submit(RetryJob(parent, True, None))
    assert caught.value.reason is Reason.ILLEGAL_MOVE
    await site.follow()
    assert await site.states() == {JobState.CANCELLED: BATCH + 11}
    await submit(RetryJob(parent, True, None))
    await site.create(site.new(parent=parent))
    await site.follow()
    assert await site.states() == {JobState.CANCELLED: BATCH + 10, JobState.QUEUED: 2}


async def test_one_at_a_time_is_one_whatever_is_left_out(site: Site) -> None:
    site.clock.advance(1)
    later = site.clock.now() + 10
    uids = await site.create(*(site.new(due=later) for _ in range(5)))
    site.clock.advance(1)
    advance = AdvanceJobs(1, frozenset({uids[0], 7, 8}))
    await site.store.writer.submit(advance)
    stands = await site.store.read(lambda c: c.execute("SELECT uid FROM jobs WHERE stand = 1").fetchall())
    assert [bytes(uid) for (uid,) in stands] == [advance.at]


async def test_a_job_is_kept_until_all_has_ended_that_ends_with_it(site: Site) -> None:
    uids = await site.chain(600)
    await site.store.writer.submit(SettleJob(uids[-1], 1, JobMove.COMPLETE, DONE))
    ((number, left),) = await site.store.read(lambda c: c.execute("SELECT number, uid FROM job_sequels").fetchall())
    with pytest.raises(ServiceError, match="has yet to end with it") as caught:
        await site.store.writer.submit(DeleteJob(bytes(left)))
    assert caught.value.reason is Reason.ILLEGAL_MOVE
    site.clock.advance(1)
    for _ in range(2):  # one more has ended than are looked at in one transaction
        await site.store.writer.submit(AdvanceJobs(skip=frozenset({number})))
    assert await site.store.read(lambda c: c.execute("SELECT uid FROM jobs WHERE ended > 0").fetchall()) == [(left,)]
    await site.follow()
    assert (await site.states())[JobState.COMPLETED] <= 601
    for _ in range(2):
        site.clock.advance(61)
        await site.follow()
    assert await site.states() == {}


async def test_a_cancel_that_is_too_much_for_one_transaction_goes_on_by_itself(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: str, job: Job[None]) -> None:
        if payload:
            await load.create_many([JobRequest("", delay="1h")] * (4 * BATCH), name="many")
            await job.cancelled.wait()

    await yard.start()
    parent = await load.create("parent")
    await yard.catch_up()
    await parent.cancel()
    for _ in range(5):
        await yard.catch_up()
    assert {record.state for record in await yard.jobs()} == {JobState.CANCELLED}


async def test_so_many_end_with_one_job_and_no_more(site: Site) -> None:
    shared, *others = await site.create(*(site.new() for _ in range(MOST_ATTACHED + 2)))
    for _ in range(3):
        await site.store.writer.submit(ClaimJobs("q", 500, None))
    futures = [site.store.writer.submit(AttachJob(JobAttempt(uid, 1), shared, shared=True)) for uid in others]
    for future in futures[:-1]:
        await future
    with pytest.raises(ServiceError, match=r"1000 operations and jobs end with .* already: wait for it"):
        await futures[-1]
    await site.store.writer.submit(SettleJob(shared, 1, JobMove.FAIL, error=failure(Reason.INTERNAL)))
    await site.follow()
    assert await site.states() == {JobState.FAILED: MOST_ATTACHED + 1, JobState.ACTIVE: 1}


async def test_what_has_ended_by_itself_leaves_its_place_among_the_attached(site: Site) -> None:
    shared, *others = await site.create(*(site.new() for _ in range(MOST_ATTACHED + 3)))
    for _ in range(3):
        await site.store.writer.submit(ClaimJobs("q", 500, None))
    submit = site.store.writer.submit
    futures = [submit(AttachJob(JobAttempt(uid, 1), shared, shared=True)) for uid in others[:MOST_ATTACHED]]
    for future in futures:
        await future
    await submit(CancelJob(others[0], "enough"))
    *_, last, refused = others
    assert len((await submit(AttachJob(JobAttempt(last, 1), shared, shared=True))).attachments) == MOST_ATTACHED
    with pytest.raises(ServiceError, match="end with"):
        await submit(AttachJob(JobAttempt(refused, 1), shared, shared=True))
    await submit(SettleJob(shared, 1, JobMove.COMPLETE, DONE))
    await site.follow()
    assert await site.states() == {
        JobState.COMPLETED: MOST_ATTACHED + 1, JobState.CANCELLED: 1, JobState.ACTIVE: 1,
    }  # fmt: skip
    await submit(AttachJob(JobAttempt(refused, 1), shared, shared=True))
    assert JobState.ACTIVE not in await site.states(), "what has ended takes as many as there are"


async def test_a_job_of_a_long_line_is_created_at_the_cost_of_one_of_a_short_line(site: Site) -> None:
    """Counted in steps of SQLite's machine: no row of the line is looked at."""

    class Counting(CreateJobs):
        steps = 0

        def apply(self, tx: Any) -> Any:
            def count() -> int:
                self.steps += 1
                return 0

            tx.connection.set_progress_handler(count, 10)
            try:
                found = super().apply(tx)
                tx.flush()
            finally:
                tx.connection.set_progress_handler(None, 0)
            return found

    async def cost(when_full: WhenFull) -> int:
        new = site.new("k", priority=1)._replace(max_queued=4000, when_full=when_full)
        counting = Counting([new])
        await site.store.writer.submit(counting)
        return counting.steps

    costs = []
    for count in (100, 3900):
        await site.create(*(site.new("k") for _ in range(count)))
        costs.append(await cost(WhenFull.REJECT))
    assert costs[1] <= 1.5 * costs[0] + 10
    for when_full in (WhenFull.COALESCE, WhenFull.REPLACE_OLDEST, WhenFull.REJECT):
        assert await cost(when_full) <= 3 * costs[0] + 30


@pytest.mark.parametrize("place", ["deadline", "due", "expires"])
async def test_a_job_that_cannot_be_changed_keeps_no_other_from_its_time(yard: Yard, place: str) -> None:
    @yard.job("load", deadline="3h", retention="1h")
    async def load(payload: str, job: Any) -> str:
        return payload

    @yard.job("other")
    async def other(payload: str, job: Any) -> str:
        return payload

    await yard.start()
    if place == "deadline":
        await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    refs = [await load.create(str(number), delay="2h" if place == "due" else None) for number in range(5)]
    if place == "expires":
        for ref in refs:
            await ref.wait()
    broken = (await yard.jobs())[1]
    await yard.harness.stop()
    with sqlite3.connect(yard.data / "longshore.db") as database:
        database.execute("INSERT INTO job_bodies (uid, part, codec, body) VALUES (?, 5, '', X'FF')", (broken.uid,))
    database.close()
    await yard.harness.start()
    yard.clock.advance(3600 if place == "expires" else 7200 if place == "due" else 10800)
    for _ in range(5):
        await yard.catch_up()
    await others_are_done(yard, broken, place)
    late = await (other if place == "deadline" else load).create("late", delay="1h")
    yard.clock.advance(3600)
    assert await late.wait() == "late", "time goes on"
    # Mended, it goes on with the next look.
    await yard.engine.store.writer.submit(Mended(broken.uid))
    yard.clock.advance(60)
    for _ in range(5):
        await yard.catch_up()
    states = {record.uid: record.state for record in await yard.jobs()}
    assert states.get(broken.uid) in {
        "deadline": (JobState.EXPIRED, None), "due": (JobState.COMPLETED, JobState.EXPIRED), "expires": (None,),
    }[place]  # fmt: skip


class Mended(SettleJob):
    def __init__(self, uid: bytes) -> None:
        super().__init__(uid, None, JobMove.FAIL)

    def apply(self, tx: Any) -> Any:
        tx.connection.execute("DELETE FROM job_bodies WHERE uid = ? AND part = 5", (self.uid,))


async def others_are_done(yard: Yard, broken: JobRecord, place: str) -> None:
    rows = await yard.engine.store.read(
        lambda connection: connection.execute("SELECT uid, state FROM jobs WHERE uid <> ?", (broken.uid,)).fetchall()
    )
    states = [JobState(state) for _, state in rows]
    expected = {"deadline": [JobState.EXPIRED] * 4, "due": [JobState.COMPLETED] * 4, "expires": []}[place]
    assert states == expected


async def test_an_end_that_cannot_be_carried_out_is_none_and_keeps_no_other_from_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, first = await site.chain(1)
    whole, second = await site.chain(1)
    settle = job_end._settle

    def refuse(tx: Transaction, attachment: Attachment, job: JobRecord) -> None:
        if attachment.target == broken:
            raise ServiceError(Reason.ILLEGAL_MOVE, "no", resource=job.name)
        settle(tx, attachment, job)

    monkeypatch.setattr(job_end, "_settle", refuse)
    futures = [site.store.writer.submit(SettleJob(uid, 1, JobMove.COMPLETE, DONE)) for uid in (first, second)]
    with pytest.raises(ServiceError) as caught:
        await futures[0]
    assert caught.value.reason is Reason.INTERNAL
    await futures[1]
    ended = await site.store.read(
        lambda c: {bytes(uid) for (uid,) in c.execute("SELECT uid FROM jobs WHERE ended > 0")}
    )
    assert ended == {whole, second}


async def test_what_was_under_way_is_released_in_bounded_transactions_over_a_restart(
    site: Site, tmp_path: Path
) -> None:
    await site.create(*(site.new() for _ in range(3000)))
    for _ in range(6):
        await site.store.writer.submit(ClaimJobs("q", 500, None))
    site.changed.clear()
    released = ReleaseJobs({"q": 5}, crashed=True)
    assert await site.store.writer.submit(released), "there are more"
    assert await site.states() == {JobState.QUEUED: BATCH, JobState.ACTIVE: 3000 - BATCH}
    await site.store.close()
    again = Site(tmp_path / "site")
    await again.store.open()
    try:
        while await again.store.writer.submit(released):
            pass
        assert await again.states() == {JobState.QUEUED: 3000}
        assert max(site.changed + again.changed) == BATCH
    finally:
        await again.store.close()


async def test_all_that_waits_for_others_is_made_again_by_the_next_server(yard: Yard) -> None:
    """There are more than slots: who waits has lent its own."""
    go = asyncio.Event()

    @yard.job("gate")
    async def gate(payload: str, job: Job[None]) -> None:
        await go.wait()

    @yard.job("load", concurrency=16)
    async def load(payload: str, job: Job[int]) -> int:
        await gate.job(payload).wait()
        return job.attempt

    await yard.start()
    held = await gate.create("")
    refs = await load.create_many([held.id] * (BATCH + 50))
    for attempt, crash in ((2, True), (3, False)):
        await yard.catch_up()
        assert len(await yard.jobs("state = 2")) == BATCH + 51, "all wait, and the one that they wait for runs"
        await yard.restart(crash=crash)
        await yard.catch_up()
        assert {record.attempt for record in await yard.jobs()} == {attempt}
    go.set()
    assert {await load.job(ref.id).wait() for ref in refs} == {3}
