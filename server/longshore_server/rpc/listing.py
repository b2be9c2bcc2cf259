"""List and Count of `longshore.v1.OperationsService`: which operations there are, as far as the caller may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from google.longrunning import operations_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.engine.engine import Engine
from longshore_server.errors import invalid
from longshore_server.rpc import filters, views
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, unary
from longshore_server.rpc.paging import MessageT, read_page
from longshore_server.store.pages import Scope
from longshore_server.store.record import OperationRecord

NEWEST_FIRST = "create_time desc"
OLDEST_FIRST = "create_time"


class Listing:
    """Operations by filter."""

    def __init__(self, engine: Engine, authorization: Authorization) -> None:
        self._engine = engine
        self._authorization = authorization

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {"List": unary(pb.ListRequest, self._list), "Count": unary(pb.CountRequest, self._count)}

    async def _list(self, request: pb.ListRequest, context: Context) -> bytes:
        full = views.wants_input(request.view)
        ascending = oldest_first(request.order_by)

        async def shown(record: OperationRecord) -> operation_pb2.OperationSnapshot:
            return await views.snapshot(self._engine, record, full=full)

        scope = self._authorization.scope(context.caller)
        operations, token = await page(self._engine, scope, request, shown, ascending=ascending)
        return pb.ListResponse(operations=operations, next_page_token=token).SerializeToString()

    async def _count(self, request: pb.CountRequest, context: Context) -> bytes:
        conditions = filters.parse(request.filter)
        found = await self._engine.count(conditions, scope=self._authorization.scope(context.caller))
        response = pb.CountResponse(truncated=found.truncated)
        for (type, state), number in sorted(found.counts.items()):
            kind = operation_pb2.OperationSnapshot.State.ValueType(state)
            response.counts.add(type=type, state=kind, count=number)
        return response.SerializeToString()


class Query(NamedTuple):
    """What a page token belongs to."""

    filter: str
    ascending: bool = False


async def page(
    engine: Engine, scope: Scope | None, request: pb.ListRequest | operations_pb2.ListOperationsRequest,
    message: Callable[[OperationRecord], Awaitable[MessageT]], *, ascending: bool = False,
) -> tuple[list[MessageT], str]:  # fmt: skip
    """One page of operations as messages, and the token of the next page, empty after the last.

    `scope`: which operations the caller may see; None: all. `ascending`: the oldest operation first, else the newest.

    Raises `ServiceError` (INVALID_ARGUMENT, INVALID_FILTER, INVALID_PAGE_TOKEN).
    """
    conditions = filters.parse(request.filter)

    def find(after: bytes | None, size: int) -> Awaitable[tuple[Iterable[OperationRecord], bytes | None]]:
        return engine.list(conditions, after, size, ascending=ascending, scope=scope)

    return await read_page(engine.store.page_key, request, Query(request.filter, ascending), find, message)


def oldest_first(order_by: str) -> bool:
    """Whether an order begins with the oldest. Raises `ServiceError` for an order that there is not."""
    order = " ".join(order_by.split())
    if order not in ("", NEWEST_FIRST, OLDEST_FIRST):
        raise invalid("order_by", f"{order_by[:80]!r} is no order; there are {NEWEST_FIRST!r} and {OLDEST_FIRST!r}")
    return order == OLDEST_FIRST
