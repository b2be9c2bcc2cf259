"""Durable instances in the store: their rows as frozen values, and what one transaction of the writer does to them."""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Move, Status, rule
from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.statements import ManyRows

KEPT_IDS = 1000
"""How many of the latest ids of one use an instance remembers, beside those of events that are not handled."""
NO_TIMERS: Mapping[str, int] = MappingProxyType({})

Value = tuple[str, bytes]
"""A value as stored: the codec, and its bytes."""


class EntryType(enum.IntEnum):
    """What is accepted and waits for its handler."""

    START = 1
    TRIGGER = 2
    EVENT = 3
    BATCH = 4


class FlushReason(enum.IntEnum):
    """Why a batch was sealed."""

    NONE = 0
    """It is no batch."""
    FLUSH_AFTER = 1
    MAX_EVENTS = 2
    MANUAL = 3


class Entry(NamedTuple):
    """One thing that was accepted."""

    number: int
    type: EntryType
    accepted: int
    value: Value | None = None
    events: int = 0
    """Of a batch: how many it holds,"""
    started: int = 0
    """when the first of them came,"""
    cause: FlushReason = FlushReason.NONE
    """and why it was sealed."""


class Use(enum.IntEnum):
    """What an id of a caller's is for."""

    EVENT = 1
    REQUEST = 2
    """To run the handler, or to flush."""


class Known(NamedTuple):
    """What an id stands for."""

    number: int
    """Of the entry; of an event in the open batch of a debounce: that the batch will have."""
    digest: bytes = b""
    """Tells one event from another."""
    events: int = 0
    """Of a flush: how many its batch holds."""


class Handled(NamedTuple):
    """What became of an entry, for those who wait for it: its handler has run."""

    number: int
    retry_at: int | None = None
    """When the handler runs again, because it failed."""
    dropped: bool = False
    """It has not run, and will not: the entry was discarded."""


@dataclass(frozen=True, eq=False)
class InstanceRecord:
    """One revision of an instance. Times in microseconds since the epoch."""

    uid: bytes
    kind: Kind
    definition: str
    id: str
    owner: str
    created: int
    updated: int
    generation: int = 1
    status: Status = Status.ACTIVE
    revision: int = 1
    version: int = 0
    accepted: int = 0
    """Number of the latest entry."""
    waiting: int = 0
    dead: int = 0
    events: int = 0
    """Of a task: how many were handled. Of a debounce: how many were added."""
    runs: int = 0
    batch_events: int = 0
    batch_started: int = 0
    attempt: int = 0
    """Of the work that is being done, or is to be done again; from 1."""
    failures: int = 0
    crashes: int = 0
    fence: int = 0
    under_way: bool = False
    begun: int | None = None
    """When the first attempt at this work began."""
    attempt_begun: int | None = None
    """When the latest did. In memory alone: once the server has ended nobody asks how long that took."""
    work_entry: int | None = None
    work_timer: str | None = None
    planned: int | None = None
    retry_at: int | None = None
    timers: Mapping[str, int] = field(default_factory=lambda: NO_TIMERS)
    reason: str = ""
    """Why it was terminated."""
    error: bytes | None = None
    """The latest failure, a serialized `google.rpc.Status`; kept until something succeeds."""

    @property
    def name(self) -> str:
        """`recurrings/{definition}/instances/{id}`, and so on."""
        return instance_name(self.kind, self.definition, self.id)

    @property
    def resident(self) -> bool:
        """Whether its head stays in memory: a handler will change it again in a moment."""
        return self.under_way

    @property
    def working(self) -> bool:
        """Whether there is something that was begun and has not come to its end."""
        return self.work_entry is not None or self.work_timer is not None

    @property
    def due(self) -> int | None:
        """When a handler is to begin; None: nothing is to be done."""
        if self.status is not Status.ACTIVE or self.under_way:
            return None
        if self.working:
            # A trigger does not wait for the retry of a scheduled run: it takes its place.
            return self.updated if self.retry_at is None or self.overtaken else self.retry_at
        if self.waiting:
            return self.updated
        return min(self.timers.values(), default=None)

    @property
    def overtaken(self) -> bool:
        """Whether a trigger has come while the run of a recurring waited for its retry."""
        own = self.work_entry is not None
        return self.kind is Kind.RECURRING and self.retry_at is not None and self.waiting > own

    def evolve(self, **changes: Any) -> InstanceRecord:
        """A copy with `changes`."""
        copy = object.__new__(InstanceRecord)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changes)
        return copy


