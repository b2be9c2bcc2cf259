"""What the end or the cancel of a job brings with it, a bounded number of changes in one transaction.

Thousands may end with one job, or be cancelled with one operation. The transaction that ends it goes on to them until
it has changed enough; what is left then is kept in rows, and carried out by the transactions that follow.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from longshore_server.store.ledger import Ledger, Published


class Sequel(NamedTuple):
    """Something that is still to be done."""

    uid: bytes
    """The job that has ended, with what is attached to it; or the operation or job whose children are cancelled."""
    reach: bool
    """Whether it is the children."""
    reason: str = ""
    """Why those are cancelled."""
    after: bytes = b""
    """Where among them to go on."""


class Sequels(Ledger):
    """What is still to be done in one transaction, in order."""

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        super().__init__(connection, heads, now)
        self._waiting: deque[Sequel] = deque()
        self._postponed: set[bytes] = set()
        self.busy = False
        """Whether they are being carried out: what is added meanwhile is seen to by who does that."""

    def add(self, sequel: Sequel) -> None:
        """Do this, too, after all that waits."""
        self._waiting.append(sequel)

    def next(self) -> Sequel | None:
        """The next one, which then waits no more."""
        return self._waiting.popleft() if self._waiting else None

    def postpone(self) -> None:
        """Leave what waits to the transactions that follow."""
        self.connection.executemany(
            "INSERT INTO job_sequels (uid, reach, reason, after) VALUES (?, ?, ?, ?)", self._waiting
        )
        self._postponed.update(sequel.uid for sequel in self._waiting)
        self._waiting.clear()

    def resume(self, number: int) -> None:
        """Let one that was postponed wait again."""
        uid, reach, reason, after = self.connection.execute(
            "DELETE FROM job_sequels WHERE number = ? RETURNING uid, reach, reason, after", (number,)
        ).fetchone()
        self.add(Sequel(bytes(uid), bool(reach), reason, bytes(after)))

    def postponed(self, limit: int, skip: Collection[object]) -> list[int]:
        """The numbers of those that were postponed, the oldest first. `skip`: but not these."""
        rows = self.connection.execute("SELECT number FROM job_sequels ORDER BY number LIMIT ?", (limit + len(skip),))
        return [number for (number,) in rows if number not in skip][:limit]

    def pending(self, uid: bytes, *, reach: bool) -> bool:
        """Whether something was postponed that comes of the end of a job: for what is attached to it, or its reach."""
        row = self.connection.execute("SELECT 1 FROM job_sequels WHERE uid = ? AND reach = ?", (uid, reach)).fetchone()
        return row is not None

    def flush(self) -> None:
        pass  # what is to be kept was written when it was postponed

    def published(self) -> dict[bytes, Published]:
        return {uid: Published(None, []) for uid in self._postponed}
