"""`on_event` beside the writer: what it makes is taken if it was made of what is still so, and nobody else waits."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from longshore_server import Server
from longshore_server.errors import Reason, ServiceError
from longshore_server.store.mutations import Mutation
from tests.conftest import turns
from tests.server.instances.laboratory import Ping, Token, World


class Slow:
    """An `on_event` that is held until the test lets go of it. It sums, and changes what it is given."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.seen: list[tuple[int, int]] = []

    def __call__(self, ctx: Any) -> Token:
        self.seen.append((ctx.state.value, ctx.event.number))
        self.begun.set()
        assert self.go_on.wait(30)
        ctx.state.value += ctx.event.number
        ctx.event.number *= 100
        found: Token = ctx.state
        return found


def summing(server: Server, on_event: Any, **options: Any) -> Any:
    @server.debounce("sums", event=Ping, state=Token, initial=Token, on_event=on_event, flush_after="1h", **options)
    async def sums(ctx: Any) -> None: ...

    return sums


async def held_up(slow: Slow) -> None:
    while not slow.begun.is_set():
        await turns(1)


async def test_a_slow_one_holds_up_the_events_of_its_own_definition_alone(world: World) -> None:
    slow = Slow()
    sums = summing(world.server, slow)

    @world.server.debounce("others", event=Ping, flush_after="1h")
    async def others(ctx: Any) -> None: ...

    await world.start()
    adding = [asyncio.create_task(sums.add("a", Ping(number))) for number in (1, 2)]
    await held_up(slow)
    async with asyncio.timeout(60):
        for number in range(1, 4):
            assert (await others.add("a", Ping(number))).event_count == number
        assert (await sums.status("a")).status.name == "NOT_FOUND"
    slow.go_on.set()
    assert {added.event_count for added in await asyncio.gather(*adding)} == {1, 2}
    assert await sums.get_state("a") == Token(3)


async def test_a_batch_that_is_flushed_meanwhile_gets_nothing_more(world: World) -> None:
    slow = Slow()
    slow.go_on.set()
    sums = summing(world.server, slow)
    await world.start()
    await sums.add("a", Ping(1))
    slow.go_on.clear()
    slow.begun.clear()
    adding = asyncio.create_task(sums.add("a", Ping(2)))
    await held_up(slow)
    assert (await sums.flush("a")).event_count == 1
    slow.go_on.set()
    assert (await adding).event_count == 1
    # The same event again, as it came, onto a batch that has just begun.
    assert slow.seen == [(0, 1), (1, 2), (0, 2)]
    assert await sums.get_state("a") == Token(2)


async def test_events_that_come_together_share_commits_and_are_reduced_in_their_order(world: World) -> None:
    seen: list[int] = []

    def append(ctx: Any) -> list[int]:
        seen.append(ctx.event)
        return [*ctx.state, ctx.event]

    batches: list[list[int]] = []

    @world.server.debounce(
        "lists", event=int, state=list[int], initial=list, on_event=append, flush_after="1h", max_events=30
    )
    async def lists(ctx: Any) -> None:
        batches.append(ctx.state)

    await world.start()
    before = world.engine.store.writer.published
    await asyncio.gather(*(lists.add("a", number, no_wait=True) for number in range(100)))
    # Each once, though a batch ends in their midst: what follows is made of an empty one.
    assert seen == list(range(100))
    assert world.engine.store.writer.published - before < 100
    await world.settled()
    assert [*itertools.chain(*batches), *(await lists.get_state("a") or [])] == list(range(100))
    assert [len(batch) for batch in batches] == [30, 30, 30]


async def test_an_event_that_was_taken_before_is_no_part_of_what_follows_it(world: World) -> None:
    sums = summing(world.server, lambda ctx: Token(ctx.state.value + ctx.event.number))
    await world.start()
    await sums.add("a", Ping(1), event_id="x")
    added = await asyncio.gather(
        *(sums.add("a", Ping(number), event_id=id) for number, id in ((10, "y"), (1, "x"), (100, "z"), (1, "x")))
    )
    assert [one.duplicate for one in added] == [False, True, False, True]
    assert await sums.get_state("a") == Token(111)


async def test_an_event_that_was_taken_is_told_so_where_on_event_would_refuse_it_now(world: World) -> None:
    def once(ctx: Any) -> Token:
        if ctx.state.value:
            raise ValueError("there is one already")
        return Token(ctx.event.number)

    sums = summing(world.server, once)
    await world.start()
    await sums.add("a", Ping(1), event_id="x")
    assert (await sums.add("a", Ping(1), event_id="x")).duplicate
    with pytest.raises(ServiceError) as caught:
        await sums.add("a", Ping(1), event_id="y")
    assert caught.value.reason is Reason.EVENT_NOT_TAKEN
    assert (await sums.status("a")).event_count == 1


async def test_an_event_is_the_same_when_its_commit_is_made_again(world: World) -> None:
    """Another change breaks the batch of changes: all of them are made again, one by one."""

    class Broken(Mutation[None]):
        def apply(self, _: object) -> None:
            raise RuntimeError

    slow = Slow()
    slow.go_on.set()
    sums = summing(world.server, slow)
    await world.start()
    host = sums.host
    hand = host.hand

    def with_another(verb: Any, waiter: Any) -> Any:
        hand(verb, waiter)
        world.engine.store.writer.submit(Broken())
        return waiter

    host.hand = with_another
    await sums.add("a", Ping(3))
    assert slow.seen == [(0, 3)]
    assert await sums.get_state("a") == Token(3)


async def test_a_server_that_begins_anew_is_not_held_up_by_what_hangs(world: World) -> None:
    slow = Slow()
    sums = summing(world.server, lambda ctx: slow(ctx) if ctx.event.number == 1 else Token(ctx.event.number))
    await world.start()
    adding = asyncio.create_task(sums.add("a", Ping(1)))
    await held_up(slow)
    await world.harness.crash()
    await world.start()
    async with asyncio.timeout(60):
        assert (await sums.add("a", Ping(2))).event_count == 1
    adding.cancel()
    slow.go_on.set()
    await asyncio.wait([adding])
