"""The rows of jobs: which columns there are, and how one is read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from longshore_server.errors import Reason, ServiceError
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.store.job_record import Attachment, Body, JobRecord, Part, QueueRow, TargetKind

CHANGING = (
    "state", "stand", "revision", "attempt", "failures", "claims", "due", "deadline", "updated", "started", "begun",
    "ended", "lease", "deferred", "attached", "cancel_requested", "cancel_reason", "reason", "expires",
)  # fmt: skip
CONSTANT = ("queue", "priority", "key", "created", "parent", "operation", "detached", "trace")
COLUMNS = ("uid", *CHANGING, *CONSTANT)
_LOAD = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE uid = ?"  # noqa: S608 - only our own text


def changing(r: JobRecord) -> tuple[Any, ...]:
    """What the columns `CHANGING` have of a job."""
    return (
        int(r.state), int(r.stand), r.revision, r.attempt, r.failures, r.claims, r.due, r.deadline, r.updated,
        r.started, r.begun, r.ended, r.lease, int(r.deferred), len(r.attachments), r.cancel_requested, r.cancel_reason,
        r.reason, r.expires,
    )  # fmt: skip


def constant(r: JobRecord) -> tuple[Any, ...]:
    """What the columns `CONSTANT` have of a job."""
    return (r.queue, r.priority, r.key, r.created, r.parent, r.operation, int(r.detached), r.trace)


def job_not_found(uid: bytes) -> ServiceError:
    """The refusal of a job that does not exist, or no more."""
    name = f"jobs/{uid_text(uid)}"
    return ServiceError(Reason.JOB_NOT_FOUND, f"{name} does not exist, or does no more.", resource=name)


def load(connection: sqlite3.Connection, uid: bytes, *, result: bool = True) -> JobRecord | None:
    """The job with this uid. `result`: False leaves that out, which may be large."""
    row = connection.execute(_LOAD, (uid,)).fetchone()
    if row is None:
        return None
    facts: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    facts.update(state=JobState(facts["state"]), stand=Stand(facts["stand"]))
    facts.update(deferred=bool(facts["deferred"]), detached=bool(facts["detached"]))
    bodies = {
        part: Body(codec, bytes(body))
        for part, codec, body in connection.execute(
            "SELECT part, codec, body FROM job_bodies WHERE uid = ? AND part > 1 AND part <> ?",
            (uid, 0 if result else int(Part.RESULT)),
        )
        if codec or body
    }
    error, problem, attached = bodies.get(Part.ERROR), bodies.get(Part.PROBLEM), facts.pop("attached")
    record = object.__new__(JobRecord)
    record.__dict__.update(
        facts, attachments=attachments(connection, uid) if attached else (), progress=bodies.get(Part.PROGRESS),
        result=bodies.get(Part.RESULT), error=None if error is None else error.data,
        problem="" if problem is None else problem.data.decode(),
    )  # fmt: skip
    return record


def payload(connection: sqlite3.Connection, uid: bytes) -> Body:
    """What a job that there is has to work on."""
    return payloads(connection, [uid])[uid]


def payloads(connection: sqlite3.Connection, uids: Iterable[bytes]) -> dict[bytes, Body]:
    """What jobs have to work on, as far as there are any."""
    query = "SELECT codec, body FROM job_bodies WHERE uid = ? AND part = 1"
    return {uid: Body(codec, bytes(data)) for uid in uids for codec, data in connection.execute(query, (uid,))}


def request(connection: sqlite3.Connection, queue: str, request_id: str, now: int) -> tuple[bytes, bytes] | None:
    """The job that an idempotency key stands for, and the digest of its payload."""
    row = connection.execute(
        "SELECT uid, digest FROM job_requests WHERE queue = ? AND request_id = ? AND ifnull(expires > ?, 1)",
        (queue, request_id, now),
    ).fetchone()
    return None if row is None else (bytes(row[0]), bytes(row[1]))


def attachments(connection: sqlite3.Connection, uid: bytes) -> tuple[Attachment, ...]:
    """What ends with the job."""
    rows = connection.execute("SELECT target, kind, progress FROM attachments WHERE uid = ? ORDER BY target", (uid,))
    return tuple(Attachment(bytes(target), TargetKind(kind), progress) for target, kind, progress in rows)


def queue_row(connection: sqlite3.Connection, name: str) -> QueueRow:
    """One queue."""
    row = connection.execute(
        "SELECT name, slots, retention, interval, burst, allowed, paused FROM queues WHERE name = ?", (name,)
    ).fetchone()
    return QueueRow._make((*row[:-1], bool(row[-1])))
