"""Who waits for a handler is told of every end, also of one that comes in the very commit that accepts the wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import pytest

from longshore_client import RecurringClient, connect
from longshore_server import Server, StepRetry
from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from longshore_server.store.mutations import Mutation
from tests.conftest import turns
from tests.server.instances.laboratory import Gate, Ping, Token, World

T = TypeVar("T")


class Hold(Mutation[None]):
    """Keeps the writer busy until the test lets go of it: what is submitted meanwhile becomes one commit."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def apply(self, _: object) -> None:
        self.begun.set()
        self.go_on.wait(30)


@contextlib.asynccontextmanager
async def one_commit(world: World, changes: int) -> AsyncIterator[None]:
    """So many changes that are submitted inside are one commit."""
    writer, hold = world.engine.store.writer, Hold()
    held = writer.submit(hold)
    try:
        while not hold.begun.is_set():
            await turns(1)
        yield
        await queued(world, changes)
    finally:
        hold.go_on.set()
    await held


async def queued(world: World, changes: int) -> None:
    """Return once so many changes wait for the writer."""
    while world.engine.store.writer.backlog < changes:
        await turns(1)


async def soon(waiting: Awaitable[T]) -> T:
    """A net: who is not told waits for ever."""
    async with asyncio.timeout(60):
        return await waiting


def waiting(world: World) -> int:
    return len(world.engine.instances._waiters._waiting)


def held(world: World) -> tuple[Any, Gate]:
    """A task whose handler waits at a gate."""
    gate = Gate()

    class Held(Task[Token, Ping]):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            await gate.hold()
            ctx.state = Token(event.number)

        async def execute(self, ctx: ExecuteContext[Token]) -> None: ...

    return world.server.task("held", Held), gate


def batches(world: World) -> tuple[Any, Gate]:
    """A debounce whose handler waits at a gate."""
    gate = Gate()

    @world.server.debounce("pings", state=Ping, flush_after="1h")
    async def pings(ctx: Any) -> None:
        await gate.hold()

    return pings, gate


async def test_an_event_that_is_repeated_in_the_commit_that_ends_its_handler(world: World) -> None:
    task, gate = held(world)
    await world.start()
    first = asyncio.create_task(task.send("a", Ping(1), event_id="x"))
    await gate.reached.wait()
    async with one_commit(world, 2):
        again = asyncio.create_task(task.send("a", Ping(1), event_id="x"))
        gate.opened.set()
    assert (await soon(again)).duplicate
    assert (await soon(first)).status is Status.ACTIVE
    assert waiting(world) == 0


async def test_a_flush_in_the_commit_that_ends_the_handler_of_what_it_waits_for(world: World) -> None:
    pings, gate = batches(world)
    await world.start()
    await pings.add("a", Ping(1))
    first = asyncio.create_task(pings.flush("a"))
    await gate.reached.wait()
    async with one_commit(world, 2):
        again = asyncio.create_task(pings.flush("a"))
        gate.opened.set()
    assert (await soon(again)).flushed
    assert (await soon(first)).flushed


@pytest.mark.parametrize("verb", ["pause", "terminate", "purge"])
async def test_an_event_that_is_sent_in_the_commit_that_stops_its_instance(world: World, verb: str) -> None:
    task, gate = held(world)
    gate.opened.set()
    await world.start()
    await task.send("a", Ping(1))
    async with one_commit(world, 2):
        sent = asyncio.create_task(task.send("a", Ping(2)))
        await queued(world, 1)
        stop = task.pause("a") if verb == "pause" else task.terminate("a", purge=verb == "purge")
        stopped = asyncio.create_task(stop)
    await stopped
    assert (await soon(sent)).status is (Status.PAUSED if verb == "pause" else Status.TERMINATED)
    assert waiting(world) == 0


async def test_who_waits_in_a_generation_is_told_of_its_end_where_another_begins_at_once(world: World) -> None:
    task, gate = held(world)
    await world.start()
    first = asyncio.create_task(task.send("a", Ping(1)))
    await gate.reached.wait()
    second = asyncio.create_task(task.send("a", Ping(2)))
    await world.settled()
    async with one_commit(world, 2):
        ended = asyncio.create_task(task.terminate("a"))
        await queued(world, 1)
        anew = asyncio.create_task(task.send("a", Ping(3)))
    assert (await ended).terminated
    assert [(await soon(one)).status for one in (first, second)] == [Status.TERMINATED] * 2
    gate.opened.set()
    assert (await soon(anew)).created
    assert await task.get_state("a") == Token(3)


