"""ListTypes and GetType of `longshore.v1.OperationsService`: what can be started here."""

from __future__ import annotations

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.rpc.boundary import Context, Method, unary


class Catalog:
    """The operation types that the server serves, for every caller: the contracts are no secret."""

    def __init__(self, engine: Engine) -> None:
        self._types = engine.types

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "ListTypes": unary(pb.ListTypesRequest, self._list_types),
            "GetType": unary(pb.GetTypeRequest, self._get_type),
        }

    async def _list_types(self, request: pb.ListTypesRequest, context: Context) -> bytes:
        if request.page_size < 0:
            raise invalid("page_size", "must not be negative")
        names = sorted(self._types)
        if request.page_token:
            if request.page_token not in names:
                problem = "is not a next_page_token of this list"
                raise invalid("page_token", problem, reason=Reason.INVALID_PAGE_TOKEN)
            names = names[names.index(request.page_token) :]
        size = request.page_size or len(names)
        response = pb.ListTypesResponse(types=[describe(self._types[name]) for name in names[:size]])
        response.next_page_token = names[size] if len(names) > size else ""
        return response.SerializeToString()

    async def _get_type(self, request: pb.GetTypeRequest, context: Context) -> bytes:
        found = self._types.get(request.type)
        if found is None:
            raise ServiceError(
                Reason.TYPE_NOT_FOUND, f"{request.type[:200]!r} is not served here.", resource=request.type[:200]
            )
        return describe(found).SerializeToString()


def describe(type: OperationType) -> pb.OperationType:
    """A type as the catalog shows it."""
    return pb.OperationType(
        type=type.name, input_type=type.input.DESCRIPTOR.full_name, progress_type=type.progress.DESCRIPTOR.full_name,
        output_type=type.output.DESCRIPTOR.full_name, result_type=type.result.DESCRIPTOR.full_name,
        streaming_method=type.streamed_by, contract=type.contract, description=type.description,
    )  # fmt: skip
