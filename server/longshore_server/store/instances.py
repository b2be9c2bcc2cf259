"""Durable instances in the store: their rows as frozen values, and how they are read."""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from longshore_server.instance_lifecycle import Kind, Status

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


COLUMNS = (
    "uid", "kind", "definition", "id", "owner", "generation", "status", "revision", "version", "created", "updated",
    "accepted", "waiting", "dead", "events", "runs", "batch_events", "batch_started", "attempt", "failures", "crashes",
    "fence", "under_way", "begun", "work_entry", "work_timer", "planned", "retry_at", "timers", "due", "reason",
    "error",
)  # fmt: skip
ENTRY = "number, type, accepted, codec, body, events, started, cause"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM instances"  # noqa: S608 - our own text


def to_row(r: InstanceRecord) -> tuple[Any, ...]:
    """The values of `COLUMNS`."""
    return (
        r.uid, int(r.kind), r.definition, r.id, r.owner, r.generation, int(r.status), r.revision, r.version, r.created,
        r.updated, r.accepted, r.waiting, r.dead, r.events, r.runs, r.batch_events, r.batch_started, r.attempt,
        r.failures, r.crashes, r.fence, int(r.under_way), r.begun, r.work_entry, r.work_timer, r.planned, r.retry_at,
        json.dumps(dict(r.timers)) if r.timers else "{}", r.due, r.reason, r.error,
    )  # fmt: skip


def _to_record(row: Iterable[Any]) -> InstanceRecord:
    facts = dict(zip(COLUMNS, row, strict=True))
    del facts["due"]
    facts.update(
        kind=Kind(facts["kind"]), status=Status(facts["status"]), under_way=bool(facts["under_way"]),
        timers=json.loads(facts["timers"]),
    )  # fmt: skip
    return InstanceRecord(**facts)


def to_entry(row: tuple[Any, ...]) -> Entry:
    """An entry of the columns that `ENTRY` names."""
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
