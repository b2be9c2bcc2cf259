"""The store as the rest of the server sees it: submit mutations, read at the published mark."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from longshore_server.clock import Clock
from longshore_server.ids import Uids
from longshore_server.store import logs, outbox, pages, queries, search, transfers
from longshore_server.store.database import Database, DirectoryLock, StoreError, open_reader, open_writer
from longshore_server.store.record import Event, JournalEntry, OperationRecord
from longshore_server.store.writer import Publish, Writer

T = TypeVar("T")

READERS = 2
"""Reading connections, each with a thread: enough that a page of a list does not hold up a snapshot."""


class Store:
    """One data directory: its lock, its writer and its readers."""

    def __init__(
        self, directory: Path, clock: Clock, *, max_events: int, publish: Publish,
        retention: Mapping[str, int] | None = None, emission: outbox.Emission = outbox.SILENCE,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._clock = clock
        self._max_events = max_events
        self._publish = publish
        self._retention = retention or {}
        self._emission = emission
        self._lock: DirectoryLock | None = None
        self._readers: list[Database] = []
        self._connections: list[Database] = []
        self._turn = 0
        self.writer: Writer
        self.page_key = b""
        """What page tokens are sealed with; nobody is told."""

    @property
    def path(self) -> Path:
        """The database file."""
        return self._directory / "longshore.db"

    async def open(self) -> tuple[list[OperationRecord], bytes | None]:
        """Lock, migrate and read what is live. Returns that and the highest uid. Raises `StoreError`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(self._directory)
        except OSError as error:
            raise StoreError(
                f"data: {self._directory} cannot be used: {error.strerror}; give the server a directory that it can "
                "write to with --data"
            ) from None
        database = await open_writer(self.path)
        emitter = None
        if self._emission.sinks:
            latest_event = await database.run(lambda: outbox.highest(database.raw))
            emitter = outbox.Emitter(Uids(self._clock, latest_event), self._emission)
        self.writer = Writer(
            database, self._clock, max_events=self._max_events, retention=self._retention, publish=self._publish,
            emitter=emitter,
        )  # fmt: skip
        for _ in range(READERS):
            self._readers.append(await open_reader(self.path))
        self._connections = [database, *self._readers]
        highest, latest = await self.read(queries.marks)
        self._clock.never_before(latest)
        self.page_key = await self.read(queries.page_key)
        return await self.writer.start(), highest

    async def close(self) -> None:
        """Write what is queued and let go of the directory. Repeatable."""
        if hasattr(self, "writer"):
            await self.writer.close()
        for reader in self._readers:
            await reader.close()
        self._readers.clear()
        self._connections.clear()
        if self._lock is not None:
            self._lock.release()

    async def at_rest(self) -> bool:
        """For tests: return once what the threads are at is done, and whether they were at nothing."""
        busy = [connection for connection in self._connections if connection.busy]
        for connection in busy:
            # They work in order: this comes after what they are at.
            await connection.run(lambda: None)
        return not busy

    async def load(self, uid: bytes) -> OperationRecord | None:
        """The operation with this uid, live or ended."""
        return await self.read(lambda c: queries.load(c, uid))

    async def find(self, id: str) -> bytes | None:
        """The uid that a template name means."""
        return await self.read(lambda c: queries.find(c, id))

    async def input(self, uid: bytes) -> bytes | None:
        """The operation's input, serialized."""
        return await self.read(lambda c: queries.input_of(c, uid))

    async def log(self, uid: bytes, after: int, limit: int) -> list[Event]:
        """At most `limit` events after a sequence, in order."""
        return await self.read(lambda c: queries.log(c, uid, after, limit))

    async def journal(self, uid: bytes) -> list[JournalEntry]:
        """What the operation's handler has recorded."""
        return await self.read(lambda c: queries.journal(c, uid))

    async def page(
        self, conditions: Sequence[search.Condition], after: bytes | None, size: int, *, ascending: bool = False,
        scope: pages.Scope | None = None,
    ) -> tuple[list[OperationRecord], bytes | None]:  # fmt: skip
        """One page of operations, and the uid to go on after; see `pages.page`."""
        return await self.read(lambda c: pages.page(c, conditions, after, size, ascending=ascending, scope=scope))

    async def count(self, conditions: Sequence[search.Condition], *, scope: pages.Scope | None = None) -> pages.Count:
        """How many operations there are; see `pages.count`."""
        return await self.read(lambda c: pages.count(c, conditions, scope=scope))

    async def contracts(self, numbers: Collection[int]) -> dict[int, bytes]:
        """The descriptors of stored contracts, serialized, by number."""
        return await self.read(lambda c: queries.contracts(c, numbers))

    async def waiting_signals(self, uid: bytes, name: str, after: int, limit: int) -> list[queries.StoredSignal]:
        """Some of the operation's signals that are not consumed; see `queries.waiting_signals`."""
        return await self.read(lambda c: queries.waiting_signals(c, uid, name, after, limit))

    async def sent_signals(self) -> dict[bytes, list[tuple[str, str]]]:
        """Which signals operations that have not ended were sent, by uid; see `queries.sent_signals`."""
        return await self.read(queries.sent_signals)

    async def signal(self, uid: bytes, number: int) -> queries.StoredSignal | None:
        """One signal of the operation, consumed or not."""
        return await self.read(lambda c: queries.signal(c, uid, number))

    async def pending_uploads(self) -> list[bytes]:
        """The operations whose uploads have not come to their end."""
        return await self.read(transfers.pending)

    async def garbage(self, after: int, limit: int) -> list[transfers.Garbage]:
        """What uploads of deleted operations may have left in stores, in order."""
        return await self.read(lambda c: transfers.garbage(c, after, limit))

    async def marks(self) -> dict[str, str]:
        """What the places bear in which stores keep their objects, by store."""
        return await self.read(transfers.marks)

    async def next_expiry(self) -> int | None:
        """When the next retention is over; None: nothing expires."""
        return await self.read(queries.next_expiry)

    async def oldest_line(self) -> int | None:
        """The time of the oldest line of all logs; None: there is none."""
        return await self.read(logs.oldest)

    async def lines(self, uid: bytes, level: int, after: int, limit: int) -> logs.LogPage:
        """Some of what code has logged for an operation or job; see `logs.read`."""
        return await self.read(lambda c: logs.read(c, uid, level, after, limit))

    async def steps(self, uid: bytes, since: int, skip: int, limit: int) -> list[logs.StepOutcome]:
        """Some of the outcomes of an operation's or job's steps; see `logs.steps`."""
        return await self.read(lambda c: logs.steps(c, uid, since, skip, limit))

    async def past(self, within: int) -> queries.Past:
        """How the servers before this one ended; soon is within so many microseconds."""
        return await self.read(lambda c: queries.past(c, within))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` in one read transaction, and answer once everything that it can have seen is published.

        A commit is on the disk a moment before it is visible to watchers: without the wait a list could show an end
        that Get and Watch do not know of yet.
        """
        self._turn = (self._turn + 1) % len(self._readers)
        reader = self._readers[self._turn]

        def run() -> tuple[T, int]:
            connection = reader.raw
            connection.execute("BEGIN")
            try:
                result = query(connection)
                return result, self.writer.committing
            finally:
                connection.execute("COMMIT")

        result, batch = await reader.run(run)
        await self.writer.until_published(batch)
        return result
