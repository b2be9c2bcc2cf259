"""What the runs of durable instances do: begin, finish, fail, and be lost with their server."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longshore_server.errors import Reason, failure
from longshore_server.instance_lifecycle import Kind, Move
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instances import Entry, EntryType, FlushReason, Handled, InstanceRecord, Value
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import IDLE, End, end
from longshore_server.store.mutations.instance_batch import seal
from longshore_server.store.outbox import Outbox
from longshore_server.store.transaction import Transaction


class Work(NamedTuple):
    """What a handler is to do now."""

    record: InstanceRecord
    entry: Entry | None
    """None: a timer has fired; `record.work_timer` says which."""
    state: Value | None


@dataclass(slots=True)
class BeginRun(Mutation[Work | None]):
    """The next handler of an instance begins, if one is due. A timer that fires is gone; the work that it set off
    stays until it is done."""

    uid: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> Work | None:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.get(self.uid)
        if record is None or record.due is None or record.due > tx.now:
            return None
        now = max(tx.now, record.updated)
        facts: dict[str, Any] = {"attempt": record.attempt + 1, "begun": record.begun or now}
        if not record.working or record.overtaken:
            record, facts = _next(ledger, record)
            facts.update(attempt=1, failures=0, crashes=0, begun=now)
        facts.update(under_way=True, retry_at=None, fence=record.fence + 1, attempt_begun=now)
        record = ledger.make(record, Move.BEGIN, **facts)
        entry = None if record.work_entry is None else ledger.entry(record.uid, record.work_entry)
        return Work(record, entry, ledger.state(record.uid))


def _next(ledger: InstanceLedger, record: InstanceRecord) -> tuple[InstanceRecord, dict[str, Any]]:
    """What is to be done next: entries and timers in the order of their times."""
    if record.overtaken and record.work_entry is not None:
        ledger.drop_entry(record.uid, record.work_entry)
        ledger.handled(record.uid, Handled(record.work_entry, dropped=True))
        record = ledger.make(record, Move.RETRY, waiting=record.waiting - 1)
    name, due = min(record.timers.items(), key=lambda timer: timer[1], default=("", ledger.now + 1))
    fires = due <= ledger.now
    if fires and record.kind is Kind.DEBOUNCE:
        record, fires = seal(ledger, record, Move.BEGIN, FlushReason.FLUSH_AFTER), False
    entry = ledger.entry(record.uid, None) if record.waiting else None
    if entry is not None and not (fires and due <= entry.accepted):
        return record, {"work_entry": entry.number, "work_timer": None, "planned": entry.accepted}
    left = {other: when for other, when in record.timers.items() if other != name}
    return record, {"work_entry": None, "work_timer": name, "planned": due, "timers": left}


@dataclass(slots=True)
class FinishRun(Mutation[InstanceRecord]):
    """A handler has come to its end: all that it did becomes true at once.

    `state`: the new one; None: it has not changed. `timers`: all that there are from now on; None: as they are.
    `error`: what `on_error` has taken care of; `bury`: keep the batch as a dead letter. `counts`: whether it was a run.
    `problem`, `exhausted`: as of `FailRun`. `triggers`: which handlers have set timers, by these timers' names.
    """

    uid: bytes
    fence: int
    state: Value | None = None
    timers: Mapping[str, int] | None = None
    end: End | None = None
    error: bytes | None = None
    bury: bool = False
    counts: bool = True
    problem: str = ""
    exhausted: str = ""
    triggers: Mapping[str, str] = field(default_factory=dict)

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> InstanceRecord:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.current(self.uid, self.fence)
        facts: dict[str, Any] = {**IDLE, "error": self.error}
        if self.state is not None:
            ledger.set_state(record.uid, self.state)
            facts["version"] = record.version + 1
        if self.timers is not None:
            facts["timers"] = self.timers
        event, entry = False, None
        if record.work_entry is not None:
            entry = ledger.entry(record.uid, record.work_entry)
            event = entry.type is EntryType.EVENT
            facts["waiting"] = record.waiting - 1
            if self.bury and self.error is not None:
                ledger.bury(record.uid, record.work_entry, self.error)
                facts["dead"] = record.dead + 1
            else:
                ledger.drop_entry(record.uid, record.work_entry)
            ledger.handled(record.uid, Handled(record.work_entry))
        if self.counts:
            facts.update({"events": record.events + 1} if event else {"runs": record.runs + 1})
        after = ledger.make(record, Move.FINISH, **facts) if self.end is None else end(tx, record, self.end, **facts)
        if tx.outbox is not None:
            self._tell(tx.outbox, ledger, record, after, entry)
        return after

    def _tell(
        self, outbox: Outbox, ledger: InstanceLedger, run: InstanceRecord, after: InstanceRecord, entry: Entry | None
    ) -> None:
        value = _value(outbox, ledger, run, entry)
        if self.error is not None:
            telling.failed(outbox, run, after, self.error, self.problem, self.exhausted, value)
        elif self.counts and (entry is None or entry.type is not EntryType.EVENT):
            telling.executed(outbox, run, after, entry, value)
        telling.scheduled(outbox, after, self.triggers)
        if self.end is not None:
            telling.terminated(outbox, after)


def _value(outbox: Outbox, ledger: InstanceLedger, run: InstanceRecord, entry: Entry | None) -> Value | None:
    """The state that an event shows: of a batch, what its events were reduced to."""
    if not outbox.values:
        return None
    return entry.value if entry is not None and entry.events else ledger.state(run.uid)


@dataclass(slots=True)
class FailRun(Mutation[InstanceRecord]):
    """A handler has failed. `retry_at`: when it runs again; None: never, until the instance is resumed.

    A batch is then a dead letter; all other work stays what is to be done next. `problem`: what its code raised, for
    operators. `exhausted`: why it runs never again; empty: it was not to in any case.
    """

    uid: bytes
    fence: int
    error: bytes
    retry_at: int | None
    problem: str = ""
    exhausted: str = ""

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> InstanceRecord:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.current(self.uid, self.fence)
        value = None
        if record.work_entry is not None:
            ledger.handled(record.uid, Handled(record.work_entry, self.retry_at))
        if tx.outbox is not None and tx.outbox.values:
            entry = None if record.work_entry is None else ledger.entry(record.uid, record.work_entry)
            value = _value(tx.outbox, ledger, record, entry)
        if self.retry_at is None:
            after = _exhaust(ledger, record, self.error)
        else:
            failures = record.failures + 1
            after = ledger.make(
                record, Move.RETRY, under_way=False, failures=failures, retry_at=self.retry_at, error=self.error
            )
        if tx.outbox is not None:
            telling.failed(tx.outbox, record, after, self.error, self.problem, self.exhausted, value)
        return after


def _exhaust(ledger: InstanceLedger, record: InstanceRecord, error: bytes) -> InstanceRecord:
    facts: dict[str, Any] = {"under_way": False, "failures": record.failures + 1, "error": error}
    if record.kind is Kind.DEBOUNCE and record.work_entry is not None:
        ledger.bury(record.uid, record.work_entry, error)
        facts = {**IDLE, "error": error, "waiting": record.waiting - 1, "dead": record.dead + 1}
    return ledger.make(record, Move.EXHAUST, **facts)


@dataclass(slots=True)
class LoseRun(Mutation[None]):
    """A handler was under way when its server ended: it runs again. `crashed`: that counts, up to `max_crashes`.

    Nothing, if the run has come to its end.
    """

    uid: bytes
    crashed: bool
    max_crashes: int = 0

    def apply(self, tx: Transaction) -> None:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.get(self.uid)
        if record is None or not record.under_way:
            return
        crashes = record.crashes + self.crashed
        record = ledger.make(record, Move.RETRY, crashes=crashes)
        if self.crashed and crashes >= self.max_crashes:
            message = f"{crashes} servers in a row have died while this handler ran."
            error = failure(Reason.CRASH_LOOP, message)
            after = _exhaust(ledger, record, error)
            if tx.outbox is not None:
                telling.failed(tx.outbox, record, after, error, "", "max_crashes", None)
        else:
            ledger.make(record, Move.RETRY, under_way=False)


@dataclass(slots=True)
class Park(Mutation[None]):
    """Leave the instances alone whose definitions are not served, until they are.

    They keep the time at which they are due, below zero, where nobody looks.
    """

    parked: Collection[tuple[Kind, str]]
    served: Collection[tuple[Kind, str]]

    def apply(self, tx: Transaction) -> None:
        for definitions, sign in ((self.parked, "due > 0"), (self.served, "due < 0")):
            tx.connection.executemany(
                f"UPDATE instances SET due = -due WHERE kind = ? AND definition = ? AND due IS NOT NULL AND {sign}",  # noqa: S608 - our own text
                [(int(kind), definition) for kind, definition in definitions],
            )


__all__ = ["BeginRun", "FailRun", "FinishRun", "LoseRun", "Park", "Work"]
