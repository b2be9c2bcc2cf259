"""Jobs inside one transaction of the writer: their heads as they will be, their rows, and the room of each key.

Like operations, jobs are decided against heads and written at the end, a few statements for all of them. What only the
rows can tell, which jobs of a key there are or which one is next, is asked after what has changed is written.
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError, reason_of
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import ENDED, JobMove, JobState, Stand, rule
from longshore_server.store import job_attempts
from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.record import Revision
from longshore_server.store.statements import ManyRows, update


class Body(NamedTuple):
    """A value as stored; see `handler/codec.py`."""

    codec: str
    data: bytes


class Part(enum.IntEnum):
    """What a job has besides its row."""

    PAYLOAD = 1
    PROGRESS = 2
    RESULT = 3
    ERROR = 4
    """Serialized `google.rpc.Status`: what those learn who wait for it."""
    PROBLEM = 5
    """What the code raised, for operators."""


@dataclass(frozen=True, eq=False)
class JobRecord(Revision):
    """One revision of a job. Times in microseconds since the epoch."""

    uid: bytes
    queue: str
    state: JobState
    stand: Stand
    revision: int
    attempt: int
    failures: int
    claims: int
    priority: int
    key: str
    due: int | None
    deadline: int | None
    created: int
    updated: int
    started: int | None
    begun: int | None
    ended: int | None
    lease: int | None
    parent: bytes | None
    operation: bytes | None
    detached: bool
    deferred: bool
    cancel_requested: int | None
    cancel_reason: str
    reason: str
    trace: str
    expires: int | None
    attachments: tuple[Attachment, ...] = ()
    """What ends with it."""
    progress: Body | None = None
    result: Body | None = None
    error: bytes | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """`jobs/{id}`."""
        return f"jobs/{uid_text(self.uid)}"

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None

    @property
    def resident(self) -> bool:
        """Whether it is about to change: there may be millions that are not."""
        return self.state in (JobState.ACTIVE, JobState.CANCELLING)

    @property
    def occupies(self) -> bool:
        """Whether it counts among the active jobs of its key."""
        return self.ended is None and self.stand <= Stand.READY


def new_job(
    uid: bytes, queue: str, created: int, *, priority: int = 0, key: str = "", due: int | None = None,
    deadline: int | None = None, parent: bytes | None = None, operation: bytes | None = None, detached: bool = False,
    trace: str = "",
) -> JobRecord:  # fmt: skip
    """The first revision of a job: QUEUED, and DELAYED where it is due later."""
    record = object.__new__(JobRecord)
    record.__dict__.update(
        uid=uid, queue=queue, state=JobState.QUEUED, stand=Stand.READY if due is None else Stand.DELAYED, revision=1,
        attempt=0, failures=0, claims=0, priority=priority, key=key, due=due, deadline=deadline, created=created,
        updated=created, started=None, begun=None, ended=None, lease=None, parent=parent, operation=operation,
        detached=detached, deferred=False, attachments=(), cancel_requested=None, cancel_reason="", reason="",
        trace=trace, expires=None, progress=None, result=None, error=None, problem="",
    )  # fmt: skip
    return record


class TargetKind(enum.IntEnum):
    """What can end with a job."""

    OPERATION = 1
    JOB = 2


class Attachment(NamedTuple):
    """Something that ends with a job. `progress`: how the job's goes on to it; see `longshore_server.jobs.progress`."""

    target: bytes
    kind: TargetKind
    progress: str = ""


class QueueRow(NamedTuple):
    """One queue: what its definition says, and what is durable about it. Times in microseconds."""

    name: str
    slots: int
    """How many jobs of one key may be active."""
    retention: int | None
    interval: int
    burst: int
    allowed: int = 0
    paused: bool = False

    def next_claim(self, now: int) -> int | None:
        """When the rate allows the next claim; None: now."""
        following = self.allowed + self.interval - self.burst
        return following if self.interval and following > now else None


class KeyMember(NamedTuple):
    """A job that has not ended, as its key counts it."""

    uid: bytes
    state: JobState
    stand: Stand


class _Change:
    """One job inside the transaction. `stored` is the revision that its row has now; 0: it has none yet. `before`: the
    job as it was when the transaction began."""

    __slots__ = ("before", "record", "stored")

    def __init__(self, record: JobRecord, stored: int, before: JobRecord | None) -> None:
        self.record = record
        self.stored = stored
        self.before = before


