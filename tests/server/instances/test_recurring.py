"""Recurring instances: every field, context member and verb."""

from __future__ import annotations

import asyncio
from typing import Any

from longshore_server.instance_lifecycle import Status
from tests.server.instances.laboratory import Token, World


async def test_it_runs_at_once_then_by_its_schedule_and_keeps_its_state(world: World) -> None:
    runs: list[tuple[float, int]] = []

    @world.server.recurring("refresh", every="30m", state=Token)
    async def refresh(ctx: Any) -> None:
        runs.append((world.now(), ctx.run_count))
        ctx.state = Token(ctx.state.value + 1)

    await world.start()
    started = await refresh.start("user-1", Token(10))
    assert started == (True, "recurrings/refresh/instances/user-1", Status.ACTIVE, None)
    assert runs == [(0, 1)]
    assert await refresh.get_state("user-1") == Token(11)
    await world.advance(1799)
    assert len(runs) == 1
    await world.advance(1)
    assert runs == [(0, 1), (1800, 2)]
    await world.restart()
    await world.advance(1800)
    assert runs[2:] == [(3600, 3)]
    assert await refresh.get_state("user-1") == Token(13)
    status = await refresh.status("user-1")
    assert (status.status, status.run_count, status.attempt) == (Status.ACTIVE, 3, 0)


async def test_a_run_that_is_lost_with_its_server_is_made_again(world: World) -> None:
    attempts: list[tuple[int, int]] = []
    hang = True

    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None:
        attempts.append((ctx.run_count, ctx.attempt))
        if hang:
            reached.set()
            await asyncio.Event().wait()
        ctx.state.value += 1

    reached = asyncio.Event()
    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    await reached.wait()
    hang = False
    await world.restart()
    await world.settled()
    assert attempts == [(1, 1), (1, 2)]
    assert await refresh.get_state("a") == Token(1)
