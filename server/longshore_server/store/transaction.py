"""One transaction of the writer: the heads of operations as they will be, and the statements that make them so.

Runs in the writer's thread. Decisions are made against heads kept in memory, because reading a row before each change
costs more than the change; each UPDATE is guarded by the revision it was decided on, so that a head which differs from
its row is found out instead of written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import TERMINAL, EventType, Move, State, rule
from longshore_server.store import events, queries
from longshore_server.store.record import EventRow, OperationRecord

_INSERT = """
INSERT INTO operations (uid, id, type, state, revision, sequence, first_sequence, progress_sequence, attempt, crashes,
                        under_way, created, updated, started, ended, deadline, cancel_requested, cancel_reason, labels,
                        owner, request_id, parent)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_UPDATE = """
UPDATE operations
   SET state = ?, revision = ?, sequence = ?, first_sequence = ?, progress_sequence = ?, attempt = ?, crashes = ?,
       under_way = ?, updated = ?, started = ?, ended = ?, cancel_requested = ?, cancel_reason = ?
 WHERE uid = ? AND revision = ?"""

_APPEND = "INSERT INTO events (uid, sequence, type, body) VALUES (?, ?, ?, ?)"

_TRIM = "DELETE FROM events WHERE uid = ? AND sequence < ? AND sequence IS NOT ?"

SLACK = 8
"""A log is trimmed when it is a share of 1/SLACK over its cap, so that not every event deletes one."""


class Published(NamedTuple):
    """What one commit did to one operation: its new revision (None: deleted) and the events it appended."""

    record: OperationRecord | None
    events: list[EventRow]


class _Change:
    """One operation inside the transaction. `stored` is the revision that its row has now."""

    __slots__ = ("events", "record", "stored", "written")

    def __init__(self, record: OperationRecord, stored: int) -> None:
        self.record = record
        self.stored = stored
        self.events: list[EventRow] = []
        self.written = 0  # how many of the events are rows already


