"""Handlers of instances that wait for something else of the server lend their slots, which that may need."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore_server.instance_lifecycle import Status as InstanceStatus
from longshore_server.instances import runner
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from tests.server.instances.laboratory import Gate, Ping, Token, World


class Calls(Task[Token, Ping]):
    """Does at each event what the test says."""

    call: Any = None

    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        await type(self).call(ctx.id)
        ctx.state = Token(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None: ...


class Noted(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None: ...


def of_both(world: World) -> tuple[Any, Any]:
    return world.server.task("calls", Calls), world.server.task("noted", Noted)


async def test_three_hundred_that_wait_for_another_one_come_to_their_end(world: World) -> None:
    calls, noted = of_both(world)

    async def both(id: str) -> None:
        await noted.send(id, Ping(1))
        await noted.send("all", Ping(1))

    Calls.call = staticmethod(both)
    await world.start()
    async with asyncio.timeout(60):
        sent = await asyncio.gather(*(calls.send(f"c{number}", Ping(7)) for number in range(300)))
    assert {one.version for one in sent} == {1}
    assert (await noted.status("all")).event_count == 300


async def test_who_has_waited_goes_on_with_a_slot_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SLOTS", 2)
    calls, at_work = world.server.task("calls", Calls), set[str]()
    all_wait, over = Gate(), asyncio.Event()

    class Holds(Noted):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            await all_wait.hold()

    holds = world.server.task("holds", Holds)

    async def around(id: str) -> None:
        await asyncio.gather(holds.send("all", Ping(1)), holds.send("all", Ping(2)))
        at_work.add(id)
        await over.wait()

    Calls.call = staticmethod(around)
    await world.start()
    sending = [asyncio.create_task(calls.send(f"c{number}", Ping(7))) for number in range(20)]
    async with asyncio.timeout(60):
        await world.settled()
        assert (await holds.status("all")).waiting_events == 40
        all_wait.opened.set()
        await world.settled()
        assert len(at_work) == 2
        over.set()
        await asyncio.gather(*sending)
    assert len(at_work) == 20


@pytest.mark.parametrize("of", ["a job", "an operation", "the events of an operation"])
async def test_who_waits_for_something_that_waits_for_an_instance_lends_its_slot_too(
    world: World, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(runner, "SLOTS", 1)
    calls, noted = of_both(world)

    @world.server.job("load")
    async def load(payload: str, job: Any) -> None:
        await noted.send(payload, Ping(1))

    async def handler(request: Any, op: Any) -> PlayResult:
        await noted.send(request.script, Ping(1))
        return PlayResult(text="told")

    async def waits(id: str) -> None:
        if of == "a job":
            await (await load.create(id)).wait()
            return
        ref = await world.server.operations.start("lab.v1.LabService/Play", PlayRequest(script=id))
        if of == "an operation":
            await ref.wait()
        else:
            assert [event async for event in ref.watch()]

    handlers: Any = world.server.services[0]
    handlers.handler = handler
    Calls.call = staticmethod(waits)
    await world.start()
    async with asyncio.timeout(60):
        await asyncio.gather(*(calls.send(id, Ping(7)) for id in "ab"))
    assert [(await noted.status(id)).event_count for id in "ab"] == [1, 1]


async def test_a_handler_that_gives_up_waiting_leaves_its_slot_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over while it waits; who comes after it has a slot, once."""
    monkeypatch.setattr(runner, "SLOTS", 1)
    held = asyncio.Event()
    calls, noted = world.server.task("calls", Calls, timeout=30), world.server.task("noted", Noted)

    class Holds(Noted):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            held.set()
            await asyncio.Event().wait()

    holds = world.server.task("holds", Holds, timeout=60)

    async def waits(id: str) -> None:
        await (holds if id == "a" else noted).send(id, Ping(1))

    Calls.call = staticmethod(waits)
    await world.start()
    sending = [asyncio.create_task(calls.send("a", Ping(7)))]
    await held.wait()
    sending += [asyncio.create_task(calls.send(id, Ping(7))) for id in "bc"]
    await world.advance(30)
    assert (await calls.status("a")).status is InstanceStatus.FAILED
    await world.advance(30)
    async with asyncio.timeout(60):
        await asyncio.gather(*sending)
    assert [(await noted.status(id)).event_count for id in "bc"] == [1, 1]


async def test_who_has_stopped_waiting_hands_no_lent_slot_to_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SLOTS", 1)
    calls, gate, runs = world.server.task("calls", Calls), Gate(), list[str]()

    class Holds(Noted):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            await gate.hold()

    holds = world.server.task("holds", Holds)

    async def waits(id: str) -> None:
        runs.append(id)
        if len(runs) == 1:
            waiting = asyncio.create_task(holds.send("h", Ping(1)))
            await gate.reached.wait()
            waiting.cancel()
            await asyncio.wait([waiting])

    Calls.call = staticmethod(waits)
    await world.start()
    async with asyncio.timeout(60):
        await asyncio.gather(calls.send("a", Ping(1), no_wait=True), calls.send("a", Ping(2), no_wait=True))
        await gate.reached.wait()
        await world.settled()
        assert runs == ["a"]
        gate.opened.set()
        await calls.send("a", Ping(3))
    assert runs == ["a"] * 3
