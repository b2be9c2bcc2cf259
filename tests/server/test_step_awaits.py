"""What the function of a step awaits: a re-run that finds the step recorded does not come to it, and mistakes nothing
that comes later for it."""

from __future__ import annotations

from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve

from longshore_server import StepRetry
from tests.conftest import Crash, Lab, result_of
from tests.server.signalling import LISTEN, lab, outcome, pending, send, told

__all__ = ["lab"]


async def test_a_sleep_after_that_of_a_step_is_slept_in_a_rerun_too(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        await op.step("settle-down", op.sleep, 10)
        await crash.here(op)
        begun = lab.clock.now()
        await op.sleep(10)
        return told([op.attempt, (lab.clock.now() - begun) // 1_000_000])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(10)
    lab.clock.advance(10)
    await crash.happen()
    await lab.clock.armed(10)
    lab.clock.advance(10)
    assert await outcome(lab, name) == [2, 10]


async def test_the_sleep_of_a_step_that_was_not_recorded_ends_when_it_would_have(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("settle-down", op.sleep, 100)
        return told([op.attempt])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(60)
    await lab.restart()
    await lab.clock.armed(40)
    lab.clock.advance(40)
    assert await outcome(lab, name) == [2]


async def test_a_signal_that_a_step_has_consumed_is_given_to_nobody_else(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        async def first() -> int:
            return int((await op.next_signal("approve")).payload.amount)

        amounts = [await op.step("ask-the-first", first)]
        await crash.here(op)
        return told([*amounts, (await op.next_signal("approve")).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, amount=1)
    await crash.happen()
    await send(lab, name, amount=2)
    assert await outcome(lab, name) == [1, 2]
    assert await pending(lab, name) == []


async def test_a_signal_after_that_of_a_step_is_another_one_in_a_rerun_too(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if request.script == "target":
            return told([(await op.next_signal("approve")).payload.amount for _ in range(3)])
        other = await lab.server.operations.find(request.key)

        async def first() -> None:
            await other.signal("approve", Approve(amount=1))

        await op.step("tell-the-first", first)
        await other.signal("approve", Approve(amount=2))
        await crash.here(op)
        await other.signal("approve", Approve(amount=3))
        return PlayResult()

    target = (await lab.begin(LISTEN, script="target")).operation.name
    sender = (await lab.begin(LISTEN, key=target)).operation.name
    await crash.happen()
    result_of(await lab.end(sender))
    assert await outcome(lab, target) == [1, 2, 3]


async def test_another_try_of_a_step_gets_the_signals_of_the_one_before_it(lab: Lab) -> None:
    """And so does the first try after a crash: none is lost to a try that has failed."""
    crash, got = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        async def take() -> list[int]:
            found = [int((await op.next_signal("approve")).payload.amount) for _ in range(2)]
            got.append(found)
            if len(got) == 2:
                await crash.here(op)
            if len(got) < 4:
                raise ConnectionError
            return found

        taken = await op.step("take", take, retry=StepRetry(3, initial_delay=0))
        return told([*taken, (await op.next_signal("approve")).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in (1, 2, 3):
        await send(lab, name, amount=amount)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, 3]
    assert got == [[1, 2]] * 4
    assert await pending(lab, name) == []


async def test_another_try_of_a_step_sends_the_same_signals(lab: Lab) -> None:
    tries = 0

    @lab.plays
    async def handler(request, op):
        if request.script == "target":
            return told([(await op.next_signal("approve")).payload.amount for _ in range(3)])
        other = await lab.server.operations.find(request.key)

        async def tell() -> None:
            nonlocal tries
            tries += 1
            await other.signal("approve", Approve(amount=1))
            await other.signal("approve", Approve(amount=2))
            if tries < 3:
                raise ConnectionError

        await op.step("tell", tell, retry=StepRetry(3, initial_delay=0))
        await other.signal("approve", Approve(amount=3))
        return PlayResult()

    target = (await lab.begin(LISTEN, script="target")).operation.name
    result_of(await lab.end((await lab.begin(LISTEN, key=target)).operation.name))
    assert await outcome(lab, target) == [1, 2, 3]