def instance_name(kind: Kind, definition: str, id: str) -> str:
    """The public name of an instance."""
    return f"{kind.name.lower()}s/{definition}/instances/{id}"


class InstanceLedger(Ledger):
    """The instances inside one transaction."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._records: dict[bytes, InstanceRecord] = {}
        self._stored: dict[bytes, int] = {}  # the revision that the row has; 0: there is none yet
        self._names: dict[tuple[Kind, str, str], bytes] = {}
        self._handled: dict[bytes, list[Handled]] = {}
        self._deleted: set[bytes] = set()
        self._states: dict[bytes, Value | None] = {}
        self._entries: list[tuple[Any, ...]] = []

    # Reading.

    def find(self, kind: Kind, definition: str, id: str) -> InstanceRecord | None:
        """The instance of this id as it is at this point of the transaction."""
        uid = self._names.get((kind, definition, id))
        if uid is None:
            row = self.connection.execute(
                "SELECT uid FROM instances WHERE kind = ? AND definition = ? AND id = ?", (kind, definition, id)
            ).fetchone()
            uid = None if row is None else bytes(row[0])
        return None if uid is None else self.get(uid)

    def get(self, uid: bytes) -> InstanceRecord | None:
        """The instance with this uid; None: there is none, or no more."""
        if uid in self._deleted:
            return None
        record = self._records.get(uid) or self.heads.get(uid)
        return record or load(self.connection, uid)

    def current(self, uid: bytes, fence: int) -> InstanceRecord:
        """The instance whose handler this is. Raises `ServiceError` (STALE_ATTEMPT) when it is not, or not any more."""
        record = self.get(uid)
        if record is None or record.fence != fence or not record.under_way:
            message = "This run is no longer the instance's current one."
            raise ServiceError(Reason.STALE_ATTEMPT, message, resource=record.name if record else "instances")
        return record

    def state(self, uid: bytes) -> Value | None:
        """Its state; None: it has none."""
        return self._states[uid] if uid in self._states else state_of(self.connection, uid)

    def entry(self, uid: bytes, number: int | None) -> Entry:
        """An entry that waits; `number` None: the first of them."""
        self._write_entries()
        which = "number = ?" if number is not None else "error IS NULL ORDER BY number LIMIT 1"
        row = self.connection.execute(
            f"SELECT {_ENTRY} FROM instance_entries WHERE uid = ? AND {which}",  # noqa: S608 - our own text
            (uid,) if number is None else (uid, number),
        ).fetchone()
        return _to_entry(row)

    def last_entry(self, uid: bytes) -> Entry:
        """The latest entry that waits."""
        self._write_entries()
        return _to_entry(
            self.connection.execute(
                f"SELECT {_ENTRY} FROM instance_entries WHERE uid = ? AND error IS NULL"  # noqa: S608 - our own text
                " ORDER BY number DESC LIMIT 1",
                (uid,),
            ).fetchone()
        )

    def waits(self, uid: bytes, number: int) -> bool:
        """Whether an entry has not come to its end."""
        self._write_entries()
        sql = "SELECT 1 FROM instance_entries WHERE uid = ? AND number = ? AND error IS NULL"
        return self.connection.execute(sql, (uid, number)).fetchone() is not None

    def waiting_start(self, uid: bytes) -> int | None:
        """The number of the start that has not come to its end; None: it has, or there was none."""
        self._write_entries()
        sql = "SELECT number FROM instance_entries WHERE uid = ? AND type = ?"
        row = self.connection.execute(sql, (uid, EntryType.START)).fetchone()
        return None if row is None else int(row[0])

    def known(self, uid: bytes, use: Use, id: str) -> Known | None:
        """What an id stands for; None: it is new, or forgotten."""
        row = self.connection.execute(
            "SELECT number, digest, events FROM instance_ids WHERE uid = ? AND use = ? AND id = ?", (uid, use, id)
        ).fetchone()
        return None if row is None else Known(int(row[0]), bytes(row[1]), int(row[2]))

    # Changing.

    def insert(self, record: InstanceRecord) -> InstanceRecord:
        """Add a new instance."""
        self._stored[record.uid] = 0
        self._records[record.uid] = record
        self._names[record.kind, record.definition, record.id] = record.uid
        return record

    def make(self, record: InstanceRecord, move: Move, **facts: Any) -> InstanceRecord:
        """Make `move` on an instance. Raises `ServiceError` (ILLEGAL_MOVE) where the table has no rule."""
        allowed = rule(record.status, move)
        if allowed is None:
            raise ServiceError(
                Reason.ILLEGAL_MOVE,
                f"{record.name} is {record.status.name}: {move.value} is not possible.",
                resource=record.name,
            )
        self._stored.setdefault(record.uid, record.revision)
        changed = record.evolve(
            status=allowed.target, revision=record.revision + 1, updated=max(self.now, record.updated), **facts
        )
        self._records[record.uid] = changed
        return changed

    def set_state(self, uid: bytes, value: Value | None) -> None:
        """Replace the state; None: it has none any more."""
        self._states[uid] = value

    def add_entry(self, uid: bytes, entry: Entry) -> None:
        """Let something wait for its handler."""
        codec, body = entry.value or ("", b"")
        self._entries.append(
            (uid, entry.number, int(entry.type), entry.accepted, codec, body, entry.events, entry.started,
             int(entry.cause))
        )  # fmt: skip

    def drop_entry(self, uid: bytes, number: int) -> None:
        """It is done."""
        self._write_entries()
        self.connection.execute("DELETE FROM instance_entries WHERE uid = ? AND number = ?", (uid, number))

    def bury(self, uid: bytes, number: int, error: bytes) -> None:
        """Keep an entry as a dead letter."""
        self._write_entries()
        self.connection.execute(
            "UPDATE instance_entries SET error = ?, buried = ?,"
            " definition = (SELECT definition FROM instances AS i WHERE i.uid = instance_entries.uid)"
            " WHERE uid = ? AND number = ?",
            (error, self.now, uid, number),
        )

    def revive(self, uid: bytes) -> None:
        """Let dead letters wait again."""
        self.connection.execute(
            "UPDATE instance_entries SET error = NULL, buried = NULL, definition = NULL"
            " WHERE uid = ? AND error IS NOT NULL",
            (uid,),
        )

    def drop_entries(self, uid: bytes, *, but: int | None = None) -> int:
        """Nothing waits any more, and no dead letter is kept. Returns how many events the batches held.

        `but`: the one that is being handled.
        """
        self._write_entries()
        dropped = self.connection.execute(
            "DELETE FROM instance_entries WHERE uid = ? AND number IS NOT ? RETURNING number, events", (uid, but)
        ).fetchall()
        for number, _ in dropped:
            self.handled(uid, Handled(number, dropped=True))
        return sum(events for _, events in dropped)

    def remember(self, record: InstanceRecord, use: Use, id: str, known: Known) -> None:
        """Remember what an id stands for, and forget some of those of long ago. Written at once: the next may have the
        same."""
        uid = record.uid
        (latest,) = self.connection.execute(
            "SELECT coalesce(max(place), 0) FROM instance_ids WHERE uid = ? AND use = ?", (uid, use)
        ).fetchone()
        self.connection.execute(
            "INSERT INTO instance_ids (uid, use, id, place, number, events, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (uid, use, id, latest + 1, known.number, known.events, known.digest),
        )
        # Two for each that comes, however many there are: a large batch leaves many at once.
        oldest = self.connection.execute(
            "SELECT place, number FROM instance_ids WHERE uid = ? AND use = ? AND place <= ? ORDER BY place LIMIT 2",
            (uid, use, latest + 1 - KEPT_IDS),
        ).fetchall()
        for place, number in oldest:
            # Of flushes any number may wait for one batch.
            if use is Use.EVENT and (number > record.accepted or self.waits(uid, number)):
                break
            self.connection.execute(
                "DELETE FROM instance_ids WHERE uid = ? AND use = ? AND place = ?", (uid, use, place)
            )

    def forget_ids(self, uid: bytes) -> None:
        """A new generation knows nothing of the old one's."""
        self.connection.execute("DELETE FROM instance_ids WHERE uid = ?", (uid,))

    def handled(self, uid: bytes, handled: Handled) -> None:
        """Tell those who wait for an entry."""
        self._handled.setdefault(uid, []).append(handled)

    def delete(self, record: InstanceRecord) -> None:
        """Remove an instance with everything that belongs to it."""
        self.flush()
        self.connection.execute("DELETE FROM instances WHERE uid = ?", (record.uid,))
        self._records.pop(record.uid, None)
        self._stored.pop(record.uid, None)
        self._names.pop((record.kind, record.definition, record.id), None)
        self._deleted.add(record.uid)

    # Writing.

    def flush(self) -> None:
        """Write what has changed since the last flush."""
        inserts: list[tuple[Any, ...]] = []
        updates: list[tuple[Any, ...]] = []
        for uid, record in self._records.items():
            stored = self._stored.get(uid, record.revision)
            if stored == record.revision:
                continue
            (updates if stored else inserts).append(_row(record) if stored == 0 else (*_row(record), stored))
            self._stored[uid] = record.revision
        if inserts:
            _INSERT.run(self.connection, inserts)
        if updates and _UPDATE.run(self.connection, updates) != len(updates):
            raise RuntimeError("a head differs from its row")
        self._write_entries()
        for uid, value in self._states.items():
            if value is None:
                self.connection.execute("DELETE FROM instance_states WHERE uid = ?", (uid,))
            else:
                self.connection.execute(
                    "INSERT INTO instance_states (uid, codec, body) VALUES (?, ?, ?) ON CONFLICT (uid) DO UPDATE"
                    " SET codec = excluded.codec, body = excluded.body",
                    (uid, *value),
                )
        self._states.clear()

    def published(self) -> dict[bytes, Published]:
        """What the transaction did, by uid."""
        done: dict[bytes, Published] = {
            uid: Published(record, list(self._handled.get(uid, ()))) for uid, record in self._records.items()
        }
        done.update((uid, Published(None, [])) for uid in self._deleted)
        return done

    def _write_entries(self) -> None:
        if self._entries:
            _INSERT_ENTRIES.run(self.connection, self._entries)
            self._entries.clear()


