"""How operations end, and what callers ask of those that have not: to cancel, to stop."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move, State
from longshore_server.store.mutations.base import Mutation, current, not_ended
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class Settle(Mutation[OperationRecord]):
    """End an operation: COMPLETE with a result, FAIL or CANCEL with an error.

    `attempt` None settles whatever attempt it is at (deadline, grace, provider). What arrives in CANCELLING ends as
    CANCELLED: the cancel request came first. A result that loses to it is kept in the journal, for the provider.
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
            current(head, self.attempt)
        else:
            not_ended(head)
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
        if not head.under_way and not head.deferred:
            # It waits to be run again: there is no handler that could tidy up, and so nobody else to settle it.
            return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, self.reason), **facts)
        return tx.make(head, self.move, self.reason.encode(), **facts)


@dataclass(slots=True)
class ProviderCancel(Mutation[OperationRecord]):
    """The provider cancels, whatever the contract allows callers: at once, or where a handler runs after its grace."""

    uid: bytes
    reason: str

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.terminal or (head.state is State.CANCELLING and head.under_way):
            return head
        facts = {}
        if head.cancel_requested is None:
            facts = {"cancel_requested": max(tx.now, head.updated), "cancel_reason": self.reason}
        if head.under_way:
            return tx.make(head, Move.REQUEST_CANCEL, self.reason.encode(), **facts)
        return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, self.reason), **facts)


@dataclass(slots=True)
class AcknowledgeCancel(Mutation[OperationRecord]):
    """The provider answers a caller's cancel request. Repeatable."""

    uid: bytes

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.state is State.CANCELLED:
            return head
        not_ended(head)
        if head.cancel_requested is None:
            raise ServiceError(
                Reason.NO_CANCEL_REQUEST,
                f"Nobody asked to cancel {head.name}: the provider's own cancel is another call.",
                resource=head.name,
            )
        return tx.make(head, Move.CANCEL, failure(Reason.CANCELLED, head.cancel_reason))


@dataclass(slots=True)
class TakeOver(Mutation[OperationRecord]):
    """The provider marks an operation as started: no handler of this server will begin it. Repeatable.

    `running`: from a handler that has begun, too. The provider's is then the current attempt: the fence shuts out
    whatever that handler still does.
    """

    uid: bytes
    running: bool = False

    def apply(self, tx: Transaction) -> OperationRecord:
        head = not_ended(tx.head(self.uid))
        if head.state is State.PENDING:
            return tx.make(head, Move.START, attempt=1, deferred=True, begun=tx.now, started=max(tx.now, head.created))
        if head.deferred or not self.running:
            return head
        return tx.note(head, attempt=head.attempt + 1, deferred=True, under_way=False, begun=tx.now, next_attempt=None)


@dataclass(slots=True)
class RequestStop(Mutation[OperationRecord]):
    """A caller asks to stop and to keep what there is.

    Repeating it changes nothing, nor does asking it of what has ended or is being cancelled. An attempt that waits for
    its time is due at once: only the handler can give what there is. It is the last (see `TryAgain`).
    """

    uid: bytes
    reason: str

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        if head.terminal or head.stop_requested is not None or head.state is State.CANCELLING:
            return head
        now = max(tx.now, head.updated)
        facts = {"stop_requested": now}
        if head.next_attempt is not None and head.next_attempt > now:
            facts["next_attempt"] = now
        return tx.make(head, Move.REQUEST_STOP, self.reason.encode(), **facts)
