"""What tests of jobs share: a laboratory whose queues the test declares before it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from longshore_server import JobFailedError
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import JobState
from longshore_server.store import job_rows as rows
from longshore_server.store.job_record import Body, JobRecord, QueueRow, new_job
from longshore_server.store.jobs import Jobs
from longshore_server.store.ledger import Commit
from longshore_server.store.mutations.job import AdvanceJobs, ClaimJobs, DeclareQueues
from longshore_server.store.mutations.job_creation import CreateJobs, NewJob, WhenFull
from longshore_server.store.mutations.job_end import AttachJob, JobAttempt
from longshore_server.store.store import Store
from longshore_server.testing import ManualClock
from tests.conftest import Lab

DONE = Body("json", b"1")


@dataclass
class Load:
    """What the jobs of most tests are about."""

    name: str = "x"


async def failed(ref: Any) -> JobFailedError:
    """How a job has failed."""
    with pytest.raises(JobFailedError) as caught:
        await ref.wait()
    return caught.value


class Yard(Lab):
    """A laboratory with queues."""

    def __init__(self, data: Path, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.job: Callable[..., Any] = self.server.job

    async def catch_up(self) -> None:
        """As of the laboratory, and on a busy machine, too: jobs begin and end without a caller who would wait."""
        await super().catch_up()
        await self.harness.settle()

    async def jobs(self, where: str = "1") -> list[JobRecord]:
        """The stored jobs for which a condition holds, the oldest first."""

        def read(connection: Any) -> list[JobRecord]:
            uids = connection.execute(f"SELECT uid FROM jobs WHERE {where} ORDER BY uid").fetchall()
            return [record for (uid,) in uids if (record := rows.load(connection, uid)) is not None]

        found: list[JobRecord] = await self.engine.store.read(read)
        return found


class Site:
    """A store whose commits are counted, by the jobs that each has changed."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.uids = Uids(self.clock, None)
        self.changed: list[int] = []
        self.store = Store(directory, self.clock, max_events=100, publish=self._publish)

    def _publish(self, commit: Commit) -> None:
        self.changed.append(len(commit.others.get(Jobs, {})))

    def new(self, key: str = "", **facts: Any) -> NewJob:
        record = new_job(self.uids.next(), "q", self.clock.now(), key=key, **facts)
        return NewJob(record, DONE, 1, None, WhenFull.REJECT, False, None)

    async def create(self, *news: NewJob) -> list[bytes]:
        for at in range(0, len(news), 500):
            await self.store.writer.submit(CreateJobs(news[at : at + 500]))
        return [new.record.uid for new in news]

    async def chain(self, links: int, **facts: Any) -> list[bytes]:
        """Jobs each of which has attached the next one, which it has created; the last one runs."""
        news = [self.new(**facts)]
        for _ in range(links):
            news.append(self.new(parent=news[-1].record.uid))
        uids = await self.create(*news)
        writer = self.store.writer
        for _ in range(0, len(uids), 500):
            await writer.submit(ClaimJobs("q", 500, None))
        attached = [
            writer.submit(AttachJob(JobAttempt(uid, 1), following, shared=False)) for uid, following in pairwise(uids)
        ]
        for future in attached:
            await future
        self.changed.clear()
        return uids

    async def states(self) -> dict[JobState, int]:
        rows = await self.store.read(
            lambda connection: connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        )
        return {JobState(state): count for state, count in rows}

    async def follow(self) -> int:
        """Let time go on for as long as something is to be done at once; how often it was looked after."""
        count = 0
        while (following := await self.store.writer.submit(AdvanceJobs())) is not None:
            count += 1
            if following > self.clock.now():
                break
        return count


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """A laboratory that has not started yet."""
    found = Yard(tmp_path / "data")
    try:
        yield found
    finally:
        await found.stop()


@pytest.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[Callable[..., Yard]]:
    """Makes laboratories with settings of their own; stops them after the test."""
    made: list[Yard] = []

    def make(**settings: Any) -> Yard:
        made.append(Yard(tmp_path / f"data{len(made)}", **settings))
        return made[-1]

    yield make
    for found in made:
        await found.stop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path / "site")
    await made.store.open()
    await made.store.writer.submit(DeclareQueues([QueueRow("q", 1, 10**6, 0, 0)]))
    yield made
    await made.store.close()
