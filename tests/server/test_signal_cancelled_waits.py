"""A wait for signals that a handler gives up: nothing is lost with it, in this attempt and in a re-run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_server.store.mutations import ConsumeNext
from tests.conftest import Crash, Lab, turns
from tests.server.signalling import LISTEN, amounts, lab, outcome, send, told

__all__ = ["lab"]


async def test_a_wait_that_is_cancelled_consumes_nothing(lab: Lab) -> None:
    cancelled = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve"))
        await turns()
        wait.cancel()
        await asyncio.wait([wait])
        cancelled.set()
        return told(await amounts(op, 2))

    name = (await lab.begin(LISTEN)).operation.name
    await cancelled.wait()
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    assert await outcome(lab, name) == [1, 2]


@pytest.mark.parametrize("timeout", [None, 1000])
async def test_what_was_on_its_way_to_a_cancelled_wait_is_for_the_next(lab: Lab, timeout: float | None) -> None:
    crash = Crash(lab)
    seen: list[int] = []

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=timeout))
        if op.attempt == 1:
            await consuming.wait()
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
        else:
            seen.append((await wait).payload.amount)
        got = await amounts(op, 2 if op.attempt == 1 else 1)
        seen.extend(got)
        await crash.here(op)
        return told([*seen, *await amounts(op, 1)])

    consuming = asyncio.Event()
    submit = lab.engine.store.writer.submit

    def spy(mutation: Any, *rest: Any) -> Any:
        if isinstance(mutation, ConsumeNext):
            # Once this step of the loop is over, the change is with the writer and the wait is not done.
            asyncio.get_running_loop().call_soon(consuming.set)
        return submit(mutation, *rest)

    lab.engine.store.writer.submit = spy
    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    for amount in (1, 2, 3):
        await send(lab, name, amount=amount)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("timeout", [None, 1000])
async def test_a_wait_that_was_given_up_is_given_up_again(lab: Lab, timeout: float | None) -> None:
    """It gets nothing that later ones got, nor what is new: those come first, in the order of the calls."""
    crash, seen, given_up, serving = Crash(lab), [], asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=timeout))
        await serving.wait()  # the re-run begins while the server still starts
        await (lab.catch_up() if timeout is None else lab.clock.armed(timeout))
        wait.cancel()
        await asyncio.wait([wait])
        assert wait.cancelled()
        given_up.set()
        got = [(await op.next_signal("approve", timeout=2000)).payload.amount, *await amounts(op, 1)]
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 2)])

    name = (await lab.begin(LISTEN)).operation.name
    serving.set()
    await given_up.wait()
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    await crash.reached.wait()
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    serving.clear()
    await crash.happen()
    serving.set()
    assert await outcome(lab, name) == [1, 2, 3, 4]
    assert seen == [[1, 2], [1, 2]]


async def test_a_wait_that_went_on_while_others_got_something_goes_on_again(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        # The end of the first one's waiting is recorded first: the second comes before it.
        patient = asyncio.ensure_future(op.next_signal("approve", timeout=1000))
        await turns()
        eager = await op.next_signal("approve")
        await crash.here(op)
        return told([eager.payload.amount, (await patient).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    taken: list[Any] = []
    submit = lab.engine.store.writer.submit

    def spy(mutation: Any, *rest: Any) -> Any:
        if isinstance(mutation, ConsumeNext):
            taken.append(mutation.entry.occurrence)
            if mutation.entry.occurrence == 0 and lab.engine.table.named(name.partition("/")[2]).record.attempt == 1:
                return asyncio.get_running_loop().create_future()  # the first one is held up on its way
        return submit(mutation, *rest)

    lab.engine.store.writer.submit = spy
    await send(lab, name, amount=1)
    await crash.reached.wait()
    assert 1 in taken
    await send(lab, name, amount=2)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2]


@pytest.mark.parametrize("late", [False, True])
async def test_a_wait_whose_time_is_up_in_the_rerun_leaves_what_others_got(lab: Lab, late: bool) -> None:
    """The first wait was given up with its end recorded; the re-run waits it out, and takes nothing from the second."""
    crash, seen, given_up = Crash(lab), [], asyncio.Event()

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=100))
        if op.attempt == 1:
            await lab.clock.armed(100)
            wait.cancel()
        await asyncio.wait([wait])
        given_up.set()
        seen.append(wait.cancelled() or type(wait.exception()).__name__)
        got = await amounts(op, 1)
        await crash.here(op)
        return told([*got, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    await given_up.wait()
    await send(lab, name, amount=1)
    await crash.reached.wait()
    await send(lab, name, amount=2)
    if late:
        lab.clock.advance(1000)
    await crash.happen()
    if not late:
        await lab.clock.armed(100)
        lab.clock.advance(100)
    assert await outcome(lab, name) == [1, 2]
    assert seen == [True, "TimeoutError"]
