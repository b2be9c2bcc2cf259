"""The ids of generations of instances that are over, which nobody finds any more: deleted, a bounded number at a time.

A debounce remembers those of a whole batch, which may be a million. The transaction that ends such a generation deletes
some of them; which others are left is kept in rows, and the sweeper's transactions go on with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from longshore_server.store.instances import KEPT_IDS
from longshore_server.store.ledger import Ledger, Published

ROOM = 2 * KEPT_IDS
"""How many one transaction deletes: all that most instances have of both uses. Callers' changes wait behind it."""

_DELETE = """DELETE FROM instance_ids WHERE uid = ?1 AND generation = ?2 AND (use, place) IN (
                 SELECT use, place FROM instance_ids WHERE uid = ?1 AND generation = ?2 LIMIT ?3)"""
_FIRST = "SELECT uid, generation FROM instance_leftovers LIMIT 1"


class Leftovers(Ledger):
    """What one transaction deletes of them, and leaves."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._room = ROOM
        self._left: set[bytes] = set()

    def add(self, uid: bytes, generation: int) -> None:
        """A generation is over."""
        self._delete(uid, generation)
        if not self._room:
            self.connection.execute("INSERT INTO instance_leftovers (uid, generation) VALUES (?, ?)", (uid, generation))
            self._left.add(uid)

    def sweep(self) -> None:
        """Go on with what earlier transactions have left."""
        while self._room and (found := self.connection.execute(_FIRST).fetchone()):
            self._delete(*found)
            if self._room:
                self.connection.execute("DELETE FROM instance_leftovers WHERE uid = ? AND generation = ?", found)

    def flush(self) -> None:
        pass  # all of it is written at once

    def published(self) -> dict[bytes, Published]:
        """Of whom something was left."""
        return {uid: Published(None, []) for uid in self._left}

    def _delete(self, uid: bytes, generation: int) -> None:
        self._room -= self.connection.execute(_DELETE, (uid, generation, self._room)).rowcount


def pending(connection: sqlite3.Connection) -> bool:
    """Whether something is left."""
    return connection.execute(_FIRST).fetchone() is not None
