"""Which instances and dead letters have been kept for long enough: what the sweeper asks.

An instance is kept for a time from when it is quiet: terminated, or a debounce that has collected nothing, has no dead
letter and is not paused. `quiet` is a column that the schema makes of the others. Whatever else there is of an
instance lives, however old it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from longshore_server.instance_lifecycle import Kind

Retention = Mapping[tuple[Kind, str], int]
"""For how many microseconds it is kept, by kind and definition; what is not here is kept for ever."""


def expired(
    connection: sqlite3.Connection, kind: Kind, definition: str, before: int, limit: int
) -> Iterator[tuple[bytes, int]]:
    """At most `limit` instances of a definition that are quiet since `before` or earlier, the longest first, each with
    the number of its rows, without the ids that it remembers."""
    quiet = connection.execute(
        "SELECT uid FROM instances WHERE kind = ? AND definition = ? AND quiet <= ? ORDER BY quiet LIMIT ?",
        (kind, definition, before, limit),
    )
    for (uid,) in quiet.fetchall():
        (size,) = connection.execute(
            "SELECT 1 + coalesce((SELECT lines - dropped FROM logbooks WHERE uid = ?), 0)", (uid,)
        ).fetchone()
        yield bytes(uid), int(size)


def buried(connection: sqlite3.Connection, definition: str, before: int, limit: int) -> list[tuple[bytes, int]]:
    """At most `limit` dead letters of a debounce that are ones since `before` or earlier, by their instances and
    numbers, the oldest first."""
    rows = connection.execute(
        "SELECT uid, number FROM instance_entries WHERE definition = ? AND buried <= ? ORDER BY buried LIMIT ?",
        (definition, before, limit),
    )
    return [(bytes(uid), int(number)) for uid, number in rows.fetchall()]


def next_expiry(connection: sqlite3.Connection, retention: Retention) -> int | None:
    """When the next instance or dead letter has been kept for long enough; None: nothing is kept."""
    return min(_expiries(connection, retention), default=None)


def _expiries(connection: sqlite3.Connection, retention: Retention) -> Iterator[int]:
    for (kind, definition), kept in retention.items():
        (quiet,) = connection.execute(
            "SELECT min(quiet) FROM instances WHERE kind = ? AND definition = ? AND quiet IS NOT NULL",
            (kind, definition),
        ).fetchone()
        (buried,) = (
            connection.execute(
                "SELECT min(buried) FROM instance_entries WHERE definition = ? AND buried IS NOT NULL", (definition,)
            ).fetchone()
            if kind is Kind.DEBOUNCE
            else (None,)
        )
        yield from (since + kept for since in (quiet, buried) if since is not None)