async def test_who_waits_for_a_batch_is_told_when_it_is_cleared(world: World) -> None:
    pings, gate = batches(world)
    await world.start()
    await pings.add("a", Ping(1))
    first = asyncio.create_task(pings.flush("a"))
    await gate.reached.wait()
    await pings.add("a", Ping(2))
    second = asyncio.create_task(pings.flush("a"))
    await world.settled()
    assert (await pings.clear("a")).discarded_events == 1
    assert await soon(second) == (False, 1, Status.ACTIVE, None)
    gate.opened.set()
    assert (await soon(first)).flushed


async def test_who_waits_for_a_first_run_is_told_when_a_trigger_takes_its_place(world: World) -> None:
    """The start that is repeated waits for the run that the first one has accepted."""
    broken = True

    @world.server.recurring("refresh", every=3600, state=Token, retry=StepRetry(2, initial_delay=600))
    async def refresh(ctx: Any) -> None:
        if broken:
            raise RuntimeError

    await world.start()
    assert (await refresh.start("a", Token())).retry_at is not None
    broken = False
    assert (await soon(refresh.trigger("a"))).triggered
    assert waiting(world) == 0


async def test_what_is_accepted_after_the_server_began_to_drain_sends_its_caller_to_the_next_one(world: World) -> None:
    task, _ = held(world)
    await world.start()
    async with one_commit(world, 1):
        sent = asyncio.create_task(task.send("a", Ping(1)))
        await queued(world, 1)
        world.engine.instances.drain(ServiceError(Reason.SERVER_DRAINING, "It stops."))
    with pytest.raises(ServiceError, match="It stops"):
        await soon(sent)
    assert (await task.status("a")).waiting_events == 1


async def test_nothing_is_kept_of_callers_that_have_left(world: World) -> None:
    task, gate = held(world)
    await world.start()
    first = asyncio.create_task(task.send("a", Ping(1), event_id="x"))
    await gate.reached.wait()
    kept = world.engine.instances._waiters._waiting
    for _ in range(3):
        caller = asyncio.create_task(task.send("a", Ping(1), event_id="x"))
        await world.settled()
        assert [len(entry) for line in kept.values() for entry in line.values()] == [2]
        caller.cancel()
        await asyncio.wait([caller])
    async with one_commit(world, 1):
        caller = asyncio.create_task(task.send("a", Ping(1), event_id="x"))
        await queued(world, 1)
        caller.cancel()
    await asyncio.wait([caller])
    assert [len(entry) for line in kept.values() for entry in line.values()] == [1]
    gate.opened.set()
    await soon(first)
    assert kept == {}


async def test_who_asks_while_the_lifespan_begins_waits_as_ever_and_the_lifespan_itself_does_not(world: World) -> None:
    """The first is a caller of the last server, who asks this one again as soon as it listens."""
    begins, may_begin, runs = asyncio.Event(), asyncio.Event(), 0

    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        assert (await soon(counter.start("a", Token()))).created
        begins.set()
        await may_begin.wait()
        yield

    async def count(ctx: Any) -> None:
        nonlocal runs
        runs += 1

    world.server.lifespan = lifespan
    counter = world.server.recurring("counter", every="1h", state=Token)(count)
    world.settings["listen"] = (address := f"unix:{world.data.parent}/socket",)
    starting = asyncio.create_task(world.start())
    await begins.wait()
    async with connect(address) as channel:
        counters = RecurringClient(channel, "counter", state=Token)
        trigger = asyncio.create_task(counters.trigger("a"))
        while len(world.rows("SELECT 1 FROM instance_entries")) < 2:
            await turns()
        for _ in range(3):  # an answer would have come before these
            await counters.status("a")
        assert (trigger.done(), runs) == (False, 0)
        may_begin.set()
        await starting
        assert ((await soon(trigger)).triggered, runs) == (True, 2)
