"""Start, follow and cancel Longshore operations from Python.

    async with connect("localhost:50051") as channel:
        orders = OrdersClient(channel)          # generated from the contract
        result = await orders.process.run(ProcessOrderRequest(order_id="ord_123"))

Names are loaded when they are first used, so that a command line that only prints its help does not pay for gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore_client.events import (
        Accepted,
        AttemptFailed,
        Cancelled,
        Cancelling,
        Completed,
        Event,
        EventBase,
        Failed,
        Output,
        Progress,
        Started,
        State,
    )

__all__ = [
    "Accepted",
    "AttemptFailed",
    "Cancelled",
    "Cancelling",
    "Completed",
    "Event",
    "EventBase",
    "Failed",
    "Output",
    "Progress",
    "Started",
    "State",
]

_HOMES = {
    "longshore_client.events": (
        "Accepted",
        "AttemptFailed",
        "Cancelled",
        "Cancelling",
        "Completed",
        "Event",
        "EventBase",
        "Failed",
        "Output",
        "Progress",
        "Started",
        "State",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
