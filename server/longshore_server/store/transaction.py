"""One transaction of the writer: the heads of operations as they will be, and the rows that make them so.

Runs in the writer's thread. Decisions are made against heads kept in memory, because reading a row before each change
costs more than the change; each UPDATE is guarded by the revision it was decided on, so that a head which differs from
its row is found out instead of written. Rows are collected and written at the end, a few statements for all of them:
every statement lets the event loop's thread take the interpreter, and getting it back takes longer than the statement.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

from longshore_server.errors import Reason, ServiceError, reason_of
from longshore_server.ids import uid_text
from longshore_server.lifecycle import TERMINAL, EventType, Move, State, UploadState, rule
from longshore_server.store import events, operation_rows, queries, statements, transfers
from longshore_server.store.ledger import Commit, Ledger, Published
from longshore_server.store.operation_rows import ALL, EXTENT
from longshore_server.store.outbox import Emitter, Outbox
from longshore_server.store.record import Event, JournalEntry, OperationRecord

SLACK = 8
"""A log is trimmed when it is a share of 1/SLACK over its cap, so that not every event deletes one."""

_positions = itertools.count(1)
"""Tells in which order this process has recorded what is in journals: what happens at once has the same time."""

LedgerT = TypeVar("LedgerT", bound=Ledger)
RequestKey = tuple[str, str, str]
"""Owner, type and request id: the scope of an idempotency key."""
Reach = Callable[["Transaction", OperationRecord, str], None]
"""Cancels, in the same transaction, what an operation has caused: why is said in a sentence."""
Claim = tuple[bytes, bytes]
"""Whose a key or a name is: uid, and the digest of the request that took it."""


class _Change:
    """One operation inside the transaction. `stored` is the revision that its row has now; 0: it has none yet."""

    __slots__ = ("events", "extent", "record", "stored", "written")

    def __init__(self, record: OperationRecord, stored: int) -> None:
        self.record = record
        self.stored = stored
        self.events: list[Event] = []
        self.extent = 0
        self.written = 0  # how many of the events are rows already


class Transaction:
    """The view and the statements of one batch, or of one item when a batch is replayed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        heads: Mapping[bytes, OperationRecord],
        now: int,
        max_events: int,
        retention: Mapping[str, int],
        others: Mapping[type[Ledger], Mapping[bytes, Any]] = MappingProxyType({}),
        reach: Reach = lambda _, __, ___: None,
        emitter: Emitter | None = None,
    ) -> None:
        self.connection = connection
        self.now = now
        self._heads = heads
        self._max_events = max_events
        self._retention = retention
        self._changes: dict[bytes, _Change] = {}
        self._deleted: set[bytes] = set()
        self._inputs: list[tuple[bytearray, bytearray]] = []
        self._labels: list[tuple[str, str, bytes]] = []
        self._journal: list[tuple[Any, ...]] = []
        self._trims: list[tuple[bytes, int, int | None]] = []
        self._requests: dict[RequestKey, Claim | None] = {}
        self._new_requests: list[tuple[Any, ...]] = []
        self._names: dict[str, Claim | None] = {}
        self._new_names: list[tuple[Any, ...]] = []
        self._renames: list[tuple[str, bytes]] = []
        self._transfers: set[bytes] = set()
        self._others = others
        self._reach = reach
        self._ledgers: dict[type[Ledger], Ledger] = {}
        self.outbox: Outbox | None = None
        """Where events go; None: nobody asks for them."""
        if emitter is not None:
            self.outbox = self._ledgers[Outbox] = Outbox(connection, now, emitter)

    def ledger(self, kind: type[LedgerT]) -> LedgerT:
        """The rows of another kind, in this transaction."""
        found = self._ledgers.get(kind)
        if found is None:
            found = self._ledgers[kind] = kind(self.connection, self._others.get(kind, {}), self.now)
        return cast("LedgerT", found)

    def prefetch(self, requests: list[RequestKey], names: list[str]) -> None:
        """Look up in two statements the keys and names that the items of a batch will ask for."""
        if requests:
            self._requests.update(dict.fromkeys(requests))
            self._requests.update(queries.requests(self.connection, requests))
        if names:
            self._names.update(dict.fromkeys(names))
            self._names.update(queries.names(self.connection, names))

    def request(self, key: RequestKey) -> Claim | None:
        """Whose this idempotency key is, at this point of the transaction."""
        if key not in self._requests:
            self.prefetch([key], [])
        return self._requests[key]

    def name(self, id: str) -> Claim | None:
        """Whose this template name is, at this point of the transaction."""
        if id not in self._names:
            self.prefetch([], [id])
        return self._names[id]

    def claim_request(self, key: RequestKey, claim: Claim) -> None:
        """Give a free idempotency key to an operation."""
        self._requests[key] = claim
        self._new_requests.append((*key, *claim))

    def claim_name(self, id: str, claim: Claim) -> None:
        """Let a template name mean this operation from now on. Who had it goes by its uid, under which it is found."""
        before = self.name(id)
        if before is not None:
            head = self.head(before[0])
            # It has ended, and what it was called is no part of that.
            record = self.amend(head, id=uid_text(head.uid))
            self._renames.append((record.id, head.uid))
        self._names[id] = claim
        self._new_names.append((id, *claim))

    def head(self, uid: bytes) -> OperationRecord:
        """The operation as it is at this point of the transaction. Raises `ServiceError` when there is none."""
        change = self._changes.get(uid)
        if change is not None:
            return change.record
        record = self._heads.get(uid)
        if record is None and uid not in self._deleted:
            record = queries.load(self.connection, uid)
        if record is None:
            name = f"operations/{uid_text(uid)}"
            raise ServiceError(Reason.OPERATION_NOT_FOUND, f"{name} does not exist any more.", resource=name)
        return record

    def insert(self, record: OperationRecord, input: bytes, *, begin: bool = False) -> OperationRecord:
        """Add a new operation: PENDING, or RUNNING at once when its handler has a free slot. One row either way."""
        log = [Event(1, EventType.ACCEPTED, events.encode(record, EventType.ACCEPTED, None))]
        if begin:
            record = record.evolve(
                state=State.RUNNING, revision=2, sequence=2, attempt=1, under_way=True, begun=record.created,
                started=record.created,
            )  # fmt: skip
            log.append(Event(2, EventType.STARTED, events.encode(record, EventType.STARTED, None)))
        self._inputs.append((bytearray(record.uid), bytearray(input)))
        if record.labels:
            self._labels.extend((key, value, record.uid) for key, value in record.labels.items())
        if record.upload is not None or record.downloads:
            self._transfers.add(record.uid)
        change = self._changes[record.uid] = _Change(record, 0)
        change.events = log
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
        if (
            head.upload is not None
            and head.upload.state is UploadState.OPEN
            and (allowed.target in TERMINAL or event is EventType.CANCELLING)
        ):
            # Nobody will take the bytes any more.
            facts["upload"] = head.upload.failed(Reason.UPLOAD_ABORTED.name, now)
        extent = ALL if facts else EXTENT.get(event, ALL)
        facts.update(state=allowed.target, revision=head.revision + 1, sequence=sequence, updated=now)
        if event is EventType.PROGRESS:
            facts.update(progress=payload, progress_sequence=sequence)
        elif event is EventType.COMPLETED:
            facts["result"] = payload
            if head.stop_requested is not None:
                facts["stopped"], extent = True, ALL
        elif event is EventType.FAILED or event is EventType.CANCELLED:
            facts.update(error=payload, reason=reason_of(payload or b""))
        if allowed.target in TERMINAL:
            facts.update(ended=now, under_way=False, next_attempt=None)
            kept = self._retention.get(head.type)
            if kept is not None:
                facts["expires"] = now + kept
        if sequence - head.first_sequence >= self._max_events + self._max_events // SLACK:
            facts["first_sequence"], extent = sequence - self._max_events + 1, ALL
        record = head.evolve(**facts)
        if "upload" in facts or "downloads" in facts:
            self._transfers.add(record.uid)
        if event is EventType.TRANSFER and record.upload is not None:
            payload = transfers.transfer_event(record.uid, record.upload)
        change = self._change(head, record, extent)
        change.events.append(Event(sequence, event, events.encode(record, event, payload)))
        if record.first_sequence != head.first_sequence:
            # The latest progress stays: the snapshot of an ended operation is read from it.
            self._trims.append((record.uid, record.first_sequence, record.progress_sequence))
        if event is EventType.CANCELLING or event is EventType.CANCELLED:
            self._reach(self, record, record.cancel_reason)
        elif event is EventType.FAILED and record.reason == Reason.DEADLINE_EXCEEDED.name:
            self._reach(self, record, f"The deadline of {record.name} is over.")
        else:
            return record
        return change.record  # what it has reached may have ended it

    def note(self, head: OperationRecord, **facts: Any) -> OperationRecord:
        """Change facts of `head` that are not a move: a new revision without an event."""
        facts.update(revision=head.revision + 1, updated=max(self.now, head.updated))
        if "upload" in facts or "downloads" in facts:
            self._transfers.add(head.uid)
        record = head.evolve(**facts)
        self._change(head, record, ALL)
        return record

    def amend(self, head: OperationRecord, **facts: Any) -> OperationRecord:
        """Change what belongs to an operation and is no part of its revisions, also once it has ended."""
        record = head.evolve(**facts)
        self._change(head, record, 0)
        if "upload" in facts or "downloads" in facts:
            self._transfers.add(record.uid)
        return record

    def fresh(self, uid: bytes) -> bool:
        """Whether the operation has gone on in this batch, so that nobody has seen it as it is now."""
        change = self._changes.get(uid)
        return uid in self._heads or (change is not None and bool(change.events))

    def delete(self, uid: bytes) -> None:
        """Remove an ended operation with everything that belongs to it."""
        self.flush()
        self._changes.pop(uid, None)
        self.connection.execute("DELETE FROM operations WHERE uid = ? AND ended IS NOT NULL", (uid,))
        self._deleted.add(uid)
        # Keys and names went with it: what was looked up before may mean it still.
        self._requests.clear()
        self._names.clear()

    def note_journal(self, uid: bytes, entry: JournalEntry) -> None:
        """Add a journal entry. The primary key refuses a second outcome for the same await."""
        self._journal.append((uid, *entry, self.now, next(_positions)))

    def forget_journal(self, uid: bytes, key: tuple[str, str, int] | None) -> None:
        """Take an entry back out of a journal; None: nothing is to be."""
        if key is not None:
            # It is written: an attempt fails with a refusal only once that is durable.
            self.connection.execute(
                "DELETE FROM journal WHERE uid = ? AND kind = ? AND name = ? AND occurrence = ?", (uid, *key)
            )

    def keep_steps(self, uid: bytes, of: bytes) -> None:
        """Let an operation begin with the steps that another one has recorded, which has ended."""
        self.flush()  # its own row comes first
        self.connection.execute(statements.KEEP_STEPS, (uid, of))

    def add_signal(self, uid: bytes, signal: queries.StoredSignal) -> None:
        """Keep a signal. Written at once: the next one of this batch may have the same id."""
        if self._changes[uid].stored == 0:
            self.flush()  # its operation is not a row yet
        self.connection.execute(
            "INSERT INTO signals (uid, number, name, id, payload, sender, accepted) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (uid, *signal),
        )

    def consume_signal(self, uid: bytes, number: int) -> None:
        """Mark a signal, so that nobody gets it again."""
        self.connection.execute("UPDATE signals SET consumed = ? WHERE uid = ? AND number = ?", (self.now, uid, number))

    def flush(self) -> None:
        """Write what has changed since the last flush: one row an operation, however many moves it made."""
        inserts: list[tuple[Any, ...]] = []
        plain: list[tuple[Any, ...]] = []
        updates: tuple[list[tuple[Any, ...]], ...] = ([], [], [])
        log: list[tuple[Any, ...]] = []
        for uid, change in self._changes.items():
            r, key = change.record, bytearray(uid)
            if change.stored == 0:
                if (
                    r.labels or r.request_id or r.parent or r.retried_from or r.trace or r.deferred
                    or uid in self._transfers
                ):  # fmt: skip
                    inserts.append(operation_rows.inserted(key, r))
                else:
                    plain.append(operation_rows.inserted_plain(key, r))
            elif r.revision != change.stored:
                updates[change.extent].append(operation_rows.UPDATED[change.extent](key, r, change.stored))
            change.stored = r.revision
            for event in change.events[change.written :]:
                log.append((key, event.sequence, int(event.type), bytearray(event.body)))  # noqa: PERF401 - extend is slower here
            change.written, change.extent = len(change.events), 0
        connection = self.connection
        # Parents before children: the schema checks every reference at once.
        statements.INSERT_OPERATIONS.run(connection, inserts)
        statements.INSERT_PLAIN_OPERATIONS.run(connection, plain)
        statements.INSERT_INPUTS.run(connection, _taken(self._inputs))
        statements.INSERT_LABELS.run(connection, _taken(self._labels))
        statements.INSERT_NAMES.run(connection, _taken(self._new_names))
        statements.INSERT_REQUESTS.run(connection, _taken(self._new_requests))
        for statement, rows in zip(operation_rows.UPDATES, updates, strict=True):
            if statement.run(connection, rows) != len(rows):
                raise RuntimeError("an operation is not at the revision in the store that the writer knows")
        if self._renames:
            connection.executemany(statements.RENAME_OPERATION, _taken(self._renames))
        statements.INSERT_EVENTS.run(connection, log)
        statements.INSERT_JOURNAL.run(connection, _taken(self._journal))
        for uid in self._transfers:
            record = self._changes[uid].record
            transfers.save(connection, uid, record.upload, record.downloads)
        self._transfers.clear()
        if self._trims:
            connection.executemany(statements.TRIM_EVENTS, _taken(self._trims))
        for ledger in self._ledgers.values():
            ledger.flush()

    def published(self) -> Commit:
        """What the transaction did; after the last `flush`."""
        done: dict[bytes, Published] = {
            uid: Published(change.record, change.events) for uid, change in self._changes.items()
        }
        done.update((uid, Published(None, [])) for uid in self._deleted)
        return Commit(done, {kind: ledger.published() for kind, ledger in self._ledgers.items()})

    def _change(self, head: OperationRecord, record: OperationRecord, extent: int) -> _Change:
        change = self._changes.get(head.uid)
        if change is None:
            change = self._changes[head.uid] = _Change(record, head.revision)
        else:
            change.record = record
        if extent > change.extent:
            change.extent = extent
        return change


