"""Jobs that a server of an earlier schema has left behind: none is forgotten by the one that goes on with them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from longshore_server.job_lifecycle import JobMove, JobState, Stand
from longshore_server.store import database
from longshore_server.store.job_record import QueueRow, TargetKind
from longshore_server.store.job_rows import load
from longshore_server.store.mutations.job import DeclareQueues, ReleaseJobs, SettleJob
from longshore_server.store.mutations.job_end import CancelJob
from tests.server.jobs.conftest import DONE, Site

KEYED = 13
"""The last schema at which a job that has attached another one kept the place of its key, and could be cancelling."""


class Left:
    """What was left behind in a database of an earlier schema: jobs of the queue `q`, of which one of a key runs."""

    def __init__(self, site: Site, connection: sqlite3.Connection) -> None:
        self._site = site
        self._connection = connection

    def job(self, state: JobState, stand: Stand = Stand.NONE, *, key: str = "", attached: bytes | None = None) -> bytes:
        """A job. `attached`: which one it has attached."""
        uid, now = self._site.uids.next(), self._site.clock.now()
        began = state in (JobState.ACTIVE, JobState.CANCELLING)
        facts: dict[str, Any] = {
            "uid": uid, "queue": "q", "state": state, "stand": stand, "revision": 1, "attempt": int(began),
            "failures": 0, "claims": int(began), "priority": 0, "key": key, "created": now, "updated": now,
            "begun": now if began else None, "detached": 0, "deferred": attached is not None, "attached": 0,
            "cancel_requested": now if state is JobState.CANCELLING else None, "cancel_reason": "enough", "reason": "",
            "trace": "",
        }  # fmt: skip
        marks = ", ".join("?" * len(facts))
        self._connection.execute(f"INSERT INTO jobs ({', '.join(facts)}) VALUES ({marks})", [*facts.values()])
        self._connection.execute("INSERT INTO job_bodies VALUES (?, 1, ?, ?)", (uid, *DONE))
        if attached is not None:
            self._connection.execute("INSERT INTO attachments VALUES (?, ?, ?, '')", (attached, uid, TargetKind.JOB))
            self._connection.execute("UPDATE jobs SET attached = attached + 1 WHERE uid = ?", (attached,))
        return uid


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Has a database left behind as `leave` says, and goes on with it."""
    opened: list[Site] = []

    async def make(leave: Callable[[Left], Any]) -> tuple[Site, Any]:
        directory = tmp_path / "old"
        directory.mkdir()
        connection = sqlite3.connect(directory / "longshore.db", isolation_level=None)
        steps = [step for step in database.migrations() if step[0] <= KEYED]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "migrations", lambda: steps)
            database.migrate(connection, directory)
        site = Site(directory)
        left = leave(Left(site, connection))
        connection.close()
        await site.store.open()
        opened.append(site)
        await site.store.writer.submit(DeclareQueues([QueueRow("q", 1, None, 0, 0)]))
        return site, left

    yield make
    for site in opened:
        await site.store.close()


async def at(site: Site, uid: bytes) -> tuple[JobState, Stand]:
    found = await site.store.read(lambda connection: load(connection, uid))
    assert found is not None
    return found.state, found.stand


async def test_the_place_that_a_job_kept_which_had_attached_another_one_is_given_to_who_waits(upgraded: Any) -> None:
    def leave(left: Left) -> tuple[bytes, ...]:
        inner = left.job(JobState.QUEUED, Stand.BLOCKED, key="k")
        outer = left.job(JobState.ACTIVE, key="k", attached=inner)
        return outer, inner, left.job(JobState.QUEUED, Stand.BLOCKED, key="k")

    site, (outer, inner, other) = await upgraded(leave)
    assert await at(site, inner) == (JobState.QUEUED, Stand.READY)
    assert await at(site, other) == (JobState.QUEUED, Stand.BLOCKED)
    await site.store.writer.submit(CancelJob(inner, "enough"))
    assert await at(site, outer) == (JobState.CANCELLED, Stand.NONE)
    assert await at(site, other) == (JobState.QUEUED, Stand.READY)


async def test_a_place_that_is_taken_is_given_to_nobody(upgraded: Any) -> None:
    def leave(left: Left) -> bytes:
        left.job(JobState.ACTIVE, key="k")
        return left.job(JobState.QUEUED, Stand.BLOCKED, key="k")

    site, other = await upgraded(leave)
    assert await at(site, other) == (JobState.QUEUED, Stand.BLOCKED)


async def test_a_cancelling_job_that_has_attached_another_one_ends_with_it_and_keeps_nobody_from_that(
    upgraded: Any,
) -> None:
    def leave(left: Left) -> tuple[bytes, ...]:
        inner, second = left.job(JobState.ACTIVE), left.job(JobState.ACTIVE)
        outer = left.job(JobState.CANCELLING, attached=inner)
        return inner, second, outer, left.job(JobState.ACTIVE, attached=second)

    site, left = await upgraded(leave)
    futures = [site.store.writer.submit(SettleJob(uid, 1, JobMove.COMPLETE, DONE)) for uid in left[:2]]
    assert [(await future).state for future in futures] == [JobState.COMPLETED] * 2
    expected = [JobState.COMPLETED, JobState.COMPLETED, JobState.CANCELLED, JobState.COMPLETED]
    assert [(await at(site, uid))[0] for uid in left] == expected


@pytest.mark.parametrize("most", [1, 5])
async def test_a_cancelling_job_that_has_attached_another_one_ends_at_the_start(upgraded: Any, most: int) -> None:
    """Also where what it has attached is buried then, and where one such job has attached another one."""

    def leave(left: Left) -> tuple[bytes, ...]:
        inner = left.job(JobState.ACTIVE)
        middle = left.job(JobState.CANCELLING, attached=inner)
        return inner, middle, left.job(JobState.CANCELLING, attached=middle)

    site, (inner, middle, outer) = await upgraded(leave)
    await site.store.writer.submit(ReleaseJobs({"q": most}, crashed=True))
    assert (await at(site, inner))[0] is (JobState.DEAD if most == 1 else JobState.QUEUED)
    assert (await at(site, middle))[0] is JobState.CANCELLED
    assert (await at(site, outer))[0] is JobState.CANCELLED
