"""What those do who watch over durable instances: pause, resume, terminate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longshore_server.instance_lifecycle import Move, Status, rule
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instances import InstanceRecord
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import Address, End, end, find, purge
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class Pause(Mutation[tuple[InstanceRecord | None, bool]]):
    """Begin no handler until it is resumed. What has failed or is terminated stays that.

    Returns the instance, and whether this has paused it.
    """

    address: Address

    def apply(self, tx: Transaction) -> tuple[InstanceRecord | None, bool]:
        ledger, record = find(tx, self.address)
        if record is None or rule(record.status, Move.PAUSE) is None or record.status is Status.PAUSED:
            return record, False
        return ledger.make(record, Move.PAUSE), True


class Resumed(NamedTuple):
    """What a resume found."""

    record: InstanceRecord
    before: Status
    revived: int
    """The number of the last dead letter that waits again; 0: none does."""


@dataclass(slots=True)
class Resume(Mutation[Resumed | None]):
    """Go on: what has failed is done again at once, with all its attempts; dead letters wait again, as many as one
    transaction should hold. See `Revive` for the others.

    `timers`: makes the timers as they are from now on of those that there are.
    """

    address: Address
    timers: Callable[[Mapping[str, int], int], Mapping[str, int]]

    def apply(self, tx: Transaction) -> Resumed | None:
        ledger, record = find(tx, self.address)
        if record is None:
            return None
        idle = record.status is Status.ACTIVE and not record.dead
        if rule(record.status, Move.RESUME) is None or idle:
            return Resumed(record, record.status, 0)
        revived = ledger.revive(record.uid, 0, record.accepted) if record.dead else []
        facts: dict[str, Any] = {"waiting": record.waiting + len(revived), "dead": record.dead - len(revived)}
        if record.status is Status.FAILED:
            facts.update(attempt=0, failures=0, crashes=0, retry_at=None, begun=None)
        if record.status is not Status.ACTIVE:
            facts["timers"] = self.timers(record.timers, ledger.now)
        return Resumed(ledger.make(record, Move.RESUME, **facts), record.status, max(revived, default=0))


@dataclass(slots=True)
class Revive(Mutation[int]):
    """Let some more of the dead letters wait again that an instance had when it was resumed.

    `after`: the number of the last one that does. `last`: of those that there were at the resume, the greatest number
    that one may have. Returns the next `after`; 0: there are no more.
    """

    uid: bytes
    after: int
    last: int

    def apply(self, tx: Transaction) -> int:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.get(self.uid)
        if record is None or not record.dead or not (revived := ledger.revive(self.uid, self.after, self.last)):
            return 0
        ledger.make(record, Move.ACCEPT, waiting=record.waiting + len(revived), dead=record.dead - len(revived))
        return max(revived)


@dataclass(slots=True)
class Terminate(Mutation[tuple[InstanceRecord | None, bool]]):
    """End an instance, whatever it does. Returns it, and whether this has ended it."""

    address: Address
    end: End = field(default_factory=End)

    def apply(self, tx: Transaction) -> tuple[InstanceRecord | None, bool]:
        ledger, record = find(tx, self.address)
        if record is None:
            return None, False
        if record.status is Status.TERMINATED:
            if self.end.purge:
                purge(tx, record)
            return record, False
        record = end(tx, record, self.end)
        if tx.outbox is not None:
            telling.terminated(tx.outbox, record)
        return record, True