class Transaction:
    """The view and the statements of one batch, or of one item when a batch is replayed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        heads: Mapping[bytes, OperationRecord],
        now: int,
        max_events: int,
    ) -> None:
        self.connection = connection
        self.now = now
        self._heads = heads
        self._max_events = max_events
        self._changes: dict[bytes, _Change] = {}
        self._deleted: set[bytes] = set()
        self._trims: list[tuple[bytes, int, int | None]] = []

    def head(self, uid: bytes) -> OperationRecord:
        """The operation as it is at this point of the transaction. Raises `ServiceError` when there is none."""
        change = self._changes.get(uid)
        if change is not None:
            return change.record
        record = self._heads.get(uid)
        if record is None and uid not in self._deleted:
            record = queries.load(self.connection, uid)
        if record is None:
            raise ServiceError(Reason.OPERATION_NOT_FOUND, "The operation does not exist any more.")
        return record

    def insert(self, record: OperationRecord, *, begin: bool = False) -> OperationRecord:
        """Add a new operation: PENDING, or RUNNING at once when its handler has a free slot. One row either way."""
        log = [EventRow(1, EventType.ACCEPTED, events.encode(record, EventType.ACCEPTED, None))]
        if begin:
            record = record.evolve(
                state=State.RUNNING, revision=2, sequence=2, attempt=1, under_way=True, started=record.created
            )
            log.append(EventRow(2, EventType.STARTED, events.encode(record, EventType.STARTED, None)))
        self.connection.execute(
            _INSERT,
            (
                record.uid, record.id, record.type, record.state, record.revision, record.sequence,
                record.first_sequence, record.progress_sequence, record.attempt, record.crashes, record.under_way,
                record.created, record.updated, record.started, record.ended, record.deadline,
                record.cancel_requested, record.cancel_reason, _labels(record.labels), record.owner,
                record.request_id, record.parent,
            ),
        )  # fmt: skip
        change = _Change(record, record.revision)
        change.events = log
        self._changes[record.uid] = change
        return record

    def make(self, head: OperationRecord, move: Move, payload: bytes | None = None, **facts: Any) -> OperationRecord:
        """Make `move` on `head` and log its event. Raises `ServiceError` (ILLEGAL_MOVE) where the table has no rule."""
        allowed = rule(head.state, move)
        if allowed is None:
            raise ServiceError(
                Reason.ILLEGAL_MOVE,
                f"{head.name} is {head.state.name}: {move.value} is not possible.",
                resource=head.name,
            )
        now = max(self.now, head.updated)
        sequence = head.sequence + 1
        event = allowed.event
        facts.update(state=allowed.target, revision=head.revision + 1, sequence=sequence, updated=now)
        if event is EventType.PROGRESS:
            facts.update(progress=payload, progress_sequence=sequence)
        elif event is EventType.COMPLETED:
            facts["result"] = payload
        elif event is EventType.FAILED or event is EventType.CANCELLED:
            facts["error"] = payload
        if allowed.target in TERMINAL:
            facts.update(ended=now, under_way=False)
        if sequence - head.first_sequence >= self._max_events + self._max_events // SLACK:
            facts["first_sequence"] = sequence - self._max_events + 1
        record = head.evolve(**facts)
        change = self._change(head, record)
        change.events.append(EventRow(sequence, event, events.encode(record, event, payload)))
        if record.first_sequence != head.first_sequence:
            # The latest progress stays: the snapshot of an ended operation is read from it.
            self._trims.append((record.uid, record.first_sequence, record.progress_sequence))
        return record

    def note(self, head: OperationRecord, **facts: Any) -> OperationRecord:
        """Change facts of `head` that are not a move: a new revision without an event."""
        record = head.evolve(revision=head.revision + 1, updated=max(self.now, head.updated), **facts)
        self._change(head, record)
        return record

    def delete(self, head: OperationRecord) -> None:
        """Remove an ended operation with everything that belongs to it."""
        self.flush()
        self._changes.pop(head.uid, None)
        self.connection.execute("DELETE FROM operations WHERE uid = ? AND ended IS NOT NULL", (head.uid,))
        self._deleted.add(head.uid)

    def flush(self) -> None:
        """Write what has changed since the last flush: one UPDATE an operation, however many moves it made."""
        execute = self.connection.execute
        appended: list[tuple[bytes, int, int, bytes]] = []
        for uid, change in self._changes.items():
            r = change.record
            if r.revision != change.stored:
                cursor = execute(
                    _UPDATE,
                    (
                        r.state, r.revision, r.sequence, r.first_sequence, r.progress_sequence, r.attempt, r.crashes,
                        r.under_way, r.updated, r.started, r.ended, r.cancel_requested, r.cancel_reason,
                        uid, change.stored,
                    ),
                )  # fmt: skip
                if cursor.rowcount != 1:
                    raise RuntimeError(f"{r.name} is not at revision {change.stored} in the store")
                change.stored = r.revision
            for sequence, event, body in change.events[change.written :]:
                appended.append((uid, sequence, event, body))
            change.written = len(change.events)
        self.connection.executemany(_APPEND, appended)
        self.connection.executemany(_TRIM, self._trims)
        self._trims.clear()

    def published(self) -> dict[bytes, Published]:
        """What the transaction did, by uid; after the last `flush`."""
        done: dict[bytes, Published] = {
            uid: Published(change.record, change.events) for uid, change in self._changes.items()
        }
        done.update((uid, Published(None, [])) for uid in self._deleted)
        return done

    def _change(self, head: OperationRecord, record: OperationRecord) -> _Change:
        change = self._changes.get(head.uid)
        if change is None:
            change = self._changes[head.uid] = _Change(record, head.revision)
        else:
            change.record = record
        return change


def new_record(
    *, uid: bytes, id: str, type: str, created: int, deadline: int | None, labels: Mapping[str, str], owner: str,
    request_id: str, parent: str,
) -> OperationRecord:  # fmt: skip
    """The first revision of an operation: PENDING, its log holding `accepted` alone."""
    return OperationRecord(
        uid=uid, id=id, type=type, state=State.PENDING, revision=1, sequence=1, first_sequence=1,
        progress_sequence=None, attempt=0, crashes=0, under_way=False, created=created, updated=created, started=None,
        ended=None, deadline=deadline, cancel_requested=None, cancel_reason="", labels=labels, owner=owner,
        request_id=request_id, parent=parent,
    )  # fmt: skip


def _labels(labels: Mapping[str, str]) -> str:
    return json.dumps(labels, sort_keys=True) if labels else "{}"
