"""What attempts tell operators: lines of a log, and failed tries of steps. No fence: see `store/logs.py`."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.store.logs import LogLine, Logs, StepFailure
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class AddLine(Mutation[None]):
    """Keep a line of the operation or job `uid`. Where that is deleted, so is the line."""

    uid: bytes
    line: LogLine

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.ledger(Logs).add(self.uid, self.line)


@dataclass(slots=True)
class FailTry(Mutation[None]):
    """A try of a step of the operation or job `uid` has failed."""

    uid: bytes
    failure: StepFailure

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.ledger(Logs).fail(self.uid, self.failure)
