"""The test's clock: what is due happens, each thing at its time, and all of it before `advance` returns."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

import longshore_client as lc
from longshore_server.clock import SECOND
from longshore_server.testing import Harness
from longshore_server.testing.clock import START
from longshore_server.transfers.threads import in_thread
from tests.conftest import LabHandlers, turns

DAY = 86_400


async def test_what_is_due_has_ended_when_the_clock_stands_again(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await op.sleep(300)
        return PlayResult(text="slept")

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())
    waiting = asyncio.create_task(operation.wait())
    await longshore.advance(minutes=4, seconds=59)
    assert (await operation.get()).state is lc.State.RUNNING
    assert not waiting.done()
    await longshore.advance(1)
    # No turn of the loop since: the clock stood again only after the caller had been told.
    assert waiting.done()
    assert waiting.result().text == "slept"


async def test_timers_fire_in_order_each_at_its_own_time(longshore: Harness, handlers: LabHandlers) -> None:
    woken: list[tuple[int, str]] = []

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        for seconds in map(int, request.script.split()):
            await op.sleep(seconds)
            woken.append(((longshore.clock.now() - START) // SECOND, request.script))
        return PlayResult()

    handlers.handler = play
    client = longshore.client(LabClient)
    for script in ("20 5", "10 10 10", "1 24"):
        await client.play(PlayRequest(script=script))
    await longshore.advance(60)
    assert woken == [
        (1, "1 24"), (10, "10 10 10"), (20, "20 5"), (20, "10 10 10"), (25, "1 24"), (25, "20 5"), (30, "10 10 10"),
    ]  # fmt: skip
    assert longshore.clock.now() == START + 60 * SECOND


async def test_thousands_of_timers_of_a_month_take_no_longer_than_their_commits(
    longshore: Harness, handlers: LabHandlers
) -> None:
    chance, woken = random.Random(7), []
    counts = {"settled": 0}

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await op.sleep(chance.randrange(1, 30 * DAY))
        woken.append(longshore.clock.now())
        return PlayResult()

    handlers.handler = play
    client = longshore.client(LabClient)
    await asyncio.gather(*(client.play_through(PlayRequest()) for _ in range(1000)))
    settle = longshore.settle

    async def counted() -> None:
        counts["settled"] += 1
        await settle()

    longshore.settle = counted  # type: ignore[method-assign]
    await longshore.advance(days=31)
    assert len(woken) == 1000
    assert woken == sorted(woken)
    # One stop for each time at which something is due, and none for nothing.
    assert counts["settled"] <= 1100


async def test_a_month_of_waiting_and_watching_makes_no_month_of_calls(
    longshore: Harness, handlers: LabHandlers
) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await op.sleep(30 * DAY)
        return PlayResult(text="late")

    handlers.handler = play
    operation = await longshore.client(LabClient).play_through(PlayRequest())

    async def watch() -> list[str]:
        return [type(event).__name__ async for event in operation.watch()]

    waiting, watching = asyncio.create_task(operation.wait()), asyncio.create_task(watch())
    await longshore.advance(days=30)
    assert waiting.result().text == "late"
    assert watching.result() == ["Accepted", "Started", "Completed"]
    waits = longshore.running.listener.calls["/longshore.v1.OperationsService/Wait"]["OK"]
    assert sum(waits.counts) <= 31


async def test_to_settle_moves_no_time_and_waits_for_every_commit(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        for number in range(5):
            await op.progress(PlayProgress(number=number))
        await op.sleep(1)
        return PlayResult()

    handlers.handler = play
    starting = asyncio.create_task(longshore.client(LabClient).play_named(PlayRequest(key="a")))
    await longshore.settle()
    assert starting.done()
    progress = (await starting.result().get()).progress
    assert progress is not None
    assert progress.number == 4
    assert longshore.clock.now() == START


async def test_a_handler_that_waits_for_something_else_is_not_waited_for(
    longshore: Harness, handlers: LabHandlers
) -> None:
    elsewhere = asyncio.Event()

    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await elsewhere.wait()
        return PlayResult(text="heard")

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())
    await longshore.advance(minutes=5)
    assert (await operation.get()).state is lc.State.RUNNING
    elsewhere.set()
    assert (await operation.wait()).text == "heard"


async def test_to_a_date(longshore: Harness) -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=timezone(timedelta(hours=2)))
    await longshore.advance_to(noon)
    assert datetime.fromtimestamp(longshore.clock.now() / SECOND, UTC) == noon
    with pytest.raises(ValueError, match="is past"):
        await longshore.advance_to(noon - timedelta(seconds=1))
    with pytest.raises(ValueError, match="has no zone: give datetime a tzinfo"):
        await longshore.advance_to(datetime(2027, 1, 1))  # noqa: DTZ001 - that is the mistake
    with pytest.raises(ValueError, match="would go back by 60 s"):
        await longshore.advance(minutes=-1)
    with pytest.raises(TypeError, match=r"seconds: '5m' is no number: write advance\(90\) .* advance\(minutes=5\)"):
        await longshore.advance("5m")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hours: '1' is no number"):
        await longshore.advance(hours="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="days: inf is no time that the clock can be moved by"):
        await longshore.advance(days=math.inf)
    with pytest.raises(TypeError, match="3600 is no datetime: `advance` moves the clock"):
        await longshore.advance_to(3600)  # type: ignore[arg-type]
    assert datetime.fromtimestamp(longshore.clock.now() / SECOND, UTC) == noon


async def test_a_client_counts_its_own_time_by_the_same_clock(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())
    waiting = asyncio.create_task(operation.wait(timeout=30))
    await longshore.advance(29)
    assert not waiting.done()
    await longshore.advance(1)
    with pytest.raises(lc.StillRunning):
        await waiting


async def test_time_passes_while_no_server_runs(longshore: Harness, handlers: LabHandlers) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await op.sleep(300)
        return PlayResult(text=f"attempt {op.attempt}")

    handlers.handler = play
    operation = await longshore.client(LabClient).play(PlayRequest())
    await longshore.settle()
    await longshore.crash()
    await longshore.advance(minutes=6)
    await longshore.start()
    await longshore.settle()
    assert (await operation.get()).state is lc.State.COMPLETED
    assert (await operation.wait()).text == "attempt 2"


async def test_who_runs_in_circles_is_found_out(
    longshore: Harness, handlers: LabHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        while not op.cancelled:
            await turns(1)
        return PlayResult()

    handlers.handler = play
    monkeypatch.setattr("longshore_server.testing.rest.TURNS", 1000)
    operation = await longshore.client(LabClient).play(PlayRequest())
    with pytest.raises(RuntimeError, match="a task goes round in circles"):
        await longshore.settle()
    await operation.cancel()
    with pytest.raises(lc.OperationCancelled):
        await operation.wait()


async def test_files_that_are_written_in_threads_are_waited_for(longshore: Harness) -> None:
    entered, gate, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def write() -> str:
        loop.call_soon_threadsafe(entered.set)
        gate.wait()
        return "written"

    writing = asyncio.create_task(in_thread(write))
    await entered.wait()
    settling = asyncio.create_task(longshore.settle())
    await turns()
    assert not settling.done()
    gate.set()
    await settling
    assert writing.done()