def _taken(rows: list[Any]) -> Iterable[Any]:
    """The rows that wait, which then wait no more."""
    taken = rows[:]
    rows.clear()
    return taken


def new_record(
    *, uid: bytes, id: str, type: str, created: int, deadline: int | None, labels: Mapping[str, str], owner: str,
    request_id: str, parent: str, capabilities: tuple[str, ...] = (), contract: int | None = None,
    retried_from: str = "", trace: str = "", deferred: bool = False, upload: transfers.UploadRecord | None = None,
    downloads: tuple[transfers.DownloadRecord, ...] = (),
) -> OperationRecord:  # fmt: skip
    """The first revision of an operation: PENDING, its log holding `accepted` alone."""
    record = object.__new__(OperationRecord)
    # Not by the constructor: that of a frozen dataclass sets one field after the other, each by a call.
    record.__dict__.update(
        uid=uid, id=id, type=type, state=State.PENDING, revision=1, sequence=1, first_sequence=1,
        progress_sequence=None, attempt=0, crashes=0, under_way=False, begun=None, created=created,
        updated=created, started=None, ended=None, deadline=deadline, cancel_requested=None, cancel_reason="",
        labels=labels, owner=owner, request_id=request_id, parent=parent, capabilities=capabilities, contract=contract,
        retried_from=retried_from, trace=trace, failures=0, next_attempt=None, deferred=deferred, stop_requested=None,
        stopped=False, signals=0, pending=(), reason="", expires=None, upload=upload, downloads=downloads,
        progress=None, result=None, error=None,
    )  # fmt: skip
    return record
