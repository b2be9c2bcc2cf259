"""What attempts tell operators: lines of a log, and failed tries of steps. No fence: see `store/logs.py`."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.logs import LogLine, Logs, StepFailure
from longshore_server.store.mutations.base import Author, Mutation, Owner
from longshore_server.store.transaction import Transaction


class InstanceOwner(Owner):
    """A run of an instance."""

    __slots__ = ()

    def lives(self, tx: Transaction) -> bool:
        return tx.ledger(InstanceLedger).get(self.uid) is not None


@dataclass(slots=True)
class AddLine(Mutation[None]):
    """Keep a line of an attempt. Where its operation, job or instance is deleted, so is the line."""

    owner: Owner
    line: LogLine

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        if self.owner.lives(tx):
            tx.ledger(Logs).add(self.owner.uid, self.line)


@dataclass(slots=True)
class FailTry(Mutation[None]):
    """A try of a step has failed."""

    author: Author
    failure: StepFailure

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        if self.author.lives(tx):
            tx.ledger(Logs).fail(self.author.uid, self.failure)
