"""Handlers that would wait for themselves: refused at once, by name, before anything is written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from tests.conftest import turns
from tests.server.instances.laboratory import Gate, Ping, Token, World
from tests.server.instances.test_reducing import Slow, held_up


class Sends(Task[Token, Ping]):
    """Sends each event on, counted down, to where the test says."""

    to: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012 - each test sets its own
    refusals: list[str] = []  # noqa: RUF012

    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token(event.number)
        if event.number:
            try:
                await self.to(ctx.id, Ping(event.number - 1), **self.options)
            except RuntimeError as error:
                self.refusals.append(str(error))

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        assert self.to is not None
        try:
            await sending.trigger(ctx.id)
        except RuntimeError as error:
            self.refusals.append(str(error))


sending: Any = None


@pytest.fixture
async def task(world: World) -> Any:
    global sending  # noqa: PLW0603 - the class finds its own definition there
    sending = world.server.task("sends", Sends)
    Sends.options, Sends.refusals, Sends.to = {}, [], sending.send
    await world.start()
    return sending


async def test_a_task_that_waits_for_its_own_event_is_refused(task: Any) -> None:
    async with asyncio.timeout(60):
        sent = await task.send("a", Ping(1))
        await task.trigger("a")
    own = "a handler of tasks/sends/instances/a waits for itself: what it asks for begins only when it has ended. Give"
    assert Sends.refusals == [f"{own} no_wait=True: it is done after this handler"] * 2
    assert (sent.version, (await task.status("a")).event_count) == (1, 1)


async def test_without_waiting_it_may_and_so_may_one_that_waits_for_another(task: Any) -> None:
    Sends.options = {"no_wait": True}
    await task.send("a", Ping(2))
    await task.trigger("b")

    async def other(id: str, event: Ping) -> None:
        await task.send(f"{id}.", event)

    Sends.options, Sends.to = {}, staticmethod(other)
    async with asyncio.timeout(60):
        await task.send("c", Ping(3))
    assert await task.get_state("c...") == Token(0)
    assert Sends.refusals == []


async def test_a_circle_of_several_is_refused_where_it_closes(task: Any) -> None:
    async def around(id: str, event: Ping) -> None:
        await task.send({"a": "b", "b": "c", "c": "a"}[id], event)

    Sends.to = staticmethod(around)
    async with asyncio.timeout(60):
        await task.send("a", Ping(9))
    assert len(Sends.refusals) == 1
    assert Sends.refusals[0].startswith(
        "a handler of tasks/sends/instances/c waits for tasks/sends/instances/a, and tasks/sends/instances/a waits for"
        " tasks/sends/instances/b, tasks/sends/instances/b waits for tasks/sends/instances/c: neither would end"
    )
    # It was there for that one time: who has left waits no more.
    assert (await task.status("a")).event_count == 1
    Sends.to = task.send
    await task.send("b", Ping(0))


async def test_a_handler_that_fills_the_batch_after_its_own_does_not_wait_for_that(world: World) -> None:
    seen: list[int] = []

    @world.server.debounce("pings", state=Ping, flush_after="1h", max_events=1)
    async def pings(ctx: Any) -> None:
        seen.append(ctx.state.number)
        if ctx.state.number:
            await pings.add(ctx.id, Ping(ctx.state.number - 1))

    await world.start()
    async with asyncio.timeout(60):
        await pings.add("a", Ping(2))
        await world.settled()
    assert seen == [2, 1, 0]


async def test_one_that_begins_to_wait_for_the_adder_while_its_event_is_reduced_is_not_waited_for(world: World) -> None:
    slow, gate = Slow(), Gate()
    slow.go_on.set()

    @world.server.debounce(
        "sums", event=Ping, state=Token, initial=Token, on_event=slow, flush_after="1h", max_events=1
    )
    async def sums(ctx: Any) -> None:
        if ctx.state.value == 1:
            await gate.hold()
            await sending.send("t", Ping(0))

    async def add(id: str, event: Ping) -> None:
        await sums.add("x", Ping(2))

    global sending  # noqa: PLW0603 - the class finds its own definition there
    sending = world.server.task("sends", Sends)
    Sends.options, Sends.refusals, Sends.to = {}, [], staticmethod(add)
    await world.start()
    async with asyncio.timeout(60):
        await sums.add("x", Ping(1), no_wait=True)
        await gate.reached.wait()
        slow.go_on.clear()
        slow.begun.clear()
        sent = asyncio.create_task(sending.send("t", Ping(1)))
        await held_up(slow)
        gate.opened.set()
        while not world.engine.handler_waits._waits:
            await turns(1)
        slow.go_on.set()
        await sent
        await world.settled()
    assert Sends.refusals == []
    assert ((await sending.status("t")).event_count, (await sums.status("x")).run_count) == (2, 2)


async def test_who_has_gone_without_its_answer_closes_no_circle(world: World) -> None:
    gate = Gate()

    class Impatient(Task[Token, Ping]):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            if ctx.id == "a" and event.number:
                waiting = asyncio.create_task(held.send("b", Ping(1)))
                await gate.reached.wait()
                waiting.cancel()
                await asyncio.wait([waiting])
                gate.opened.set()
            elif ctx.id == "b":
                await gate.hold()
                await held.send("a", Ping(0))

        async def execute(self, ctx: ExecuteContext[Token]) -> None: ...

    held = world.server.task("held", Impatient)
    await world.start()
    async with asyncio.timeout(60):
        await held.send("a", Ping(1))
        await world.settled()
    assert [(await held.status(id)).event_count for id in "ab"] == [2, 1]
