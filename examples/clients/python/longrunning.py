"""google.longrunning, by the future of google-api-core."""

from __future__ import annotations

from typing import Any

from acme.orders.v1 import orders_pb2
from google.api_core import operation, operations_v1
from stubs import Stubs, order, say


class LongRunning(Stubs):
    """The standard face of the same operations."""

    def longrunning(self, key: str) -> None:
        """Its result and its metadata, in the types of the contract."""
        future = self.future(key)
        result = future.result(timeout=60)
        say(step=future.metadata.step, status=result.status)

    def longrunning_error(self, key: str) -> None:
        """The error of an operation that failed."""
        error = self.future(key, amount=1_000_000).exception(timeout=60)
        say(code=error.grpc_status_code.value[0])

    def longrunning_cancelled(self, key: str) -> None:
        """A cancelled operation, and that it is known as such."""
        future = self.future(key)
        future.cancel()
        future.exception(timeout=60)
        say(cancelled=future.cancelled())

    def longrunning_deadline(self, key: str) -> None:
        """The time of the caller is up; the operation goes on, and is found again by its name."""
        future, late = self.future(key), False
        try:
            future.result(timeout=0.5)
        except TimeoutError:
            late = True
        say(deadline=late, done=future.done())

    def future(self, key: str, amount: int = 1200) -> Any:
        """Not `operation.from_grpc`, which is broken."""
        client: Any = operations_v1.OperationsClient(self.channel)  # type: ignore[no-untyped-call]
        started = self.orders.Process(order(key, amount=amount))
        result, progress = orders_pb2.ProcessOrderResult, orders_pb2.ProcessOrderProgress
        return operation.from_gapic(started, client, result, metadata_type=progress)  # type: ignore[no-untyped-call]
