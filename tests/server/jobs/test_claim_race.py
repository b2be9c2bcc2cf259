"""Claims of eight at once: a job is one runner's at a time, whoever asks, and the store is one server's.

The claimers are callers of the one writer, and then eight servers on one file, which its lock would shut out: that an
attempt is one runner's alone must hold in the file itself, whatever else fails.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count, cycle, starmap
from pathlib import Path
from typing import Any, TypeVar

import pytest

from longshore_server import Reason, ServiceError, StoreError
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import JobMove
from longshore_server.store.job_record import Body, JobRecord, QueueRow, new_job
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.job import Claimed, ClaimJobs, DeclareQueues, LoseJob, ReportJob, SettleJob
from longshore_server.store.mutations.job_creation import Admission, CreateJobs, NewJob, WhenFull
from longshore_server.store.mutations.job_end import JobAttempt
from longshore_server.store.store import Store
from longshore_server.store.transaction import Transaction
from longshore_server.testing import ManualClock

T = TypeVar("T")
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


class File:
    """One file with jobs that eight servers write to, and what they did: in the order of their transactions.

    Each of these is a transaction of its own, so that what is noted before its end has the order of the file.
    """

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path = path
        self.uids = Uids(clock, None)
        self.times = count(clock.now() + 1000, 2 * LEASE)
        """Every lease is over when the next change comes."""
        self.held: list[JobAttempt] = []
        """The attempts of this round, in the order in which they began."""
        self.valid: dict[bytes, int] = {}
        """By job: the attempt that may change it."""
        self.attempts: Counter[bytes] = Counter()
        self.ended: list[bytes] = []
        self.counts: Counter[str] = Counter()

    def begun(self, claimed: Claimed) -> None:
        """Attempts begin."""
        for job, _ in claimed.jobs:
            self.attempts[job.uid] += 1
            assert job.attempt == self.attempts[job.uid], "a fence was given out twice, or left out"
            assert job.uid not in self.valid, "two runners have a valid fence"
            assert job.uid not in self.ended, "a job that has ended was given out"
            self.valid[job.uid] = job.attempt
            self.held.append(JobAttempt(job.uid, job.attempt))

    def allowed(self, attempt: JobAttempt, what: str) -> None:
        """A change was taken from an attempt."""
        self.counts[what] += 1
        assert self.valid.get(attempt.uid) == attempt.attempt, f"{what} of a runner that has lost its fence"
        if what != "report":
            del self.valid[attempt.uid]
        if what == "end":
            self.ended.append(attempt.uid)

    def refused(self, refusal: ServiceError | RuntimeError) -> None:
        """A change was not taken: by what it knows, or by what its server knows and the file does not."""
        if isinstance(refusal, ServiceError):
            assert refusal.reason in (Reason.STALE_ATTEMPT, Reason.ILLEGAL_MOVE), refusal
        else:
            assert "is not at the revision" in str(refusal), refusal
        self.counts[f"refused with {type(refusal).__name__}"] += 1


class Claimer:
    """A server that believes to be alone. `remembers`: it decides by what it has in memory, as servers do."""

    def __init__(self, file: File, number: int, *, remembers: bool) -> None:
        self.file = file
        self.rng = random.Random(number)
        self.remembers = remembers
        self.heads: dict[bytes, JobRecord] = {}
        self.connection = sqlite3.connect(file.path, timeout=0, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA synchronous = OFF")

    def change(self, mutation: Mutation[T], note: Callable[[T], None]) -> T | None:
        """What comes of a change, as soon as no other one is under way; None: it was refused."""
        while True:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
        try:
            tx = Transaction(self.connection, {}, next(self.file.times), 100, {}, {Jobs: self.heads})
            outcome = mutation.apply(tx)
            tx.flush()
            note(outcome)  # while nobody else can write
        except (ServiceError, RuntimeError) as refusal:
            self.connection.execute("ROLLBACK")
            self.file.refused(refusal)
            if not isinstance(refusal, ServiceError) or refusal.reason is not Reason.STALE_ATTEMPT:
                self.heads.clear()  # others have changed what it remembers
            return None
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        if self.remembers:
            found = tx.published().others.get(Jobs, {})
            self.heads.update((uid, done.record) for uid, done in found.items() if done.record is not None)
        return outcome

    def claim(self) -> list[JobAttempt]:
        """Take one, if there is one."""
        while True:
            claimed = self.change(ClaimJobs("q", 1, LEASE), self.file.begun)
            if claimed is not None:
                return [JobAttempt(job.uid, job.attempt) for job, _ in claimed.jobs]

    def act(self, attempt: JobAttempt, what: str) -> None:
        """What a runner does, or who has heard nothing of it; whosever the job is by now."""
        changes: dict[str, Mutation[Any]] = {
            "report": ReportJob(attempt, LEASE, Body("json", b"1")),
            "end": SettleJob(attempt.uid, attempt.attempt, JobMove.COMPLETE, Body("json", b"1")),
            "lost": LoseJob(attempt.uid, attempt.attempt, JobMove.REQUEUE, 1_000_000),
        }
        self.change(changes[what], lambda _: self.file.allowed(attempt, what))

    def race(self, together: threading.Barrier) -> None:
        """All rounds. Whatever anybody believes to have is everybody's to report on, to end and to take away."""
        try:
            for _ in range(ROUNDS):
                together.wait()
                self.claim()
                for attempt in self.rng.choices(self.file.held, k=2):
                    self.act(attempt, self.rng.choice(["report", "lost", "end"]))
                self.claim()
                together.wait()
                for attempt in [self.rng.choice(self.file.held), *starmap(JobAttempt, list(self.file.valid.items()))]:
                    self.act(attempt, "end")
                while claimed := self.claim():
                    self.act(claimed[0], "end")
                together.wait()
        except BaseException:
            together.abort()
            raise


@pytest.mark.timeout(400)
async def test_never_two_of_eight_servers_have_a_valid_fence(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    """A thousand rounds in which eight of them claim the same jobs, report, end them and take them away at once."""
    await store.close()
    file = File(tmp_path / "longshore.db", clock)
    claimers = [Claimer(file, number, remembers=number % 2 == 1) for number in range(CLAIMERS)]
    steps = cycle([True, False, False])

    def step() -> None:
        if next(steps):
            file.held.clear()
            records = [new_job(file.uids.next(), "q", clock.now()) for _ in range(2)]
            news = [NewJob(r, Body("json", b"null"), 2, None, WhenFull.REJECT, False, None) for r in records]
            claimers[0].change(CreateJobs(news), lambda _: None)

    together = threading.Barrier(CLAIMERS, action=step)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(CLAIMERS) as threads:
        await asyncio.gather(*(loop.run_in_executor(threads, claimer.race, together) for claimer in claimers))
    for claimer in claimers:
        claimer.connection.close()
    assert len(file.ended) == len(set(file.ended)) == 2 * ROUNDS
    assert min(file.counts.values()) > ROUNDS / 5, file.counts


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
