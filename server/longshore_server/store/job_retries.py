"""What a retry leaves of a job's journal, and by which request it was made."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from longshore_server.errors import invalid


class Place(NamedTuple):
    """A place in a journal: the attempt that has recorded the entry, and the order in which it did."""

    attempt: int
    position: int


BEGINNING = Place(0, 0)
END = Place(1 << 62, 0)


def made(connection: sqlite3.Connection, uid: bytes, request_id: str) -> bool:
    """Whether the latest retry of a job was made by this request. Empty: no request has this id."""
    row = connection.execute("SELECT request_id FROM job_retries WHERE uid = ?", (uid,)).fetchone()
    return row is not None and row[0] == request_id != ""


def note(connection: sqlite3.Connection, uid: bytes, request_id: str) -> None:
    """Keep by which request a retry was made; empty: by none."""
    connection.execute("INSERT OR REPLACE INTO job_retries (uid, request_id) VALUES (?, ?)", (uid, request_id))


def place(connection: sqlite3.Connection, uid: bytes, step: str) -> Place:
    """Where a step is recorded; the end for one that has failed alone.

    Raises `ServiceError` (INVALID_ARGUMENT) for one that the job has not come to.
    """
    found = connection.execute(
        "SELECT attempt, position FROM journal WHERE uid = ? AND kind = 'step' AND name = ?", (uid, step)
    ).fetchone()
    if found is not None:
        return Place._make(found)
    failed = connection.execute("SELECT 1 FROM step_failures WHERE uid = ? AND name = ?", (uid, step)).fetchone()
    if failed is None:
        raise invalid("from_step", f"{step[:200]!r} is none of the steps that the job has come to: see ListJobSteps")
    return END


def forget(connection: sqlite3.Connection, uid: bytes, since: Place, step: str) -> None:
    """Let the next attempt do again what was recorded since, and whatever was no success: waits that were refused, that
    failed or took too long, with the times at which they would have ended, and jobs that were rejected. What is done
    again is so with all that its function has recorded, and so is `step`; empty: none is named."""
    bounds = {"uid": uid, "attempt": since.attempt, "position": since.position, "step": step}
    # Apart, and first: which steps are done again is read of their own rows, and SQLite may read while it deletes.
    connection.execute(_FORGET_INSIDE, bounds)
    connection.execute(_FORGET, bounds)


_FORGET_INSIDE = """
DELETE FROM journal WHERE uid = :uid AND within <> '' AND (
    within = :step OR within IN (SELECT name FROM journal WHERE uid = :uid AND kind = 'step'
                                     AND (attempt, position) >= (:attempt, :position)))"""
_FORGET = """
DELETE FROM journal WHERE uid = :uid AND (
    (attempt, position) >= (:attempt, :position)
    OR kind IN ('wait_until', 'refused') OR (kind = 'wait' AND codec NOT LIKE 'result %')
    OR (kind = 'job' AND json_extract(CAST(outcome AS TEXT), '$[0][0]') IS NULL))"""
