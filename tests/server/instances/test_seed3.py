"""Every member that the third seed's tables name has its counterpart, and the seed's own stories run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from longshore_server import (
    DebounceContext,
    ErrorContext,
    ExecuteContext,
    FlushReason,
    IdleContext,
    Task,
    TaskEventContext,
)
from longshore_server import InstanceStatus as Status
from longshore_server.instances.debounce import Debounce, EventContext
from longshore_server.instances.recurring import Recurring, RecurringContext
from longshore_server.instances.task import TaskDefinition
from tests.server.instances.laboratory import Token, World

STATEFUL = "state set_state update_state terminate instance definition"
TIMED = f"{STATEFUL} schedule cancel_schedule get_schedule"
MEMBERS = [
    (RecurringContext, f"{STATEFUL} run_count attempt is_retry"),
    (DebounceContext, "state event_count flush_reason started_at attempt is_retry instance"),
    (TaskEventContext, f"{TIMED} is_first_event event_count created_at execution_started_at"),
    (ExecuteContext, f"{TIMED} execute_count event_count created_at execution_started_at"),
    (IdleContext, f"{TIMED} idle_reason"),
    (ErrorContext, TIMED),
    (EventContext, "event state event_count id"),
    (Recurring, "start trigger terminate status get_state"),
    (Debounce, "add flush clear status get_state"),
    (TaskDefinition, "send trigger terminate status get_state"),
]


@pytest.mark.parametrize(("kind", "names"), MEMBERS)
def test_every_member_that_the_seed_names_has_its_counterpart(kind: type, names: str) -> None:
    assert [name for name in names.split() if not hasattr(kind, name)] == []


@dataclass
class OrderState:
    order_id: str
    status: str = "pending"
    attempts: int = 0


@dataclass
class OrderPlaced:
    order_id: str


@dataclass
class PaymentReceived:
    pass


@dataclass
class Shipped:
    tracking: str


told: list[str] = []


class OrderProcessor(Task[OrderState, OrderPlaced | PaymentReceived | Shipped]):
    """The seed's: it reminds of payments, and asks about deliveries."""

    async def on_event(
        self, event: OrderPlaced | PaymentReceived | Shipped, ctx: TaskEventContext[OrderState]
    ) -> None:  # fmt: skip
        match event:
            case OrderPlaced():
                ctx.set_state(OrderState(event.order_id))
                ctx.schedule(timedelta(minutes=5))
            case PaymentReceived():
                ctx.update_state(lambda state: replace(state, status="processing"))
            case Shipped():
                ctx.update_state(lambda state: replace(state, status="shipped"))
                ctx.schedule(timedelta(hours=24))

    async def execute(self, ctx: ExecuteContext[OrderState]) -> None:
        assert ctx.state is not None
        if ctx.state.status == "pending":
            told.append("reminder")
            ctx.schedule(timedelta(minutes=30))
        if ctx.state.status == "shipped":
            told.append("delivered?")
            if told.count("delivered?") == 2:
                ctx.update_state(lambda state: replace(state, status="delivered"))
                ctx.terminate()
            ctx.schedule(timedelta(hours=24))

    async def on_idle(self, ctx: IdleContext[OrderState]) -> None:
        told.append(f"idle after {ctx.idle_reason}")


async def test_the_order_processor(world: World) -> None:
    told.clear()
    orders = world.server.task("order", OrderProcessor)
    await world.start()
    assert (await orders.send("1", OrderPlaced("1"))).created
    await world.advance(300)
    await world.restart()
    await world.advance(1800)
    assert told == ["reminder", "reminder"]
    await orders.send("1", PaymentReceived())
    await world.advance(1800)
    await orders.send("1", Shipped("x"))
    await world.advance(86_400)
    await world.advance(86_400)
    assert told[2:] == ["idle after execute", "delivered?", "delivered?"]
    assert await orders.get_state("1") == OrderState("1", "delivered")
    assert (await orders.status("1")).status is Status.TERMINATED


async def test_the_webhook_batcher(world: World) -> None:
    batches: list[Any] = []

    @world.server.debounce(
        "webhooks", event=str, state=list, initial=list, flush_after="5s", max_events=100,
        on_event=lambda ctx: [*ctx.state, ctx.event],
    )  # fmt: skip
    async def webhooks(ctx: DebounceContext[list[str]]) -> None:
        batches.append((len(ctx.state), ctx.event_count, ctx.flush_reason))

    await world.start()
    for number in range(103):
        await webhooks.add("contact-456", str(number))
    await world.advance(5)
    assert batches == [(100, 100, FlushReason.MAX_EVENTS), (3, 3, FlushReason.FLUSH_AFTER)]


async def test_the_health_checker(world: World) -> None:
    @world.server.recurring("health", every="5m", state=Token)
    async def health(ctx: RecurringContext[Token]) -> None:
        if ctx.state.value > 10:
            ctx.terminate("Too many failures")
        ctx.update_state(lambda state: Token(state.value + 1))

    await world.start()
    await health.start("a", Token())
    for _ in range(11):
        await world.advance(300)
    status = await health.status("a")
    assert (status.status, status.stop_reason) == (Status.TERMINATED, "Too many failures")
    assert (status.run_count, await health.get_state("a")) == (12, Token(11))
