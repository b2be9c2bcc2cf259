"""Every SELECT about single operations, their logs and journals; pages of operations are in `pages`.

Each function takes a sqlite3 connection and runs in its thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore_server.lifecycle import EventType, State
from longshore_server.store.events import payload_of
from longshore_server.store.record import Event, JournalEntry, OperationRecord, PendingSignal
from longshore_server.store.transfers import load as load_transfers

T = TypeVar("T")

COLUMNS = """
       o.uid, o.id, o.type, o.state, o.revision, o.sequence, o.first_sequence, o.progress_sequence, o.attempt,
       o.crashes, o.under_way, o.begun, o.created, o.updated, o.started, o.ended, o.deadline, o.cancel_requested,
       o.cancel_reason, o.labels, o.owner, o.request_id, o.parent, o.capabilities, o.contract, o.retried_from, o.trace,
       o.failures, o.next_attempt, o.deferred, o.stop_requested, o.stopped, o.signals, o.pending, o.reason, o.expires,
       o.transfers, p.body, t.body"""

# The latest progress and the outcome are not copied into the operation: they are read from the events that hold them.
JOINS = """
  LEFT JOIN events AS p ON p.uid = o.uid AND p.sequence = o.progress_sequence
  LEFT JOIN events AS t ON t.uid = o.uid AND t.sequence = o.sequence AND o.ended IS NOT NULL"""

_LOAD = f"SELECT {COLUMNS} FROM operations AS o {JOINS} WHERE o.uid = ?"  # noqa: S608 - only our own text
_LIVE = f"SELECT {COLUMNS} FROM operations AS o {JOINS} WHERE o.ended IS NULL ORDER BY o.uid"  # noqa: S608

LOG_BYTES = 1 << 20
"""How many bytes of events a lagging watcher reads at once: each has so much in memory."""


def load(connection: sqlite3.Connection, uid: bytes) -> OperationRecord | None:
    """The operation with this uid."""
    row = connection.execute(_LOAD, (uid,)).fetchone()
    return None if row is None else to_record(connection, row)


def find(connection: sqlite3.Connection, id: str) -> bytes | None:
    """The uid that a template name means now."""
    row = connection.execute("SELECT uid FROM names WHERE id = ?", (id,)).fetchone()
    return None if row is None else bytes(row[0])


def requests(
    connection: sqlite3.Connection, keys: Sequence[tuple[str, str, str]]
) -> Iterator[tuple[tuple[str, str, str], tuple[bytes, bytes]]]:
    """Whose the idempotency keys among `keys` are that are taken: (key, (uid, digest))."""
    for part in _parts(keys):
        wanted = ", ".join(["(?, ?, ?)"] * len(part))
        # CROSS JOIN fixes the order: for each wanted key one look into the table, never the other way round.
        sql = (
            f"SELECT r.owner, r.type, r.request_id, r.uid, r.digest FROM (VALUES {wanted}) AS v"  # noqa: S608
            " CROSS JOIN requests AS r ON r.owner = v.column1 AND r.type = v.column2 AND r.request_id = v.column3"
        )
        rows = connection.execute(sql, [value for key in part for value in key])
        for owner, type, request_id, uid, digest in rows:
            yield (owner, type, request_id), (uid, digest)


def names(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """Whose the template names among `ids` are that are taken: (id, (uid, digest))."""
    for part in _parts(ids):
        marks = ", ".join("?" * len(part))
        rows = connection.execute(f"SELECT id, uid, digest FROM names WHERE id IN ({marks})", part)  # noqa: S608
        for id, uid, digest in rows:
            yield id, (uid, digest)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Few lengths, so that the statements stay prepared: an item that fills a part up is looked up twice."""
    for start in range(0, len(items), 64):
        part = list(items[start : start + 64])
        size = 1 << (len(part) - 1).bit_length()
        yield part + part[-1:] * (size - len(part))


def live(connection: sqlite3.Connection) -> list[OperationRecord]:
    """Every operation that has not ended, oldest first."""
    return [to_record(connection, row) for row in connection.execute(_LIVE).fetchall()]


