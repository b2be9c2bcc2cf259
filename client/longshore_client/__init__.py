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
    from longshore_client.channel import Channel, connect
    from longshore_client.credentials import tls
    from longshore_client.errors import (
        Aborted,
        AlreadyExists,
        CallCancelled,
        CallError,
        Code,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        FieldViolation,
        InternalError,
        InvalidArgument,
        LongshoreError,
        NotFound,
        OperationCancelled,
        OperationFailed,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        StillRunning,
        Unauthenticated,
        Unavailable,
        UnexpectedMessage,
        Unimplemented,
    )
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
        Reset,
        Signalled,
        Started,
        Stopping,
    )
    from longshore_client.operation import OperationHandle, OperationMethod, SentSignal
    from longshore_client.retry import Retry
    from longshore_client.snapshot import PendingSignal, Snapshot
    from longshore_client.state import State

__all__ = [
    "Aborted",
    "Accepted",
    "AlreadyExists",
    "AttemptFailed",
    "CallCancelled",
    "CallError",
    "Cancelled",
    "Cancelling",
    "Channel",
    "Code",
    "Completed",
    "DataLoss",
    "DeadlineExceeded",
    "Event",
    "EventBase",
    "Failed",
    "FailedPrecondition",
    "FieldViolation",
    "InternalError",
    "InvalidArgument",
    "LongshoreError",
    "NotFound",
    "OperationCancelled",
    "OperationFailed",
    "OperationHandle",
    "OperationMethod",
    "OutOfRange",
    "Output",
    "PendingSignal",
    "PermissionDenied",
    "Progress",
    "Reset",
    "ResourceExhausted",
    "Retry",
    "SentSignal",
    "Signalled",
    "Snapshot",
    "Started",
    "State",
    "StillRunning",
    "Stopping",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedMessage",
    "Unimplemented",
    "connect",
    "tls",
]

_MODULES = {
    "longshore_client.channel": (
        "Channel",
        "connect",
    ),
    "longshore_client.credentials": ("tls",),
    "longshore_client.errors": (
        "Aborted",
        "AlreadyExists",
        "CallCancelled",
        "CallError",
        "Code",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "FieldViolation",
        "InternalError",
        "InvalidArgument",
        "LongshoreError",
        "NotFound",
        "OperationCancelled",
        "OperationFailed",
        "OutOfRange",
        "PermissionDenied",
        "ResourceExhausted",
        "StillRunning",
        "Unauthenticated",
        "Unavailable",
        "UnexpectedMessage",
        "Unimplemented",
    ),
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
        "Reset",
        "Signalled",
        "Started",
        "Stopping",
    ),
    "longshore_client.operation": (
        "OperationHandle",
        "OperationMethod",
        "SentSignal",
    ),
    "longshore_client.retry": ("Retry",),
    "longshore_client.snapshot": (
        "PendingSignal",
        "Snapshot",
    ),
    "longshore_client.state": ("State",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
