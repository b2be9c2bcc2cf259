"""Orders: reserve, charge, ship; and what goes on behind that: stock, invoices, the partner who wants to know.

Killed at any line and started again, it goes on where it was.

longshore serve examples/orders/service.py:server --listen 127.0.0.1:50051 --data data
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from acme.orders.v1.orders_longshore import OrdersService, ProcessOperation
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from ledger import Ledger

from longshore_server import (
    DebounceContext,
    ExecuteContext,
    Job,
    JobRetry,
    OperationError,
    RecurringContext,
    Server,
    StepRetry,
    Task,
    TaskEventContext,
    step,
)

CARD_LIMIT = 500_000
"""Cents that a card is good for."""
REVIEW_SECONDS = 1800
"""How long an order waits for its approval."""
DAY = 0.5
"""Seconds: days are short here, so that nobody has to wait for a reminder."""
AGAIN = StepRetry(max_attempts=10)
"""What is done about a line that breaks, after 1 s, 2 s, 4 s and so on."""
PARTNER = "logbook"
"""Who hears of all that is shipped."""


class Orders(OrdersService[Ledger]):
    """The handlers of acme.orders.v1.OrdersService."""

    async def process(self, request: ProcessOrderRequest, op: ProcessOperation[Ledger]) -> ProcessOrderResult:
        """Take an order to the door. Each step is done once, whatever happens in between."""
        check(request)
        await op.progress(ProcessOrderProgress(step="reserve", message=f"Reserving {request.order_id}"))
        jobs = await reserve_inventory.create_many(lines_of(request))
        notes = await asyncio.gather(*(job.wait() for job in jobs))
        if any(item.sku.startswith("restricted-") for item in request.items):
            await review(op)
        if op.cancelled:
            raise asyncio.CancelledError  # while nothing is charged yet

        await op.progress(ProcessOrderProgress(step="charge", message=f"Charging {request.amount / 100:.2f}"))
        if request.order_id.startswith("B2B."):
            await op.step("chase-payment", chase, request)  # before the invoice: nobody can have paid yet
            await op.step("invoice", invoice, op.services, request)
        else:
            await op.step("charge", charge, op.services, request)

        await op.progress(ProcessOrderProgress(step="ship", message=", ".join(notes)))
        await op.step("ship", ship, op.services, request)
        await op.step("tell-partner", tell_partner, request)

        op.log.info("order is on its way", notes=notes)
        return ProcessOrderResult(order_id=request.order_id, status="ready_to_ship")


def check(request: ProcessOrderRequest) -> None:
    """Refuse what cannot be, before anything is set aside for it."""
    for item in request.items:
        if item.quantity < 1:
            raise OperationError("INVALID_QUANTITY", f"{item.sku}: {item.quantity} pieces cannot be ordered")
        if item.sku.startswith("discontinued-"):
            raise OperationError("OUT_OF_STOCK", f"{item.sku} is no longer made", metadata={"sku": item.sku})
    if request.amount < 0:
        raise OperationError("INVALID_AMOUNT", f"{request.amount} cents cannot be charged")


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
    if request.amount > CARD_LIMIT:
        raise OperationError("CARD_DECLINED", "the card's limit is exceeded", metadata={"limit": str(CARD_LIMIT)})
    await ledger.enter(step.key, "charge", request.order_id)
    return f"receipt-{request.order_id}"


async def invoice(ledger: Ledger, request: ProcessOrderRequest) -> str:
    """Send the invoice; its number."""
    await ledger.enter(step.key, "invoice", request.order_id)
    return f"invoice-{request.order_id}"


async def chase(request: ProcessOrderRequest) -> None:
    """Let somebody see to it that the invoice is paid."""
    await payments.send(request.order_id, Invoiced(request.amount), event_id=step.key)


async def ship(ledger: Ledger, request: ProcessOrderRequest) -> str:
    """Hand the parcel over; its tracking number."""
    await ledger.enter(step.key, "ship", request.order_id)
    return f"parcel-{request.order_id}"


async def tell_partner(request: ProcessOrderRequest) -> None:
    """The partner hears of it with the next batch."""
    await shipments.add(PARTNER, request.order_id, event_id=step.key, no_wait=True)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncIterator[Ledger]:
    """The ledger is open while the server runs; handlers get it as `op.services`."""
    async with Ledger(server.config.data / "ledger.db") as ledger:
        await partner_token.start(PARTNER, Token(number=1))
        yield ledger


server = Server(Orders(), lifespan=lifespan)


# Stock: a job for each article of an order. At one shelf four of them are at work, the others queue.


@dataclass
class Line:
    """An article of an order."""

    order_id: str
    sku: str
    pieces: int


def lines_of(request: ProcessOrderRequest) -> list[Line]:
    """An order's articles, each once."""
    pieces: Counter[str] = Counter()
    for item in request.items:
        pieces[item.sku] += item.quantity
    return [Line(request.order_id, sku, count) for sku, count in pieces.items()]