def input_of(connection: sqlite3.Connection, uid: bytes) -> bytes | None:
    """The operation's input, serialized; None when the operation is gone."""
    row = connection.execute("SELECT body FROM inputs WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else bytes(row[0])


def log(connection: sqlite3.Connection, uid: bytes, after: int, limit: int) -> list[Event]:
    """At most `limit` events of one operation after a sequence, in order; fewer when they are large."""
    rows = connection.execute(
        "SELECT sequence, type, body FROM events WHERE uid = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (uid, after, limit),
    )
    found: list[Event] = []
    size = 0
    for sequence, kind, body in rows:
        found.append(Event(sequence, EventType(kind), body))
        size += len(body)
        if size > LOG_BYTES:
            break
    return found


def journal(connection: sqlite3.Connection, uid: bytes) -> list[JournalEntry]:
    """Everything that the operation's handler has recorded."""
    rows = connection.execute(
        """SELECT kind, name, occurrence, attempt, digest, asked, codec, outcome, started, kept, within
           FROM journal WHERE uid = ?""",
        (uid,),
    )
    return [JournalEntry._make((*facts, bool(kept), within)) for *facts, kept, within in rows]


class Past(NamedTuple):
    """How the servers before this one ended.

    `quick_crashes`: how many of the latest in a row died without a word, each soon after its start. `apart`: the last
    one died while it was still running suspects apart.
    """

    quick_crashes: int
    apart: bool


def past(connection: sqlite3.Connection, within: int) -> Past:
    """Asked before the new boot is recorded. Soon is within `within` microseconds.

    The time of a death is not known, so the next start stands for it.
    """
    rows = connection.execute("SELECT started, stopped, apart FROM boots ORDER BY epoch DESC LIMIT 10").fetchall()
    count, following = 0, None
    for started, stopped, _ in rows:
        if stopped is not None or (following is not None and following - started > within):
            break
        count, following = count + 1, started
    return Past(count, bool(rows) and rows[0][1] is None and bool(rows[0][2]))


class Boot(NamedTuple):
    """A start of a server on this store. `started` in microseconds."""

    epoch: int
    started: int


def boot(connection: sqlite3.Connection) -> Boot:
    """The latest start: that of the server that runs."""
    return Boot._make(connection.execute("SELECT epoch, started FROM boots ORDER BY epoch DESC LIMIT 1").fetchone())


def contracts(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, bytes]:
    """The descriptors of stored contracts, serialized, by number."""
    sql = "SELECT descriptors FROM contracts WHERE id = ?"
    return {number: bytes(connection.execute(sql, (number,)).fetchone()[0]) for number in numbers}


def counts(connection: sqlite3.Connection) -> dict[tuple[str, State], int]:
    """How many live operations there are, by type and state."""
    rows = connection.execute("SELECT type, state, count(*) FROM operations WHERE ended IS NULL GROUP BY type, state")
    return {(kind, State(state)): count for kind, state, count in rows}


def marks(connection: sqlite3.Connection) -> tuple[bytes | None, int]:
    """The highest uid and the latest time in the store: new ones must come after them."""
    row = connection.execute(
        "SELECT max(uid) FROM (SELECT max(uid) AS uid FROM operations UNION ALL SELECT max(uid) FROM jobs)"
    ).fetchone()
    (latest,) = connection.execute(
        "SELECT max(coalesce((SELECT max(updated) FROM operations WHERE ended IS NULL), 0),"
        " coalesce((SELECT updated FROM operations ORDER BY uid DESC LIMIT 1), 0),"
        " coalesce((SELECT updated FROM jobs ORDER BY uid DESC LIMIT 1), 0),"
        " coalesce((SELECT max(coalesce(stopped, started)) FROM boots), 0))"
    ).fetchone()
    return (None if row[0] is None else bytes(row[0])), int(latest)


def page_key(connection: sqlite3.Connection) -> bytes:
    """What page tokens are sealed with."""
    (key,) = connection.execute("SELECT value FROM secrets WHERE name = 'pages'").fetchone()
    return bytes(key)


def to_record(connection: sqlite3.Connection, row: Sequence[object]) -> OperationRecord:
    """The record of a row of `COLUMNS`."""
    (uid, id, type, state, revision, sequence, first_sequence, progress_sequence, attempt, crashes, under_way, begun,
     created, updated, started, ended, deadline, cancel_requested, cancel_reason, labels, owner, request_id, parent,
     capabilities, contract, retried_from, trace, failures, next_attempt, deferred, stop_requested, stopped, signals,
     pending, reason, expires, transfers, progress, outcome) = row  # fmt: skip
    record = object.__new__(OperationRecord)
    found = State(state)  # type: ignore[arg-type]
    upload, downloads = load_transfers(connection, uid) if transfers else (None, ())  # type: ignore[arg-type]
    ending = None if outcome is None else payload_of(outcome)  # type: ignore[arg-type]
    record.__dict__.update(
        uid=uid, id=id, type=type, state=found, revision=revision, sequence=sequence, first_sequence=first_sequence,
        progress_sequence=progress_sequence, attempt=attempt, crashes=crashes, under_way=bool(under_way), begun=begun,
        created=created, updated=updated, started=started, ended=ended, deadline=deadline,
        cancel_requested=cancel_requested, cancel_reason=cancel_reason,
        labels={} if labels == "{}" else json.loads(labels),  # type: ignore[arg-type]
        owner=owner, request_id=request_id, parent=parent,
        capabilities=() if capabilities == "[]" else tuple(json.loads(capabilities)),  # type: ignore[arg-type]
        contract=contract, retried_from=retried_from, trace=trace, failures=failures, next_attempt=next_attempt,
        deferred=bool(deferred), stop_requested=stop_requested, stopped=bool(stopped), signals=signals,
        pending=_pending(connection, uid) if pending else (),  # type: ignore[arg-type]
        reason=reason, expires=expires, upload=upload, downloads=downloads,
        progress=None if progress is None else payload_of(progress),  # type: ignore[arg-type]
        result=ending if found is State.COMPLETED else None,
        error=ending if found in (State.FAILED, State.CANCELLED) else None,
    )  # fmt: skip
    return record


def _pending(connection: sqlite3.Connection, uid: bytes) -> tuple[PendingSignal, ...]:
    rows = connection.execute(
        "SELECT number, name, id, accepted FROM signals WHERE uid = ? AND consumed IS NULL ORDER BY number", (uid,)
    )
    return tuple(PendingSignal(*row) for row in rows)


SIGNAL_BYTES = 4 << 20
"""Signals are not read further once their payloads have so many bytes: more than any answer can hold."""


class StoredSignal(NamedTuple):
    """A signal as it was accepted; `payload` is a serialized `google.protobuf.Any`."""

    number: int
    name: str
    id: str
    payload: bytes
    sender: str
    accepted: int


_SIGNALS = "SELECT number, name, id, payload, sender, accepted FROM signals WHERE uid = ?"


def waiting_signals(
    connection: sqlite3.Connection, uid: bytes, name: str, after: int, limit: int
) -> list[StoredSignal]:
    """At most `limit` signals that are not consumed, after a number, in order; fewer when they are large.

    `name`: only those of this name; empty: all.
    """
    rows = connection.execute(
        f"{_SIGNALS} AND consumed IS NULL AND number > ? AND ? IN (name, '') ORDER BY number LIMIT ?",
        (uid, after, name, limit),
    )
    found: list[StoredSignal] = []
    size = 0
    for row in rows:
        found.append(StoredSignal(*row))
        size += len(found[-1].payload)
        if size > SIGNAL_BYTES:
            break
    return found


_SENT = """
SELECT s.uid, s.name, s.payload
FROM (
    SELECT o.uid AS uid, min(sent.number) AS number
    FROM operations AS o CROSS JOIN signals AS sent ON sent.uid = o.uid
    WHERE o.ended IS NULL GROUP BY o.uid, sent.name
) AS first CROSS JOIN signals AS s ON s.uid = first.uid AND s.number = first.number"""


def sent_signals(connection: sqlite3.Connection) -> dict[bytes, list[tuple[str, str]]]:
    """What operations that have not ended were sent, consumed or not: each name, and the full name of its payload's
    type. All signals of one name that an operation has are of one type."""
    found: dict[bytes, list[tuple[str, str]]] = {}
    # One payload of each name is read, however many there are.
    for uid, name, payload in connection.execute(_SENT):
        found.setdefault(uid, []).append((name, AnyMessage.FromString(payload).TypeName()))
    return found


def signal(connection: sqlite3.Connection, uid: bytes, number: int) -> StoredSignal | None:
    """One signal by its number, consumed or not."""
    row = connection.execute(f"{_SIGNALS} AND number = ?", (uid, number)).fetchone()
    return None if row is None else StoredSignal(*row)


def signal_with_id(connection: sqlite3.Connection, uid: bytes, id: str) -> StoredSignal | None:
    """The signal that was sent with this id, consumed or not."""
    row = connection.execute(f"{_SIGNALS} AND id = ?", (uid, id)).fetchone()
    return None if row is None else StoredSignal(*row)


def expired(connection: sqlite3.Connection, now: int, limit: int) -> list[tuple[bytes, int]]:
    """At most `limit` operations whose retention is over, the oldest first: uid, and how many events and lines of its
    log it may have."""
    rows = connection.execute(
        "SELECT uid, sequence - first_sequence + 2"
        " + coalesce((SELECT lines - dropped FROM logbooks AS l WHERE l.uid = o.uid), 0)"
        " FROM operations AS o WHERE expires <= ? ORDER BY expires LIMIT ?",
        (now, limit),
    )
    return [(bytes(uid), events) for uid, events in rows]


def next_expiry(connection: sqlite3.Connection) -> int | None:
    """When the next retention is over; None: nothing expires."""
    row = connection.execute("SELECT min(expires) FROM operations WHERE expires IS NOT NULL").fetchone()
    return None if row[0] is None else int(row[0])
