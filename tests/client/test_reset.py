"""A log that no longer reaches back: a `Reset` stands for what is missing, and nothing ends without a word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

import longshore_client as lc
from longshore_server import OperationError
from tests.conftest import Lab

MakeLab = Callable[..., Awaitable[Lab]]


async def handler(request: Any, op: Any) -> PlayResult:
    for number in range(60 if op.attempt == 1 else 0):
        await op.progress(PlayProgress(number=number))
    if request.script == "FAILED":
        raise OperationError("OUT_OF_STOCK", "no A1 left")
    if request.script != "COMPLETED":
        await op.cancelled.wait()
    return PlayResult(text="made")


@pytest.mark.parametrize("types", [(), (lc.Output,), (lc.Reset,)], ids=["all", "outputs", "resets"])
@pytest.mark.parametrize("end", [lc.State.COMPLETED, lc.State.FAILED, lc.State.CANCELLED])
async def test_a_reset_tells_how_it_ended(make_lab: MakeLab, end: lc.State, types: tuple[type[lc.EventBase]]) -> None:
    lab = await make_lab(max_events=20)
    lab.plays(handler)
    async with lc.connect(lab.harness.address) as channel:
        op = await LabClient(channel).play(PlayRequest(script=end.name))
        if end is lc.State.CANCELLED:
            await lab.reached(op.name, "progress", 60)
            await op.cancel("ordered twice")
        last = await lab.end(op.name)
        # What the log has dropped the server may still have in memory.
        await lab.restart(crash=False)
        attached = LabClient(channel).play.attach(op.name)
        (reset,) = [event async for event in attached.watch(2, types=types)]
        assert isinstance(reset, lc.Reset)
        assert (reset.state, reset.sequence, reset.revision) == (end, last.sequence, last.revision)
        # Errors compare by identity.
        assert replace(reset.snapshot, error=None) == replace(await op.get(), error=None)
        assert reset.snapshot.progress == PlayProgress(number=59)
        assert attached.uid == op.uid
        if end is lc.State.COMPLETED:
            assert reset.snapshot.result == await attached.wait() == PlayResult(text="made")
        else:
            assert type(reset.snapshot.error) is (
                lc.OperationFailed if end is lc.State.FAILED else lc.OperationCancelled
            )
            with pytest.raises((lc.OperationFailed, lc.OperationCancelled)):
                await attached.wait()
        assert [event async for event in attached.watch(last.sequence)] == []


async def test_the_events_after_a_reset_follow(make_lab: MakeLab) -> None:
    lab = await make_lab(max_events=20)
    lab.plays(handler)
    async with lc.connect(lab.harness.address) as channel:
        op = await LabClient(channel).play(PlayRequest())
        await lab.reached(op.name, "progress", 60)
        await lab.restart()
        watch = op.watch(1)
        reset = await anext(watch)
        assert isinstance(reset, lc.Reset)
        assert reset.state is lc.State.RUNNING
        assert reset.snapshot.progress == PlayProgress(number=59)
        await op.cancel()
        rest = [event async for event in watch]
        assert [event.sequence for event in rest] == [reset.sequence + n + 1 for n in range(len(rest))]
        assert isinstance(rest[-1], lc.Cancelled)


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED"])
async def test_a_run_that_comes_late_still_gets_its_end(make_lab: MakeLab, end: str) -> None:
    lab = await make_lab(max_events=20)
    lab.plays(handler)
    async with lc.connect(lab.harness.address) as channel:
        client = LabClient(channel)
        request = PlayRequest(script=end)
        op = await client.play(request, request_id="k")
        await lab.end(op.name)
        await lab.restart(crash=False)
        seen: list[PlayProgress] = []
        run = client.play.run(request, request_id="k", on_progress=seen.append)
        if end == "COMPLETED":
            assert await run == PlayResult(text="made")
        else:
            with pytest.raises(lc.OperationFailed, match="no A1 left"):
                await run
