"""The states of an operation, and the types of its channels: what events and snapshots have in common."""

from __future__ import annotations

from typing import Never

from typing_extensions import TypeVar

from longshore_client.wire_enum import WireEnum

ProgressT = TypeVar("ProgressT")
OutputT = TypeVar("OutputT")
ResultT = TypeVar("ResultT")
# The payloads of all signals that the contract declares; Never: it declares none.
SignalT = TypeVar("SignalT", default=Never)


class State(WireEnum):
    """Where an operation stands; the numbers are those of `longshore.v1.OperationSnapshot.State`."""

    UNSPECIFIED = 0
    PENDING = 1
    RUNNING = 2
    CANCELLING = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6

    @property
    def terminal(self) -> bool:
        """Whether the operation has ended."""
        return self >= State.COMPLETED
