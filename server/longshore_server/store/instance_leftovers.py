"""What is left of instances that nobody finds any more, deleted a bounded number at a time: the ids of generations that
are over, and dead letters.

A debounce remembers the ids of a whole batch, which may be a million, and may keep very many dead letters. The
transaction that ends a generation, or clears an instance, deletes some of them; which others are left is kept in rows,
and the sweeper's transactions go on with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from longshore_server.store.instances import KEPT_IDS, InstanceRecord
from longshore_server.store.ledger import Ledger, Published

ROOM = 2 * KEPT_IDS
"""How many one transaction deletes: all that most instances have of both uses. Callers' changes wait behind it."""
LETTERS = 256
"""As many dead letters, each of which may be as large as a state."""

_DELETE = """DELETE FROM instance_ids WHERE uid = ?1 AND generation = ?2 AND (use, place) IN (
                 SELECT use, place FROM instance_ids WHERE uid = ?1 AND generation = ?2 LIMIT ?3)"""
_FIRST = "SELECT uid, generation FROM instance_leftovers LIMIT 1"
_DELETE_LETTERS = """DELETE FROM instance_entries WHERE uid = ?1 AND number IN (
                         SELECT number FROM instance_entries WHERE uid = ?1 AND number BETWEEN -?2 AND -1 LIMIT ?3)"""
_FIRST_LETTER = "SELECT uid, number FROM instance_letters_left LIMIT 1"


class Leftovers(Ledger):
    """What one transaction deletes of them, and leaves."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._room = ROOM
        self._letters = LETTERS
        self._left: set[bytes] = set()

    def add(self, uid: bytes, generation: int) -> None:
        """A generation is over."""
        self._delete(uid, generation)
        if not self._room:
            self.connection.execute("INSERT INTO instance_leftovers (uid, generation) VALUES (?, ?)", (uid, generation))
            self._left.add(uid)

    def bury(self, record: InstanceRecord, kept: int | None = None) -> int:
        """No dead letter of an instance is kept any more. Returns how many events they held.

        `kept`: the entry whose handler runs, which may yet become one; None: none runs.
        """
        if not record.dead:
            return 0
        uid = record.uid
        # A later one has a greater number, as what waits is handled in order: up to the greatest of now they go.
        held, number = self.connection.execute(
            "SELECT sum(events), -min(number) FROM instance_entries WHERE uid = ? AND number < ?",
            (uid, -self._left_to(uid)),
        ).fetchone()
        if kept is not None:
            # What is greater than what is kept goes at once. Mostly that is one at most, whose handler ran when those
            # before it were resumed; where a resume of very many has not come to its end it is all the rest.
            self.connection.execute("DELETE FROM instance_entries WHERE uid = ? AND number < ?", (uid, -kept))
            number = kept - 1
        self._delete_letters(uid, number)
        if not self._letters:
            self.connection.execute("INSERT OR REPLACE INTO instance_letters_left VALUES (?, ?)", (uid, number))
            self._left.add(uid)
        return int(held)

    def has(self, uid: bytes, number: int) -> bool:
        """Whether a dead letter, which has this number in the store, is one of nobody."""
        return number >= -self._left_to(uid)

    def sweep(self) -> None:
        """Go on with what earlier transactions have left."""
        while self._room and (found := self.connection.execute(_FIRST).fetchone()):
            self._delete(*found)
            if self._room:
                self.connection.execute("DELETE FROM instance_leftovers WHERE uid = ? AND generation = ?", found)
        while self._letters and (found := self.connection.execute(_FIRST_LETTER).fetchone()):
            self._delete_letters(*found)
            if self._letters:
                self.connection.execute("DELETE FROM instance_letters_left WHERE uid = ? AND number = ?", found)

    def flush(self) -> None:
        pass  # all of it is written at once

    def published(self) -> dict[bytes, Published]:
        """Of whom something was left."""
        return {uid: Published(None, []) for uid in self._left}

    def _delete(self, uid: bytes, generation: int) -> None:
        self._room -= self.connection.execute(_DELETE, (uid, generation, self._room)).rowcount

    def _delete_letters(self, uid: bytes, number: int) -> None:
        self._letters -= self.connection.execute(_DELETE_LETTERS, (uid, number, self._letters)).rowcount

    def _left_to(self, uid: bytes) -> int:
        """Up to which number the dead letters of an instance are nobody's."""
        row = self.connection.execute("SELECT number FROM instance_letters_left WHERE uid = ?", (uid,)).fetchone()
        return 0 if row is None else int(row[0])


def pending(connection: sqlite3.Connection) -> bool:
    """Whether something is left."""
    return any(connection.execute(first).fetchone() is not None for first in (_FIRST, _FIRST_LETTER))
