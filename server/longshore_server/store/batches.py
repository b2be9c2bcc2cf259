"""What the database's thread does with a batch of mutations: one transaction, of which all is written or nothing.

    BEGIN -> apply each -> flush -> COMMIT -> adopt the heads that are visible from now on

An item that breaks its batch is refused alone: the others are written without it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from longshore_server.clock import Clock
from longshore_server.errors import Reason, ServiceError
from longshore_server.histogram import Histogram
from longshore_server.store.database import Database
from longshore_server.store.ledger import Commit, Ledger, Published
from longshore_server.store.mutations import Accept, Mutation
from longshore_server.store.mutations.job_end import reach
from longshore_server.store.outbox import Emitter
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction

log = logging.getLogger(__name__)

Written = tuple[list[Any], Commit]
"""What came of each mutation, and what all of them did."""


class CommitError(Exception):
    """COMMIT itself failed: what is on the disk is unknown, so the writer stops."""


class Batches:
    """Writes batches, and keeps the heads of what lives between them."""

    def __init__(
        self, database: Database, clock: Clock, *, max_events: int, retention: Mapping[str, int],
        emitter: Emitter | None,
    ) -> None:  # fmt: skip
        self._database = database
        self._clock = clock
        self._max_events = max_events
        self._retention = retention
        self._emitter = emitter
        self._heads: dict[bytes, OperationRecord] = {}
        self._others: dict[type[Ledger], dict[bytes, Any]] = {}
        self.number = 0
        """Of the latest batch whose COMMIT has begun."""
        self.commits = Histogram()
        """How long each COMMIT took, in seconds."""

    def open(self, live: Iterable[OperationRecord]) -> None:
        """Begin with what lives."""
        self._heads = {record.uid: record for record in live}

    def write(self, items: Sequence[Mutation[Any]]) -> Written:
        """Apply mutations in one transaction: what each gave, or the `ServiceError` that refused it, and what was done.

        Raises `CommitError`, and what SQLite has raised where nothing is stored; see `is_final` and `may_pass`.
        """
        connection = self._database.raw
        now = self._clock.now()
        connection.execute("BEGIN IMMEDIATE")
        try:
            tx = self._transaction(self._heads, now, self._others)
            starts = [item for item in items if type(item) is Accept]
            if len(starts) > 1:
                keys = [item.request_key for item in starts]
                tx.prefetch([k for k in keys if k is not None], [s.record.id for s in starts if s.template])
            outcomes = [_apply(item, tx) for item in items]
            tx.flush()
            published = tx.published()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the transaction must not stay open
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if _is_one_of(_DISK, error) or len(items) == 1:
                return self._give_up(error, items)
            return self._replay(items, now)
        self._commit(connection)
        self._adopt(published)
        return outcomes, published

    def _give_up(self, error: BaseException, items: Sequence[Mutation[Any]]) -> Written:
        if _is_one_of(_DISK, error) or not isinstance(error, Exception):
            raise error
        log.error("%s was not written", type(items[0]).__name__, exc_info=error)
        return [ServiceError(Reason.INTERNAL, Reason.INTERNAL.meaning)], nothing()

    def _replay(self, items: Sequence[Mutation[Any]], now: int) -> Written:
        """One item broke the batch: write the others, each under a savepoint, and refuse only that one."""
        connection = self._database.raw
        heads = dict(self._heads)
        others = {kind: dict(kept) for kind, kept in self._others.items()}
        outcomes: list[Any] = []
        published = nothing()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for item in items:
                connection.execute("SAVEPOINT item")
                tx = self._transaction(heads, now, others)
                try:
                    outcome = _apply(item, tx)
                    tx.flush()
                except Exception as error:
                    if _is_one_of(_DISK, error):
                        raise
                    connection.execute("ROLLBACK TO item")
                    connection.execute("RELEASE item")
                    log.error("%s was not written", type(item).__name__, exc_info=error)
                    outcomes.append(ServiceError(Reason.INTERNAL, Reason.INTERNAL.meaning))
                    continue
                connection.execute("RELEASE item")
                outcomes.append(outcome)
                done = tx.published()
                _merge(published.operations, heads, done.operations)
                for kind, changes in done.others.items():
                    _merge(published.others.setdefault(kind, {}), others.setdefault(kind, {}), changes)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._commit(connection)
        self._adopt(published)
        return outcomes, published

    def _transaction(
        self, heads: Mapping[bytes, OperationRecord], now: int, others: Mapping[type[Ledger], Mapping[bytes, Any]]
    ) -> Transaction:
        return Transaction(
            self._database.raw, heads, now, self._max_events, self._retention, others, reach, self._emitter
        )

    def _commit(self, connection: sqlite3.Connection) -> None:
        self.number += 1
        begin = perf_counter()
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if _is_one_of(_FULL, error) and not connection.in_transaction:
                # In WAL mode this is where a full disk shows. The end of the transaction comes last and found no room:
                # SQLite has taken all of it back, and so would a recovery.
                raise
            raise CommitError(str(error)) from error
        self.commits.observe(perf_counter() - begin)

    def _adopt(self, published: Commit) -> None:
        for uid, (record, _) in published.operations.items():
            if record is None or record.terminal:
                self._heads.pop(uid, None)
            else:
                self._heads[uid] = record
        for kind, changes in published.others.items():
            kept = self._others.setdefault(kind, {})
            for uid, (record, _) in changes.items():
                if record is None or not record.resident:
                    kept.pop(uid, None)
                else:
                    kept[uid] = record


def nothing() -> Commit:
    """What a transaction does that does nothing."""
    return Commit({}, {})


def _merge(published: dict[bytes, Published], heads: dict[bytes, Any], changes: dict[bytes, Published]) -> None:
    """Add what one item did to what the batch has done. Later items see all of it, the ended ones too."""
    for uid, (record, events) in changes.items():
        before = published.get(uid)
        published[uid] = Published(record, [*(before.events if before else []), *events])
        if record is not None:
            heads[uid] = record
        else:
            heads.pop(uid, None)


def _apply(item: Mutation[Any], tx: Transaction) -> Any:
    """The item's outcome, or the refusal that it raised before it changed anything."""
    try:
        return item.apply(tx)
    except ServiceError as refusal:
        return refusal


_PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN})
"""Trying again later makes sense: a full disk is emptied, a network disk comes back, a backup lets go of its lock, and
files are closed that left no room for another one."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""The file is no whole database any more: what was written into it next would only make that worse."""
_DISK = _PASSING | _DAMAGE
"""The disk, and not the item, is at fault."""
_FULL = frozenset({sqlite3.SQLITE_FULL})


def is_final(error: Exception) -> bool:
    """Whether nothing must be written after it."""
    return isinstance(error, CommitError) or _is_one_of(_DAMAGE, error)


def may_pass(error: Exception) -> bool:
    """Whether the same batch may be written later."""
    return _is_one_of(_PASSING, error)


def _is_one_of(codes: frozenset[int], error: BaseException) -> bool:
    """Whether SQLite says one of these. Extended codes keep the primary one in the low byte."""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in codes
