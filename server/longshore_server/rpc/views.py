"""How much of an operation an answer holds."""

from __future__ import annotations

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.contract.types import URL_PREFIX
from longshore_server.engine.engine import Engine
from longshore_server.errors import invalid
from longshore_server.rpc import wire
from longshore_server.store.record import OperationRecord


def wants_input(view: int) -> bool:
    """Whether a view includes the input. Raises `ServiceError` for a view that does not exist."""
    if view not in (0, pb.OPERATION_VIEW_BASIC, pb.OPERATION_VIEW_FULL):
        raise invalid("view", f"{view} is no view")
    return view == pb.OPERATION_VIEW_FULL


async def snapshot(engine: Engine, record: OperationRecord, *, full: bool) -> operation_pb2.OperationSnapshot:
    """The snapshot of a record; `full`: with its input, unless its type is no longer served."""
    message = wire.snapshot(record)
    type = engine.types.get(record.type) if full else None
    if type is not None:
        message.input.type_url = URL_PREFIX + type.input.DESCRIPTOR.full_name
        message.input.value = await engine.input_of(record)
    return message
