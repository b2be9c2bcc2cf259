"""Start, follow and cancel Longshore operations from code without asyncio, in any number of threads.

    with connect("localhost:50051") as channel:
        orders = OrdersBlockingClient(channel)  # generated from the contract
        result = orders.process.run(ProcessOrderRequest(order_id="ord_123"))

Everything is that of `longshore_client`, which does the work in a thread: names, arguments, errors and retries. What is
awaited there blocks here, and what is an asynchronous iterator there is a plain one here. Ctrl-C ends the wait, never
the operation.
"""

from __future__ import annotations

from longshore_client.blocking.channel import Channel, connect
from longshore_client.blocking.handles import (
    OperationHandle,
    OperationMethod,
    PreparedTransfer,
    PreparedUpload,
    Upload,
    UploadMethod,
)
from longshore_client.blocking.instances import DebounceClient, RecurringClient, TaskClient

__all__ = [
    "Channel",
    "DebounceClient",
    "OperationHandle",
    "OperationMethod",
    "PreparedTransfer",
    "PreparedUpload",
    "RecurringClient",
    "TaskClient",
    "Upload",
    "UploadMethod",
    "connect",
]
