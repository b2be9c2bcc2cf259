"""What a mutation is, and the guards that several of them share."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from longshore_server.errors import Code, Reason, ServiceError
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction

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


class Owner(abc.ABC):
    """Whose lines a log keeps: what one attempt works on."""

    __slots__ = ("attempt", "uid")

    def __init__(self, uid: bytes, attempt: int) -> None:
        self.uid = uid
        self.attempt = attempt

    @abc.abstractmethod
    def lives(self, tx: Transaction) -> bool:
        """Whether there still is what it works on, for this attempt or another one."""


class Author(Owner):
    """Who writes into a journal: one attempt of an operation or of a job."""

    __slots__ = ()

    @abc.abstractmethod
    def check(self, tx: Transaction) -> None:
        """The fence: raises `ServiceError` where the attempt is not the current one any more."""

    def lives(self, tx: Transaction) -> bool:
        try:
            self.check(tx)
        except ServiceError as refusal:
            return refusal.reason.code is not Code.NOT_FOUND
        return True

    @abc.abstractmethod
    def hand_over(self, tx: Transaction) -> None:
        """No attempt will end it from now on: something else does. Raises as `check`."""


class OperationAttempt(Author):
    """An attempt of an operation."""

    __slots__ = ()

    def check(self, tx: Transaction) -> None:
        current(tx.head(self.uid), self.attempt)

    def hand_over(self, tx: Transaction) -> None:
        tx.note(current(tx.head(self.uid), self.attempt), deferred=True, under_way=False)


def current(head: OperationRecord, attempt: int) -> OperationRecord:
    """The fence: only the attempt that is current and under way may change anything.

    One that has deferred its operation stays the current one, since no other will follow: what it has attached reports.
    """
    not_ended(head)
    if head.attempt != attempt or not (head.under_way or head.deferred):
        raise ServiceError(
            Reason.STALE_ATTEMPT, f"Attempt {attempt} of {head.name} is not the current one.", resource=head.name
        )
    return head


def not_ended(head: OperationRecord) -> OperationRecord:
    """Raises `ServiceError` (OPERATION_ENDED) when nothing can be done to it any more."""
    if head.terminal:
        raise ServiceError(
            Reason.OPERATION_ENDED, f"{head.name} has already ended: it is {head.state.name}.", resource=head.name
        )
    return head
