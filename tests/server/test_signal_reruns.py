"""What a re-run gets of the signals that came before it: the same from the same calls, and what is left of a wait."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve, Reject

from longshore_server import NonDeterministicError
from longshore_server.store.mutations import SendSignal
from tests.conftest import Crash, Lab, reason_of_end
from tests.server.signalling import AGAIN, LISTEN, amounts, lab, outcome, packed, pending, send, told

__all__ = ["lab"]


# Timeouts.


async def test_a_rerun_waits_only_what_is_left(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        try:
            await op.next_signal("approve", timeout=100)
        except TimeoutError:
            return told(["timeout", op.attempt])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(70)
    await lab.restart()
    await lab.clock.armed(30)
    lab.clock.advance(30)
    assert await outcome(lab, name) == ["timeout", 2]


async def test_a_timeout_that_passed_while_no_server_ran_is_over_at_once(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        with contextlib.suppress(TimeoutError):
            return told([(await op.next_signal("approve", timeout=100)).number])
        return told(["timeout"])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    await lab.harness.crash()
    lab.clock.advance(1000)
    await lab.harness.start()
    await lab.connect()
    assert await outcome(lab, name) == ["timeout"]


async def test_a_signal_that_comes_as_the_time_is_up_comes_again_in_a_rerun(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            # On its way when the wait begins, which finds its time to be up before it finds the signal.
            payload = packed(Approve(amount=7)).SerializeToString()
            lab.engine.store.writer.submit(SendSignal(op.author.uid, "approve", "one", payload, "local", 9))
        got = (await op.next_signal("approve", timeout=0)).payload.amount
        await crash.here(op)
        return told([got])

    name = (await lab.begin(LISTEN)).operation.name
    await crash.happen()
    assert await outcome(lab, name) == [7]


async def test_a_recorded_timeout_is_one_again_though_a_signal_has_come(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        try:
            await op.next_signal("approve", timeout=100)
        except TimeoutError:
            seen.append(op.attempt)
        await crash.here(op)
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(100)
    await crash.reached.wait()
    await send(lab, name, amount=7)
    await crash.happen()
    assert await outcome(lab, name) == [7]
    assert seen == [1, 2]


# Signals.


async def test_a_rerun_gets_the_same_signals_from_the_same_calls_then_new_ones(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        got = await amounts(op, 2)
        got.append((await op.next_signal("reject", timeout=60)).payload.why)
        async for signal in op.signals("approve", "reject"):
            got.append(signal.number)
            break
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 2)])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    await send(lab, name, "reject", Reject(why="no"))
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    await crash.reached.wait()
    await send(lab, name, amount=5)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, "no", 4, 4, 5]
    assert seen == [[1, 2, "no", 4]] * 2
    assert await pending(lab, name) == []


async def test_a_failed_attempt_is_made_again_with_the_same_signals(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        got = await amounts(op, 1)
        if op.attempt < 3:
            raise RuntimeError("again")
        return told([*got, op.attempt])

    name = (await lab.begin(AGAIN)).operation.name
    await send(lab, name, amount=3)
    for attempt in (1, 2):
        await lab.reached(name, "attempt_failed", attempt)
        await lab.clock.armed(60)
        lab.clock.advance(60)
    assert await outcome(lab, name) == [3, 3]


@pytest.mark.parametrize("recorded", ["a signal", "a timeout", "an end of the waiting"])
async def test_another_timeout_in_a_rerun_is_non_deterministic(lab: Lab, recorded: str) -> None:
    crash, errors = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        try:
            with contextlib.suppress(TimeoutError):
                await op.next_signal("approve", timeout=50 + op.attempt)
        except NonDeterministicError as error:
            errors.append(str(error))
        await crash.here(op)
        return PlayResult()

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(51)
    if recorded == "a signal":
        await send(lab, name)
    elif recorded == "a timeout":
        lab.clock.advance(51)
    if recorded == "an end of the waiting":
        await lab.restart()
    else:
        await crash.happen()
    assert reason_of_end(await lab.end(name)) == "NON_DETERMINISTIC"
    kind = "signal_timeout" if recorded == "an end of the waiting" else "signal"
    assert errors == [
        f"{kind} 'approve': attempt 1 asked for ('approve', 51.0), this attempt asks for ('approve', 52.0)"
    ]


async def test_concurrent_waits_get_their_own_signals_again(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        async def wait(n: int) -> Any:
            await asyncio.sleep(0)
            return (await op.next_signal("approve", timeout=n * 1000 or None)).payload.amount

        got = await asyncio.gather(*(wait(n) for n in range(4)))
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in range(5):
        await send(lab, name, amount=amount)
    await crash.happen()
    *got, last = await outcome(lab, name)
    assert seen == [got, got]
    assert (sorted(got), last) == ([0, 1, 2, 3], 4)
