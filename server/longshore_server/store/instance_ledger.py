"""What one transaction of the writer does to the rows of durable instances."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Move, rule
from longshore_server.store.instance_leftovers import LETTERS
from longshore_server.store.instances import (
    COLUMNS,
    ENTRY,
    KEPT_IDS,
    Entry,
    EntryType,
    Handled,
    InstanceRecord,
    Known,
    Use,
    Value,
    load,
    state_of,
    to_entry,
    to_row,
)
from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.statements import ManyRows

_INSERT = ManyRows(f"INSERT INTO instances ({', '.join(COLUMNS)}) VALUES", len(COLUMNS))
_CHANGED = ", ".join(
    f"{column} = v.column{position}" for position, column in enumerate(COLUMNS, 1) if column not in COLUMNS[:4]
)
_UPDATE = ManyRows(
    f"UPDATE instances SET {_CHANGED} FROM (VALUES", len(COLUMNS) + 1,  # noqa: S608 - our own text
    f") AS v WHERE instances.uid = v.column1 AND instances.revision = v.column{len(COLUMNS) + 1}",
)  # fmt: skip
_INSERT_ENTRIES = ManyRows(
    "INSERT INTO instance_entries (uid, number, type, accepted, codec, body, events, started, cause) VALUES", 9
)
_WHOSE = "uid = ? AND generation = ? AND use = ?"
_FORGET = f"DELETE FROM instance_ids WHERE {_WHOSE} AND place = ?"  # noqa: S608 - our own text


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
        which = "number = ?" if number is not None else "number > 0 ORDER BY number LIMIT 1"
        row = self.connection.execute(
            f"SELECT {ENTRY} FROM instance_entries WHERE uid = ? AND {which}",  # noqa: S608 - our own text
            (uid,) if number is None else (uid, number),
        ).fetchone()
        return to_entry(row)

    def last_entry(self, uid: bytes) -> Entry:
        """The latest entry that waits."""
        self._write_entries()
        return to_entry(
            self.connection.execute(
                f"SELECT {ENTRY} FROM instance_entries WHERE uid = ? AND number > 0"  # noqa: S608 - our own text
                " ORDER BY number DESC LIMIT 1",
                (uid,),
            ).fetchone()
        )

    def waits(self, uid: bytes, number: int) -> bool:
        """Whether an entry has not come to its end."""
        self._write_entries()
        sql = "SELECT 1 FROM instance_entries WHERE uid = ? AND number = ?"
        return self.connection.execute(sql, (uid, number)).fetchone() is not None

    def waiting_start(self, uid: bytes) -> int | None:
        """The number of the start that has not come to its end; None: it has, or there was none."""
        self._write_entries()
        sql = "SELECT number FROM instance_entries WHERE uid = ? AND number > 0 AND type = ?"
        row = self.connection.execute(sql, (uid, EntryType.START)).fetchone()
        return None if row is None else int(row[0])

    def known(self, record: InstanceRecord, use: Use, id: str) -> Known | None:
        """What an id stands for in this generation; None: it is new, or forgotten."""
        row = self.connection.execute(
            "SELECT number, digest, events FROM instance_ids WHERE uid = ? AND generation = ? AND use = ? AND id = ?",
            (record.uid, record.generation, use, id),
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
            "UPDATE instance_entries SET number = -number, error = ?, buried = ?,"
            " definition = (SELECT definition FROM instances AS i WHERE i.uid = instance_entries.uid)"
            " WHERE uid = ? AND number = ?",
            (error, self.now, uid, number),
        )

    def revive(self, uid: bytes, after: int, last: int) -> list[int]:
        """Let dead letters wait again, those after a number and up to another, the oldest `LETTERS` of them at most.
        Returns their numbers."""
        revived = self.connection.execute(
            "UPDATE instance_entries SET number = -number, error = NULL, buried = NULL, definition = NULL"
            " WHERE uid = ?1 AND number IN (SELECT number FROM instance_entries WHERE uid = ?1 AND number >= -?3"
            " AND number < -max(?2, coalesce((SELECT number FROM instance_letters_left WHERE uid = ?1), 0))"
            " ORDER BY number DESC LIMIT ?4) RETURNING number",
            (uid, after, last, LETTERS),
        )
        return [number for (number,) in revived]

    def drop_entries(self, uid: bytes, *, but: int | None = None) -> int:
        """Nothing waits any more. Returns how many events the batches held.

        `but`: the one that is being handled.
        """
        self._write_entries()
        dropped = self.connection.execute(
            "DELETE FROM instance_entries WHERE uid = ? AND number > 0 AND number IS NOT ? RETURNING number, events",
            (uid, but),
        ).fetchall()
        for number, _ in dropped:
            self.handled(uid, Handled(number, dropped=True))
        return sum(events for _, events in dropped)

    def remember(self, record: InstanceRecord, use: Use, id: str, known: Known) -> None:
        """Remember what an id stands for, and forget some of those of long ago. Written at once: the next may have the
        same."""
        whose = (record.uid, record.generation, use)
        (latest,) = self.connection.execute(
            f"SELECT coalesce(max(place), 0) FROM instance_ids WHERE {_WHOSE}",  # noqa: S608 - our own text
            whose,
        ).fetchone()
        self.connection.execute(
            "INSERT INTO instance_ids (uid, generation, use, id, place, number, events, digest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*whose, id, latest + 1, known.number, known.events, known.digest),
        )
        # Two for each that comes, however many there are: a large batch leaves many at once.
        oldest = self.connection.execute(
            f"SELECT place, number FROM instance_ids WHERE {_WHOSE} AND place <= ? ORDER BY place LIMIT 2",  # noqa: S608 - our own text
            (*whose, latest + 1 - KEPT_IDS),
        ).fetchall()
        for place, number in oldest:
            # Of flushes any number may wait for one batch.
            if use is Use.EVENT and (number > record.accepted or self.waits(record.uid, number)):
                break
            self.connection.execute(_FORGET, (*whose, place))

    def handled(self, uid: bytes, handled: Handled) -> None:
        """Tell those who wait for an entry."""
        self._handled.setdefault(uid, []).append(handled)

    def delete(self, record: InstanceRecord) -> None:
        """Remove an instance with everything that belongs to it but the ids that it remembers."""
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
            (updates if stored else inserts).append(to_row(record) if stored == 0 else (*to_row(record), stored))
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
