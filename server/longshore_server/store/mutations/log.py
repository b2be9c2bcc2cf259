"""What attempts tell operators: lines of a log, and failed tries of steps. No fence: see `store/logs.py`."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.store.logs import LogLine, Logs, StepFailure
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class AddLine(Mutation[None]):
    """Keep a line of an attempt. Where its operation or job is deleted, so is the line."""

    author: Author
    line: LogLine

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        if self.author.lives(tx):
            tx.ledger(Logs).add(self.author.uid, self.line)


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
