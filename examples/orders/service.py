"""Orders: reserve, charge, ship. Killed at any line and started again, it goes on where it was.

longshore serve examples/orders/service.py:server --listen 127.0.0.1:50051 --data data
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from acme.orders.v1.orders_longshore import OrdersService, ProcessOperation
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from ledger import Ledger

from longshore_server import OperationError, Server, step

CARD_LIMIT = 500_000
"""Cents that a card is good for."""
REVIEW_SECONDS = 1800
"""How long an order waits for its approval."""


@dataclass
class Reservation:
    """What the warehouse set aside."""

    warehouse: str
    pieces: int
    needs_review: bool


class Orders(OrdersService[Ledger]):
    """The handlers of acme.orders.v1.OrdersService."""

    async def process(self, request: ProcessOrderRequest, op: ProcessOperation[Ledger]) -> ProcessOrderResult:
        """Take an order to the door. Each step is done once, whatever happens in between."""
        await op.progress(ProcessOrderProgress(step="reserve", message=f"Reserving {request.order_id}"))
        reservation = await op.step("reserve", reserve, op.services, request)
        if reservation.needs_review:
            await review(op)
        if op.cancelled:
            raise asyncio.CancelledError  # while nothing is charged yet

        await op.progress(ProcessOrderProgress(step="charge", message=f"Charging {request.amount / 100:.2f}"))
        receipt = await op.step("charge", charge, op.services, request)

        await op.progress(
            ProcessOrderProgress(step="ship", message=f"{reservation.pieces} from {reservation.warehouse}")
        )
        await op.step("ship", ship, op.services, request)

        op.log.info("order is on its way", receipt=receipt)
        return ProcessOrderResult(order_id=request.order_id, status="ready_to_ship")


async def reserve(ledger: Ledger, request: ProcessOrderRequest) -> Reservation:
    """Set the goods aside."""
    for item in request.items:
        if item.quantity < 1:
            raise OperationError("INVALID_QUANTITY", f"{item.sku}: {item.quantity} pieces cannot be ordered")
        if item.sku.startswith("discontinued-"):
            raise OperationError("OUT_OF_STOCK", f"{item.sku} is no longer made", metadata={"sku": item.sku})
    await ledger.enter(step.key, request.order_id, "reserve")
    await _world(request)
    warehouse = random.Random(request.order_id).choice(["Vienna", "Lisbon", "Oslo"])
    restricted = any(item.sku.startswith("restricted-") for item in request.items)
    return Reservation(warehouse, sum(item.quantity for item in request.items), restricted)


async def review(op: ProcessOperation[Ledger]) -> None:
    """Wait until somebody approves the order. A crash in between neither prolongs the wait nor loses the approval."""
    await op.progress(ProcessOrderProgress(step="review", message="Waiting for an approval"))
    try:
        approval = await op.next_signal("approve", timeout=REVIEW_SECONDS)
    except TimeoutError:
        raise OperationError("NOT_APPROVED", "nobody approved the order in time") from None
    op.log.info("order is approved", by=approval.payload.by)


async def charge(ledger: Ledger, request: ProcessOrderRequest) -> str:
    """Charge the card; the receipt's number."""
    if request.amount < 0:
        raise OperationError("INVALID_AMOUNT", f"{request.amount} cents cannot be charged")
    if request.amount > CARD_LIMIT:
        raise OperationError("CARD_DECLINED", "the card's limit is exceeded", metadata={"limit": str(CARD_LIMIT)})
    await ledger.enter(step.key, request.order_id, "charge")
    await _world(request)
    return f"receipt-{request.order_id}"


async def ship(ledger: Ledger, request: ProcessOrderRequest) -> str:
    """Hand the parcel over; its tracking number."""
    await ledger.enter(step.key, request.order_id, "ship")
    await _world(request)
    return f"parcel-{request.order_id}"


async def _world(request: ProcessOrderRequest) -> None:
    """Warehouses, banks and carriers take their time to confirm: 0.1 to 0.9 s, more for more items.

    A server that dies meanwhile asks again when it is back, under the same key.
    """
    await asyncio.sleep(0.1 + random.random() * 0.5 + min(len(request.items), 6) * 0.05)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncIterator[Ledger]:
    """The ledger is open while the server runs; handlers get it as `op.services`."""
    async with Ledger(server.config.data / "ledger.db") as ledger:
        yield ledger


server = Server(Orders(), lifespan=lifespan)
