"""What code has logged and how its steps have failed, by the uid of its operation, job or instance: rows for operators
alone.

They change no snapshot and no fence guards them: what an attempt logs that is not the current one any more is what an
operator wants to see. Each owner keeps its latest lines, so many and so large; the older ones go.
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from longshore_server.store.ledger import Ledger, Published
from longshore_server.store.statements import ManyRows

MAX_LINES = 1000
"""How many lines of one owner are kept."""
MAX_BYTES = 1 << 20
"""How many bytes of them."""
SLACK = 8
"""Lines are dropped when there are a share of 1/SLACK too many, so that not every new one drops an old one."""
MAX_FAILURES = 100
"""Of how many attempts, the latest ones, the failures of one step are kept."""
READ_BYTES = 4 << 20
"""Lines are not read further once they have so many bytes: more than any answer can hold."""


class Level(enum.IntEnum):
    """How much a line matters. The numbers are those of `longshore.v1.LogLine.Level`."""

    INFO = 1
    WARN = 2
    ERROR = 3


class LogLine(NamedTuple):
    """One line. `time` in microseconds since the epoch."""

    time: int
    attempt: int
    level: int
    step: str
    """The step whose function logged it; empty: none."""
    message: str
    data: str
    """A JSON object."""
    run: str = ""
    """The run of an instance that has logged it; empty: it is no instance's."""

    @property
    def size(self) -> int:
        """Its bytes, more or less: what bounds are for."""
        return len(self.message.encode()) + len(self.data.encode())


class StoredLine(NamedTuple):
    """A line and its place among all of its owner's, from 1."""

    number: int
    line: LogLine


class LogPage(NamedTuple):
    """Some of an owner's lines. `dropped`: how many of the oldest are gone."""

    lines: list[StoredLine]
    dropped: int


class StepFailure(NamedTuple):
    """A try of a step that failed. Times in microseconds since the epoch."""

    name: str
    attempt: int
    started: int
    """When the step's function was called first."""
    ended: int
    error: str


class StepOutcome(NamedTuple):
    """What became of a step in one attempt. Times in microseconds since the epoch."""

    name: str
    attempt: int
    started: int | None
    """None: the step was recorded by a version that did not keep it."""
    ended: int
    """When its result was recorded, or its last try failed."""
    failures: int
    error: str
    """Of the last failed try."""
    completed: bool
    kept: bool
    """Whether the operation that this one repeats has recorded it, in an attempt of its own."""


@dataclass(slots=True)
class _Book:
    """What is known of all lines of one owner."""

    lines: int
    dropped: int
    size: int
    oldest: int | None


_BOOK = "SELECT lines, dropped, size, oldest FROM logbooks WHERE uid = ?"
_INSERT_LINES = ManyRows("INSERT INTO logs (uid, number, time, attempt, level, step, message, data, run) VALUES", 9)
_SAVE_BOOKS = ManyRows(
    "INSERT INTO logbooks (uid, lines, dropped, size, oldest) VALUES",
    5,
    "ON CONFLICT (uid) DO UPDATE SET lines = excluded.lines, size = excluded.size, oldest = excluded.oldest",
)
_LINE_SIZE = "length(CAST(message AS BLOB)) + length(CAST(data AS BLOB))"
_SIZES = f"SELECT number, time, {_LINE_SIZE} FROM logs WHERE uid = ? ORDER BY number LIMIT ?"  # noqa: S608 - our own text
_DROP = "DELETE FROM logs WHERE uid = ? AND number <= ?"
_DROPPED = """UPDATE logbooks SET dropped = ?2, size = size - ?3,
                     oldest = (SELECT time FROM logs WHERE uid = ?1 ORDER BY number LIMIT 1) WHERE uid = ?1"""
_FAILED = """INSERT INTO step_failures (uid, name, attempt, started, ended, tries, error) VALUES (?, ?, ?, ?, ?, 1, ?)
             ON CONFLICT (uid, name, attempt)
             DO UPDATE SET ended = excluded.ended, tries = tries + 1, error = excluded.error"""
_FORGET_FAILURES = "DELETE FROM step_failures WHERE uid = ? AND name = ? AND attempt <= ?"


class Logs(Ledger):
    """Lines and failures inside one transaction. Nothing here tells whether there still is an owner."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._books: dict[bytes, _Book] = {}
        self._lines: list[tuple[Any, ...]] = []
        self._touched: set[bytes] = set()

    def add(self, uid: bytes, line: LogLine) -> None:
        """Add a line to those of its owner."""
        book = self._book(uid)
        book.lines += 1
        book.size += line.size
        book.oldest = line.time if book.oldest is None else book.oldest
        self._lines.append((uid, book.lines, *line))
        self._touched.add(uid)

    def fail(self, uid: bytes, failure: StepFailure) -> None:
        """Count a failed try of a step."""
        self.connection.execute(_FAILED, (uid, *failure))
        self.connection.execute(_FORGET_FAILURES, (uid, failure.name, failure.attempt - MAX_FAILURES))

    def flush(self) -> None:
        books = [(uid, book.lines, book.dropped, book.size, book.oldest) for uid, book in self._books.items()]
        _SAVE_BOOKS.run(self.connection, books)
        _INSERT_LINES.run(self.connection, self._lines)
        for uid, book in self._books.items():
            if _too_much(book):
                _trim(self.connection, uid, book)
        # Read anew: what follows in the transaction may delete an owner.
        self._lines.clear()
        self._books.clear()

    def published(self) -> dict[bytes, Published]:
        return {uid: Published(None, []) for uid in self._touched}

    def _book(self, uid: bytes) -> _Book:
        """The owner's book as it is at this point of the transaction."""
        if uid not in self._books:
            row = self.connection.execute(_BOOK, (uid,)).fetchone()
            self._books[uid] = _Book(*row) if row is not None else _Book(0, 0, 0, None)
        return self._books[uid]


