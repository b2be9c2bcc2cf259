"""Jobs inside one transaction of the writer: their heads as they will be, their rows, and the room of each key.

Like operations, jobs are decided against heads and written at the end, a few statements for all of them. What only the
rows can tell, which jobs of a key there are or which one is next, is asked after what has changed is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import Any

from longshore_server.errors import Reason, ServiceError, reason_of
from longshore_server.job_lifecycle import ENDED, JobMove, JobState, Stand, rule
from longshore_server.store import job_attempts, job_keys
from longshore_server.store.job_keys import KeyCount, KeyHolders
from longshore_server.store.job_record import Attachment, Body, JobRecord, Part, QueueRow
from longshore_server.store.job_rows import (
    CHANGING,
    COLUMNS,
    attachments,
    changing,
    constant,
    job_not_found,
    load,
    queue_row,
    request,
)
from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.statements import ManyRows, update

_PARTS = ((Part.PROGRESS, "progress"), (Part.RESULT, "result"), (Part.ERROR, "error"), (Part.PROBLEM, "problem"))
_INSERT_JOBS = ManyRows(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES", len(COLUMNS))
_UPDATE_JOBS = update("jobs", CHANGING)
_WRITE_BODIES = ManyRows(
    "INSERT INTO job_bodies (uid, part, codec, body) VALUES", 4,
    "ON CONFLICT (uid, part) DO UPDATE SET codec = excluded.codec, body = excluded.body",
)  # fmt: skip
_DETACH_ENDED = """DELETE FROM attachments WHERE uid = ?
                   AND NOT EXISTS (SELECT 1 FROM jobs WHERE uid = target AND ended IS NULL)
                   AND NOT EXISTS (SELECT 1 FROM operations WHERE uid = target AND ended IS NULL)"""
_SET_QUEUE = """INSERT OR REPLACE INTO queues (name, slots, retention, interval, burst, allowed, paused)
                VALUES (?, ?, ?, ?, ?, ?, ?)"""


class _Change:
    """One job inside the transaction. `stored` is the revision that its row has now, 0: it has none yet, and `counted`
    what its key counts that row as. `before`: the job as it was when the transaction began."""

    __slots__ = ("before", "counted", "record", "stored")

    def __init__(self, record: JobRecord, before: JobRecord | None) -> None:
        self.record = record
        self.before = before
        self.stored = 0 if before is None else before.revision
        self.counted = None if before is None else before.counted


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

    def running(self, uid: bytes, attempt: int) -> JobRecord:
        """The fence of what only an attempt that has not handed its job over may do. Raises as `current`."""
        head = self.current(uid, attempt)
        if head.deferred:
            message = f"Attempt {attempt} of {head.name} has attached another job, with which that ends."
            raise ServiceError(Reason.STALE_ATTEMPT, message, resource=head.name)
        return head

    def insert(self, record: JobRecord, payload: Body) -> JobRecord:
        """Add a new job."""
        self._changes[record.uid] = self._unwritten[record.uid] = _Change(record, None)
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
            change = self._changes[head.uid] = _Change(record, head)
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
        if any(attachment.target == found.target for found in head.attachments):
            return head
        self.flush()  # the job's own row comes first
        head = self.head(head.uid)  # its key may have got room by what the other one has given away
        self.connection.execute(
            "INSERT INTO attachments (uid, target, kind, progress) VALUES (?, ?, ?, ?)", (head.uid, *attachment)
        )
        return self.note(head, attachments=(*head.attachments, attachment))

    def detach(self, target: bytes) -> None:
        """Let a job end with no other one any more."""
        self.flush()
        for (uid,) in self.connection.execute("SELECT uid FROM attachments WHERE target = ?", (target,)).fetchall():
            head = self.head(bytes(uid))
            if not head.terminal:
                self.note(head, attachments=tuple(found for found in head.attachments if found.target != target))
        self.connection.execute("DELETE FROM attachments WHERE target = ?", (target,))

    def detach_ended(self, uid: bytes) -> JobRecord:
        """Let end with the job no more what has ended without it. All that was changed is to be written before."""
        head = self.head(uid)
        if self.connection.execute(_DETACH_ENDED, (head.uid,)).rowcount:
            head = self.note(head, attachments=attachments(self.connection, head.uid))
        return head

    def children(self, parent: bytes, after: bytes, limit: int) -> list[bytes]:
        """Some of the jobs that an operation or a job has created, that have not ended and that its end reaches."""
        self.flush()
        rows = self.connection.execute(
            "SELECT uid FROM jobs WHERE parent = ? AND ended IS NULL AND uid > ? AND detached = 0 ORDER BY uid LIMIT ?",
            (parent, after, limit),
        )
        return [bytes(uid) for (uid,) in rows]

    def delete(self, head: JobRecord) -> None:
        """Remove an ended job with everything that belongs to it."""
        self.flush()
        change = self._changes.pop(head.uid, None)
        self.connection.execute("DELETE FROM jobs WHERE uid = ? AND ended IS NOT NULL", (head.uid,))
        self._deleted[head.uid] = head if change is None else change.before

    # Keys.

    def key_count(self, queue: str, key: str) -> KeyCount:
        """How many jobs of a key there are."""
        if (queue, key) in self._keys:
            self.flush()
        return job_keys.count(self.connection, queue, key)

    def key_holders(self, queue: str, key: str) -> KeyHolders:
        """Which jobs of a key are there for others that come."""
        if (queue, key) in self._keys:
            self.flush()
        return job_keys.holders(self.connection, queue, key)

    def _promote(self, queue: str, key: str) -> None:
        """Let those become READY for which their key has room."""
        count = self.key_count(queue, key)
        room = self.queue(queue).slots - count.occupied
        if room > 0 and count.waiting:
            for uid in job_keys.blocked(self.connection, queue, key, room):
                self.note(self.head(uid), stand=Stand.READY)

    # Queues.

    def queue(self, name: str) -> QueueRow:
        """The queue as it is at this point of the transaction."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = queue_row(self.connection, name)
        return found

    def set_queue(self, row: QueueRow) -> None:
        """Add a queue, or change it."""
        self.connection.execute(_SET_QUEUE, row)
        self._queues[row.name] = row

    def use_room(self, name: str) -> None:
        """Let those of a queue become READY for whose key there is room: there may be more than when they came."""
        self.flush()
        keys = job_keys.with_room(self.connection, name, self.queue(name).slots)
        self._freed.update({(name, key): None for key in keys})

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

    def select(self, where: str, *values: Any) -> list[bytes]:
        """The jobs for which a condition of our own text holds."""
        self.flush()
        return [bytes(uid) for (uid,) in self.connection.execute(f"SELECT uid FROM jobs WHERE {where}", values)]  # noqa: S608

    def next_event(self, skip: Collection[object]) -> int | None:
        """When time next changes a job: one is due, expires, or has been kept for long enough; None: never.

        `skip`: whatever these are due for. Of jobs that are not, so many are looked at, too.
        """
        self.flush()
        found = []
        for column, more in (("due", ""), ("deadline", "AND ended IS NULL"), ("expires", "")):
            rows = self.connection.execute(
                f"SELECT {column}, uid FROM jobs WHERE {column} IS NOT NULL {more} ORDER BY {column} LIMIT ?",  # noqa: S608
                (1 + len(skip),),
            )
            found += [when for when, uid in rows if uid not in skip][:1]
        return min(found, default=None)

    # Idempotency keys.

    def request(self, queue: str, request_id: str) -> tuple[bytes, bytes] | None:
        """The job that this key stands for, and the digest of its payload."""
        self.flush()
        return request(self.connection, queue, request_id, self.now)

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
        counts: dict[tuple[str, str, int], int] = {}
        for uid, change in self._unwritten.items():
            if change.stored == 0:
                inserts.append((bytearray(uid), *changing(change.record), *constant(change.record)))
            elif change.record.revision != change.stored:
                updates.append((bytearray(uid), change.stored, *changing(change.record)))
            change.stored = change.record.revision
            record = change.record
            if record.counted is not change.counted:
                for stand, step in ((change.counted, -1), (record.counted, 1)):
                    if stand is not None:
                        place = (record.queue, record.key, int(stand))
                        counts[place] = counts.get(place, 0) + step
                change.counted = record.counted
        self._unwritten.clear()
        self._keys.clear()
        _INSERT_JOBS.run(self.connection, inserts)
        if _UPDATE_JOBS.run(self.connection, updates) != len(updates):
            raise RuntimeError("a job is not at the revision in the store that the writer knows")
        if counts:
            job_keys.note(self.connection, counts)
        # The last one of a part counts: a statement cannot write one row twice.
        bodies = {(bytes(uid), part): (uid, part, codec, body) for uid, part, codec, body in self._bodies}
        self._bodies.clear()
        _WRITE_BODIES.run(self.connection, list(bodies.values()))

    def _write_body(self, uid: bytes, part: Part, body: Body | None) -> None:
        if body is None:
            body = Body("", b"")
        self._bodies.append((bytearray(uid), int(part), body.codec, bytearray(body.data)))
