"""Every pair (state, move), against real rows through the writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore_server.errors import Reason, ServiceError
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import ENDED, RULES, JobMove, JobState, Stand, rule
from longshore_server.store import job_rows as rows
from longshore_server.store.job_record import Body, JobRecord, QueueRow, new_job
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.job import DeclareQueues
from longshore_server.store.mutations.job_creation import CreateJobs, NewJob, WhenFull
from longshore_server.store.store import Store
from longshore_server.store.transaction import Transaction
from longshore_server.testing import ManualClock

M = JobMove
PATHS: dict[JobState, tuple[JobMove, ...]] = {
    JobState.QUEUED: (),
    JobState.ACTIVE: (M.CLAIM,),
    JobState.CANCELLING: (M.CLAIM, M.REQUEST_CANCEL),
    JobState.STALE: (M.CLAIM, M.LOSE),
    JobState.COMPLETED: (M.CLAIM, M.COMPLETE),
    JobState.FAILED: (M.CLAIM, M.FAIL),
    JobState.CANCELLED: (M.CANCEL,),
    JobState.EXPIRED: (M.EXPIRE,),
    JobState.REPLACED: (M.REPLACE,),
    JobState.DEAD: (M.CLAIM, M.BURY),
    JobState.DISMISSED: (M.CLAIM, M.BURY, M.DISMISS),
}
"""How each state is reached from creation."""


class Make(Mutation[JobRecord]):
    """One move, with the facts that go with it."""

    def __init__(self, uid: bytes, move: JobMove) -> None:
        self.uid, self.move = uid, move

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        facts: dict[str, Any] = {}
        if self.move is M.CLAIM:
            facts = {"attempt": head.attempt + 1, "begun": tx.now, "started": tx.now}
        elif self.move is M.REQUEST_CANCEL:
            facts = {"cancel_requested": tx.now}
        elif self.move in (M.REQUEUE, M.RETRY):
            facts = {"stand": Stand.READY, "ended": None, "expires": None}
        return jobs.make(head, self.move, **facts)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(tmp_path, ManualClock(), max_events=100, publish=lambda _: None)
    await opened.open()
    await opened.writer.submit(DeclareQueues([QueueRow("q", 2, None, 0, 0)]))
    yield opened
    await opened.close()


async def create(store: Store, **facts: Any) -> JobRecord:
    record = new_job(Uids(ManualClock(), None).next(), "q", store._clock.now(), **facts)
    new = NewJob(record, Body("json", b"null"), 2, None, WhenFull.REJECT, False, None)
    (admission,) = await store.writer.submit(CreateJobs([new]))
    assert admission.job is not None
    return admission.job


async def load(store: Store, uid: bytes) -> JobRecord | None:
    return await store.read(lambda connection: rows.load(connection, uid))


@pytest.mark.parametrize("state", JobState)
async def test_every_move_is_made_or_refused_as_the_table_says(store: Store, state: JobState) -> None:
    for move in JobMove:
        uid = (await create(store)).uid
        for step in PATHS[state]:
            await store.writer.submit(Make(uid, step))
        before = await load(store, uid)
        assert before is not None
        assert before.state is state
        allowed = rule(state, move)
        if allowed is None:
            with pytest.raises(ServiceError) as caught:
                await store.writer.submit(Make(uid, move))
            assert caught.value.reason is Reason.ILLEGAL_MOVE
        else:
            await store.writer.submit(Make(uid, move))
        after = await load(store, uid)
        assert after is not None
        assert after.state is (state if allowed is None else allowed.target)
        assert (after.revision > before.revision) is (allowed is not None)
        assert after.terminal is (after.state in ENDED)


def test_every_state_is_reached_and_what_has_ended_is_left_by_an_admin_alone() -> None:
    assert {r.target for r in RULES} == set(JobState)
    assert {r.by for r in RULES if r.source in ENDED} == {"admin"}


async def test_one_broken_change_takes_nothing_of_its_batch_with_it(store: Store) -> None:
    class Broken(Mutation[None]):
        def apply(self, tx: Transaction) -> None:
            tx.connection.execute("INSERT INTO jobs (uid) VALUES (x'00')")

    first = asyncio.ensure_future(create(store))
    await asyncio.sleep(0)
    broken = store.writer.submit(Broken())
    with pytest.raises(ServiceError):
        await broken
    assert (await load(store, first.result().uid)) is not None
