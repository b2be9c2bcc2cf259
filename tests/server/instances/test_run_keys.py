"""`ctx.key`: one key for all attempts at a run, whatever ends them, and another for every other run."""

from __future__ import annotations

from typing import Any

import pytest

from longshore_server import ExecuteContext, StepRetry, Task, TaskEventContext
from tests.server.instances.laboratory import Gate, Ping, Token, World

keys: list[tuple[str, int]] = []
"""Each attempt's key, and its number."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    keys.clear()


def runs(attempts: list[int]) -> None:
    """So many attempts of one run after the other have one key each run, and no two runs the same one."""
    assert [attempt for _, attempt in keys] == [number for count in attempts for number in range(1, count + 1)]
    assert len({key for key, _ in keys}) == len(attempts)
    assert [key for key, _ in keys] == [
        key for key, count in zip(dict.fromkeys(key for key, _ in keys), attempts, strict=True) for _ in range(count)
    ]


async def test_of_a_recurring(world: World) -> None:
    @world.server.recurring("refresh", every=60, state=Token, retry=StepRetry(3, initial_delay=1))
    async def refresh(ctx: Any) -> None:
        keys.append((ctx.key, ctx.attempt))
        if ctx.attempt < 3:
            raise RuntimeError

    await world.start()
    await refresh.start("a", Token())
    await world.advance(1)
    await world.advance(2)
    for _ in range(2):
        await world.advance(60)
        await world.advance(1)
        await world.advance(2)
    await refresh.terminate("a")
    await refresh.start("a", Token())
    await world.advance(1)
    await world.advance(2)
    await world.advance(60)
    runs([3, 3, 3, 3, 1])


async def test_of_a_run_that_a_crash_ends(world: World) -> None:
    gate = Gate()

    @world.server.recurring("refresh", every=60, state=Token, start_immediately=False)
    async def refresh(ctx: Any) -> None:
        keys.append((ctx.key, ctx.attempt))
        if ctx.attempt == 1:
            await gate.hold()

    await world.start()
    await refresh.start("a", Token())
    world.clock.advance(60)
    await gate.reached.wait()
    await world.restart()
    await world.settled()
    runs([2])


async def test_of_a_batch_that_is_replayed_after_another_one(world: World) -> None:
    broken = True

    async def give_up(error: BaseException, ctx: Any) -> None:
        pass

    @world.server.debounce("send", event=Ping, flush_after=60, max_events=1, on_error=give_up)
    async def send(ctx: Any) -> None:
        keys.append((ctx.key, 1))
        if broken:
            raise RuntimeError

    await world.start()
    await send.add("a", Ping(1))
    broken = False
    await send.add("a", Ping(2))
    await send.resume("a")
    await world.settled()
    first, second, again = (key for key, _ in keys)
    assert first == again != second


class Chain(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        keys.append((ctx.key, ctx.attempt))
        ctx.state = Token()
        ctx.schedule(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        keys.append((ctx.key, ctx.attempt))
        if ctx.attempt == 1:
            raise RuntimeError
        ctx.schedule(1)


async def test_of_events_and_timers_of_a_task(world: World) -> None:
    chain = world.server.task("chain", Chain, retry=StepRetry(2, initial_delay=1))
    await world.start()
    await chain.send("a", Ping(1))
    for _ in range(4):
        await world.advance(1)
    await chain.send("a", Ping(1))
    await world.advance(1)
    await world.advance(1)
    await chain.terminate("a")
    await chain.send("a", Ping(1))
    await world.advance(1)
    await world.advance(1)
    runs([1, 2, 2, 1, 2, 1, 2])
