"""What attempts do: begin, report, record, fail to be made again, hand over, and be lost with their server."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move, State
from longshore_server.store.mutations.base import Author, Mutation, current, not_ended
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import Transaction

_CRASHED = "The server crashed while the attempt was under way."


@dataclass(slots=True)
class Begin(Mutation[OperationRecord]):
    """A handler begins: the first time PENDING becomes RUNNING, later only the attempt counts on."""

    uid: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.state is State.PENDING and not head.deferred:
            return tx.make(head, Move.START, attempt=1, under_way=True, begun=tx.now, started=max(tx.now, head.created))
        if head.state is not State.RUNNING or head.under_way or head.deferred:
            raise ServiceError(Reason.ILLEGAL_MOVE, f"{head.name} is {head.state.name}.", resource=head.name)
        return tx.note(head, attempt=head.attempt + 1, under_way=True, begun=tx.now, next_attempt=None)


@dataclass(slots=True)
class Report(Mutation[None]):
    """Progress or output; `value` is a serialized Any. `attempt` None: the provider reports, whatever attempt runs."""

    uid: bytes
    attempt: int | None
    move: Move
    value: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        head = tx.head(self.uid)
        tx.make(not_ended(head) if self.attempt is None else current(head, self.attempt), self.move, self.value)


@dataclass(slots=True)
class Record(Mutation[JournalEntry]):
    """An attempt records the outcome of a durable await."""

    author: Author
    entry: JournalEntry

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JournalEntry:
        self.author.check(tx)
        tx.note_journal(self.author.uid, self.entry)
        return self.entry


@dataclass(slots=True)
class TryAgain(Mutation[OperationRecord]):
    """The current attempt failed and the contract's retry policy allows another one, `delay` microseconds from now.

    Where a caller asked to cancel or to stop meanwhile, or the operation is deferred, there is none: it ends as
    `Settle` would end it. `anew`: the entry of the journal that the next attempt does not find.
    """

    uid: bytes
    attempt: int
    error: bytes
    delay: int
    anew: tuple[str, str, int] | None = None

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = current(tx.head(self.uid), self.attempt)
        if head.state is State.CANCELLING:
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, head.cancel_reason))
        if head.deferred or head.cancel_requested is not None or head.stop_requested is not None:
            return tx.make(head, Move.FAIL, self.error)
        tx.forget_journal(self.uid, self.anew)
        return tx.make(
            head, Move.ATTEMPT_FAILED, self.error,
            failures=head.failures + 1, under_way=False, next_attempt=max(tx.now, head.updated) + self.delay,
        )  # fmt: skip


@dataclass(slots=True)
class Defer(Mutation[None]):
    """An attempt hands its operation over: from now on it ends by a control call, its deadline or a cancel."""

    author: Author

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        self.author.hand_over(tx)


@dataclass(slots=True)
class Interrupt(Mutation[OperationRecord]):
    """The attempt that was under way is lost with its server.

    It stays RUNNING to be run again, unless a cancel request waits (CANCELLED), the contract says so (INTERRUPTED) or
    it was part of `max_crashes` crashes (CRASH_LOOP). `crashed` False: that was a stop that was announced.
    `counted`: the crash is one of those.
    """

    uid: bytes
    crashed: bool
    counted: bool
    rerun: bool
    max_crashes: int

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.deferred:
            return head  # its provider has taken it over meanwhile, and its attempt is nobody's loss
        crashes = head.crashes + self.counted
        if head.state is State.CANCELLING or (head.state is State.RUNNING and head.cancel_requested is not None):
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, head.cancel_reason), crashes=crashes)
        interrupted = failure(Reason.INTERRUPTED, _CRASHED if self.crashed else "")
        if not self.rerun:
            return tx.make(head, Move.FAIL, interrupted, crashes=crashes)
        if crashes >= self.max_crashes:
            message = f"The operation was part of {crashes} crashes of the server, as many as its contract allows."
            return tx.make(head, Move.FAIL, failure(Reason.CRASH_LOOP, message), crashes=crashes)
        return tx.make(head, Move.ATTEMPT_FAILED, interrupted, crashes=crashes, under_way=False)
