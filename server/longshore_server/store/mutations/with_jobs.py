"""A change of an operation and the jobs that it calls for, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from longshore_server.lifecycle import State
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.job_creation import Admission, CreateJobs
from longshore_server.store.transaction import Transaction

T = TypeVar("T")


class Joint(NamedTuple, Generic[T]):
    """What became of both; or of neither, where there was no room: the admission of that job alone."""

    outcome: T | None
    jobs: list[Admission]


@dataclass(slots=True)
class WithJobs(Mutation[Joint[T]]):
    """Make a change of an operation and create jobs, both or neither.

    One that is being cancelled, or was cancelled in place of what was asked, creates none: nobody would cancel them.
    """

    change: Mutation[T]
    creation: CreateJobs
    operation: bytes

    @property
    def patient(self) -> bool:
        return self.change.patient

    def apply(self, tx: Transaction) -> Joint[T]:
        rejected = self.creation.rejected(tx)
        if rejected:
            return Joint(None, rejected)
        outcome = self.change.apply(tx)
        if tx.head(self.operation).state in (State.CANCELLING, State.CANCELLED):
            return Joint(outcome, [])
        return Joint(outcome, self.creation.apply(tx))
