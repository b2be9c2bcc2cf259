"""How a handler waits for signals: each once, in order, as long as it says."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Reject

from longshore_server.engine.overdue import Overdue
from tests.conftest import Lab, State, reason_of_end, turns
from tests.server.signalling import AGAIN, LISTEN, amounts, lab, outcome, pending, send, told

__all__ = ["lab"]


# Order.


async def test_signals_come_in_the_order_of_their_acceptance(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await go.wait()
        return told(await amounts(op, 4))

    name = (await lab.begin(LISTEN)).operation.name
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    go.set()
    await lab.catch_up()
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    assert await outcome(lab, name) == [1, 2, 3, 4]


async def test_a_wait_leaves_the_signals_of_other_names(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        no = await op.next_signal("reject")
        return told([no.payload.why, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, amount=1)
    await lab.catch_up()
    assert await pending(lab, name) == [1]
    await send(lab, name, "reject", Reject(why="late"))
    assert await outcome(lab, name) == ["late", 1]


async def test_an_iterator_gives_all_names_in_one_order(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        got = []
        async for signal in op.signals("approve", "reject"):
            got.append([signal.number, signal.name])
            if signal.name == "reject" and signal.payload.why == "end":
                break
        rest = [signal.name async for signal in first(op.signals(), 2)]
        return told([got, rest])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name)
    await send(lab, name, "poke", Empty())
    await send(lab, name, "reject")
    await send(lab, name)
    await send(lab, name, "reject", Reject(why="end"))
    await send(lab, name)
    got, rest = await outcome(lab, name)
    assert got == [[1, "approve"], [3, "reject"], [4, "approve"], [5, "reject"]]
    assert rest == ["poke", "approve"]


async def first(signals: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(signals)


async def test_waits_at_the_same_time_get_one_signal_each(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        waits = [op.next_signal("approve", timeout=None if n % 2 else 60) for n in range(5)]
        got = await asyncio.gather(*waits)
        return told([signal.payload.amount for signal in got])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in range(5):
        await send(lab, name, amount=amount)
    assert sorted(await outcome(lab, name)) == [0, 1, 2, 3, 4]


async def test_a_signal_wakes_only_whom_it_is_for(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        yes, no = await asyncio.gather(op.next_signal("approve"), op.next_signal("reject"))
        return told([yes.number, no.number])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, "reject")
    await send(lab, name, "approve")
    assert await outcome(lab, name) == [2, 1]


# What cannot be waited for.


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda op: op.next_signal("aprove"),
            "'aprove' is no signal of lab.v1.SignalsService/Listen: they are approve,",
        ),
        (lambda op: op.next_signal("approve", timeout=-1), "cannot wait -1: it must not be negative"),
        (lambda op: op.next_signal("approve", timeout=timedelta(seconds=-2)), "it must not be negative"),
        (lambda op: op.next_signal("approve", timeout=float("inf")), "cannot wait inf: it must not be longer than"),
    ],
)
async def test_a_wait_that_makes_no_sense_is_an_error(lab: Lab, ask: Any, words: str) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(ValueError, match=words):
            await ask(op)
        with pytest.raises(ValueError, match="'aprove' is no signal"):
            op.signals("approve", "aprove")
        return PlayResult()

    assert (await lab.run(LISTEN)).state == State.STATE_COMPLETED


async def test_a_type_without_signals_says_so(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for ask in (op.signals, lambda: op.signals("x")):
            with pytest.raises(ValueError, match=r"the contract of lab\.v1\.LabService/Play declares no signals"):
                ask()
        return PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


# Timeouts.


async def test_a_timeout_is_an_error_and_consumes_nothing(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TimeoutError, match="no signal 'approve' came within 60 seconds"):
            await op.next_signal("approve", timeout=60)
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await lab.catch_up()
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]


@pytest.mark.parametrize("timeout", [60, 60.0, timedelta(minutes=1)])
async def test_a_signal_that_comes_in_time_ends_the_wait(lab: Lab, timeout: Any) -> None:
    @lab.plays
    async def handler(request, op):
        return told([(await op.next_signal("approve", timeout=timeout)).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(60)
    lab.clock.advance(59)
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]
    assert lab.clock.timers(1) == 0, "the timer is gone with its wait"


async def test_a_timeout_of_nothing_takes_what_is_there(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await go.wait()
        got = [(await op.next_signal("approve", timeout=0)).payload.amount]
        with pytest.raises(TimeoutError):
            await op.next_signal("approve", timeout=0)
        return told(got)

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, amount=1)
    go.set()
    assert await outcome(lab, name) == [1]


# Ends.


async def test_a_wait_ends_with_its_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.next_signal("approve", timeout=3600)

    name = (await lab.begin(AGAIN)).operation.name
    await lab.clock.armed(3600)
    Overdue(lab.engine.store, lab.clock).deadline(lab.engine.table.named(name.partition("/")[2]))
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    await lab.catch_up()
    assert lab.engine.executor.running == 0
    assert lab.clock.timers(3600) == 0


async def test_nothing_is_asked_of_the_store_while_nothing_comes(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    batches = lab.engine.store.writer.committing
    lab.clock.advance(10_000)
    await turns(100)
    assert lab.engine.store.writer.committing == batches
    assert lab.clock.pending == 0
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]
