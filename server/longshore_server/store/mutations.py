"""Everything that can be done to the store: each a small value with guards, applied inside the writer's transaction.

A mutation either raises `ServiceError` before it has changed anything, or does all of its work. What `apply` returns
is its outcome; callers get it once the commit that holds it is durable.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move, State
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import RequestKey, Transaction

T = TypeVar("T")


class Mutation(abc.ABC, Generic[T]):
    """One change of the store and its outcome."""

    __slots__ = ()

    @property
    def patient(self) -> bool:
        """Whether it waits for room on a full disk, as the server's own work does; a caller's is refused."""
        return False

    @abc.abstractmethod
    def apply(self, tx: Transaction) -> T:
        """Check the guards, then change. Runs in the writer's thread."""


class Accepted(NamedTuple):
    """What became of a start: the operation, and whether it is new."""

    record: OperationRecord
    created: bool


@dataclass(slots=True)
class Accept(Mutation[Accepted]):
    """Start an operation, or find the one that the same request started before.

    `refusal` is why no new operation may begin now (draining, too many): finding an old one is still possible.
    `begin` makes it RUNNING in the same transaction: its handler has a free slot.
    """

    record: OperationRecord
    input: bytes
    digest: bytes
    template: bool
    renew: bool
    begin: bool
    refusal: ServiceError | None = None
    child: tuple[bytes, JournalEntry] | None = None

    @property
    def patient(self) -> bool:
        return self.child is not None

    def apply(self, tx: Transaction) -> Accepted:
        record = self.record
        if self.child is not None:
            _guard(tx.head(self.child[0]), self.child[1].attempt)
        existing = self._existing(tx)
        if existing is None:
            if self.refusal is not None:
                raise self.refusal
            record = self._insert(tx)
        else:
            record = existing
        if self.child is not None:
            parent, entry = self.child
            tx.note_journal(parent, entry._replace(outcome=record.uid))
        return Accepted(record, existing is None)

    @property
    def request_key(self) -> RequestKey | None:
        """The idempotency key, in its scope."""
        record = self.record
        return (record.owner, record.type, record.request_id) if record.request_id else None

    def _existing(self, tx: Transaction) -> OperationRecord | None:
        record, key = self.record, self.request_key
        if key is not None:
            claim = tx.request(key)
            if claim is not None:
                uid, digest = claim
                if digest != self.digest:
                    raise ServiceError(
                        Reason.REQUEST_ID_REUSED,
                        f"request_id {record.request_id!r} already started an operation with another input or other "
                        "labels: use a new request id for a new request.",
                        metadata={"request_id": record.request_id},
                    )
                return tx.head(uid)
        if self.template:
            claim = tx.name(record.id)
            if claim is not None:
                uid, digest = claim
                found = tx.head(uid)
                if found.terminal and self.renew:
                    return None
                if digest != self.digest:
                    raise ServiceError(
                        Reason.NAME_IN_USE,
                        f"{record.name} was started with another input or other labels.",
                        resource=record.name,
                    )
                if key is not None:
                    tx.claim_request(key, claim)
                return found
        return None

    def _insert(self, tx: Transaction) -> OperationRecord:
        record = tx.insert(self.record, self.input, begin=self.begin)
        claim, key = (record.uid, self.digest), self.request_key
        if self.template:
            tx.claim_name(record.id, claim)
        if key is not None:
            tx.claim_request(key, claim)
        return record


@dataclass(slots=True)
class Begin(Mutation[OperationRecord]):
    """A handler begins: the first time PENDING becomes RUNNING, later only the attempt counts on."""

    uid: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.state is State.PENDING:
            return tx.make(head, Move.START, attempt=1, under_way=True, begun=tx.now, started=max(tx.now, head.created))
        if head.state is not State.RUNNING or head.under_way:
            raise ServiceError(Reason.ILLEGAL_MOVE, f"{head.name} is {head.state.name}.", resource=head.name)
        return tx.note(head, attempt=head.attempt + 1, under_way=True, begun=tx.now)


