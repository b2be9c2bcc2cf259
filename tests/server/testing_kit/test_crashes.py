"""Crashes where the test wants them: between any commit and the first who hears of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

import longshore_client as lc
from longshore_server import Server
from longshore_server.store.mutations import Accept, Record, Settle
from longshore_server.testing import Harness
from tests.conftest import LabHandlers


async def test_a_caller_that_waits_goes_on_with_the_next_server(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        if op.attempt == 1:
            await asyncio.Event().wait()
        return PlayResult(text=f"attempt {op.attempt}")

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())

    async def watch() -> list[int]:
        return [event.sequence async for event in operation.watch()]

    waiting, watching = asyncio.create_task(operation.wait()), asyncio.create_task(watch())
    now = longshore.clock.now()
    await longshore.crash_and_restart()
    assert waiting.result().text == "attempt 2"
    assert watching.result() == list(range(1, len(watching.result()) + 1))
    assert longshore.clock.now() == now, "no time has to pass for that"


async def test_a_change_that_is_durable_but_that_nobody_has_heard_of(longshore: Harness, handlers: LabHandlers) -> None:
    client = longshore.client(LabClient)
    crash = longshore.crash_after(when=lambda change: isinstance(change, Accept))
    # The start is made again, and finds what the server that died had accepted.
    operation = await client.play_named(PlayRequest(key="once"))
    await crash
    assert crash.happened
    assert not operation.created
    await operation.wait()
    assert await client.play_named.count() == {lc.State.COMPLETED: 1}


async def test_each_change_is_a_commit_of_its_own(longshore: Harness) -> None:
    client = longshore.client(LabClient)
    crash = longshore.crash_after(commits=3, when=lambda change: isinstance(change, Accept))
    operations = await asyncio.gather(*(client.play_named(PlayRequest(key=str(key))) for key in range(20)))
    await crash
    # Of the starts that were made again three had been accepted, and only the last of them unheard.
    assert [operation.created for operation in operations].count(False) == 1


async def test_nobody_hears_of_what_is_committed_when_the_server_dies(
    longshore: Harness, handlers: LabHandlers
) -> None:
    heard: list[str] = []

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        try:
            await op.progress(PlayProgress(text="first" if op.attempt == 1 else "second"))
            heard.append(f"attempt {op.attempt}")
        finally:
            heard.append("left")
        return PlayResult()

    handlers.handler = play
    operation = await longshore.client(LabClient).play_named(PlayRequest(key="a"))
    await operation.wait()
    heard.clear()
    crash = longshore.crash_after(when=lambda change: type(change).__name__ == "Report")
    operation = await longshore.client(LabClient).play_named(PlayRequest(key="b"))
    await crash
    await operation.wait()
    assert heard == ["left", "attempt 2", "left"]
    texts = [event.value.text async for event in operation.watch() if isinstance(event, lc.Progress)]
    assert texts == ["first", "second"], "both are durable"


async def scenario(harness: Harness) -> tuple[PlayResult, list[str]]:
    """An order as a user has it: two steps, a sleep, a signal of time, an end. Gives its result and its events."""
    operation = await harness.client(LabClient).play_named(PlayRequest(key="order"))
    await harness.advance(minutes=5)
    return await operation.wait(), [type(event).__name__ async for event in operation.watch()]


async def test_a_crash_after_every_commit_changes_nothing_that_counts(tmp_path: Path) -> None:
    handlers = LabHandlers()
    done: list[str] = []

    async def reserve() -> str:
        done.append("reserve")
        return "reserved"

    async def charge() -> str:
        done.append("charge")
        return "charged"

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        first = await op.step("reserve", reserve)
        await op.sleep(60)
        return PlayResult(text=f"{first}, {await op.step('charge', charge)}")

    handlers.handler = play
    server = Server(handlers)
    commits = 0
    while True:
        commits += 1
        done.clear()
        async with Harness(server, tmp_path / str(commits)).serve() as harness:
            crash = harness.crash_after(commits=commits)
            result, events = await scenario(harness)
            assert result.text == "reserved, charged"
            assert [events[0], events[-1]] == ["Accepted", "Completed"]
            if not crash.happened:
                break
            # A step's result is recorded once; a crash between its effect and its record is the one that repeats it.
            assert sorted(set(done)) == ["charge", "reserve"]
            assert len(done) <= 3
    # accept, two steps, the sleep, the end: the first run without a crash is after the last of them.
    assert commits > 5
    assert done == ["reserve", "charge"]


async def test_a_step_that_is_recorded_is_not_done_again(longshore: Harness, handlers: LabHandlers) -> None:
    done: list[int] = []

    async def work() -> str:
        done.append(1)
        return "worked"

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        return PlayResult(text=await op.step("work", work))

    handlers.handler = play
    crash = longshore.crash_after(when=lambda change: isinstance(change, Record))
    operation = await longshore.client(LabClient).play(PlayRequest())
    await crash
    assert (await operation.wait()).text == "worked"
    assert done == [1]


async def test_a_crash_at_the_very_end(longshore: Harness) -> None:
    crash = longshore.crash_after(when=lambda change: isinstance(change, Settle))
    operation = await longshore.client(LabClient).play(PlayRequest())
    assert (await operation.wait()).text == "played"
    assert crash.happened
    assert [event.attempt async for event in operation.watch()][-1] == 1, "it had ended, and was not run again"


async def test_a_crash_that_is_called_off(longshore: Harness) -> None:
    crash = longshore.crash_after(commits=2)
    with pytest.raises(RuntimeError, match="a crash is planned already"):
        longshore.crash_after()
    crash.cancel()
    await (await longshore.client(LabClient).play(PlayRequest())).wait()
    assert not crash.happened
    with pytest.raises(ValueError, match=r"commits: 0 is less than 1; to die before the next change, await crash\(\)"):
        longshore.crash_after(commits=0)


async def test_a_planned_crash_waits_for_the_next_server(longshore: Harness) -> None:
    crash = longshore.crash_after(commits=2)
    await longshore.restart()
    assert not crash.happened, "what a server writes when it stops is none of the test's"
    await longshore.client(LabClient).play(PlayRequest())
    await longshore.settle()
    assert crash.happened
    assert not crash.under_way


async def test_a_restart_in_good_order_leaves_callers_alone(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await op.sleep(60)
        return PlayResult(text=f"attempt {op.attempt}")

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())
    waiting = asyncio.create_task(operation.wait())
    await longshore.settle()
    await longshore.restart()
    await longshore.advance(minutes=1)
    assert waiting.result().text == "attempt 2"


async def test_a_client_gives_up_on_a_server_that_stays_away(longshore: Harness) -> None:
    operation = await longshore.client(LabClient).play(PlayRequest())
    await operation.wait()
    await longshore.stop()
    asking = asyncio.create_task(operation.get())
    await longshore.advance(minutes=5)
    with pytest.raises(lc.Unavailable, match="the server does not run"):
        await asking
    with pytest.raises(RuntimeError, match="the server does not run"):
        _ = longshore.address
