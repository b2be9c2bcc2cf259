"""Debounce instances: every field, context member and verb."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from longshore_server import StepRetry
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.debounce import FlushReason
from tests.server.instances.laboratory import Gate, Ping, Token, World

Batch = tuple[float, Any, int, FlushReason]


def collect(world: World, **options: Any) -> tuple[Any, list[Batch]]:
    """A debounce that sums the numbers of its events, and the batches that it has handled."""
    batches: list[Batch] = []

    def add(ctx: Any) -> Token:
        return Token(ctx.state.value + ctx.event.number, f"{ctx.id} {ctx.event_count}")

    options = {"flush_after": "5s", "on_event": add, "initial": Token, "event": Ping, **options}

    @world.server.debounce("pings", state=Token, **options)
    async def send(ctx: Any) -> None:
        batches.append((world.now(), ctx.state.value, ctx.event_count, ctx.flush_reason))

    return send, batches


def at(world: World, seconds: float) -> datetime:
    return datetime.fromtimestamp(1_767_225_600 + seconds, UTC)


async def test_a_window_is_counted_from_the_first_event(world: World) -> None:
    send, batches = collect(world)
    await world.start()
    assert await send.add("a", Ping(1)) == (True, 1, at(world, 5), Status.ACTIVE, False, None)
    await world.advance(4)
    assert await send.add("a", Ping(2)) == (False, 2, at(world, 5), Status.ACTIVE, False, None)
    assert await send.get_state("a") == Token(3, "a 2")
    await world.advance(1)
    assert batches == [(5, 3, 2, FlushReason.FLUSH_AFTER)]
    status = await send.status("a")
    assert (status.status, status.event_count, status.will_flush_at, status.run_count) == (Status.ACTIVE, 0, None, 1)


async def test_a_trailing_one_from_the_latest_up_to_a_maximum(world: World) -> None:
    send, batches = collect(world, mode="trailing", max_wait="12s")
    await world.start()
    for _ in range(3):
        await send.add("a", Ping(1))
        await world.advance(4)
    assert batches == [(12, 3, 3, FlushReason.FLUSH_AFTER)]
    await send.add("a", Ping(5))
    await world.advance(5)
    assert batches[1] == (17, 5, 1, FlushReason.FLUSH_AFTER)


async def test_what_fills_a_batch_is_answered_once_that_was_handled(world: World) -> None:
    send, batches = collect(world, max_events=2)
    await world.start()
    await send.add("a", Ping(1))
    added = await send.add("a", Ping(2))
    assert (added.event_count, added.will_flush_at) == (0, None)
    assert batches == [(0, 3, 2, FlushReason.MAX_EVENTS)]


async def test_flush_hands_over_what_there_is(world: World) -> None:
    send, batches = collect(world)
    await world.start()
    assert await send.flush("a") == (False, 0, Status.NOT_FOUND, None)
    await send.add("a", Ping(1))
    assert await send.flush("a") == (True, 1, Status.ACTIVE, None)
    assert batches == [(0, 1, 1, FlushReason.MANUAL)]
    assert await send.flush("a") == (False, 0, Status.ACTIVE, None)


async def test_clear_discards_what_there_is(world: World) -> None:
    send, batches = collect(world)
    await world.start()
    assert await send.clear("a") == (False, 0, Status.NOT_FOUND)
    await send.add("a", Ping(1))
    await send.add("a", Ping(1))
    assert await send.clear("a") == (True, 2, Status.ACTIVE)
    await world.advance(60)
    assert batches == []
    assert await send.get_state("a") is None


async def test_events_during_a_run_and_its_retries_open_the_next_batch(world: World) -> None:
    gate, seen = Gate(), []

    @world.server.debounce("pings", state=Ping, flush_after=5, retry=StepRetry(3, initial_delay=10))
    async def send(ctx: Any) -> None:
        seen.append((world.now(), ctx.attempt, ctx.state.number, ctx.event_count, ctx.flush_reason))
        await gate.hold()
        if len(seen) < 3:
            raise RuntimeError

    await world.start()
    await send.add("a", Ping(1))
    world.clock.advance(5)
    await gate.reached.wait()
    assert (await send.add("a", Ping(2))).event_count == 1
    gate.opened.set()
    await world.settled()
    assert (await send.add("a", Ping(3))).event_count == 2
    await world.advance(10)
    await world.advance(20)
    assert seen == [
        (5, 1, 1, 1, FlushReason.FLUSH_AFTER),
        (15, 2, 1, 1, FlushReason.FLUSH_AFTER),
        (35, 3, 1, 1, FlushReason.FLUSH_AFTER),
        (35, 1, 3, 2, FlushReason.FLUSH_AFTER),
    ]


async def test_exhausted_retries_keep_the_batch_as_a_dead_letter(world: World) -> None:
    broken, seen = True, []

    @world.server.debounce("pings", state=Ping, flush_after=5, retry=StepRetry(2, initial_delay=1))
    async def send(ctx: Any) -> None:
        seen.append((ctx.state.number, ctx.attempt))
        if broken:
            raise RuntimeError

    await world.start()
    await send.add("a", Ping(1))
    await world.advance(5)
    await world.advance(1)
    status = await send.status("a")
    assert (status.status, status.dead_letters, status.waiting_batches) == (Status.FAILED, 1, 0)
    assert status.last_error is not None
    assert status.last_error.reason == "HANDLER_ERROR"
    # What comes now is kept, and waits.
    added = await send.add("a", Ping(2))
    assert (added.status, added.event_count, added.will_flush_at) == (Status.FAILED, 1, None)
    await world.restart()
    broken = False
    assert await send.resume("a") == (True, Status.ACTIVE)
    await world.advance(5)
    assert seen == [(1, 1), (1, 2), (1, 1), (2, 1)]
    assert (await send.status("a")).last_error is None


async def test_on_error_lets_the_next_batch_go_on_and_keeps_the_letter(world: World) -> None:
    told: list[Any] = []

    async def sorry(error: BaseException, ctx: Any) -> None:
        told.append((str(error), ctx.state.number, ctx.event_count))

    @world.server.debounce("pings", state=Ping, flush_after=5, on_error=sorry)
    async def send(ctx: Any) -> None:
        if ctx.state.number == 1:
            raise RuntimeError("no")

    await world.start()
    await send.add("a", Ping(1))
    await world.advance(5)
    assert told == [("no", 1, 1)]
    status = await send.status("a")
    assert (status.status, status.dead_letters) == (Status.ACTIVE, 1)
    await send.add("a", Ping(2))
    await world.advance(5)
    assert (await send.status("a")).run_count == 2
    assert await send.resume("a") == (True, Status.ACTIVE)
    await world.settled()
    assert len(told) == 2
    assert await send.clear("a") == (True, 1, Status.ACTIVE)
    assert (await send.status("a")).dead_letters == 0


async def test_an_event_that_is_sent_twice_counts_once(world: World) -> None:
    send, batches = collect(world)
    await world.start()
    await send.add("a", Ping(1), event_id="x")
    again = await send.add("a", Ping(1), event_id="x")
    assert (again.duplicate, again.event_count) == (True, 1)
    await world.advance(5)
    await world.restart()
    assert (await send.add("a", Ping(1), event_id="x")).duplicate
    assert batches == [(5, 1, 1, FlushReason.FLUSH_AFTER)]


async def test_what_is_collected_survives_a_crash(world: World) -> None:
    send, batches = collect(world)
    await world.start()
    await send.add("a", Ping(1))
    await send.add("a", Ping(2))
    await world.restart()
    await world.advance(60)
    assert batches == [(60, 3, 2, FlushReason.FLUSH_AFTER)]


async def test_an_initial_state_is_each_batchs_own_also_where_it_is_changed_in_place(world: World) -> None:
    batches: list[Any] = []

    def append(ctx: Any) -> list[int]:
        state: list[int] = ctx.state
        state.append(ctx.event)
        return state

    @world.server.debounce("numbers", event=int, state=list[int], initial=[], on_event=append, flush_after="5s")
    async def send(ctx: Any) -> None:
        batches.append(ctx.state)

    await world.start()
    for id in ("a", "b"):
        await send.add(id, 1)
    await world.advance(5)
    await send.add("a", 2)
    await world.advance(5)
    assert batches == [[1], [1], [2]]