@dataclass(slots=True)
class Report(Mutation[None]):
    """The current attempt reports progress or output; `value` is a serialized Any."""

    uid: bytes
    attempt: int
    move: Move
    value: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.make(_guard(tx.head(self.uid), self.attempt), self.move, self.value)


@dataclass(slots=True)
class Record(Mutation[JournalEntry]):
    """The current attempt records the outcome of a durable await."""

    uid: bytes
    entry: JournalEntry

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JournalEntry:
        _guard(tx.head(self.uid), self.entry.attempt)
        tx.note_journal(self.uid, self.entry)
        return self.entry


@dataclass(slots=True)
class Settle(Mutation[OperationRecord]):
    """End an operation: COMPLETE with a result, FAIL or CANCEL with an error.

    `attempt` None settles whatever attempt it is at (deadline, grace). What arrives in CANCELLING ends as CANCELLED:
    the cancel request came first. A result that loses to it is kept in the journal, for the provider.
    """

    uid: bytes
    attempt: int | None
    move: Move
    payload: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if self.attempt is not None:
            _guard(head, self.attempt)
        if head.state is State.CANCELLING and self.move is not Move.CANCEL:
            if self.move is Move.COMPLETE:
                entry = JournalEntry("late_result", "", 0, head.attempt, b"", "", "any", self.payload)
                tx.note_journal(head.uid, entry)
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, head.cancel_reason))
        return tx.make(head, self.move, self.payload)


@dataclass(slots=True)
class RequestCancel(Mutation[OperationRecord]):
    """A caller asks to cancel. Repeating it, and asking it of what has ended, changes nothing."""

    uid: bytes
    reason: str
    move: Move

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.terminal or head.cancel_requested is not None:
            return head
        facts = {"cancel_requested": max(tx.now, head.updated), "cancel_reason": self.reason}
        if head.state is State.PENDING:
            return tx.make(head, self.move, failure(Reason.CANCELLED, self.reason), **facts)
        if not head.under_way:
            # It waits to be run again: there is no handler that could tidy up, and so nobody else to settle it.
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, self.reason), **facts)
        return tx.make(head, self.move, self.reason.encode(), **facts)


@dataclass(slots=True)
class Interrupt(Mutation[OperationRecord]):
    """The attempt that was under way is lost with its server.

    It stays RUNNING to be run again, unless a cancel request waits (CANCELLED), the contract says so (INTERRUPTED) or
    it was part of `max_crashes` crashes (CRASH_LOOP). A stop that was announced (`crashed` False) does not count.
    """

    uid: bytes
    crashed: bool
    rerun: bool
    max_crashes: int

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        crashes = head.crashes + self.crashed
        if head.state is State.CANCELLING or (head.state is State.RUNNING and head.cancel_requested is not None):
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, head.cancel_reason), crashes=crashes)
        if not self.rerun:
            return tx.make(head, Move.FAIL, failure(Reason.INTERRUPTED), crashes=crashes)
        if crashes >= self.max_crashes:
            message = f"The operation was part of {crashes} crashes of the server, as many as its contract allows."
            return tx.make(head, Move.FAIL, failure(Reason.CRASH_LOOP, message), crashes=crashes)
        return tx.make(head, Move.ATTEMPT_FAILED, failure(Reason.INTERRUPTED), crashes=crashes, under_way=False)


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
        tx.delete(head)


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
    """The server stops in good order."""

    epoch: int

    def apply(self, tx: Transaction) -> None:
        tx.connection.execute("UPDATE boots SET stopped = ? WHERE epoch = ?", (tx.now, self.epoch))


def _guard(head: OperationRecord, attempt: int) -> OperationRecord:
    """The fence: only the attempt that is current and under way may change anything."""
    if head.terminal:
        raise ServiceError(Reason.ILLEGAL_MOVE, f"{head.name} has already ended.", resource=head.name)
    if head.attempt != attempt or not head.under_way:
        raise ServiceError(
            Reason.STALE_ATTEMPT, f"Attempt {attempt} of {head.name} is not the current one.", resource=head.name
        )
    return head
