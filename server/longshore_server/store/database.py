"""The SQLite file: opening it, locking it, bringing its schema up to date.

One directory holds everything: `longshore.db` (with its `-wal` and `-shm`) and `longshore.lock`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sqlite3
from collections.abc import Callable
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION_ID = 0x4C4F4E47
"""`PRAGMA application_id` of our files ("LONG"), so that another program's database is not taken for ours."""
BUSY_TIMEOUT = 5000
"""Milliseconds that a statement waits for another program to let go of the file."""

outlives_power: ContextVar[bool] = ContextVar("outlives_power", default=True)
"""Whether what is committed survives the loss of power. Tests do without: no crash of a process loses anything."""


class StoreError(Exception):
    """The store cannot be opened; the message says why and what to do."""


class Database(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread: one hop a batch instead of one a statement."""

    _stopped: asyncio.Future[None] | None = None
    busy = 0
    """How many functions wait for their end in the thread."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the connection's thread and return what it returns. A cancelled await still runs it."""
        self.busy += 1
        try:
            # aiosqlite has no public way to do this; tests/server/test_store.py fails when the private one changes.
            result: T = await self._execute(function, *args, **kwargs)  # type: ignore[no-untyped-call]
            return result
        finally:
            self.busy -= 1

    def stop(self) -> asyncio.Future[None] | None:
        """End the thread. Done with what is returned."""
        self._stopped = super().stop()
        return self._stopped

    async def close(self) -> None:
        """Close the connection and end the thread, also where no connection was made: aiosqlite itself does not wait
        for the thread then, which would answer to an event loop that is closed."""
        await super().close()
        if self._stopped is not None:
            await self._stopped

    @property
    def raw(self) -> sqlite3.Connection:
        """The sqlite3 connection, for functions that `run` calls in its thread and for nothing else."""
        return self._conn


class DirectoryLock:
    """Shuts a second server out of a directory, for as long as this process lives (flock).

    Args:
        directory: where the lock is.
        what: what it shuts, for people. Default: the data directory.
        option: what gives a server another one.

    Raises `StoreError` when another server has it.
    """

    def __init__(self, directory: Path, what: str = "", option: str = "--data") -> None:
        path = directory / "longshore.lock"
        self._file: IO[str] = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StoreError(
                f"{what or f'data directory {directory}'} is in use by another server (pid {holder}): "
                f"stop that one, or give this one its own directory with {option}"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let another server in. Repeatable."""
        self._file.close()


def _connect(path: Path, *, read_only: bool, synchronous: str = "FULL") -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    # The statements repeat and are few: a larger cache keeps all of them prepared.
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=512)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    else:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the write-ahead log at every commit: what is acknowledged survives power loss.
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        # Not more: a commit that has sorted the pages of an index walks the whole cache (SQLite's balance numbers one
        # beyond the end for a moment), 0.8 ms with 64 MiB; and the system keeps the file's pages anyway.
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


async def open_writer(path: Path) -> Database:
    """The one connection that writes, with the schema up to date. Raises `StoreError`."""
    synchronous = "FULL" if outlives_power.get() else "OFF"
    database = Database(lambda: _connect(path, read_only=False, synchronous=synchronous), 64)
    try:
        await database
        await database.run(lambda: migrate(database.raw, path))
        await database.run(lambda: renew_log(database.raw, path))
    except sqlite3.DatabaseError as error:
        await database.close()
        raise StoreError(f"{path}: {error}. Is it a Longshore database, on a disk that works?") from error
    except BaseException:
        await database.close()
        raise
    _sync_directory(path.parent)
    return database


async def open_reader(path: Path) -> Database:
    """A connection that only reads."""
    database = Database(lambda: _connect(path, read_only=True), 64)
    await database
    return database


def migrations() -> list[tuple[int, str]]:
    """The schema's steps: (version, SQL) in order. Versions count from 1 without gaps."""
    found = []
    for file in (resources.files(__package__) / "migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", file.name)
        if match:
            found.append((int(match[1]), file.read_text("utf-8")))
    found.sort()
    return found


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema forward, each step in a transaction of its own. Refuses what it does not know."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application != APPLICATION_ID) if tables else (version != 0):
        raise StoreError(f"{path} is another program's database: give Longshore its own directory with --data")
    steps = migrations()
    newest = steps[-1][0]
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer Longshore (schema {version}, this one knows {newest}): "
            "start that version or a later one; a schema never goes back"
        )
    for number, sql in steps:
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA application_id = {APPLICATION_ID};"
                f"\nPRAGMA user_version = {number};\nCOMMIT;"
            )


def renew_log(connection: sqlite3.Connection, path: Path) -> None:
    """Write the log that the last server left behind into the database, and empty it.

    It may hold pages that a failed sync has dropped: readers find them in the page cache, later syncs succeed without
    them. Written anew to the database, all that is visible is durable again. Raises `StoreError` when another program
    keeps it from that.
    """
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        # Also where only the emptying was kept from happening: what is added to such a log is lost with it.
        raise StoreError(
            f"{path} is in use by another program, a backup or a shell that was left open: the log of the last server "
            "cannot be written into it before that program has let go of it; end it, then start again"
        )


def _sync_directory(directory: Path) -> None:
    """Make the directory's entries durable: SQLite syncs its files, and a new file is lost without its name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
