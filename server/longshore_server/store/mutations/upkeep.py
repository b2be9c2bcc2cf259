"""The server's own bookkeeping: boots, retention, stored contracts; and the deletion of one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Move
from longshore_server.store import instance_retention, logs, queries
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instance_leftovers import Leftovers
from longshore_server.store.instance_retention import Retention
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import purge
from longshore_server.store.transaction import Transaction

SWEEP_OPERATIONS = 256
SWEEP_INSTANCES = 256
SWEEP_EVENTS = 4096
"""The most that one transaction of the sweeper deletes, with lines of logs counted as events: callers' changes wait
behind it."""


@dataclass(slots=True)
class Delete(Mutation[None]):
    """Remove an ended operation with its log, input, journal and keys."""

    uid: bytes

    def apply(self, tx: Transaction) -> None:
        head = tx.head(self.uid)
        # An end of this very batch counts as none: its event has to reach the watchers first.
        if not head.terminal or tx.fresh(self.uid):
            raise ServiceError(
                Reason.OPERATION_RUNNING,
                f"{head.name} is {head.state.name}: cancel it or wait for its end before deleting it.",
                resource=head.name,
            )
        tx.delete(head.uid)


@dataclass(slots=True)
class Sweep(Mutation[int]):
    """Delete operations whose retention is over, a bounded number of them, or else lines that were logged at
    `logged_before` or earlier (None: lines stay as long as their owners). Returns how many operations; 0: none was due.
    """

    logged_before: int | None = None

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> int:
        deleted = events = 0
        for uid, size in queries.expired(tx.connection, tx.now, SWEEP_OPERATIONS):
            events += size
            if deleted and events > SWEEP_EVENTS:
                break
            if tx.fresh(uid):
                # It has just ended: its event has to reach the watchers first.
                continue
            tx.delete(uid)
            deleted += 1
        if self.logged_before is not None and not deleted:
            tx.flush()  # lines of this batch are rows first
            logs.sweep(tx.connection, self.logged_before, SWEEP_OPERATIONS, SWEEP_EVENTS)
        return deleted


@dataclass(slots=True)
class SweepInstances(Mutation[int]):
    """Delete instances, and dead letters of debounces, that have been kept for long enough: a bounded number of them.
    Returns how many; 0: none was due.
    """

    retention: Retention

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> int:
        ledger = tx.ledger(InstanceLedger)
        tx.flush()  # what this batch has changed counts as it is now
        deleted = rows = 0
        for (kind, definition), kept in self.retention.items():
            before = tx.now - kept
            for uid, size in instance_retention.expired(tx.connection, kind, definition, before, SWEEP_INSTANCES):
                record = ledger.get(uid)
                assert record is not None
                rows += size
                if deleted and (deleted >= SWEEP_INSTANCES or rows > SWEEP_EVENTS):
                    return deleted
                purge(tx, record)
                deleted += 1
            if kind is Kind.DEBOUNCE:
                left = SWEEP_INSTANCES - deleted
                for uid, number in instance_retention.buried(tx.connection, definition, before, left):
                    ledger.drop_entry(uid, number)
                    record = ledger.get(uid)
                    if record is not None and not tx.ledger(Leftovers).has(uid, number):
                        ledger.make(record, Move.FORGET, dead=record.dead - 1)
                    deleted += 1
        return deleted


@dataclass(slots=True)
class SweepLeftovers(Mutation[None]):
    """Delete some of what generations of instances have left that are over."""

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.ledger(Leftovers).sweep()


class ContractVersion(NamedTuple):
    """A type's contract: a digest that tells versions apart, and its serialized `FileDescriptorSet`."""

    type: str
    digest: bytes
    descriptors: bytes


@dataclass(slots=True)
class StoreContracts(Mutation[dict[str, int]]):
    """Keep the contracts that operations are started under from now on. Returns their numbers by type.

    Those that no operation was started under are forgotten.
    """

    versions: Sequence[ContractVersion]

    def apply(self, tx: Transaction) -> dict[str, int]:
        numbers = {}
        for version in self.versions:
            tx.connection.execute(
                "INSERT INTO contracts (type, digest, descriptors) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", version
            )
            row = tx.connection.execute(
                "SELECT id FROM contracts WHERE type = ? AND digest = ?", (version.type, version.digest)
            ).fetchone()
            numbers[version.type] = int(row[0])
        kept = set(numbers.values())
        unused = tx.connection.execute(
            "SELECT id FROM contracts AS c"
            " WHERE NOT EXISTS (SELECT 1 FROM operations INDEXED BY operations_contract WHERE contract = c.id)"
        ).fetchall()
        tx.connection.executemany("DELETE FROM contracts WHERE id = ?", [row for row in unused if row[0] not in kept])
        return numbers


@dataclass(slots=True)
class Nothing(Mutation[None]):
    """Changes nothing: once it is through, everything that was submitted before it is published."""

    def apply(self, tx: Transaction) -> None:
        pass


@dataclass(slots=True)
class Boot(Mutation[int]):
    """The server starts: counts the start and returns its number."""

    def apply(self, tx: Transaction) -> int:
        cursor = tx.connection.execute("INSERT INTO boots (started) VALUES (?)", (tx.now,))
        assert cursor.lastrowid is not None
        return cursor.lastrowid


@dataclass(slots=True)
class RunApart(Mutation[None]):
    """Suspects of a crash are run apart from now on, or no more."""

    epoch: int
    apart: bool

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.connection.execute("UPDATE boots SET apart = ? WHERE epoch = ?", (self.apart, self.epoch))


@dataclass(slots=True)
class Shutdown(Mutation[None]):
    """The server stops in good order.

    `recovered`: it has seen to what the last one left behind. One that has not, and comes after a crash, is forgotten:
    the next one is to know how what it finds was left.
    """

    epoch: int
    recovered: bool = True

    def apply(self, tx: Transaction) -> None:
        tx.connection.execute("UPDATE boots SET stopped = ? WHERE epoch = ?", (tx.now, self.epoch))
        if not self.recovered:
            tx.connection.execute(
                "DELETE FROM boots WHERE epoch = ? AND ? IN (SELECT epoch FROM boots WHERE stopped IS NULL)",
                (self.epoch, self.epoch - 1),
            )
