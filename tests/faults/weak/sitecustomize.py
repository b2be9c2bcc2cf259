"""Makes a server's store weaker than it says, to prove that the tests of its strength can fail.

Only a test puts this folder on a server's path. `FAULTS_WEAK` says how: `NORMAL` and `OFF` are SQLite's own words for
syncing less; `LATE` puts every COMMIT off until the next transaction begins, so that answers come before it, and
`LATER` until the fiftieth does; `BYTES` does not sync the bytes of uploads.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

WEAK = os.environ["FAULTS_WEAK"]


class WeakConnection(sqlite3.Connection):
    """Does not do all that it is told."""

    late = 0

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Weaken some statements."""
        if WEAK in ("NORMAL", "OFF") and sql == "PRAGMA synchronous = FULL":
            sql = f"PRAGMA synchronous = {WEAK}"
        if WEAK in ("LATE", "LATER"):
            if self.late and sql.startswith("BEGIN"):
                if self.late < (1 if WEAK == "LATE" else 50):
                    return super().execute("SELECT 1")
                super().execute("COMMIT")
                self.late = 0
            # Readers commit too, but only the writer has something to lose.
            if sql == "COMMIT" and not super().execute("PRAGMA query_only").fetchone()[0]:
                self.late += 1
                return super().execute("SELECT 1")
        return super().execute(sql, *arguments)


connect = sqlite3.connect


def weak_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    """`sqlite3.connect`, with a weaker connection."""
    return connect(*arguments, factory=WeakConnection, **options)


if WEAK == "BYTES":
    setattr(os, "fdatasync", lambda _: None)  # noqa: B010 - as below
setattr(sqlite3, "connect", weak_connect)  # noqa: B010 - mypy would compare the two signatures
