"""The places of a key: how many of its jobs have them or wait for one, counted, and which ones those are."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from longshore_server.job_lifecycle import Stand

_OLDEST_QUEUED = "SELECT min(uid) FROM jobs WHERE queue = ? AND key = ? AND key <> '' AND stand >= 1"
_OF_KEY = "FROM jobs WHERE queue = ? AND key = ? AND key <> '' AND ended IS NULL AND deferred = 0"
_OLDEST_BEGUN = f"SELECT min(uid) FILTER (WHERE state = 2), min(uid), max(state = 4) {_OF_KEY} AND stand = 0"
_BLOCKED = f"SELECT uid {_OF_KEY} AND stand = 2 ORDER BY priority DESC, uid LIMIT ?"
_WITH_ROOM = """SELECT key FROM job_keys k WHERE queue = ?1 AND stand = 2 AND (
                    SELECT ifnull(sum(jobs), 0) FROM job_keys WHERE queue = ?1 AND key = k.key AND stand <= 1) < ?2"""
_COUNT_UP = """INSERT INTO job_keys (queue, key, stand, jobs) VALUES (?, ?, ?, ?)
               ON CONFLICT (queue, key, stand) DO UPDATE SET jobs = jobs + excluded.jobs"""
_COUNT_DOWN = "UPDATE job_keys SET jobs = jobs + ?4 WHERE queue = ?1 AND key = ?2 AND stand = ?3"
_COUNTED_OUT = "DELETE FROM job_keys WHERE queue = ?1 AND key = ?2 AND stand = ?3 AND jobs = 0"


class KeyCount(NamedTuple):
    """How many jobs of a key have not ended: those that have begun, and those that wait."""

    begun: int
    ready: int
    waiting: int

    @property
    def occupied(self) -> int:
        """How many places are taken."""
        return self.begun + self.ready

    @property
    def queued(self) -> int:
        """How many have not begun."""
        return self.ready + self.waiting


class KeyHolders(NamedTuple):
    """Jobs of a key, the oldest of each kind."""

    queued: bytes | None
    active: bytes | None
    begun: bytes | None
    """It may be active, be cancelled, or be stale."""
    stale: bool
    """Whether one is."""


def count(connection: sqlite3.Connection, queue: str, key: str) -> KeyCount:
    """How many jobs of a key there are."""
    rows = connection.execute("SELECT stand, jobs FROM job_keys WHERE queue = ? AND key = ?", (queue, key))
    by_stand = dict(rows.fetchall())
    waiting = by_stand.get(Stand.BLOCKED, 0) + by_stand.get(Stand.DELAYED, 0)
    return KeyCount(by_stand.get(Stand.NONE, 0), by_stand.get(Stand.READY, 0), waiting)


def holders(connection: sqlite3.Connection, queue: str, key: str) -> KeyHolders:
    """Which jobs of a key there are."""
    (queued,) = connection.execute(_OLDEST_QUEUED, (queue, key)).fetchone()
    active, begun, stale = connection.execute(_OLDEST_BEGUN, (queue, key)).fetchone()
    return KeyHolders(queued, active, begun, bool(stale))


def blocked(connection: sqlite3.Connection, queue: str, key: str, limit: int) -> list[bytes]:
    """The next jobs that wait for a place of a key."""
    return [bytes(uid) for (uid,) in connection.execute(_BLOCKED, (queue, key, limit))]


def with_room(connection: sqlite3.Connection, queue: str, slots: int) -> list[str]:
    """The keys for which jobs wait although not all of their `slots` are taken."""
    return [key for (key,) in connection.execute(_WITH_ROOM, (queue, slots))]


def note(connection: sqlite3.Connection, changes: Mapping[tuple[str, str, int], int]) -> None:
    """Count how many more, or fewer, there are than before, by queue, key and stand."""
    more = [(*place, step) for place, step in changes.items() if step > 0]
    fewer = [(*place, step) for place, step in changes.items() if step < 0]
    connection.executemany(_COUNT_UP, more)
    connection.executemany(_COUNT_DOWN, fewer)
    connection.executemany(_COUNTED_OUT, [place[:3] for place in fewer])
