"""The outbox: what has happened to jobs and instances, written in the transaction that made it happen.

An event is a row until every sink has got it. Each sink has a cursor of its own, so that one that is down holds up no
other; who is too far behind loses the oldest events, and that is counted. A server without sinks writes nothing.
"""

from __future__ import annotations

import enum
import itertools
import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from longshore_server.ids import Uids
from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.statements import ManyRows

SLACK = 8
"""The oldest events are dropped when there are a share of 1/SLACK too many, so that not every new one drops one."""
READ_BYTES = 4 << 20
"""Events are not read further once they have so many bytes."""


class EventType(enum.StrEnum):
    """What can have happened."""

    STARTED = "job.started"
    """An instance or a job was created."""
    EXECUTED = "job.executed"
    """Its handler has run to its end."""
    FAILED = "job.failed"
    """Its handler has failed, with or without another attempt to come."""
    EXHAUSTED = "job.retryExhausted"
    """No attempt is left."""
    TERMINATED = "job.terminated"
    """It was ended: an instance terminated; a job cancelled, replaced, or too late."""
    BATCH_STARTED = "debounce.started"
    """The first event of a batch was added."""
    BATCH_FLUSHED = "debounce.flushed"
    """The handler of a batch has run to its end."""
    SCHEDULED = "task.scheduled"
    """A handler of a task has set a timer."""


class Emission(NamedTuple):
    """What is to be written."""

    sinks: tuple[str, ...] = ()
    """For whom; empty: nothing is."""
    values: bool = False
    """Whether inputs, states and results are part of it."""
    most: int = 100_000
    """How many events are kept for those that have not got them,"""
    most_bytes: int = 256 << 20
    """and how many bytes of them; the latest one in any case."""


SILENCE = Emission()


class Emitter(NamedTuple):
    """What the writer emits events by."""

    uids: Uids
    emission: Emission


class StoredEvent(NamedTuple):
    """One event. `time` in microseconds since the epoch; `value`: codec and bytes, where a sink asks for them."""

    number: int
    id: bytes
    time: int
    type: EventType
    subject: str
    definition: str
    data: Mapping[str, Any]
    value: tuple[str, bytes] | None


class Backlog(NamedTuple):
    """The next events for a sink, and how it stands."""

    events: list[StoredEvent]
    waiting: int
    """How many there are that it has not got."""
    dropped: int
    """How many it will never get."""


class Outbox(Ledger):
    """The events of one transaction."""

    def __init__(self, connection: sqlite3.Connection, now: int, emitter: Emitter) -> None:
        super().__init__(connection, {}, now)
        self._emitter = emitter
        self._rows: list[tuple[Any, ...]] = []
        self._emitted: dict[bytes, Published] = {}

    @property
    def values(self) -> bool:
        """Whether a sink asks for inputs, states and results."""
        return self._emitter.emission.values

    def add(
        self, type: EventType, time: int, subject: str, definition: str, data: Mapping[str, Any],
        value: tuple[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        """Let an event be part of the transaction."""
        id = self._emitter.uids.next()
        codec, body = value if value is not None and self.values else ("", b"")
        self._rows.append((id, time, str(type), subject, definition, json.dumps(data), codec, body))
        self._emitted[id] = Published(None, [])

    def flush(self) -> None:
        if not self._rows:
            return
        (total,) = self.connection.execute("SELECT ifnull(max(total), 0) FROM outbox").fetchone()
        sizes = (len(row[-3]) + len(row[-1]) for row in self._rows)
        totals = itertools.accumulate(sizes, initial=total)
        next(totals)
        _INSERT.run(self.connection, [(*row, upto) for row, upto in zip(self._rows, totals, strict=True)])
        self._rows.clear()
        self._bound(self._emitter.emission)

    def _bound(self, emission: Emission) -> None:
        """Drop the oldest events where there are too many, or too many bytes of them."""
        first, size = self.connection.execute(
            "SELECT number, length(data) + length(body) FROM outbox ORDER BY number LIMIT 1"
        ).fetchone()
        (last,) = self.connection.execute("SELECT max(number) FROM outbox").fetchone()
        (least,) = self.connection.execute("SELECT min(total) FROM outbox").fetchone()
        (total,) = self.connection.execute("SELECT max(total) FROM outbox").fetchone()
        upto = 0
        if last - first >= emission.most + emission.most // SLACK:
            upto = last - emission.most
        if total - least + size > emission.most_bytes + emission.most_bytes // SLACK:
            (before,) = self.connection.execute(
                "SELECT number FROM outbox WHERE total >= ? ORDER BY total LIMIT 1", (total - emission.most_bytes,)
            ).fetchone()
            upto = max(upto, min(before, last - 1))
        if upto:
            _drop(self.connection, upto)

    def published(self) -> dict[bytes, Published]:
        return self._emitted


_INSERT = ManyRows("INSERT INTO outbox (id, time, type, subject, definition, data, codec, body, total) VALUES", 9)


def _drop(connection: sqlite3.Connection, upto: int) -> None:
    """Give up the oldest events, for those who have not got them."""
    connection.execute(
        "UPDATE sinks SET dropped = dropped + ?1 - delivered, delivered = ?1 WHERE delivered < ?1", (upto,)
    )
    connection.execute("DELETE FROM outbox WHERE number <= ?", (upto,))


def declare(connection: sqlite3.Connection, sinks: tuple[str, ...]) -> None:
    """Keep cursors for these sinks alone: a new one gets what happens from now on, the others are forgotten."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    latest = 0 if last is None else last[0]
    known = {name for (name,) in connection.execute("SELECT name FROM sinks").fetchall()}
    connection.executemany("DELETE FROM sinks WHERE name = ?", [(name,) for name in known.difference(sinks)])
    new = [(name, latest) for name in sinks if name not in known]
    connection.executemany("INSERT INTO sinks (name, delivered, dropped) VALUES (?, ?, 0)", new)
    _forget(connection)


def deliver(connection: sqlite3.Connection, sink: str, upto: int) -> None:
    """A sink has got the events up to a number. What all of them have got is deleted."""
    connection.execute("UPDATE sinks SET delivered = ?1 WHERE name = ?2 AND delivered < ?1", (upto, sink))
    _forget(connection)


def _forget(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM outbox WHERE number <= (SELECT ifnull(min(delivered), 9223372036854775807) FROM sinks)"
    )


# Reading, outside of the writer.


def read(connection: sqlite3.Connection, sink: str, limit: int) -> Backlog:
    """At most `limit` events that a sink has not got, in order; fewer when they are large."""
    delivered, dropped = connection.execute("SELECT delivered, dropped FROM sinks WHERE name = ?", (sink,)).fetchone()
    (last,) = connection.execute("SELECT ifnull(max(number), 0) FROM outbox").fetchone()
    rows = connection.execute(
        "SELECT number, id, time, type, subject, definition, data, codec, body FROM outbox WHERE number > ?"
        " ORDER BY number LIMIT ?",
        (delivered, limit),
    )
    events: list[StoredEvent] = []
    size = 0
    for number, id, time, type, subject, definition, data, codec, body in rows:
        value = (codec, bytes(body)) if codec else None
        events.append(
            StoredEvent(number, bytes(id), time, EventType(type), subject, definition, json.loads(data), value)
        )
        size += len(data) + len(body)
        if size > READ_BYTES:
            break
    return Backlog(events, max(0, last - delivered), dropped)


def highest(connection: sqlite3.Connection) -> bytes | None:
    """The highest id of an event that is kept: new ones must come after it."""
    (id,) = connection.execute("SELECT max(id) FROM outbox").fetchone()
    return None if id is None else bytes(id)
