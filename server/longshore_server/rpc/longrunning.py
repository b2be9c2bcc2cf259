"""`google.longrunning.Operations`: the same operations for stock clients (AIP-151)."""

from __future__ import annotations

from typing import Any

from google.longrunning import operations_pb2 as pb
from google.protobuf import unknown_fields
from google.protobuf.empty_pb2 import Empty

from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, ServiceError, Violation, invalid
from longshore_server.rpc import wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, duration, unary
from longshore_server.rpc.listing import page
from longshore_server.rpc.waiting import end_of
from longshore_server.store.record import OperationRecord

SERVICE = "google.longrunning.Operations"


class LongRunningOperations:
    """A second face of the same store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "GetOperation": unary(pb.GetOperationRequest, self._get),
            "ListOperations": unary(pb.ListOperationsRequest, self._list),
            "CancelOperation": unary(pb.CancelOperationRequest, self._cancel),
            "DeleteOperation": unary(pb.DeleteOperationRequest, self._delete),
            "WaitOperation": unary(pb.WaitOperationRequest, self._wait),
        }

    async def _get(self, request: pb.GetOperationRequest, context: Context) -> bytes:
        return self._message((await self._authorization.find(context.caller, request.name)).record)

    async def _list(self, request: pb.ListOperationsRequest, context: Context) -> bytes:
        if request.name not in ("", "operations"):
            raise invalid(
                "name", f"{request.name[:200]!r} is no collection; it is operations", reason=Reason.INVALID_NAME
            )
        if _asks_for_partial_success(request):
            field = "return_partial_success"
            raise ServiceError(
                Reason.UNSUPPORTED_FIELD,
                f"{field} is not supported.",
                violations=[Violation(field, "is not supported")],
            )
        scope = self._authorization.scope(context.caller)
        operations, token = await page(self._engine, scope, request, self._shown)
        return bytes(pb.ListOperationsResponse(operations=operations, next_page_token=token).SerializeToString())

    async def _cancel(self, request: pb.CancelOperationRequest, context: Context) -> bytes:
        await self._engine.requests.cancel(await self._authorization.find(context.caller, request.name, "cancel"))
        return Empty().SerializeToString()

    async def _delete(self, request: pb.DeleteOperationRequest, context: Context) -> bytes:
        await self._engine.requests.delete(await self._authorization.find(context.caller, request.name, "cancel"))
        return Empty().SerializeToString()

    async def _wait(self, request: pb.WaitOperationRequest, context: Context) -> bytes:
        wait = duration(request.timeout, "timeout") if request.HasField("timeout") else None
        live = await self._authorization.find(context.caller, request.name)
        record = await end_of(context, self._engine, live, wait)
        return self._message(record)

    def _operation(self, record: OperationRecord) -> pb.Operation:
        return wire.long_running(record, self._engine.types.get(record.type))

    async def _shown(self, record: OperationRecord) -> pb.Operation:
        return self._operation(record)

    def _message(self, record: OperationRecord) -> bytes:
        return bytes(self._operation(record).SerializeToString())


def _asks_for_partial_success(request: pb.ListOperationsRequest) -> bool:
    """Whether `return_partial_success` (field 5) is set: the lowest version that we run on does not know it by name."""
    if "return_partial_success" in request.DESCRIPTOR.fields_by_name:
        return bool(getattr(request, "return_partial_success"))  # noqa: B009 - not in the stubs of the lowest version
    unknown: Any = unknown_fields.UnknownFieldSet(request)
    return any(field.field_number == 5 and field.data for field in unknown)
