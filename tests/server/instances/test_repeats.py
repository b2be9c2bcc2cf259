"""What is asked for twice is done once, and who asks again waits for the same handler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_client import DebounceClient, RecurringClient, TaskClient
from longshore_server import StepRetry
from longshore_server.errors import ServiceError
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from longshore_server.store.instances import KEPT_IDS
from longshore_server.store.mutations.instance_accept import StartRecurring, Trigger
from longshore_server.store.mutations.instance_batch import AddEvent, Flush
from tests.server.instances.laboratory import Gate, Ping, Token, World


def refreshing(world: World) -> Any:
    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        ctx.state.value += 1

    return refresh


def collecting(world: World, **options: Any) -> tuple[Any, list[int]]:
    batches: list[int] = []

    @world.server.debounce("pings", state=Ping, flush_after="1h", **options)
    async def pings(ctx: Any) -> None:
        batches.append(ctx.event_count)

    return pings, batches


async def test_an_event_that_fills_a_batch_waits_for_it_when_it_is_repeated_too(world: World) -> None:
    gate = Gate()

    @world.server.debounce("pings", state=Ping, flush_after="1h", max_events=1)
    async def pings(ctx: Any) -> None:
        await gate.hold()

    await world.start()
    first = asyncio.create_task(pings.add("a", Ping(1), event_id="x"))
    await gate.reached.wait()
    again = asyncio.create_task(pings.add("a", Ping(1), event_id="x"))
    await world.settled()
    assert not again.done()
    gate.opened.set()
    assert [(await one).duplicate for one in (first, again)] == [False, True]
    assert (await pings.add("a", Ping(1), event_id="x")).duplicate


async def test_a_start_that_is_repeated_waits_for_the_first_run(world: World) -> None:
    gate = Gate()

    @world.server.recurring("refresh", every=3600, state=Token, retry=StepRetry(2, initial_delay=600))
    async def refresh(ctx: Any) -> None:
        await gate.hold()
        if ctx.attempt == 1:
            raise RuntimeError

    await world.start()
    first = asyncio.create_task(refresh.start("a", Token()))
    await gate.reached.wait()
    again = asyncio.create_task(refresh.start("a", Token()))
    await world.settled()
    assert not again.done()
    gate.opened.set()
    assert [(await one).created for one in (first, again)] == [True, False]
    # Once that has failed there is no handler to wait for: it is told when the next attempt is.
    assert (await refresh.start("a", Token())).retry_at == (await first).retry_at is not None
    await world.advance(600)
    assert await refresh.start("a", Token()) == (False, "recurrings/refresh/instances/a", Status.ACTIVE, None)


async def test_a_request_that_is_repeated_is_the_same_one(world: World) -> None:
    refresh = refreshing(world)
    pings, batches = collecting(world)
    await world.start()
    await refresh.start("a", Token())
    assert [(await refresh.trigger("a", request_id=id)).triggered for id in ("x", "x", "y")] == [True] * 3
    assert await refresh.get_state("a") == Token(3)
    await pings.add("a", Ping(1))
    first = await pings.flush("a", request_id="x")
    await pings.add("a", Ping(2))
    assert await pings.flush("a", request_id="x") == first == (True, 1, Status.ACTIVE, None)
    assert (await pings.status("a")).event_count == 1
    await refresh.terminate("a")
    assert await refresh.trigger("a", request_id="y") == (True, Status.TERMINATED, None)
    assert await refresh.trigger("a", request_id="z") == (False, Status.TERMINATED, None)
    for id in ("x" * 129, "\ud800"):
        with pytest.raises(ServiceError, match="request_id"):
            await refresh.trigger("a", request_id=id)


class Counts(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token()

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        assert ctx.state is not None
        ctx.state.value += 1


async def test_a_call_whose_answer_is_lost_in_a_crash_is_done_once(world: World) -> None:
    """The client makes it again, with the id that it had."""
    refresh, task = refreshing(world), world.server.task("counts", Counts)
    pings, batches = collecting(world, max_events=2)
    await world.start()
    channel = world.harness.client(lambda channel: channel)
    recurring = RecurringClient(channel, "refresh", state=Token)
    debounce = DebounceClient(channel, "pings", event=Ping, state=Ping)
    tasks = TaskClient[Token, Ping](channel, "counts", state=Token, event=Ping)

    async def lost(kind: type, call: Any) -> Any:
        crash = world.harness.crash_after(when=lambda mutation: isinstance(mutation, kind))
        answer = await call
        assert crash.happened
        return answer

    await lost(StartRecurring, recurring.start("a", Token()))
    assert (await refresh.status("a")).run_count == 1
    assert (await lost(Trigger, recurring.trigger("a"))).triggered
    assert await refresh.get_state("a") == Token(2)
    await tasks.send("a", Ping())
    assert (await lost(Trigger, tasks.trigger("a"))).triggered
    assert await task.get_state("a") == Token(1)
    await debounce.add("a", Ping(1))
    assert (await lost(Flush, debounce.flush("a"))).event_count == 1
    assert batches == [1]
    await debounce.add("a", Ping(2))
    assert (await lost(AddEvent, debounce.add("a", Ping(3)))).duplicate
    assert batches == [1, 2]
    assert (await pings.status("a")).event_count == 0


async def test_ids_are_known_as_long_as_their_batch_is_not_handled_however_many_they_are(world: World) -> None:
    gate = Gate()

    @world.server.debounce("pings", state=Ping, flush_after="1h")
    async def pings(ctx: Any) -> None:
        await gate.hold()

    async def add(begin: int, end: int) -> int:
        """How many of these events are new."""
        added = [pings.add("a", Ping(number), event_id=str(number)) for number in range(begin, end)]
        return [one.duplicate for one in await asyncio.gather(*added)].count(False)

    await world.start()
    many = KEPT_IDS + 500
    assert await add(0, many) == many
    # While the batch is open, and while it is being handled, and with as many in the one after it.
    assert await add(0, 10) == 0
    flushed = asyncio.create_task(pings.flush("a"))
    await gate.reached.wait()
    await world.restart()
    flushed.cancel()
    await world.settled()
    assert await add(many, 2 * many) == many
    again = asyncio.create_task(add(0, 10))
    await world.settled()
    assert not again.done(), "who repeats an event waits for the batch that it is in"
    gate.opened.set()
    assert await again == 0
    await world.settled()
    assert await add(many, 2 * many) == 0
    await pings.flush("a")
    # From here on the latest alone. They go as others come.
    assert await add(2 * many, 3 * many) == many
    assert await add(0, 1) == 1


async def test_no_more_ids_of_requests_are_kept_than_the_latest(world: World) -> None:
    gate = Gate()

    @world.server.debounce("pings", state=Ping, flush_after="1h")
    async def pings(ctx: Any) -> None:
        await gate.hold()

    await world.start()
    await pings.add("a", Ping(1))
    await pings.flush("a", no_wait=True)
    await gate.reached.wait()
    # Any number of them may be for one batch, for as long as its handler takes.
    requests = [pings.flush("a", request_id=str(number), no_wait=True) for number in range(KEPT_IDS + 100)]
    assert {found.event_count for found in await asyncio.gather(*requests)} == {1}
    assert world.rows("SELECT count(*) FROM instance_ids") == [(KEPT_IDS,)]
    gate.opened.set()