def sweep(connection: sqlite3.Connection, before: int, owners: int, limit: int) -> None:
    """Drop lines that were logged at `before` or earlier, at most `limit` of them and of so many owners."""
    books = connection.execute("SELECT uid FROM logbooks WHERE oldest <= ? ORDER BY oldest LIMIT ?", (before, owners))
    for (uid,) in books.fetchall():
        lines = connection.execute(_SIZES, (uid, limit)).fetchall()
        due = list(takewhile(lambda line: line[1] <= before, lines))
        _drop(connection, uid, due[-1][0], sum(size for _, _, size in due))
        limit -= len(due)
        if limit <= 0:
            break


def oldest(connection: sqlite3.Connection) -> int | None:
    """The time of the oldest line of all; None: there is none."""
    (oldest,) = connection.execute("SELECT min(oldest) FROM logbooks WHERE oldest IS NOT NULL").fetchone()
    return None if oldest is None else int(oldest)


def read(connection: sqlite3.Connection, uid: bytes, level: int, after: int, limit: int) -> LogPage:
    """At most `limit` lines of an owner after a number, in order; fewer when they are large.

    `level`: only those that matter so much.
    """
    book = connection.execute("SELECT dropped FROM logbooks WHERE uid = ?", (uid,)).fetchone()
    rows = connection.execute(
        "SELECT number, time, attempt, level, step, message, data, run FROM logs"
        " WHERE uid = ? AND number > ? AND level >= ? ORDER BY number LIMIT ?",
        (uid, after, level, limit),
    )
    found: list[StoredLine] = []
    size = 0
    for number, *fields in rows:
        found.append(StoredLine(number, LogLine._make(fields)))
        size += found[-1].line.size
        if size > READ_BYTES:
            break
    return LogPage(found, 0 if book is None else int(book[0]))


def steps(connection: sqlite3.Connection, uid: bytes, since: int, skip: int, limit: int) -> list[StepOutcome]:
    """At most `limit` outcomes of an owner's steps, in the order in which they ended.

    Those that ended before `since` are left out, and the first `skip` of the others.
    """
    rows = connection.execute(_STEPS, {"uid": uid, "since": since, "skip": skip, "limit": limit})
    return [StepOutcome._make((*row[:-2], bool(row[-2]), bool(row[-1]))) for row in rows]


# A step that was recorded began with its first try, a failed one too. One that is kept was never tried here.
_STEPS = """
WITH done AS (SELECT name, attempt, started, recorded, kept FROM journal WHERE uid = :uid AND kind = 'step'),
   failed AS (SELECT name, attempt, started, ended, tries, error FROM step_failures WHERE uid = :uid)
SELECT * FROM (
    SELECT d.name, d.attempt, coalesce(f.started, d.started), d.recorded AS ended, coalesce(f.tries, 0),
           coalesce(f.error, ''), 1, d.kept
    FROM done AS d LEFT JOIN failed AS f ON f.name = d.name AND f.attempt = d.attempt
    UNION ALL
    SELECT f.name, f.attempt, f.started, f.ended, f.tries, f.error, 0, 0
    FROM failed AS f
    WHERE NOT EXISTS (SELECT 1 FROM done AS d WHERE d.name = f.name AND d.attempt = f.attempt)
) WHERE ended >= :since ORDER BY ended, attempt, name LIMIT :limit OFFSET :skip"""


def _too_much(book: _Book) -> bool:
    kept = book.lines - book.dropped
    return kept > MAX_LINES + MAX_LINES // SLACK or book.size > MAX_BYTES + MAX_BYTES // SLACK


def _trim(connection: sqlite3.Connection, uid: bytes, book: _Book) -> None:
    """Drop the oldest lines until the rest is within its bounds. The latest one always stays."""
    kept, size = book.lines - book.dropped, book.size
    upto = book.dropped
    for number, _, bytes_ in connection.execute(_SIZES, (uid, kept - 1)).fetchall():
        if kept <= MAX_LINES and size <= MAX_BYTES:
            break
        upto, kept, size = number, kept - 1, size - bytes_
    _drop(connection, uid, upto, book.size - size)


def _drop(connection: sqlite3.Connection, uid: bytes, upto: int, size: int) -> None:
    """Delete the lines up to a number, which have so many bytes."""
    connection.execute(_DROP, (uid, upto))
    connection.execute(_DROPPED, (uid, upto, size))
