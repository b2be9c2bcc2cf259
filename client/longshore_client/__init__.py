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
    from longshore_client import blocking as blocking
    from longshore_client.channel import Channel, connect
    from longshore_client.credentials import tls
    from longshore_client.debounce import DebounceCleared, DebounceClient, DebounceFlushed, DebounceSnapshot, EventAdded
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
        Offered,
        Output,
        Progress,
        Reset,
        Signalled,
        Started,
        Stopping,
        Transfer,
    )
    from longshore_client.grants import DownloadGrant, ReceiveProgress, SendProgress, UploadGrant, UploadState
    from longshore_client.instances import InstanceChange, InstanceSnapshot, InstanceState, InstanceStatus
    from longshore_client.method import OperationMethod, UploadMethod
    from longshore_client.operation import OperationHandle, SentSignal
    from longshore_client.recurring import RecurringClient, RecurringSnapshot, RecurringStarted, RecurringTriggered
    from longshore_client.retry import Retry
    from longshore_client.snapshot import PendingSignal, Snapshot
    from longshore_client.state import State
    from longshore_client.task import EventSent, TaskClient, TaskSnapshot, TaskTriggered
    from longshore_client.upload import PreparedTransfer, PreparedUpload, Upload

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
    "DebounceCleared",
    "DebounceClient",
    "DebounceFlushed",
    "DebounceSnapshot",
    "DownloadGrant",
    "Event",
    "EventAdded",
    "EventBase",
    "EventSent",
    "Failed",
    "FailedPrecondition",
    "FieldViolation",
    "InstanceChange",
    "InstanceSnapshot",
    "InstanceState",
    "InstanceStatus",
    "InternalError",
    "InvalidArgument",
    "LongshoreError",
    "NotFound",
    "Offered",
    "OperationCancelled",
    "OperationFailed",
    "OperationHandle",
    "OperationMethod",
    "OutOfRange",
    "Output",
    "PendingSignal",
    "PermissionDenied",
    "PreparedTransfer",
    "PreparedUpload",
    "Progress",
    "ReceiveProgress",
    "RecurringClient",
    "RecurringSnapshot",
    "RecurringStarted",
    "RecurringTriggered",
    "Reset",
    "ResourceExhausted",
    "Retry",
    "SendProgress",
    "SentSignal",
    "Signalled",
    "Snapshot",
    "Started",
    "State",
    "StillRunning",
    "Stopping",
    "TaskClient",
    "TaskSnapshot",
    "TaskTriggered",
    "Transfer",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedMessage",
    "Unimplemented",
    "Upload",
    "UploadGrant",
    "UploadMethod",
    "UploadState",
    "connect",
    "tls",
]

_MODULES = {
    "longshore_client.channel": (
        "Channel",
        "connect",
    ),
    "longshore_client.credentials": ("tls",),
    "longshore_client.debounce": (
        "DebounceCleared",
        "DebounceClient",
        "DebounceFlushed",
        "DebounceSnapshot",
        "EventAdded",
    ),
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
        "Offered",
        "Output",
        "Progress",
        "Reset",
        "Signalled",
        "Started",
        "Stopping",
        "Transfer",
    ),
    "longshore_client.grants": (
        "DownloadGrant",
        "ReceiveProgress",
        "SendProgress",
        "UploadGrant",
        "UploadState",
    ),
    "longshore_client.instances": (
        "InstanceChange",
        "InstanceSnapshot",
        "InstanceState",
        "InstanceStatus",
    ),
    "longshore_client.method": (
        "OperationMethod",
        "UploadMethod",
    ),
    "longshore_client.operation": (
        "OperationHandle",
        "SentSignal",
    ),
    "longshore_client.recurring": (
        "RecurringClient",
        "RecurringSnapshot",
        "RecurringStarted",
        "RecurringTriggered",
    ),
    "longshore_client.retry": ("Retry",),
    "longshore_client.snapshot": (
        "PendingSignal",
        "Snapshot",
    ),
    "longshore_client.state": ("State",),
    "longshore_client.task": (
        "EventSent",
        "TaskClient",
        "TaskSnapshot",
        "TaskTriggered",
    ),
    "longshore_client.upload": (
        "PreparedTransfer",
        "PreparedUpload",
        "Upload",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "blocking":
        return importlib.import_module("longshore_client.blocking")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
