"""Orders that wait for people: for a signal while their handler waits too, or, deferred, for a control call.

longshore serve examples/approvals/service.py:server --listen 127.0.0.1:50051 --data data
"""

from __future__ import annotations

from acme.approvals.v1.approvals_longshore import ApprovalsService, OrderOperation
from acme.approvals.v1.approvals_pb2 import OrderProgress, OrderRequest, OrderResult

from longshore_server import OperationError, Server

LIMIT = 100_000
"""Cents. What costs more waits for an approval."""
BOARD_LIMIT = 1_000_000
"""Cents. What costs more than this is decided by the board, which takes days."""
REVIEW_SECONDS = 3600


class Approvals(ApprovalsService):
    """The handlers of acme.approvals.v1.ApprovalsService."""

    async def order(self, request: OrderRequest, op: OrderOperation) -> OrderResult:
        """Place an order, once nobody has to approve it or somebody has."""
        if request.amount > BOARD_LIMIT:
            await op.progress(OrderProgress(step="board", message="The board decides"))
            # No code waits for days: a reviewer completes it or fails it, or the contract's deadline does.
            return await op.defer()
        approved_by = ""
        if request.amount > LIMIT:
            approved_by = await approval(request, op)
        await op.progress(OrderProgress(step="order", message=f"Ordering {request.order_id}"))
        return OrderResult(order_id=request.order_id, approved_by=approved_by)


async def approval(request: OrderRequest, op: OrderOperation) -> str:
    """Who approves the order. Across a crash it is the same time that runs out, and the same signal that counts."""
    time = request.review_time.ToTimedelta().total_seconds() or REVIEW_SECONDS
    await op.progress(OrderProgress(step="review", message=f"Waiting {time:g} s for an approval"))
    try:
        signal = await op.next_signal("approve", timeout=time)
    except TimeoutError:
        raise OperationError("NOT_APPROVED", f"nobody approved {request.order_id} within {time:g} s") from None
    return signal.payload.by


server = Server(Approvals())
