"""What callers do to durable instances: start, send, add, trigger, flush, pause, resume, terminate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Move, Status, rule
from longshore_server.store.instances import (
    NO_TIMERS,
    Entry,
    EntryType,
    FlushReason,
    Handled,
    InstanceLedger,
    InstanceRecord,
    Value,
)
from longshore_server.store.mutations import telling
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


class Newcomer(NamedTuple):
    """What a new generation needs."""

    uid: bytes
    owner: str


def _find(tx: Transaction, address: Address) -> tuple[InstanceLedger, InstanceRecord | None]:
    ledger = tx.ledger(InstanceLedger)
    return ledger, ledger.find(*address)


def _open(
    ledger: InstanceLedger, record: InstanceRecord | None, address: Address, newcomer: Newcomer
) -> tuple[InstanceRecord, bool]:
    """The instance, made or renewed where it has to be; and whether it was."""
    if record is None:
        fresh = InstanceRecord(newcomer.uid, *address, newcomer.owner, ledger.now, ledger.now)
        return ledger.insert(fresh), True
    if rule(record.status, Move.RENEW) is None:
        return record, False
    ledger.set_state(record.uid, None)
    ledger.forget_event_ids(record.uid)
    blank = InstanceRecord(record.uid, *address, newcomer.owner, ledger.now, ledger.now)
    # What counts on: a stale handler, or a reader of the old generation, must not take the new one for its own.
    kept = ("created", "updated", "status", "revision", "version", "generation", "accepted", "fence")
    facts = {name: value for name, value in blank.__dict__.items() if name not in kept}
    created = max(ledger.now, record.updated)
    return ledger.make(record, Move.RENEW, **facts | {"created": created, "generation": record.generation + 1}), True


def _append(
    ledger: InstanceLedger, record: InstanceRecord, move: Move, type: EntryType, value: Value | None = None,
    **facts: Any,
) -> InstanceRecord:  # fmt: skip
    """Let one more entry wait. Raises `ServiceError` (TOO_MANY_EVENTS)."""
    if record.waiting >= MAX_WAITING:
        raise ServiceError(
            Reason.TOO_MANY_EVENTS,
            f"{record.waiting} entries of {record.name} wait for their handlers already: try again later.",
            resource=record.name,
            retry_after=1.0,
            metadata={"limit": str(MAX_WAITING)},
        )
    number = record.accepted + 1
    changed = ledger.make(record, move, accepted=number, waiting=record.waiting + 1, **facts)
    ledger.add_entry(record.uid, Entry(number, type, changed.updated, value))
    return changed


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
class StartRecurring(Mutation[Taken]):
    """A recurring begins, unless it is there already. `run`: at once; else when its first timer fires."""

    address: Address
    newcomer: Newcomer
    state: Value
    timers: Mapping[str, int]
    run: bool

    def apply(self, tx: Transaction) -> Taken:
        ledger, before = _find(tx, self.address)
        record, created = _open(ledger, before, self.address, self.newcomer)
        if not created:
            return Taken(record)
        ledger.set_state(record.uid, self.state)
        if tx.outbox is not None:
            telling.begun(tx.outbox, record, self.state)
        facts: dict[str, Any] = {"version": record.version + 1, "timers": self.timers}
        if self.run:
            record = _append(ledger, record, Move.ACCEPT, EntryType.START, **facts)
            return Taken(record, True, record.accepted)
        return Taken(ledger.make(record, Move.ACCEPT, **facts), True)


def _seen(ledger: InstanceLedger, record: InstanceRecord | None, event_id: str, digest: bytes) -> int | None:
    """The number of the event that had this id before. Raises `ServiceError` (EVENT_ID_REUSED)."""
    if not event_id or record is None or record.status is Status.TERMINATED:
        return None
    found = ledger.event_id(record.uid, event_id)
    if found is None:
        return None
    number, before = found
    if before != digest:
        raise ServiceError(
            Reason.EVENT_ID_REUSED,
            f"event_id {event_id!r} was used for another event of {record.name}: use a new id for a new event.",
            resource=record.name,
        )
    return number


@dataclass(slots=True)
class SendEvent(Mutation[Taken]):
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
        ledger, before = _find(tx, self.address)
        number = _seen(ledger, before, self.event_id, self.digest)
        if number is not None and before is not None:
            return Taken(before, False, number if ledger.waits(before.uid, number) else None, True)
        self._check_version(before)
        record, created = _open(ledger, before, self.address, self.newcomer)
        record = _append(ledger, record, Move.ACCEPT, EntryType.EVENT, self.event)
        if created and tx.outbox is not None:
            telling.begun(tx.outbox, record, self.event)
        if self.event_id:
            ledger.add_event_id(record.uid, self.event_id, record.accepted, self.digest)
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
class AddEvent(Mutation[Taken]):
    """An event for a debounce: reduced into the open batch, which is sealed when it is full."""

    address: Address
    newcomer: Newcomer
    reduce: Reduce
    window: Window
    event_id: str
    digest: bytes

    def apply(self, tx: Transaction) -> Taken:
        ledger, before = _find(tx, self.address)
        if before is not None and _seen(ledger, before, self.event_id, self.digest) is not None:
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
        record, created = _open(ledger, before, self.address, self.newcomer)
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


@dataclass(slots=True)
class Trigger(Mutation[Taken | None]):
    """Run the handler now: of a recurring or a task. None: there is no such instance."""

    address: Address

    def apply(self, tx: Transaction) -> Taken | None:
        ledger, record = _find(tx, self.address)
        if record is None:
            return None
        if rule(record.status, Move.TRIGGER) is None:
            return Taken(record)
        record = _append(ledger, record, Move.TRIGGER, EntryType.TRIGGER)
        return Taken(record, False, record.accepted)


@dataclass(slots=True)
class Flush(Mutation[Taken | None]):
    """Flush the open batch of a debounce now; a batch that waits for a retry is tried again at once."""

    address: Address

    def apply(self, tx: Transaction) -> Taken | None:
        ledger, record = _find(tx, self.address)
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
        ledger, record = _find(tx, self.address)
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


@dataclass(slots=True)
class Pause(Mutation[tuple[InstanceRecord | None, bool]]):
    """Begin no handler until it is resumed. What has failed or is terminated stays that.

    Returns the instance, and whether this has paused it.
    """

    address: Address

    def apply(self, tx: Transaction) -> tuple[InstanceRecord | None, bool]:
        ledger, record = _find(tx, self.address)
        if record is None or rule(record.status, Move.PAUSE) is None or record.status is Status.PAUSED:
            return record, False
        return ledger.make(record, Move.PAUSE), True


class Resumed(NamedTuple):
    """What a resume found."""

    record: InstanceRecord
    before: Status
    replayed: int
    """How many dead letters wait again."""


@dataclass(slots=True)
class Resume(Mutation[Resumed | None]):
    """Go on: what has failed is done again at once, with all its attempts; dead letters wait again.

    `timers`: makes the timers as they are from now on of those that there are.
    """

    address: Address
    timers: Callable[[Mapping[str, int], int], Mapping[str, int]]

    def apply(self, tx: Transaction) -> Resumed | None:
        ledger, record = _find(tx, self.address)
        if record is None:
            return None
        idle = record.status is Status.ACTIVE and not record.dead
        if rule(record.status, Move.RESUME) is None or idle:
            return Resumed(record, record.status, 0)
        facts: dict[str, Any] = {"waiting": record.waiting + record.dead, "dead": 0}
        if record.status is Status.FAILED:
            facts.update(attempt=0, failures=0, crashes=0, retry_at=None, begun=None)
        if record.status is not Status.ACTIVE:
            facts["timers"] = self.timers(record.timers, ledger.now)
        if record.dead:
            ledger.revive(record.uid)
        return Resumed(ledger.make(record, Move.RESUME, **facts), record.status, record.dead)


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


def end(ledger: InstanceLedger, record: InstanceRecord, end: End, **facts: Any) -> InstanceRecord:
    """Terminate an instance. Who waits for one of its entries is told by its status."""
    ledger.drop_entries(record.uid)
    record = ledger.make(record, Move.TERMINATE, **{**facts, **_NOTHING_LEFT, "reason": end.reason})
    if end.purge:
        ledger.delete(record)
    return record


@dataclass(slots=True)
class Terminate(Mutation[tuple[InstanceRecord | None, bool]]):
    """End an instance, whatever it does. Returns it, and whether this has ended it."""

    address: Address
    end: End = field(default_factory=End)

    def apply(self, tx: Transaction) -> tuple[InstanceRecord | None, bool]:
        ledger, record = _find(tx, self.address)
        if record is None:
            return None, False
        if record.status is Status.TERMINATED:
            if self.end.purge:
                ledger.delete(record)
            return record, False
        record = end(ledger, record, self.end)
        if tx.outbox is not None:
            telling.terminated(tx.outbox, record)
        return record, True


__all__ = [
    "IDLE", "MAX_WAITING", "AddEvent", "Address", "Clear", "End", "Flush", "Handled", "Newcomer", "Pause", "Reduce",
    "Resume", "Resumed", "SendEvent", "StartRecurring", "Taken", "Terminate", "Trigger", "Window", "end", "seal",
]  # fmt: skip
