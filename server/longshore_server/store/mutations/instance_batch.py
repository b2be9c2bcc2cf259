"""The batches of a debounce: an event is added, a batch is sealed, flushed, discarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from longshore_server.errors import ServiceError
from longshore_server.instance_lifecycle import Move, Status, rule
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instance_leftovers import Leftovers
from longshore_server.store.instances import NO_TIMERS, Entry, EntryType, FlushReason, InstanceRecord, Known, Use, Value
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import (
    IDLE,
    Address,
    Newcomer,
    Taken,
    Verb,
    check_room,
    find,
    opened,
    repeated,
    taken_before,
)
from longshore_server.store.transaction import Transaction


class Batch(NamedTuple):
    """What a debounce has collected."""

    events: int = 0
    state: Value | None = None
    """What they were reduced to; None: there is none yet."""


def batch_of(record: InstanceRecord | None, state: Value | None) -> Batch:
    """What is collected in an instance that has this state; None: there is no such instance."""
    return Batch() if record is None or not record.batch_events else Batch(record.batch_events, state)


class Window(NamedTuple):
    """When a batch is flushed. Durations in microseconds."""

    flush_after: int
    trailing: bool
    """Whether every event begins the time anew,"""
    max_wait: int | None
    """and how long that may go on."""
    max_events: int | None

    def flush_at(self, started: int, now: int) -> int:
        """When a batch is flushed that began at `started` and has got an event now."""
        if not self.trailing:
            return started + self.flush_after
        latest = now + self.flush_after
        return latest if self.max_wait is None else min(latest, started + self.max_wait)


@dataclass(slots=True)
class AddEvent(Verb):
    """An event for a debounce, which changes the open batch; that is sealed when it is full.

    `reduced`: what the batch is reduced to with it, or the refusal of the event. `batch`: what that was made of; None:
    of whatever there is. The outcome None says that the batch has become another one, and nothing is done.
    """

    address: Address
    newcomer: Newcomer
    reduced: Value | ServiceError
    batch: Batch | None
    window: Window
    event_id: str
    digest: bytes

    def apply(self, tx: Transaction) -> Taken | None:
        ledger, before = find(tx, self.address)
        found = taken_before(ledger, before, self.event_id, self.digest)
        if found is not None:
            return found
        count = 1 + (before.batch_events if before is not None else 0)
        if self.batch is not None:
            state = None if before is None else ledger.state(before.uid)
            if self.batch != batch_of(before, state):
                return None
        if isinstance(self.reduced, ServiceError):
            raise self.reduced
        full = self.window.max_events is not None and count >= self.window.max_events
        if full and before is not None:
            check_room(before)
        record, created = opened(tx, before, self.address, self.newcomer)
        now = max(tx.now, record.updated)
        started = now if count == 1 else record.batch_started
        record = ledger.make(
            record, Move.ACCEPT, version=record.version + 1, events=record.events + 1, batch_events=count,
            batch_started=started, timers={"": self.window.flush_at(started, now)},
        )  # fmt: skip
        ledger.set_state(record.uid, self.reduced)
        if tx.outbox is not None:
            if created:
                telling.begun(tx.outbox, record, self.reduced)
            if count == 1:
                telling.batch_begun(tx.outbox, record)
        if self.event_id:
            ledger.remember(record, Use.EVENT, self.event_id, Known(record.accepted + 1, self.digest))
        if not full:
            return Taken(record, created)
        sealed = seal(ledger, record, Move.ACCEPT, FlushReason.MAX_EVENTS)
        return Taken(sealed, created, sealed.accepted)


def seal(ledger: InstanceLedger, record: InstanceRecord, move: Move, cause: FlushReason) -> InstanceRecord:
    """Close the open batch of a debounce: it waits for its handler, and the next event opens another."""
    number = record.accepted + 1
    batch = Entry(
        number, EntryType.BATCH, max(ledger.now, record.updated), ledger.state(record.uid), record.batch_events,
        record.batch_started, cause,
    )  # fmt: skip
    ledger.add_entry(record.uid, batch)
    ledger.set_state(record.uid, None)
    return ledger.make(
        record, move, accepted=number, waiting=record.waiting + 1, batch_events=0, batch_started=0, timers=NO_TIMERS
    )


@dataclass(slots=True)
class Flush(Verb):
    """Flush the open batch of a debounce now; a batch that waits for a retry is tried again at once.

    One whose id is known was done before. That of one that has found nothing to wait for is not kept.
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
        if record.batch_events:
            check_room(record)
        if record.retry_at is not None:
            record = ledger.make(record, Move.TRIGGER, retry_at=None)
        if record.batch_events:
            record = seal(ledger, record, Move.TRIGGER, FlushReason.MANUAL)
        if not record.waiting:
            return Taken(record)
        last = ledger.last_entry(record.uid)
        if self.request_id:
            ledger.remember(record, Use.REQUEST, self.request_id, Known(last.number, events=last.events))
        return Taken(record, entry=last.number, events=last.events)


@dataclass(slots=True)
class Clear(Mutation[tuple[InstanceRecord | None, int]]):
    """Discard what a debounce has collected, dead letters too. Returns how many events that were.

    The batch whose handler is under way is not among them.
    """

    address: Address

    def apply(self, tx: Transaction) -> tuple[InstanceRecord | None, int]:
        ledger, record = find(tx, self.address)
        if record is None or record.status is Status.TERMINATED:
            return record, 0
        kept = record.work_entry if record.under_way else None
        held = ledger.drop_entries(record.uid, but=kept) + tx.ledger(Leftovers).bury(record, kept) + record.batch_events
        ledger.set_state(record.uid, None)
        facts: dict[str, Any] = {
            "waiting": int(kept is not None), "dead": 0, "batch_events": 0, "batch_started": 0, "timers": NO_TIMERS,
            "version": record.version + 1,
        }  # fmt: skip
        if kept is None:
            facts.update(IDLE)
        return ledger.make(record, Move.ACCEPT, **facts), held
