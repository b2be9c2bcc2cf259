"""The client against the real server: the same promises, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult, RuledRequest

import longshore_client as lc
from longshore.v1.channels_pb2 import DiagnosticOutput
from longshore_server import OperationError
from tests.conftest import Lab


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[LabClient]:
    async with lc.connect(lab.harness.address) as channel:
        yield LabClient(channel)


async def play(request: Any, op: Any) -> PlayResult:
    for number in range(request.count):
        await op.progress(PlayProgress(number=number))
    await op.output(DiagnosticOutput(message="nearly"))
    return PlayResult(text=request.script)


async def forever(request: Any, op: Any) -> PlayResult:
    await op.progress(PlayProgress(number=1))
    await asyncio.Event().wait()
    return PlayResult()


async def test_from_start_to_result(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    op = await client.play(PlayRequest(script="x", count=3), labels={"tenant": "acme"})
    seen = [event async for event in op.watch()]
    assert [event.sequence for event in seen] == list(range(1, 8))
    assert [type(event) for event in seen] == [lc.Accepted, lc.Started, *[lc.Progress] * 3, lc.Output, lc.Completed]
    assert await op.wait() == PlayResult(text="x")
    snapshot = await client.play.attach(op.name).get()
    assert (snapshot.state, snapshot.labels, snapshot.type) == (
        lc.State.COMPLETED,
        {"tenant": "acme"},
        "lab.v1.LabService/Play",
    )
    assert await client.play.run(PlayRequest(script="y")) == PlayResult(text="y")


async def test_run_with_callbacks(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    seen: list[object] = []
    result = await client.play.run(
        PlayRequest(script="z", count=20),
        on_progress=lambda value: seen.append(value.number),
        on_output=lambda value: seen.append(value.message),
    )
    assert result.text == "z"
    assert seen == [*range(20), "nearly"]


async def test_no_event_is_lost_or_repeated_across_crashes(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for number in range(5):
            await op.progress(PlayProgress(number=op.attempt * 10 + number))
        if op.attempt < 4:
            await asyncio.Event().wait()
        return PlayResult(number=op.attempt)

    op = await client.play(PlayRequest())
    seen = []
    crashes: list[asyncio.Task[None]] = []
    async for event in op.watch():
        seen.append(event)
        if isinstance(event, lc.Progress) and event.value.number % 10 == 4 and event.value.number < 40:
            # A server answers before its start has returned.
            await asyncio.gather(*crashes)
            crashes.append(asyncio.create_task(lab.restart()))
    await asyncio.gather(*crashes)
    assert len(crashes) == 3
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    numbers = [event.value.number for event in seen if isinstance(event, lc.Progress)]
    assert numbers == [attempt * 10 + number for attempt in range(1, 5) for number in range(5)]
    assert sum(isinstance(event, lc.AttemptFailed) for event in seen) == 3
    assert isinstance(seen[-1], lc.Completed)
    assert seen[-1].attempt == 4


async def test_waits_and_runs_survive_restarts(lab: Lab, client: LabClient) -> None:
    begun: asyncio.Queue[int] = asyncio.Queue()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(number=op.attempt))
        begun.put_nowait(op.attempt)
        if op.attempt < 3:
            await asyncio.Event().wait()
        return PlayResult(number=op.attempt)

    numbers: list[int] = []
    calls = [
        asyncio.create_task(client.play.run(PlayRequest())),
        asyncio.create_task(client.play.run(PlayRequest(), on_progress=lambda value: numbers.append(value.number))),
    ]
    for attempt in (1, 2):
        assert [await begun.get(), await begun.get()] == [attempt, attempt]
        await lab.restart()
    assert [result.number for result in await asyncio.gather(*calls)] == [3, 3]
    assert numbers == [1, 2, 3]


async def test_failure_cancel_and_abort(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def broken(request: Any, op: Any) -> PlayResult:
        raise OperationError("OUT_OF_STOCK", "no A1")

    with pytest.raises(lc.OperationFailed) as caught:
        await client.play.run(PlayRequest())
    assert (caught.value.reason, caught.value.message) == ("OUT_OF_STOCK", "no A1")

    lab.plays(forever)
    op = await client.play(PlayRequest())
    await lab.reached(op.name, "progress")
    assert (await op.cancel("enough")).state is lc.State.CANCELLING
    abort = asyncio.Event()
    run = asyncio.create_task(client.play.run(PlayRequest(), abort=abort, on_progress=lambda _: abort.set()))
    # The grace of two cooperative cancellations, in the server's own time.
    await lab.clock.armed(10, 2)
    lab.clock.advance(10)
    with pytest.raises(lc.OperationCancelled) as stopped:
        await run
    assert stopped.value.operation
    with pytest.raises(lc.OperationCancelled):
        await op.wait()


async def test_abort_where_the_contract_does_not_let_callers_cancel(lab: Lab, client: LabClient) -> None:
    lab.plays(forever)
    abort = asyncio.Event()
    with pytest.raises(lc.FailedPrecondition) as caught:
        await client.play_through.run(PlayRequest(), abort=abort, on_progress=lambda _: abort.set())
    assert caught.value.reason == "NOT_CANCELLABLE"


async def test_refusals_are_typed(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    with pytest.raises(lc.InvalidArgument) as bad:
        await client.play_by_rules(RuledRequest(title="x", stars=9))
    assert {item.field.rpartition(".")[2] for item in bad.value.field_violations} == {"title", "stars"}
    await client.play(PlayRequest(script="a"), request_id="k")
    with pytest.raises(lc.AlreadyExists) as used:
        await client.play(PlayRequest(script="b"), request_id="k")
    assert used.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(lc.NotFound):
        await client.play.attach("operations/nope").get()
    with pytest.raises(lc.InvalidArgument):
        await client.play.attach("nonsense").wait()
    op = await client.play(PlayRequest())
    await op.wait()
    with pytest.raises(lc.OutOfRange):
        [event async for event in op.watch(after=99)]
    assert [event async for event in op.watch(after=4)] == []


async def test_the_inputs_own_request_id_is_the_key(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    first = await client.play(PlayRequest(request_id="mine"))
    second = await client.play(PlayRequest(request_id="mine"))
    assert first.name == second.name
    assert not second.created


async def test_a_name_that_is_used_again_is_never_mixed_up(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    first = await client.play_again(PlayRequest(key="a", script="first"))
    await first.wait()
    second = await client.play_again(PlayRequest(key="a", script="second"))
    assert (first.name, first.uid != second.uid) == (second.name, True)
    last = [event async for event in first.watch()][-1]
    assert isinstance(last, lc.Completed)
    assert last.result.text == "first"
    assert (await first.get()).uid == first.uid
    assert (await second.wait()).text == "second"


async def test_an_empty_contract_returns_none(lab: Lab, client: LabClient) -> None:
    from google.protobuf.empty_pb2 import Empty

    @lab.plays
    async def nothing(request: Any, op: Any) -> None:
        return None

    assert await client.fire.run(Empty()) is None  # type: ignore[func-returns-value]  # that is the point


async def test_a_watch_bridges_a_graceful_stop(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(number=op.attempt))
        if op.attempt == 1:
            await asyncio.Event().wait()
        return PlayResult(number=op.attempt)

    op = await client.play(PlayRequest())
    seen = []
    restart: asyncio.Task[None] | None = None
    async for event in op.watch():
        seen.append(event)
        if isinstance(event, lc.Progress) and restart is None:
            restart = asyncio.create_task(lab.restart(crash=False))
    assert restart is not None
    await restart
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert isinstance(seen[-1], lc.Completed)


async def test_many_watchers_at_once_all_see_everything(lab: Lab, client: LabClient) -> None:
    lab.plays(play)
    op = await client.play(PlayRequest(count=50))

    async def count() -> int:
        return len([event async for event in op.watch()])

    assert set(await asyncio.gather(*(count() for _ in range(300)))) == {54}