_COLUMNS = (
    "uid", "kind", "definition", "id", "owner", "generation", "status", "revision", "version", "created", "updated",
    "accepted", "waiting", "dead", "events", "runs", "batch_events", "batch_started", "attempt", "failures", "crashes",
    "fence", "under_way", "begun", "work_entry", "work_timer", "planned", "retry_at", "timers", "due", "reason",
    "error",
)  # fmt: skip
_ENTRY = "number, type, accepted, codec, body, events, started, cause"
_INSERT = ManyRows(f"INSERT INTO instances ({', '.join(_COLUMNS)}) VALUES", len(_COLUMNS))
_CHANGED = ", ".join(
    f"{column} = v.column{position}" for position, column in enumerate(_COLUMNS, 1) if column not in _COLUMNS[:4]
)
_UPDATE = ManyRows(
    f"UPDATE instances SET {_CHANGED} FROM (VALUES", len(_COLUMNS) + 1,  # noqa: S608 - our own text
    f") AS v WHERE instances.uid = v.column1 AND instances.revision = v.column{len(_COLUMNS) + 1}",
)  # fmt: skip
_INSERT_ENTRIES = ManyRows(
    "INSERT INTO instance_entries (uid, number, type, accepted, codec, body, events, started, cause) VALUES", 9
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM instances"  # noqa: S608 - our own text


def _row(r: InstanceRecord) -> tuple[Any, ...]:
    return (
        r.uid, int(r.kind), r.definition, r.id, r.owner, r.generation, int(r.status), r.revision, r.version, r.created,
        r.updated, r.accepted, r.waiting, r.dead, r.events, r.runs, r.batch_events, r.batch_started, r.attempt,
        r.failures, r.crashes, r.fence, int(r.under_way), r.begun, r.work_entry, r.work_timer, r.planned, r.retry_at,
        json.dumps(dict(r.timers)) if r.timers else "{}", r.due, r.reason, r.error,
    )  # fmt: skip


def _to_record(row: Iterable[Any]) -> InstanceRecord:
    facts = dict(zip(_COLUMNS, row, strict=True))
    del facts["due"]
    facts.update(
        kind=Kind(facts["kind"]), status=Status(facts["status"]), under_way=bool(facts["under_way"]),
        timers=json.loads(facts["timers"]),
    )  # fmt: skip
    return InstanceRecord(**facts)


def _to_entry(row: tuple[Any, ...]) -> Entry:
    number, type, accepted, codec, body, events, started, cause = row
    value = (codec, bytes(body)) if codec else None
    return Entry(number, EntryType(type), accepted, value, events, started, FlushReason(cause))


# Reading, also outside of the writer. Each takes a connection and runs in its thread.


def load(connection: sqlite3.Connection, uid: bytes) -> InstanceRecord | None:
    """The instance with this uid."""
    row = connection.execute(f"{_SELECT} WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _to_record(row)


def find(
    connection: sqlite3.Connection, kind: Kind, definition: str, id: str
) -> tuple[InstanceRecord, Value | None] | None:
    """The instance of this id, and its state."""
    row = connection.execute(f"{_SELECT} WHERE kind = ? AND definition = ? AND id = ?", (kind, definition, id))
    found = row.fetchone()
    if found is None:
        return None
    record = _to_record(found)
    return record, state_of(connection, record.uid)


def state_of(connection: sqlite3.Connection, uid: bytes) -> Value | None:
    """The state of an instance."""
    row = connection.execute("SELECT codec, body FROM instance_states WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else (str(row[0]), bytes(row[1]))


def page(
    connection: sqlite3.Connection, kind: Kind, definition: str, status: Status | None, after: bytes, limit: int
) -> list[InstanceRecord]:
    """Instances of one definition in the order in which they first began, after one of them; `status`: only those."""
    rows = connection.execute(
        f"{_SELECT} WHERE kind = ? AND definition = ? AND uid > ? AND (? IS NULL OR status = ?) ORDER BY uid LIMIT ?",
        (kind, definition, after, status, status, limit),
    )
    return [_to_record(row) for row in rows]


def due(connection: sqlite3.Connection, now: int, limit: int) -> tuple[list[bytes], int | None]:
    """Some of those whose handlers are to begin, what is due longest first; and when the next one is, after now."""
    rows = connection.execute(
        "SELECT uid FROM instances WHERE due IS NOT NULL AND due BETWEEN 0 AND ? ORDER BY due LIMIT ?", (now, limit)
    )
    found = [bytes(uid) for (uid,) in rows]
    (following,) = connection.execute(
        "SELECT min(due) FROM instances WHERE due IS NOT NULL AND due > ?", (now,)
    ).fetchone()
    return found, None if following is None else int(following)


def left_behind(connection: sqlite3.Connection) -> list[InstanceRecord]:
    """Those whose handlers were under way when the server ended."""
    return [_to_record(row) for row in connection.execute(f"{_SELECT} WHERE under_way = 1")]


def definitions(connection: sqlite3.Connection) -> dict[tuple[Kind, str], int]:
    """How many instances wait for something, by kind and definition."""
    rows = connection.execute(
        "SELECT kind, definition, count(*) FROM instances WHERE due IS NOT NULL GROUP BY kind, definition"
    )
    return {(Kind(kind), definition): count for kind, definition, count in rows}


def marks(connection: sqlite3.Connection) -> bytes | None:
    """The highest uid of an instance: new ones must come after it."""
    (uid,) = connection.execute("SELECT max(uid) FROM instances").fetchone()
    return None if uid is None else bytes(uid)
