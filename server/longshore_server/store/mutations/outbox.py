"""What sinks do to the outbox: they are declared when the server starts, and get events."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_server.store import outbox
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class DeclareSinks(Mutation[None]):
    """Keep events for these sinks, and for no others."""

    names: tuple[str, ...]

    def apply(self, tx: Transaction) -> None:
        outbox.declare(tx.connection, self.names)


@dataclass(slots=True)
class Delivered(Mutation[None]):
    """A sink has got the events up to a number."""

    sink: str
    upto: int

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        outbox.deliver(tx.connection, self.sink, self.upto)
