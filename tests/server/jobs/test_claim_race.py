"""Claims of eight at once: a job is one runner's at a time, whoever asks, and the store is one server's."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from longshore_server import Reason, ServiceError, StoreError
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import JobMove
from longshore_server.store.jobs import Body, QueueRow, new_job
from longshore_server.store.mutations.job import ClaimJobs, DeclareQueues, LoseJob, ReportJob, SettleJob
from longshore_server.store.mutations.job_creation import Admission, CreateJobs, NewJob, WhenFull
from longshore_server.store.mutations.job_end import JobAttempt
from longshore_server.store.store import Store
from longshore_server.store.transaction import Transaction
from longshore_server.testing import ManualClock

CLAIMERS = 8
ROUNDS = 1000
LEASE = 10
"""In microseconds of a clock that the test moves."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = Store(tmp_path, clock, max_events=100, publish=lambda _: None)
    await opened.open()
    await opened.writer.submit(DeclareQueues([QueueRow("q", 2, None, 0, 0)]))
    yield opened
    await opened.close()


class Race:
    """Jobs, and who believes to have which."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.uids = Uids(clock, None)
        self.rng = random.Random(8)
        self.holders: dict[bytes, int] = {}
        """The attempt of each job that its claimer may still believe in: nobody has told it otherwise."""
        self.done: list[bytes] = []
        self.refused = 0

    def create(self) -> asyncio.Future[list[Admission]]:
        key = self.rng.choice(["", "a", "b"])
        record = new_job(self.uids.next(), "q", self.clock.now(), key=key, priority=self.rng.randrange(3))
        new = NewJob(record, Body("json", b"null"), 2, None, WhenFull.REJECT, False, None)
        return self.store.writer.submit(CreateJobs([new]))

    async def claimer(self) -> None:
        """Create jobs, and claim until there are none."""
        for _ in range(ROUNDS // CLAIMERS):
            await asyncio.gather(self.create(), self.claim())
        while await self.claim():
            pass

    async def claim(self) -> int:
        """Claim one and work on it; returns how many there were."""
        claimed = await self.store.writer.submit(ClaimJobs("q", 1, LEASE))
        for job, _ in claimed.jobs:
            assert self.holders.get(job.uid, 0) < job.attempt, "a fence was given out twice"
            assert job.uid not in self.done, "a job that has ended was given out"
            self.holders[job.uid] = job.attempt
            await self.work(JobAttempt(job.uid, job.attempt))
        return len(claimed.jobs)

    async def work(self, attempt: JobAttempt) -> None:
        """Report, and end it; now and then be lost, not know it, and be refused."""
        writer = self.store.writer
        if lost := self.rng.random() < 0.3:
            self.clock.advance_to(self.clock.now() + LEASE)
            await writer.submit(LoseJob(attempt.uid, attempt.attempt, JobMove.REQUEUE, 1_000_000))
        try:
            await writer.submit(ReportJob(attempt, LEASE, Body("json", b"1")))
            assert not lost, "a lost runner was heard"
            await writer.submit(SettleJob(attempt.uid, attempt.attempt, JobMove.COMPLETE, Body("json", b"1")))
        except ServiceError as refusal:
            if not lost or refusal.reason is not Reason.STALE_ATTEMPT:
                raise
            self.refused += 1
        else:
            assert self.holders[attempt.uid] == attempt.attempt, "two runners had a valid fence"
            self.done.append(attempt.uid)


async def test_never_two_runners_have_a_valid_fence(store: Store, clock: ManualClock) -> None:
    race = Race(store, clock)
    await asyncio.gather(*(race.claimer() for _ in range(CLAIMERS)))
    ended = await store.read(lambda connection: connection.execute("SELECT uid FROM jobs WHERE state = 5").fetchall())
    assert sorted(race.done) == sorted(bytes(uid) for (uid,) in ended)
    assert len(race.done) == ROUNDS
    assert race.refused > ROUNDS / 10


async def test_two_connections_cannot_claim_at_once(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    """A second server does not come to the file; and where one did, SQLite lets one of them write, then the other."""
    other = Store(tmp_path, clock, max_events=100, publish=lambda _: None)
    with pytest.raises(StoreError, match="is in use by another server"):
        await other.open()
    await Race(store, clock).create()
    path = tmp_path / "longshore.db"
    first, second = (sqlite3.connect(path, timeout=0, isolation_level=None) for _ in range(2))
    with closing(first), closing(second):
        assert begun(first, clock) == 1
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            begun(second, clock)
        first.execute("COMMIT")
        assert begun(second, clock) == 0, "it sees the claim of the first"
        second.execute("COMMIT")


def begun(connection: sqlite3.Connection, clock: ManualClock) -> int:
    """How many jobs a claim gets that is not committed yet."""
    connection.execute("BEGIN IMMEDIATE")
    tx = Transaction(connection, {}, clock.now(), 100, {})
    claimed = ClaimJobs("q", 8, None).apply(tx)
    tx.flush()
    return len(claimed.jobs)
