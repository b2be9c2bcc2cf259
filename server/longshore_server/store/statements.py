"""Every statement that writes: many rows at once, so that a batch is a handful of calls into SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

# Values are int, str and bytearray where the number of rows is large: for all else, bytes, bool and None included,
# sqlite3 looks for an adapter first, which takes ten times as long as to bind the value.
ROWS = 48
"""The most rows of one statement. Each number of rows is a statement of its own that stays prepared."""


class ManyRows:
    """One statement for any number of rows; `values` is repeated for each of them."""

    def __init__(self, before: str, values: int | str, after: str = "") -> None:
        """`values`: of one row, or just how many there are."""
        if isinstance(values, int):
            values = "(" + ", ".join("?" * values) + ")"
        # Kept as objects: the connection finds a prepared statement by its text, and a string hashes only once.
        self._texts = [f"{before} {', '.join([values] * rows)} {after}" for rows in range(ROWS + 1)]

    def run(self, connection: sqlite3.Connection, rows: Iterable[Sequence[Any]]) -> int:
        """Write `rows`; the number of rows that it changed."""
        waiting = rows if isinstance(rows, list) else list(rows)
        changed = 0
        for start in range(0, len(waiting), ROWS):
            part = waiting[start : start + ROWS]
            changed += connection.execute(self._texts[len(part)], tuple(chain.from_iterable(part))).rowcount
        return changed


_OPERATIONS = """INSERT INTO operations (uid, id, type, state, revision, sequence, attempt, under_way, begun, created,
                                         updated, started, deadline, owner, capabilities, contract, first_sequence,
                                         crashes, cancel_reason, labels, request_id, parent, retried_from, trace,
                                         deferred, transfers) VALUES"""

INSERT_OPERATIONS = ManyRows(_OPERATIONS, "(" + "?, " * 16 + "1, 0, '', ?, ?, ?, ?, ?, ?, ?)")

# A parameter costs more than a literal, and most starts say nothing of all this.
INSERT_PLAIN_OPERATIONS = ManyRows(_OPERATIONS, "(" + "?, " * 16 + "1, 0, '', '{}', '', '', '', '', 0, 0)")


def _update(assignments: str, columns: int, table: str = "operations") -> ManyRows:
    """Guarded by the revision that the change was decided on. SQLite names the columns of VALUES column1, column2."""
    after = f") AS v WHERE {table}.uid = v.column1 AND {table}.revision = v.column2"
    return ManyRows(f"UPDATE {table} SET {assignments} FROM (VALUES", columns, after)  # noqa: S608 - our own text


def update(table: str, columns: Sequence[str]) -> ManyRows:
    """Sets `columns`: the values of a row are its uid, the revision that the change was decided on, and theirs."""
    assignments = ", ".join(f"{name} = v.column{number}" for number, name in enumerate(columns, 3))
    return _update(assignments, len(columns) + 2, table)


UPDATE_REPORTED = _update(
    "revision = v.column3, sequence = v.column4, progress_sequence = v.column5, updated = v.column6", 6
)
"""The operations that have got progress or output and nothing else."""

UPDATE_COMPLETED = _update(
    """state = v.column3, revision = v.column4, sequence = v.column5, progress_sequence = v.column6,
       updated = v.column7, ended = v.column8, expires = v.column9, under_way = 0""",
    9,
)
"""Those that have completed, besides that."""

UPDATE_OPERATIONS = _update(
    """state = v.column3, revision = v.column4, sequence = v.column5, first_sequence = v.column6,
       progress_sequence = v.column7, attempt = v.column8, crashes = v.column9, under_way = v.column10,
       begun = v.column11, updated = v.column12, started = v.column13, ended = v.column14,
       cancel_requested = v.column15, cancel_reason = v.column16, failures = v.column17, next_attempt = v.column18,
       deferred = v.column19, stop_requested = v.column20, stopped = v.column21, signals = v.column22,
       pending = v.column23, reason = v.column24, expires = v.column25, transfers = v.column26""",
    26,
)
"""All others."""

RENAME_OPERATION = "UPDATE operations SET id = ? WHERE uid = ?"
"""For one that has ended and whose template name goes over to another."""

INSERT_INPUTS = ManyRows("INSERT INTO inputs (uid, body) VALUES", 2)

INSERT_EVENTS = ManyRows("INSERT INTO events (uid, sequence, type, body) VALUES", 4)

INSERT_NAMES = ManyRows(
    "INSERT INTO names (id, uid, digest) VALUES",
    3,
    "ON CONFLICT (id) DO UPDATE SET uid = excluded.uid, digest = excluded.digest",
)

INSERT_LABELS = ManyRows("INSERT INTO labels (key, value, uid) VALUES", 3)

INSERT_REQUESTS = ManyRows("INSERT INTO requests (owner, type, request_id, uid, digest) VALUES", 5)

INSERT_JOURNAL = ManyRows(
    """INSERT INTO journal (uid, kind, name, occurrence, attempt, digest, asked, codec, outcome, started, kept,
                            within, recorded, position) VALUES""",
    14,
)

KEEP_STEPS = """INSERT INTO journal (uid, kind, name, occurrence, attempt, digest, asked, codec, outcome, started, kept,
                                     recorded)
                SELECT ?, kind, name, occurrence, attempt, digest, asked, codec, outcome, started, 1, recorded
                FROM journal WHERE uid = ? AND kind = 'step'"""
"""For an operation that begins with the steps of the one that it repeats."""

TRIM_EVENTS = "DELETE FROM events WHERE uid = ? AND sequence < ? AND sequence IS NOT ?"
