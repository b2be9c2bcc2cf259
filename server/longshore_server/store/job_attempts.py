"""What became of the attempts of jobs: rows of those that another one followed, and the latest, from the job itself."""

from __future__ import annotations

import enum
import sqlite3
from typing import NamedTuple, Protocol

from longshore_server.errors import Reason, reason_of
from longshore_server.job_lifecycle import JobMove, JobState

KEPT = 100
"""How many attempts of one job are kept, the latest ones."""


class Outcome(enum.IntEnum):
    """How an attempt ended. The numbers are those of `longshore.v1.JobAttempt.Outcome`."""

    RUNNING = 1
    """It has not. Of a job that has attached another one: that one has not ended."""
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    EXPIRED = 5
    LOST = 6
    """It was not heard of in time."""
    INTERRUPTED = 7
    """Its server crashed or stopped."""


class JobAttemptRow(NamedTuple):
    """One attempt. Times in microseconds since the epoch."""

    attempt: int
    begun: int
    ended: int | None
    outcome: Outcome
    error: bytes
    """Serialized `google.rpc.Status`; empty: none."""
    problem: str
    """What its code raised, for operators."""


class Attempted(Protocol):
    """A job, as far as it tells of its latest attempt."""

    @property
    def uid(self) -> bytes: ...
    @property
    def state(self) -> JobState: ...
    @property
    def attempt(self) -> int: ...
    @property
    def begun(self) -> int | None: ...
    @property
    def created(self) -> int: ...
    @property
    def updated(self) -> int: ...
    @property
    def ended(self) -> int | None: ...
    @property
    def error(self) -> bytes | None: ...
    @property
    def problem(self) -> str: ...


_ENDS = {
    JobState.ACTIVE: Outcome.RUNNING, JobState.CANCELLING: Outcome.RUNNING, JobState.STALE: Outcome.LOST,
    JobState.COMPLETED: Outcome.COMPLETED, JobState.CANCELLED: Outcome.CANCELLED, JobState.EXPIRED: Outcome.EXPIRED,
}  # fmt: skip
_REASONS = {Reason.HEARTBEAT_LOST.name: Outcome.LOST, Reason.CRASH_LOOP.name: Outcome.INTERRUPTED}


def latest(job: Attempted) -> JobAttemptRow:
    """The latest attempt of a job that is not QUEUED: the job says what became of it."""
    outcome = _ENDS.get(job.state) or _failure(job.error)
    if outcome in (Outcome.RUNNING, Outcome.COMPLETED):
        return _row(job, job.ended, outcome, None, "")
    # One that was lost is left alone until somebody looks after its job.
    return _row(job, job.ended or job.updated, outcome, job.error, job.problem)


def move_on(
    connection: sqlite3.Connection, job: Attempted, move: JobMove, now: int, error: bytes | None, problem: str
) -> None:
    """Before a job is moved: keep what became of its latest attempt, where the job itself will say so no more.

    `error`, `problem`: those that the move brings.
    """
    if job.attempt == 0:
        return
    if move is JobMove.REQUEUE:
        row = _row(job, now, Outcome.INTERRUPTED if error is None else _failure(error), error, problem)
    elif job.state is JobState.STALE or job.ended is not None:
        row = latest(job)
    else:
        return
    # What is kept already was said when the attempt ended: the job may have been cancelled since, while it was queued.
    connection.execute(
        "INSERT OR IGNORE INTO job_attempts (uid, attempt, begun, ended, outcome, error, problem)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (job.uid, *row),
    )
    connection.execute("DELETE FROM job_attempts WHERE uid = ? AND attempt <= ?", (job.uid, job.attempt - KEPT))


def _failure(error: bytes | None) -> Outcome:
    return _REASONS.get(reason_of(error or b""), Outcome.FAILED)


def _row(job: Attempted, ended: int | None, outcome: Outcome, error: bytes | None, problem: str) -> JobAttemptRow:
    shown = problem if outcome is Outcome.FAILED else ""
    return JobAttemptRow(job.attempt, job.begun or job.created, ended, outcome, error or b"", shown)


def read(connection: sqlite3.Connection, job: Attempted, after: int, limit: int) -> list[JobAttemptRow]:
    """At most `limit` attempts of a job after a number, in order."""
    rows = connection.execute(
        "SELECT attempt, begun, ended, outcome, error, problem FROM job_attempts"
        " WHERE uid = ? AND attempt > ? ORDER BY attempt LIMIT ?",
        (job.uid, after, limit),
    )
    found = [JobAttemptRow(number, begun, ended, Outcome(outcome), bytes(error), problem)
             for number, begun, ended, outcome, error, problem in rows]  # fmt: skip
    last = found[-1].attempt if found else after
    if len(found) < limit and job.attempt > last and job.state is not JobState.QUEUED:
        found.append(latest(job))
    return found
