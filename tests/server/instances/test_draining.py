"""A server that stops, and handlers of operations that still have something to say to instances."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore_server.errors import ServiceError
from tests.server.instances.laboratory import Ping, Token, World


@pytest.mark.parametrize("no_wait", [True, False])
async def test_what_a_handler_adds_while_the_server_drains_is_taken(world: World, no_wait: bool) -> None:
    """Refused, it would end its operation for good, because of a restart."""
    world.settings = {"drain": 30.0}
    begun, stopping = asyncio.Event(), asyncio.Event()

    @world.server.debounce("pings", event=Ping, flush_after="5s")
    async def pings(ctx: Any) -> None:
        pass

    async def handler(request: Any, op: Any) -> PlayResult:
        begun.set()
        await stopping.wait()
        await pings.add("a", Ping(1), no_wait=no_wait)
        return PlayResult(text="told")

    handlers: Any = world.server.services[0]
    handlers.handler = handler
    await world.start()
    ref = await world.server.operations.start("lab.v1.LabService/Play", PlayRequest())
    await begun.wait()
    stop = asyncio.ensure_future(world.harness.stop())
    await world.clock.armed(30)
    with pytest.raises(ServiceError, match="shutting down"):
        await pings.add("a", Ping(1))
    stopping.set()
    await stop
    await world.harness.start()
    ended = await world.engine.find(ref.name)
    assert (ended.record.state.name, ended.record.attempt) == ("COMPLETED", 1)
    assert (await pings.status("a")).event_count == 1


async def test_a_handler_of_an_instance_that_is_refused_then_runs_again_and_has_not_failed(world: World) -> None:
    """Without a policy for retries it would have failed for good, because of a restart."""
    world.settings = {"drain": 30.0}
    begun, stopping = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    @world.server.debounce("pings", event=Ping, flush_after="5s")
    async def pings(ctx: Any) -> None:
        pass

    @world.server.recurring("rounds", every="1h", state=Token)
    async def rounds(ctx: Any) -> None:
        attempts.append(ctx.attempt)
        begun.set()
        await stopping.wait()
        await pings.add("a", Ping(1), no_wait=True)

    await world.start()
    await rounds.start("x", Token(), no_wait=True)
    await begun.wait()
    stop = asyncio.ensure_future(world.harness.stop())
    await world.clock.armed(30)
    stopping.set()
    await stop
    await world.harness.start()
    while (status := await rounds.status("x")).run_count == 0:
        await world.harness.settle()
    assert (status.status.name, status.last_error) == ("ACTIVE", None)
    assert attempts == [1, 2]
    assert (await pings.status("a")).event_count == 1
