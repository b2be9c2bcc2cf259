"""What the changes of durable instances share: which one is meant, how it begins, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Move, Status, rule
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instance_leftovers import Leftovers
from longshore_server.store.instances import NO_TIMERS, Entry, EntryType, InstanceRecord, Known, Use, Value
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.transaction import Transaction

MAX_WAITING = 1000
"""How many entries of one instance may wait for their handlers."""


class Address(NamedTuple):
    """Which instance."""

    kind: Kind
    definition: str
    id: str


class Taken(NamedTuple):
    """What became of something that a caller has sent."""

    record: InstanceRecord
    created: bool = False
    """Whether it began a generation: the first one, or another after a termination."""
    entry: int | None = None
    """What the caller may wait for; None: nothing of it waits for a handler."""
    duplicate: bool = False
    """Whether the event had been taken before, by its id."""
    events: int = 0
    """Of a flush: how many its batch holds."""


class Verb(Mutation[Taken | None]):
    """Something that a caller sends, and may wait for until the instance's handler has run for it."""

    __slots__ = ()
    address: Address


class Newcomer(NamedTuple):
    """What a new generation needs."""

    uid: bytes
    owner: str


def find(tx: Transaction, address: Address) -> tuple[InstanceLedger, InstanceRecord | None]:
    """The instances of a transaction, and the one that is meant, if there is one."""
    ledger = tx.ledger(InstanceLedger)
    return ledger, ledger.find(*address)


def opened(
    tx: Transaction, record: InstanceRecord | None, address: Address, newcomer: Newcomer
) -> tuple[InstanceRecord, bool]:
    """The instance, made or renewed where it has to be; and whether it was."""
    ledger = tx.ledger(InstanceLedger)
    if record is None:
        fresh = InstanceRecord(newcomer.uid, *address, newcomer.owner, ledger.now, ledger.now)
        return ledger.insert(fresh), True
    if rule(record.status, Move.RENEW) is None:
        return record, False
    ledger.set_state(record.uid, None)
    tx.ledger(Leftovers).add(record.uid, record.generation)
    blank = InstanceRecord(record.uid, *address, newcomer.owner, ledger.now, ledger.now)
    # What counts on: a stale handler, or a reader of the old generation, must not take the new one for its own.
    kept = ("created", "updated", "status", "revision", "version", "generation", "accepted", "fence")
    facts = {name: value for name, value in blank.__dict__.items() if name not in kept}
    created = max(ledger.now, record.updated)
    return ledger.make(record, Move.RENEW, **facts | {"created": created, "generation": record.generation + 1}), True


def check_room(record: InstanceRecord) -> None:
    """Raises `ServiceError` (TOO_MANY_EVENTS) where no further entry may wait."""
    if record.waiting >= MAX_WAITING:
        raise ServiceError(
            Reason.TOO_MANY_EVENTS,
            f"{record.waiting} entries of {record.name} wait for their handlers already: try again later.",
            resource=record.name,
            retry_after=1.0,
            metadata={"limit": str(MAX_WAITING)},
        )


def append(
    ledger: InstanceLedger, record: InstanceRecord, move: Move, type: EntryType, value: Value | None = None,
    **facts: Any,
) -> InstanceRecord:  # fmt: skip
    """Let one more entry wait. Raises `ServiceError` (TOO_MANY_EVENTS)."""
    check_room(record)
    number = record.accepted + 1
    changed = ledger.make(record, move, accepted=number, waiting=record.waiting + 1, **facts)
    ledger.add_entry(record.uid, Entry(number, type, changed.updated, value))
    return changed


def repeated(ledger: InstanceLedger, record: InstanceRecord, known: Known) -> Taken:
    """What is answered to what was taken before: who repeats it waits for what it stands for."""
    entry = known.number if ledger.waits(record.uid, known.number) else None
    return Taken(record, entry=entry, duplicate=True, events=known.events)


def taken_before(ledger: InstanceLedger, record: InstanceRecord | None, event_id: str, digest: bytes) -> Taken | None:
    """What is answered to an event whose id is known; None: it is new. Raises `ServiceError` (EVENT_ID_REUSED)."""
    if not event_id or record is None or record.status is Status.TERMINATED:
        return None
    known = ledger.known(record, Use.EVENT, event_id)
    if known is None:
        return None
    if known.digest != digest:
        raise ServiceError(
            Reason.EVENT_ID_REUSED,
            f"event_id {event_id!r} was used for another event of {record.name}: use a new id for a new event.",
            resource=record.name,
        )
    return repeated(ledger, record, known)


class End(NamedTuple):
    """How an instance is to end."""

    reason: str = ""
    purge: bool = False
    """Leave nothing of it; else its tombstone, with its state, tells what it was."""


IDLE: Mapping[str, Any] = {
    "under_way": False, "work_entry": None, "work_timer": None, "planned": None, "retry_at": None, "begun": None,
    "attempt": 0, "failures": 0, "crashes": 0,
}  # fmt: skip
"""Of an instance with nothing that was begun and has not come to its end."""
_NOTHING_LEFT: Mapping[str, Any] = {
    **IDLE, "waiting": 0, "dead": 0, "batch_events": 0, "batch_started": 0, "timers": NO_TIMERS,
}  # fmt: skip


def end(tx: Transaction, record: InstanceRecord, end: End, **facts: Any) -> InstanceRecord:
    """Terminate an instance. Who waits for one of its entries is told by its status."""
    ledger = tx.ledger(InstanceLedger)
    ledger.drop_entries(record.uid)
    tx.ledger(Leftovers).bury(record)
    record = ledger.make(record, Move.TERMINATE, **{**facts, **_NOTHING_LEFT, "reason": end.reason})
    if end.purge:
        purge(tx, record)
    return record


def purge(tx: Transaction, record: InstanceRecord) -> None:
    """Leave nothing of an instance."""
    tx.flush()  # lines that this batch has of it are rows first, and go with it
    tx.ledger(InstanceLedger).delete(record)
    tx.ledger(Leftovers).add(record.uid, record.generation)