@server.job(
    "reserve-inventory", key="{sku}", max_active=4, max_queued=None, concurrency=64, retry=JobRetry(max_attempts=3)
)
async def reserve_inventory(line: Line, job: Job[str, Ledger]) -> str:
    """Set an article aside; where. An attempt that follows a crash looks for no other warehouse."""
    warehouse = await job.step("choose", choose)
    return await job.step("set-aside", set_aside, job.services, line, warehouse)


def choose() -> str:
    """The warehouse that is reached best just now."""
    return random.choice(["Vienna", "Lisbon", "Oslo"])


async def set_aside(ledger: Ledger, line: Line, warehouse: str) -> str:
    """Take the pieces from their shelf; a note for those who pack."""
    await ledger.enter(step.key, "reserve", f"{line.order_id}/{line.sku}")
    return f"{line.pieces} {line.sku} from {warehouse}"


# The partner: a batch at a time, by a token that is exchanged for another one every day.


@dataclass
class Token:
    """What the partner knows us by. Each can be exchanged once."""

    number: int


@server.recurring("partner-token", every=DAY, retry=AGAIN)
async def partner_token(ctx: RecurringContext[Token]) -> None:
    """Exchange the token. The new one is stored with the end of this run, and until then the old one counts."""
    await ctx.services.enter(ctx.key, "exchange", f"token {ctx.state.number}")
    ctx.state = Token(ctx.state.number + 1)


@server.debounce(
    "shipments", event=str, initial=list, on_event=lambda ctx: [*ctx.state, ctx.event], flush_after=1, max_events=50,
    retry=AGAIN,
)  # fmt: skip
async def shipments(ctx: DebounceContext[list[str]]) -> None:
    """Post one batch of shipped orders to the partner's webhook."""
    token = await partner_token.get_state(PARTNER)
    await ctx.services.enter(ctx.key, "webhook", *ctx.state)
    ctx.log.info("the partner knows", orders=len(ctx.state), token=token)


# Invoices: somebody asks twice for the money. Then others do.


@dataclass
class Invoiced:
    """An invoice is on its way."""

    cents: int


@dataclass
class Paid:
    """The bank has the money."""

    cents: int


@dataclass
class Debt:
    """What is not paid yet."""

    cents: int


class Payment(Task[Debt, Invoiced | Paid]):
    """Chases the payment of one order, whose id is the instance's."""

    async def on_event(self, event: Invoiced | Paid, ctx: TaskEventContext[Debt]) -> None:
        """Begin to wait, or be done."""
        if isinstance(event, Paid):
            ctx.terminate("paid")
        ctx.state = Debt(event.cents)
        ctx.schedule(7 * DAY)

    async def execute(self, ctx: ExecuteContext[Debt]) -> None:
        """A week is over."""
        if ctx.execute_count > 2:
            await ctx.services.enter(ctx.key, "lawsuit", ctx.id)
            ctx.terminate("with the lawyers")
        await ctx.services.enter(ctx.key, f"reminder {ctx.execute_count}", ctx.id)
        ctx.schedule(7 * DAY)


payments = server.task("payment", Payment, retry=AGAIN, call="orders.write")
