"""Signals: accepted in one order, consumed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from longshore.v1 import operation_pb2
from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import Move
from longshore_server.store import queries
from longshore_server.store.mutations.base import Mutation, current, not_ended
from longshore_server.store.queries import StoredSignal
from longshore_server.store.record import JournalEntry, OperationRecord, PendingSignal
from longshore_server.store.transaction import Transaction


class SignalAccepted(NamedTuple):
    """What became of a signal: the operation, the signal's number and id, and whether it had been accepted before."""

    record: OperationRecord
    number: int
    id: str
    duplicate: bool


@dataclass(slots=True)
class SendSignal(Mutation[SignalAccepted]):
    """A caller's signal. One with the id of an accepted one is that one; `payload` is a serialized Any.

    `limit`: how many of this name may wait.
    """

    uid: bytes
    name: str
    id: str
    payload: bytes
    sender: str
    limit: int

    def apply(self, tx: Transaction) -> SignalAccepted:
        head = tx.head(self.uid)
        before = queries.signal_with_id(tx.connection, self.uid, self.id)
        if before is not None:
            if (before.name, before.payload) != (self.name, self.payload):
                raise ServiceError(
                    Reason.SIGNAL_ID_REUSED,
                    f"signal_id {self.id!r} was used for another signal of {head.name}: use a new id for a new signal.",
                    resource=head.name,
                )
            return SignalAccepted(head, before.number, self.id, True)
        not_ended(head)
        waiting = sum(1 for signal in head.pending if signal.name == self.name)
        if waiting >= self.limit:
            raise ServiceError(
                Reason.TOO_MANY_SIGNALS,
                f"{waiting} signals {self.name!r} of {head.name} wait to be consumed already: try again later.",
                resource=head.name,
                retry_after=1.0,
                metadata={"signal": self.name, "limit": str(self.limit)},
            )
        number = head.signals + 1
        event = operation_pb2.OperationEvent.Signal(
            name=self.name, signal_id=self.id, number=number, sender=self.sender
        )
        event.payload.ParseFromString(self.payload)
        now = max(tx.now, head.updated)
        record = tx.make(
            head, Move.SIGNAL, event.SerializeToString(),
            signals=number, pending=(*head.pending, PendingSignal(number, self.name, self.id, now)),
        )  # fmt: skip
        tx.add_signal(self.uid, StoredSignal(number, self.name, self.id, self.payload, self.sender, now))
        return SignalAccepted(record, number, self.id, False)


@dataclass(slots=True)
class ConsumeNext(Mutation[StoredSignal | None]):
    """The current attempt takes the oldest signal of these names that waits; `names` empty: of any name.

    The journal entry and the consumption are one: a re-run gets the same signal from it. None: there is none, and
    nothing is changed, unless the wait is `late`: then the entry says that its time was up, also to a re-run.
    """

    uid: bytes
    names: frozenset[str]
    entry: JournalEntry
    late: bool

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> StoredSignal | None:
        head = current(tx.head(self.uid), self.entry.attempt)
        for waiting in head.pending:
            if not self.names or waiting.name in self.names:
                signal = _consume(tx, head, waiting.number)
                tx.note_journal(self.uid, self.entry._replace(outcome=str(signal.number).encode()))
                return signal
        if self.late:
            tx.note_journal(self.uid, self.entry)
        return None


@dataclass(slots=True)
class ConsumeSignal(Mutation[OperationRecord]):
    """The provider is done with one signal."""

    uid: bytes
    number: int

    def apply(self, tx: Transaction) -> OperationRecord:
        head = not_ended(tx.head(self.uid))
        if all(signal.number != self.number for signal in head.pending):
            raise ServiceError(
                Reason.SIGNAL_CONSUMED,
                f"Signal {self.number} of {head.name} does not wait: it is consumed, or was never accepted.",
                resource=head.name,
            )
        _consume(tx, head, self.number)
        return tx.head(self.uid)


def _consume(tx: Transaction, head: OperationRecord, number: int) -> StoredSignal:
    signal = queries.signal(tx.connection, head.uid, number)
    assert signal is not None
    tx.consume_signal(head.uid, number)
    tx.note(head, pending=tuple(waiting for waiting in head.pending if waiting.number != number))
    return signal