class Jobs(Ledger):
    """The jobs of one transaction."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._changes: dict[bytes, _Change] = {}
        self._unwritten: dict[bytes, _Change] = {}
        self._deleted: dict[bytes, JobRecord | None] = {}
        self._bodies: list[tuple[Any, ...]] = []
        self._keys: set[tuple[str, str]] = set()
        self._freed: dict[tuple[str, str], None] = {}
        self._queues: dict[str, QueueRow] = {}

    # Jobs.

    def find(self, uid: bytes) -> JobRecord | None:
        """The job as it is at this point of the transaction; None: there is none."""
        change = self._changes.get(uid)
        if change is not None:
            return change.record
        found: JobRecord | None = self.heads.get(uid)
        if found is None and uid not in self._deleted:
            found = load(self.connection, uid)
        return found

    def head(self, uid: bytes) -> JobRecord:
        """The job as it is at this point of the transaction. Raises `ServiceError` (JOB_NOT_FOUND)."""
        found = self.find(uid)
        if found is None:
            raise job_not_found(uid)
        return found

    def current(self, uid: bytes, attempt: int) -> JobRecord:
        """The fence: the job, where this attempt is the one that runs. Raises `ServiceError` (STALE_ATTEMPT)."""
        head = self.head(uid)
        if head.attempt != attempt or not head.resident:
            message = f"Attempt {attempt} of {head.name}, which is {head.state.name}, is not the current one."
            raise ServiceError(Reason.STALE_ATTEMPT, message, resource=head.name)
        return head

    def insert(self, record: JobRecord, payload: Body) -> JobRecord:
        """Add a new job."""
        self._changes[record.uid] = self._unwritten[record.uid] = _Change(record, 0, None)
        self._write_body(record.uid, Part.PAYLOAD, payload)
        if record.key:
            self._keys.add((record.queue, record.key))
        return record

    def make(self, head: JobRecord, move: JobMove, **facts: Any) -> JobRecord:
        """Make `move` on `head`. Raises `ServiceError` (ILLEGAL_MOVE) where the table has no rule.

        `facts`: columns, and `progress`, `result`, `error`, `problem`. What a key has room for afterwards becomes
        READY in this transaction.
        """
        allowed = rule(head.state, move)
        if allowed is None:
            problem = f"{head.name} is {head.state.name}: {move.value} is not possible."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        now = max(self.now, head.updated)
        job_attempts.move_on(self.connection, head, move, now, facts.get("error"), facts.get("problem", ""))
        facts["state"] = allowed.target
        if allowed.target is not JobState.QUEUED:
            facts.update(stand=Stand.NONE, due=None)
        if allowed.target not in (JobState.ACTIVE, JobState.CANCELLING):
            facts.update(lease=None, deferred=False)
        if allowed.target is JobState.COMPLETED:
            facts["reason"] = ""
        elif "error" in facts:
            facts["reason"] = reason_of(facts["error"] or b"")
        if allowed.target in ENDED:
            retention = self.queue(head.queue).retention
            # A dead letter is kept until somebody has looked at it.
            kept = retention is not None and allowed.target is not JobState.DEAD
            facts.update(ended=now, expires=now + retention if kept and retention is not None else None)
        return self.note(head, **facts)

    def note(self, head: JobRecord, **facts: Any) -> JobRecord:
        """Change facts of `head`: a new revision."""
        facts.update(revision=head.revision + 1, updated=max(self.now, head.updated))
        record = head.evolve(**facts)
        change = self._changes.get(head.uid)
        if change is None:
            change = self._changes[head.uid] = _Change(record, head.revision, head)
        else:
            change.record = record
        self._unwritten[head.uid] = change
        for part, name in _PARTS:
            if name in facts:
                value = facts[name]
                if isinstance(value, str):
                    value = value.encode("utf-8", "replace")
                self._write_body(head.uid, part, Body("", value) if isinstance(value, bytes) else value)
        if head.key:
            self._keys.add((head.queue, head.key))
            if (head.occupies and not record.occupies) or record.stand is Stand.BLOCKED:
                self._freed[head.queue, head.key] = None
        return record

    def attach(self, head: JobRecord, attachment: Attachment) -> JobRecord:
        """Let something end with the job. Repeatable."""
        self.flush()  # the job's own row comes first
        self.connection.execute(
            "INSERT OR IGNORE INTO attachments (uid, target, kind, progress) VALUES (?, ?, ?, ?)",
            (head.uid, *attachment),
        )
        return self.note(head, attachments=attachments(self.connection, head.uid))

    def children(self, parent: bytes) -> list[JobRecord]:
        """The jobs that an operation or a job has created, that have not ended and that its end reaches."""
        self.flush()
        rows = self.connection.execute(
            "SELECT uid FROM jobs WHERE parent = ? AND ended IS NULL AND detached = 0 ORDER BY uid", (parent,)
        ).fetchall()
        return [self.head(bytes(uid)) for (uid,) in rows]

    def delete(self, head: JobRecord) -> None:
        """Remove an ended job with everything that belongs to it."""
        self.flush()
        change = self._changes.pop(head.uid, None)
        self.connection.execute("DELETE FROM jobs WHERE uid = ? AND ended IS NOT NULL", (head.uid,))
        self._deleted[head.uid] = head if change is None else change.before

    # Keys.

    def members(self, queue: str, key: str, limit: int) -> list[KeyMember]:
        """At most `limit` jobs of a key that have not ended: those that occupy it, then those that wait."""
        if (queue, key) in self._keys:
            self.flush()
        rows = self.connection.execute(_MEMBERS, (queue, key, limit))
        return [KeyMember(bytes(uid), JobState(state), Stand(stand)) for uid, state, stand in rows]

    def _promote(self, queue: str, key: str) -> None:
        """Let those become READY for which their key has room."""
        slots = self.queue(queue).slots
        members = self.members(queue, key, 2 * slots)
        occupied = sum(member.stand <= Stand.READY for member in members)
        waiting = [member.uid for member in members if member.stand is Stand.BLOCKED]
        for uid in waiting[: max(0, slots - occupied)]:
            self.note(self.head(uid), stand=Stand.READY)

    # Queues.

    def queue(self, name: str) -> QueueRow:
        """The queue as it is at this point of the transaction."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = queue_row(self.connection, name)
        return found

    def set_queue(self, row: QueueRow) -> None:
        """Add a queue, or change it. A key that has more room than before uses it."""
        before = self.connection.execute("SELECT slots FROM queues WHERE name = ?", (row.name,)).fetchone()
        self.connection.execute(_SET_QUEUE, row)
        self._queues[row.name] = row
        if before is not None and before[0] < row.slots:
            keys = self.connection.execute(
                "SELECT DISTINCT key FROM jobs WHERE queue = ? AND key <> '' AND ended IS NULL AND stand = 2",
                (row.name,),
            )
            self._freed.update({(row.name, key): None for (key,) in keys})

    def take(self, name: str) -> int | None:
        """Claim one job at the queue's rate: None where it may be, else when it may."""
        row = self.queue(name)
        if row.interval:
            following = row.next_claim(self.now)
            if following is not None:
                return following
            allowed = max(row.allowed, self.now) + row.interval
            self._queues[name] = row._replace(allowed=allowed)
            self.connection.execute("UPDATE queues SET allowed = ? WHERE name = ?", (allowed, name))
        return None

    def ready(self, queue: str, limit: int) -> list[JobRecord]:
        """The next jobs to claim."""
        self.flush()
        rows = self.connection.execute(
            "SELECT uid FROM jobs WHERE queue = ? AND stand = 1 ORDER BY priority DESC, uid LIMIT ?", (queue, limit)
        ).fetchall()
        return [self.head(bytes(uid)) for (uid,) in rows]

    def select(self, where: str, *values: Any) -> list[JobRecord]:
        """The jobs for which a condition of our own text holds."""
        self.flush()
        rows = self.connection.execute(f"SELECT uid FROM jobs WHERE {where}", values).fetchall()  # noqa: S608
        return [self.head(bytes(uid)) for (uid,) in rows]

    # Idempotency keys.

    def request(self, queue: str, request_id: str) -> tuple[bytes, bytes] | None:
        """The job that this key stands for, and the digest of its payload."""
        self.flush()
        row = self.connection.execute(
            "SELECT uid, digest FROM job_requests WHERE queue = ? AND request_id = ? AND ifnull(expires > ?, 1)",
            (queue, request_id, self.now),
        ).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def claim_request(self, queue: str, request_id: str, uid: bytes, digest: bytes, expires: int | None) -> None:
        """Give a free idempotency key to a job."""
        self.flush()  # the job's own row comes first
        self.connection.execute(
            "INSERT OR REPLACE INTO job_requests (queue, request_id, uid, digest, expires) VALUES (?, ?, ?, ?, ?)",
            (queue, request_id, uid, digest, expires),
        )

    # Writing.

    def flush(self) -> None:
        self._write()
        while self._freed:
            freed, self._freed = self._freed, {}
            for queue, key in freed:
                self._promote(queue, key)
            self._write()

    def published(self) -> dict[bytes, Published]:
        """The event of a job is what it was before, and is now; None: there was, or is, none."""
        done = {
            uid: Published(change.record, [(change.before, change.record)]) for uid, change in self._changes.items()
        }
        done.update((uid, Published(None, [(before, None)])) for uid, before in self._deleted.items())
        return done

    def _write(self) -> None:
        inserts, updates = [], []
        for uid, change in self._unwritten.items():
            if change.stored == 0:
                inserts.append((bytearray(uid), *_values(change.record), *_constants(change.record)))
            elif change.record.revision != change.stored:
                updates.append((bytearray(uid), change.stored, *_values(change.record)))
            change.stored = change.record.revision
        self._unwritten.clear()
        self._keys.clear()
        INSERT_JOBS.run(self.connection, inserts)
        if UPDATE_JOBS.run(self.connection, updates) != len(updates):
            raise RuntimeError("a job is not at the revision in the store that the writer knows")
        # The last one of a part counts: a statement cannot write one row twice.
        bodies = {(bytes(uid), part): (uid, part, codec, body) for uid, part, codec, body in self._bodies}
        self._bodies.clear()
        WRITE_BODIES.run(self.connection, list(bodies.values()))

    def _write_body(self, uid: bytes, part: Part, body: Body | None) -> None:
        if body is None:
            body = Body("", b"")
        self._bodies.append((bytearray(uid), int(part), body.codec, bytearray(body.data)))


