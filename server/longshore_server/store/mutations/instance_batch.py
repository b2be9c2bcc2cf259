"""The batches of a debounce: an event is added, a batch is sealed, flushed, discarded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Move, Status, rule
from longshore_server.store.instances import (
    NO_TIMERS,
    Entry,
    EntryType,
    FlushReason,
    InstanceLedger,
    InstanceRecord,
    Value,
)
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import (
    IDLE,
    MAX_WAITING,
    Address,
    Newcomer,
    Taken,
    Verb,
    find,
    opened,
    seen,
)
from longshore_server.store.transaction import Transaction

Reduce = Callable[[Value | None, int], Value]
"""Makes the state that follows from the one before (None: a batch begins) and the number of events with this one."""


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
    """An event for a debounce: reduced into the open batch, which is sealed when it is full."""

    address: Address
    newcomer: Newcomer
    reduce: Reduce
    window: Window
    event_id: str
    digest: bytes

    def apply(self, tx: Transaction) -> Taken:
        ledger, before = find(tx, self.address)
        if before is not None and seen(ledger, before, self.event_id, self.digest) is not None:
            return Taken(before, duplicate=True)
        usable = before is not None and before.status is not Status.TERMINATED
        count = 1 + (before.batch_events if before is not None and usable else 0)
        # First, because nothing may have changed when it refuses the event.
        state = self.reduce(ledger.state(before.uid) if before is not None and count > 1 else None, count)
        full = self.window.max_events is not None and count >= self.window.max_events
        if full and before is not None and usable and before.waiting >= MAX_WAITING:
            raise ServiceError(
                Reason.TOO_MANY_EVENTS, f"{before.waiting} batches of {before.name} wait already: try again later.",
                resource=before.name, retry_after=1.0, metadata={"limit": str(MAX_WAITING)},
            )  # fmt: skip
        record, created = opened(ledger, before, self.address, self.newcomer)
        now = max(tx.now, record.updated)
        started = now if count == 1 else record.batch_started
        record = ledger.make(
            record, Move.ACCEPT, version=record.version + 1, events=record.events + 1, batch_events=count,
            batch_started=started, timers={"": self.window.flush_at(started, now)},
        )  # fmt: skip
        ledger.set_state(record.uid, state)
        if tx.outbox is not None:
            if created:
                telling.begun(tx.outbox, record, state)
            if count == 1:
                telling.batch_begun(tx.outbox, record)
        if self.event_id:
            ledger.add_event_id(record.uid, self.event_id, record.events, self.digest)
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
    """Flush the open batch of a debounce now; a batch that waits for a retry is tried again at once."""

    address: Address

    def apply(self, tx: Transaction) -> Taken | None:
        ledger, record = find(tx, self.address)
        if record is None:
            return None
        if rule(record.status, Move.TRIGGER) is None:
            return Taken(record)
        if record.retry_at is not None:
            record = ledger.make(record, Move.TRIGGER, retry_at=None)
        events = record.batch_events
        if events:
            record = seal(ledger, record, Move.TRIGGER, FlushReason.MANUAL)
        last = ledger.last_entry(record.uid) if record.waiting else None
        return Taken(record, False, None if last is None else last.number, events=0 if last is None else last.events)


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
        held = ledger.drop_entries(record.uid, but=kept) + record.batch_events
        ledger.set_state(record.uid, None)
        facts: dict[str, Any] = {
            "waiting": int(kept is not None), "dead": 0, "batch_events": 0, "batch_started": 0, "timers": NO_TIMERS,
            "version": record.version + 1,
        }  # fmt: skip
        if kept is None:
            facts.update(IDLE)
        return ledger.make(record, Move.ACCEPT, **facts), held
