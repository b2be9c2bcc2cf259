"""A server that stops, and handlers that wait for what outlasts it: none of the drain is for those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, result_of
from tests.server.signalling import AGAIN, LISTEN, SignalHandlers, send

DRAIN = 30.0
"""Seconds, which pass only where a test lets them: any other stop that ends has not waited for them."""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A laboratory that takes its time to stop."""
    found = Lab(tmp_path / "data", services=[SignalHandlers], drain=DRAIN)
    await found.start()
    try:
        yield found
    finally:
        found.clock.advance(DRAIN)
        await found.stop()


async def again(lab: Lab) -> None:
    """Stop the server in good order, in less than its drain, and start the next one."""
    await asyncio.wait_for(lab.restart(crash=False), 60)


async def begun_to_stop(lab: Lab) -> asyncio.Future[None]:
    """The stop of a server that gives somebody the time of its drain."""
    stopping = asyncio.ensure_future(lab.harness.stop())
    await lab.clock.armed(DRAIN)
    return stopping


async def next_server(lab: Lab, stopping: asyncio.Future[None]) -> None:
    """Start it once the stop has ended, in less than the drain."""
    await asyncio.wait_for(stopping, 60)
    await lab.harness.start()
    await lab.connect()


WAITS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "a sleep": lambda op: op.sleep(3600),
    "a signal": lambda op: op.next_signal("approve"),
    "a signal, or a time": lambda op: op.next_signal("approve", timeout=3600),
    "all signals": lambda op: anext(op.signals("approve")),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_a_handler_that_waits_goes_on_at_the_next_server(lab: Lab, wait: str) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await WAITS[wait](op)
        return PlayResult(number=op.attempt)

    name = (await lab.begin(LISTEN)).operation.name
    await lab.reached(name, "started")
    await lab.catch_up()
    await again(lab)
    if wait == "a sleep":
        await lab.clock.armed(3600)
        lab.clock.advance(3600)
    else:
        await send(lab, name)
    end = await lab.end(name)
    assert (result_of(end).number, end.crashes) == (2, 0)


async def test_so_does_one_that_comes_to_its_wait_while_the_server_stops(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await gate.wait()
        await op.sleep(60)
        return PlayResult(number=op.attempt)

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    stopping = await begun_to_stop(lab)
    gate.set()
    await next_server(lab, stopping)
    await lab.clock.armed(60)
    lab.clock.advance(60)
    assert result_of(await lab.end(name)).number == 2


async def test_a_step_that_runs_meanwhile_is_waited_for(lab: Lab) -> None:
    gate, ran = asyncio.Event(), []

    async def work() -> str:
        ran.append("work")
        await gate.wait()
        return "done"

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        step = asyncio.ensure_future(op.step("work", work))
        try:
            await op.sleep(60)
        except asyncio.CancelledError:
            step.cancel()  # as a group of tasks would
            raise
        return PlayResult(number=op.attempt, text=await step)

    name = (await lab.begin()).operation.name
    await lab.clock.armed(60)
    stopping = await begun_to_stop(lab)
    assert not stopping.done()
    gate.set()
    await next_server(lab, stopping)
    await lab.clock.armed(60)
    lab.clock.advance(60)
    result = result_of(await lab.end(name))
    assert (result.number, result.text, ran) == (2, "done", ["work"])


async def test_a_wait_beside_other_work_ends_nothing(lab: Lab) -> None:
    """What the handler's own task waits for there is no business of the server's."""
    gate = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        aside = asyncio.ensure_future(op.sleep(60))
        await gate.wait()
        aside.cancel()
        return PlayResult(number=op.attempt)

    name = (await lab.begin()).operation.name
    await lab.clock.armed(60)
    stopping = await begun_to_stop(lab)
    gate.set()
    await next_server(lab, stopping)
    assert result_of(await lab.end(name)).number == 1


async def test_what_no_server_runs_again_has_all_of_the_drain(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.sleep(20)
        return PlayResult(number=op.attempt)

    slept, interrupted = [(await lab.begin("PlayOnce")).operation.name for _ in range(2)]
    await lab.clock.armed(20)
    stopping = await begun_to_stop(lab)
    lab.clock.advance(20)
    await next_server(lab, stopping)
    for name in (slept, interrupted):
        assert result_of(await lab.end(name)).number == 1


async def test_nor_is_what_is_attached_left_to_the_next_server(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        async def work() -> PlayResult:
            await op.sleep(20)
            return PlayResult(number=op.attempt)

        result: PlayResult = await op.attach(work())
        return result

    name = (await lab.begin()).operation.name
    await lab.clock.armed(20)
    stopping = await begun_to_stop(lab)
    lab.clock.advance(20)
    await next_server(lab, stopping)
    assert result_of(await lab.end(name)).number == 1


@pytest.mark.parametrize(("type", "state"), [("Play", State.STATE_CANCELLED), ("PlayOn", State.STATE_COMPLETED)])
async def test_nor_is_what_a_caller_has_asked_to_cancel(lab: Lab, type: str, state: State.ValueType) -> None:
    """The next server would end it as it is."""
    tidied = []

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.cancelled.wait()
        await op.sleep(5)
        tidied.append(op.attempt)
        return PlayResult()

    name = (await lab.begin(type)).operation.name
    await lab.reached(name, "started")
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    await lab.clock.armed(5)
    stopping = await begun_to_stop(lab)
    lab.clock.advance(5)
    await next_server(lab, stopping)
    assert (tidied, (await lab.end(name)).state) == ([1], state)


async def test_nor_is_what_is_deferred(lab: Lab) -> None:
    tidied = []

    @lab.plays
    async def handler(request: Any, op: Any) -> None:
        await op.defer()
        await op.sleep(5)
        tidied.append(op.attempt)

    await lab.begin()
    await lab.clock.armed(5)
    stopping = await begun_to_stop(lab)
    lab.clock.advance(5)
    await next_server(lab, stopping)
    assert tidied == [1]


async def test_an_attempt_whose_handler_has_yet_to_begin_goes_on_at_the_next_server(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, gate = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        if op.attempt == 1:
            raise ValueError
        await op.sleep(3600)
        return PlayResult(number=op.attempt)

    name = (await lab.begin(AGAIN)).operation.name
    await lab.reached(name, "attempt_failed")
    await lab.clock.armed(60)
    found = lab.engine.store.journal

    async def journal(uid: bytes) -> Any:
        reading.set()
        await gate.wait()
        return await found(uid)

    monkeypatch.setattr(lab.engine.store, "journal", journal)
    lab.clock.advance(60)
    await reading.wait()
    stopping = await begun_to_stop(lab)
    gate.set()
    await next_server(lab, stopping)
    await lab.clock.armed(3600)
    lab.clock.advance(3600)
    assert result_of(await lab.end(name)).number == 3