_PARTS = ((Part.PROGRESS, "progress"), (Part.RESULT, "result"), (Part.ERROR, "error"), (Part.PROBLEM, "problem"))
_CHANGING = (
    "state", "stand", "revision", "attempt", "failures", "claims", "due", "deadline", "updated", "started", "begun",
    "ended", "lease", "deferred", "attached", "cancel_requested", "cancel_reason", "reason", "expires",
)  # fmt: skip
_CONSTANT = ("queue", "priority", "key", "created", "parent", "operation", "detached", "trace")
COLUMNS = ("uid", *_CHANGING, *_CONSTANT)

INSERT_JOBS = ManyRows(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES", len(COLUMNS))
UPDATE_JOBS = update("jobs", _CHANGING)
WRITE_BODIES = ManyRows(
    "INSERT INTO job_bodies (uid, part, codec, body) VALUES", 4,
    "ON CONFLICT (uid, part) DO UPDATE SET codec = excluded.codec, body = excluded.body",
)  # fmt: skip
_SET_QUEUE = """INSERT OR REPLACE INTO queues (name, slots, retention, interval, burst, allowed, paused)
                VALUES (?, ?, ?, ?, ?, ?, ?)"""
_MEMBERS = """SELECT uid, state, stand FROM jobs WHERE queue = ? AND key = ? AND key <> '' AND ended IS NULL
              ORDER BY stand, priority DESC, uid LIMIT ?"""


def _values(r: JobRecord) -> tuple[Any, ...]:
    return (
        int(r.state), int(r.stand), r.revision, r.attempt, r.failures, r.claims, r.due, r.deadline, r.updated,
        r.started, r.begun, r.ended, r.lease, int(r.deferred), len(r.attachments), r.cancel_requested, r.cancel_reason,
        r.reason, r.expires,
    )  # fmt: skip


def _constants(r: JobRecord) -> tuple[Any, ...]:
    return (r.queue, r.priority, r.key, r.created, r.parent, r.operation, int(r.detached), r.trace)


def job_not_found(uid: bytes) -> ServiceError:
    """The refusal of a job that does not exist, or no more."""
    name = f"jobs/{uid_text(uid)}"
    return ServiceError(Reason.JOB_NOT_FOUND, f"{name} does not exist, or does no more.", resource=name)


# Reading.

_LOAD = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE uid = ?"  # noqa: S608 - only our own text


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
    codec, data = connection.execute("SELECT codec, body FROM job_bodies WHERE uid = ? AND part = 1", (uid,)).fetchone()
    return Body(codec, bytes(data))


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


def next_event(connection: sqlite3.Connection) -> int | None:
    """When time next changes a job: one is due, expires, or has been kept for long enough; None: never."""
    (found,) = connection.execute(
        """SELECT min(at) FROM (SELECT min(due) AS at FROM jobs WHERE due IS NOT NULL
           UNION ALL SELECT min(deadline) FROM jobs WHERE deadline IS NOT NULL AND ended IS NULL
           UNION ALL SELECT min(expires) FROM jobs WHERE expires IS NOT NULL)"""
    ).fetchone()
    return None if found is None else int(found)
