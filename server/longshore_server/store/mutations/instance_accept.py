"""What is accepted for a handler of its own: the start of a recurring, an event for a task, a trigger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Move, Status, rule
from longshore_server.store.instances import EntryType, InstanceRecord, Known, Use, Value
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.instance import (
    Address,
    Newcomer,
    Taken,
    Verb,
    append,
    find,
    opened,
    repeated,
    taken_before,
)
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class StartRecurring(Verb):
    """A recurring begins, unless it is there already. `run`: at once; else when its first timer fires."""

    address: Address
    newcomer: Newcomer
    state: Value
    timers: Mapping[str, int]
    run: bool

    def apply(self, tx: Transaction) -> Taken:
        ledger, before = find(tx, self.address)
        record, created = opened(tx, before, self.address, self.newcomer)
        if not created:
            return Taken(record, entry=ledger.waiting_start(record.uid) if record.waiting else None)
        ledger.set_state(record.uid, self.state)
        if tx.outbox is not None:
            telling.begun(tx.outbox, record, self.state)
        facts: dict[str, Any] = {"version": record.version + 1, "timers": self.timers}
        if self.run:
            record = append(ledger, record, Move.ACCEPT, EntryType.START, **facts)
            return Taken(record, True, record.accepted)
        return Taken(ledger.make(record, Move.ACCEPT, **facts), True)


@dataclass(slots=True)
class SendEvent(Verb):
    """An event for a task. `expected_version`: refuse it unless the state is of this version, and nothing changes it.

    One whose id is known was taken before, whatever the version is by now.
    """

    address: Address
    newcomer: Newcomer
    event: Value
    event_id: str
    digest: bytes
    expected_version: int | None

    def apply(self, tx: Transaction) -> Taken:
        ledger, before = find(tx, self.address)
        found = taken_before(ledger, before, self.event_id, self.digest)
        if found is not None:
            return found
        self._check_version(before)
        record, created = opened(tx, before, self.address, self.newcomer)
        record = append(ledger, record, Move.ACCEPT, EntryType.EVENT, self.event)
        if created and tx.outbox is not None:
            telling.begun(tx.outbox, record, self.event)
        if self.event_id:
            ledger.remember(record, Use.EVENT, self.event_id, Known(record.accepted, self.digest))
        return Taken(record, created, record.accepted)

    def _check_version(self, record: InstanceRecord | None) -> None:
        expected = self.expected_version
        if expected is None:
            return
        gone = record is None or record.status is Status.TERMINATED
        version = 0 if record is None or gone else record.version
        busy = record is not None and not gone and (record.waiting or record.working)
        if version != expected or busy:
            name = f"tasks/{self.address.definition}/instances/{self.address.id}"
            what = "is being changed" if version == expected else f"is at version {version}, not {expected}"
            raise ServiceError(
                Reason.VERSION_MISMATCH, f"{name} {what}: read it again, then decide again.", resource=name,
                metadata={"version": str(version)},
            )  # fmt: skip


@dataclass(slots=True)
class Trigger(Verb):
    """Run the handler now: of a recurring or a task. None: there is no such instance.

    One whose id is known was taken before, whatever the status is by now.
    """

    address: Address
    request_id: str

    def apply(self, tx: Transaction) -> Taken | None:
        ledger, record = find(tx, self.address)
        if record is None:
            return None
        known = ledger.known(record, Use.REQUEST, self.request_id) if self.request_id else None
        if known is not None:
            return repeated(ledger, record, known)
        if rule(record.status, Move.TRIGGER) is None:
            return Taken(record)
        record = append(ledger, record, Move.TRIGGER, EntryType.TRIGGER)
        if self.request_id:
            ledger.remember(record, Use.REQUEST, self.request_id, Known(record.accepted))
        return Taken(record, False, record.accepted)
