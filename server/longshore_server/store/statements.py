"""Every statement that writes: many rows at once, so that a batch is a handful of calls into SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

ROWS = 48
"""The most rows of one statement. Each number of rows is a statement of its own that stays prepared."""


class ManyRows:
    """One statement for any number of rows; `values` is repeated for each of them."""

    def __init__(self, before: str, columns: int, after: str = "") -> None:
        values = "(" + ", ".join("?" * columns) + ")"
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


INSERT_OPERATIONS = ManyRows(
    """INSERT INTO operations (uid, id, type, state, revision, sequence, first_sequence, progress_sequence, attempt,
                               crashes, under_way, begun, created, updated, started, ended, deadline, cancel_requested,
                               cancel_reason, labels, owner, request_id, parent, capabilities, contract, retried_from,
                               trace, deferred) VALUES""",
    28,
)

# Guarded by the revision that the change was decided on. SQLite names the columns of VALUES column1, column2, ...
UPDATE_OPERATIONS = ManyRows(
    """UPDATE operations
          SET state = v.column3, revision = v.column4, sequence = v.column5, first_sequence = v.column6,
              progress_sequence = v.column7, attempt = v.column8, crashes = v.column9, under_way = v.column10,
              begun = v.column11, updated = v.column12, started = v.column13, ended = v.column14,
              cancel_requested = v.column15, cancel_reason = v.column16, failures = v.column17,
              next_attempt = v.column18, deferred = v.column19, stop_requested = v.column20, stopped = v.column21,
              signals = v.column22, pending = v.column23, reason = v.column24, expires = v.column25
         FROM (VALUES""",
    25,
    ") AS v WHERE operations.uid = v.column1 AND operations.revision = v.column2",
)

INSERT_INPUTS = ManyRows("INSERT INTO inputs (uid, body) VALUES", 2)

INSERT_EVENTS = ManyRows("INSERT INTO events (uid, sequence, type, body) VALUES", 4)

INSERT_NAMES = ManyRows(
    "INSERT INTO names (id, uid, digest) VALUES",
    3,
    "ON CONFLICT (id) DO UPDATE SET uid = excluded.uid, digest = excluded.digest",
)

INSERT_REQUESTS = ManyRows("INSERT INTO requests (owner, type, request_id, uid, digest) VALUES", 5)

INSERT_JOURNAL = ManyRows(
    "INSERT INTO journal (uid, kind, name, occurrence, attempt, digest, asked, codec, outcome, recorded) VALUES", 10
)

TRIM_EVENTS = "DELETE FROM events WHERE uid = ? AND sequence < ? AND sequence IS NOT ?"
