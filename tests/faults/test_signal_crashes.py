"""Processes that are killed while signals are sent, wait and are consumed: each point with its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from torture.v1.torture_pb2 import WorkProgress

from longshore.v1 import operations_service_pb2 as pb
from tests.faults.process import Caller, ServerProcess, Supervisor, served
from tests.faults.test_crashes import check_log, insist, kinds, result_of, settled, start


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with served(tmp_path) as found:
        yield found


async def say(caller: Caller, name: str, text: str, id: str = "") -> Any:
    """Send a signal until it is acknowledged, by one id."""
    request = pb.SignalRequest(name=name, signal="say", signal_id=id or text)
    request.payload.Pack(WorkProgress(text=text))
    return await insist(lambda: caller.operations.Signal(request, wait_for_ready=True))


def check_consumed(server: ServerProcess, count: int) -> None:
    """Each signal is consumed, by one entry of the journal."""
    with server.database() as database:
        entries = database.execute("SELECT outcome FROM journal WHERE kind = 'signal' AND outcome <> x''").fetchall()
        signals = database.execute("SELECT number FROM signals WHERE consumed IS NOT NULL").fetchall()
    assert sorted(int(outcome) for (outcome,) in entries) == list(range(1, count + 1))
    assert len(signals) == count


@pytest.mark.parametrize("deaths", [1, 4])
async def test_killed_after_a_signal_was_consumed(server: ServerProcess, deaths: int) -> None:
    script = ["signal", f"die {deaths}", "signal", "signal"]
    async with Caller(server) as caller, Supervisor(server):
        name = await start(caller, "\n".join(script))
        for text in ("a", "b", "c"):
            await say(caller, name, text)
        snapshot, events = await settled(caller, name), await caller.events(name)
    check_log(snapshot, events)
    assert list(result_of(snapshot).tokens) == ["a", "b", "c"]
    assert (snapshot.attempt, snapshot.crashes, len(snapshot.pending_signals)) == (deaths + 1, deaths, 0)
    assert kinds(events).count("signal") == 3
    check_consumed(server, 3)


async def test_killed_between_two_consumptions(server: ServerProcess) -> None:
    script = ["signal", "signal", "die 1", "signal", "die 2", "signal"]
    async with Caller(server) as caller, Supervisor(server):
        name = await start(caller, "\n".join(script))
        for text in ("a", "b", "c", "d"):
            await say(caller, name, text)
        snapshot = await settled(caller, name)
    assert list(result_of(snapshot).tokens) == ["a", "b", "c", "d"]
    check_consumed(server, 4)


async def test_killed_with_signals_that_wait(server: ServerProcess) -> None:
    """What is acknowledged is there after the kill, and not a second time for a sender who asks again."""
    async with Caller(server) as caller:
        name = await start(caller, "pause 3600 until 2\nsignal\nsignal\nsignal")
        numbers = [(await say(caller, name, text)).number for text in ("a", "b")]
        await server.kill()
        await server.start()
        again = await say(caller, name, "b")
        assert (numbers, again.number, again.duplicate) == ([1, 2], 2, True)
        await say(caller, name, "c")
        snapshot = await settled(caller, name)
    assert list(result_of(snapshot).tokens) == ["a", "b", "c"]
    check_consumed(server, 3)


async def test_killed_while_a_wait_has_a_timeout(server: ServerProcess) -> None:
    """The end of the waiting outlives the process, and what comes later is for the next wait."""
    async with Caller(server) as caller:
        name = await start(caller, "progress on\nsignal 1\nprogress over\nsignal")
        await reached(caller, name, "on")
        await server.kill()
        await server.start()
        await reached(caller, name, "over")
        await say(caller, name, "late")
        assert list(result_of(await settled(caller, name)).tokens) == ["timeout", "late"]
    check_consumed(server, 1)


async def reached(caller: Caller, name: str, text: str) -> None:
    """Return once the operation has reported this progress."""
    call = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0), wait_for_ready=True)
    async for message in call:
        progress = WorkProgress()
        if message.event.progress.value.Unpack(progress) and progress.text == text:
            call.cancel()
            return
