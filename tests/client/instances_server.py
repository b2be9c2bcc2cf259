"""A server with a definition of each kind, for tests of their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2
from pydantic import BaseModel

from longshore_client import Channel, connect
from longshore_server import OperationError, Server, StepRetry
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from tests.server.instances.laboratory import Gate, Ping, Pong, Token, World


class Batch(BaseModel):
    """What events are reduced to."""

    numbers: list[int] = []


class Order(Task[Token, Ping | Pong]):
    async def on_event(self, event: Ping | Pong, ctx: TaskEventContext[Token]) -> None:
        if event == Pong("fail"):
            raise LookupError("no such order")
        ctx.state = Token((ctx.state.value if ctx.state else 0) + 1, type(event).__name__)
        ctx.schedule("1m")
        ctx.schedule("1h", name="later")

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        ctx.cancel_schedule(name="later")


class Served:
    """The server, and what its handlers did and are to do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.batches: list[list[int]] = []
        self.held: Gate | None = None
        """Holds every run of `token-refresher` and `webhooks`."""
        self.failures = 0
        """How many runs of `token-refresher` fail from here on."""
        self.channel: Channel
        declare(world.server, self)

    async def refresh(self, ctx: Any) -> None:
        if self.held is not None:
            await self.held.hold()
        if self.failures:
            self.failures -= 1
            ctx.log.warn("no token", left=self.failures)  # noqa: G010 - no logger of the standard library
            raise ConnectionError("no token today")
        ctx.state = Token(ctx.state.value + 1, ctx.state.note)
        ctx.log.info("refreshed", value=ctx.state.value)
        if ctx.state.note == "once":
            ctx.terminate("once is enough")

    async def handle(self, ctx: Any) -> None:
        if self.held is not None:
            await self.held.hold()
        self.batches.append(ctx.state.numbers)

    async def start(self) -> None:
        await self.world.start()
        self.channel = connect(self.world.harness.address)

    async def stop(self) -> None:
        await self.channel.close()


def declare(server: Server, served: Served) -> None:
    """The definitions; the clients of the tests know their types."""
    retry = StepRetry(max_attempts=2, initial_delay=30, backoff="constant")
    server.recurring("token-refresher", every="30m", state=Token, retry=retry)(served.refresh)
    server.recurring("greeter", every="1h", state=lab_pb2.PlayResult)(_nothing)
    server.debounce(
        "webhooks", flush_after="5m", event=Ping, state=Batch, initial=Batch, max_events=3, on_event=_reduce
    )(served.handle)
    server.debounce("plain", flush_after="5m", event=dict)(_nothing)
    server.debounce("strict", flush_after="5m", event=Ping, max_events=2)(_fail)
    server.recurring("failing", every="1h", state=Token)(_fail)
    server.recurring("report", cron="0 9 * * 1-5", zone="Europe/Vienna", state=Token, call="reports.run")(_nothing)
    server.recurring("pulse", every=0.25, rate="fixed_rate", overlap="queue", misfire="all", state=Token)(_nothing)
    server.debounce("quiet", flush_after="90m", mode="trailing", max_wait="1d", event=dict)(_nothing)
    server.task("order", Order)


def _reduce(ctx: Any) -> Batch:
    if ctx.event.number < 0:
        raise ValueError("no negative numbers")
    return Batch(numbers=[*ctx.state.numbers, ctx.event.number])


async def _nothing(ctx: Any) -> None: ...


async def _fail(ctx: Any) -> None:
    raise OperationError("SHOP_ERROR", "the shop is closed")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    world = World(tmp_path / "data")
    found = Served(world)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
        await world.stop()
