"""The watch: snapshot and events without a gap, resume, filters, conflation, heartbeats, resets, drains and limits."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.engine.watch import Skip, WatchOptions
from longshore_server.lifecycle import EventType
from tests.conftest import Lab, State, refused, retry_after, turns

PROGRESS, OUTPUT = operation_pb2.EVENT_TYPE_PROGRESS, operation_pb2.EVENT_TYPE_OUTPUT


class Reporter:
    """A handler that reports what it is told to, one command at a time."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.commands = lab, asyncio.Queue[Any]()
        self.number = 0

        @lab.plays
        async def handler(request, op):
            while True:
                command, done = await self.commands.get()
                if command == "end":
                    return lab_pb2.PlayResult(number=self.number)
                if command == "output":
                    await op.output(f"line {self.number}")
                else:
                    self.number += 1
                    await op.progress(lab_pb2.PlayProgress(number=self.number))
                done.set_result(None)

    async def __call__(self, *commands: str) -> None:
        """Return once all of it is durable and visible."""
        waiting = []
        for command in commands:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.commands.put_nowait((command, done))
            if command != "end":
                waiting.append(done)
        if waiting:
            await asyncio.wait(waiting)


async def collect(lab: Lab, name: str, **options: Any) -> list[pb.WatchResponse]:
    return [m async for m in lab.operations.Watch(pb.WatchRequest(name=name, **options))]


async def test_the_snapshot_comes_first_and_every_event_after_it_follows(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    watches: list[asyncio.Task[list[pb.WatchResponse]]] = []
    openings: list[asyncio.Future[None]] = []
    for number in range(20):
        opened = asyncio.get_running_loop().create_future()
        watches.append(asyncio.ensure_future(_all(lab, name, opened)))
        openings.append(opened)
        if number % 4 == 0:
            # Every fourth has begun for sure before the reports go on, however slow the machine is.
            await opened
        await reporter(*["progress"] * 10)
    await asyncio.gather(*openings)
    await reporter("end")
    starts = set()
    for watch in watches:
        snapshot, *events = await watch
        assert snapshot.HasField("snapshot")
        assert not snapshot.reset
        sequences = [m.event.sequence for m in events]
        assert sequences == list(range(snapshot.snapshot.sequence + 1, 204))
        assert not any(m.HasField("covers_after") for m in events)
        assert events[-1].event.HasField("completed")
        starts.add(snapshot.snapshot.sequence)
    assert len(starts) > 3


def _told(item: Any) -> tuple[int, EventType, int | None]:
    """Sequence, type and what was left out before it."""
    event = item.event if isinstance(item, Skip) else item
    return event.sequence, event.type, item.covers_after if isinstance(item, Skip) else None


async def _all(lab: Lab, name: str, opened: asyncio.Future[None]) -> list[pb.WatchResponse]:
    messages = []
    async for message in lab.operations.Watch(pb.WatchRequest(name=name)):
        messages.append(message)
        if not opened.done():
            opened.set_result(None)
    return messages


async def test_a_resume_after_n_receives_n_plus_1_next(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress", "output", "progress", "end")
    await lab.end(name)
    for after in range(7):
        events = await lab.events(name, after)
        assert [e.sequence for e in events] == list(range(after + 1, 7))
    assert await collect(lab, name, after_sequence=6) == []
    await lab.restart()
    assert [e.sequence for e in await lab.events(name, 3)] == [4, 5, 6]


async def test_an_operation_that_has_ended_is_a_snapshot(lab: Lab) -> None:
    name = (await lab.run()).name
    (message,) = await collect(lab, name)
    assert message.snapshot == await lab.get(name)
    assert message.snapshot.state == State.STATE_COMPLETED


async def test_events_say_what_the_snapshot_was_when_they_were_made(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress")
    live = await lab.get(name)
    lab.clock.advance(5)
    await reporter("output", "end")
    events = await lab.events(name)
    revisions = [e.revision for e in events]
    assert revisions == sorted(set(revisions))
    by_sequence = {e.sequence: e for e in events}
    event = by_sequence[live.sequence]
    assert (event.revision, event.state, event.attempt, event.time) == (
        live.revision, live.state, live.attempt, live.update_time,
    )  # fmt: skip
    times = [e.time.ToMicroseconds() for e in events]
    assert times == sorted(times)
    assert times[-1] - times[0] == 5_000_000


async def test_a_filter_says_what_it_left_out(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress", "progress", "output", "output", "progress", "end")
    await lab.end(name)
    messages = await collect(lab, name, after_sequence=0, event_types=[OUTPUT])
    found = [(m.event.sequence, m.covers_after if m.HasField("covers_after") else None) for m in messages]
    assert found == [(5, 0), (6, None), (8, 6)]
    assert messages[-1].event.HasField("completed")
    messages = await collect(lab, name, after_sequence=5, event_types=[PROGRESS, OUTPUT])
    found = [(m.event.sequence, m.covers_after if m.HasField("covers_after") else None) for m in messages]
    assert found == [(6, None), (7, None), (8, None)]


async def test_a_slow_watcher_that_asks_for_it_skips_stale_progress(lab: Lab) -> None:
    reporter = Reporter(lab)
    live = await lab.engine.find((await lab.begin()).operation.name)
    await lab.catch_up()
    watch = lab.engine.watch(live, WatchOptions(after=2, conflate=True))
    await reporter("progress", "progress", "output", "progress", "output", "progress")
    batch = await anext(watch)
    assert [_told(item) for item in batch] == [
        (5, EventType.OUTPUT, 2), (7, EventType.OUTPUT, 5), (8, EventType.PROGRESS, None),
    ]  # fmt: skip
    await reporter("progress")
    assert [_told(item) for item in await anext(watch)] == [(9, EventType.PROGRESS, None)]
    await reporter("end")
    assert [_told(item)[1] for item in await anext(watch)] == [EventType.COMPLETED]
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_watcher_that_lags_behind_the_ring_reads_the_log(lab: Lab) -> None:
    reporter = Reporter(lab)
    live = await lab.engine.find((await lab.begin()).operation.name)
    watch = lab.engine.watch(live, WatchOptions(after=0))
    got = [_told(item)[0] for item in await anext(watch)]
    for _ in range(10):
        await reporter(*["progress"] * 100)
    await reporter("end")
    async for batch in watch:
        got += [_told(item)[0] for item in batch]
    assert got == list(range(1, 1004))


async def test_heartbeats_come_while_nothing_happens(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress")
    for interval, seconds in ((None, 15.0), (Duration(seconds=1), 1.0), (Duration(seconds=300), 300.0)):
        call: Any = lab.operations.Watch(pb.WatchRequest(name=name, after_sequence=3, heartbeat_interval=interval))
        for _ in range(3):
            await lab.clock.armed(seconds)
            lab.clock.advance(seconds)
            message = await call.read()
            assert message.heartbeat.sequence == 3
            assert message.heartbeat.time.ToMicroseconds() == lab.clock.now()
        call.cancel()
        await lab.catch_up()


async def test_an_event_puts_the_heartbeat_off(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    call: Any = lab.operations.Watch(
        pb.WatchRequest(name=name, after_sequence=2, heartbeat_interval=Duration(seconds=20))
    )
    await lab.clock.armed(20)
    lab.clock.advance(19)
    await reporter("progress")
    assert (await call.read()).event.sequence == 3
    lab.clock.advance(19)
    await turns()
    await reporter("progress")
    assert (await call.read()).event.sequence == 4


async def test_a_filter_that_lets_nothing_through_is_not_silent(lab: Lab) -> None:
    """The events that it leaves out keep no proxy from closing the stream: a heartbeat has to."""
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    request = pb.WatchRequest(
        name=name, after_sequence=2, event_types=[OUTPUT], heartbeat_interval=Duration(seconds=20)
    )
    call: Any = lab.operations.Watch(request)
    await lab.clock.armed(20)
    lab.clock.advance(15)
    await reporter("progress")
    await lab.catch_up()
    lab.clock.advance(5)
    message = await call.read()
    assert message.heartbeat.sequence == 3
    await reporter("output")
    message = await call.read()
    assert (message.event.sequence, message.covers_after) == (4, 2)


async def test_a_capped_log_keeps_its_latest_events_and_resets_who_comes_too_late(make_lab: Any) -> None:
    lab = await make_lab(max_events=16)
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    live = await lab.engine.find(name)
    late = lab.engine.watch(live, WatchOptions(after=0))
    await anext(late)
    await reporter(*["progress"] * 500)
    snapshot = await lab.get(name)
    assert snapshot.sequence == 502
    assert 16 <= snapshot.sequence - snapshot.first_sequence + 1 <= 18
    assert len(lab.tables()["events"]) <= 18
    await lab.restart()
    await reporter("progress", "end")
    await lab.end(name)
    reset, *rest = await collect(lab, name, after_sequence=1)
    assert reset.reset
    assert [m.event.sequence for m in rest] == list(
        range(reset.snapshot.sequence + 1, reset.snapshot.sequence + 1 + len(rest))
    )
    floor = (await lab.get(name)).first_sequence
    messages = await collect(lab, name, after_sequence=floor - 1)
    assert [m.event.sequence for m in messages] == list(range(floor, 506))
    (reset, *_) = await collect(lab, name, after_sequence=floor - 2)
    assert reset.reset


async def test_the_latest_progress_survives_the_cap(make_lab: Any) -> None:
    lab = await make_lab(max_events=16)
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress", *["output"] * 100)
    await lab.restart()
    progress = lab_pb2.PlayProgress()
    assert (await lab.get(name)).progress.Unpack(progress)
    assert progress.number == 1
    await reporter("end")
    assert (await lab.end(name)).progress.Is(lab_pb2.PlayProgress.DESCRIPTOR)


async def test_a_drain_ends_every_watch_with_a_hint_and_the_next_server_goes_on(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    await reporter("progress")
    calls: list[Any] = [
        lab.operations.Watch(pb.WatchRequest(name=name)),
        lab.operations.Run(pb.RunRequest(type=Lab.TYPE, request_id="r")),
        lab.lab.PlayAndWatch(lab_pb2.PlayRequest(request_id="r")),
    ]
    for call in calls:
        await call.read()
    await lab.catch_up()
    lab.engine.drain()
    for call in calls:
        while True:
            reading = asyncio.ensure_future(call.read())
            await asyncio.wait([reading])
            if reading.exception() is not None:
                break
        code, reason, status = await refused(reading)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert retry_after(status) > 0
    code, reason, _ = await refused(lab.operations.Watch(pb.WatchRequest(name=name, after_sequence=3)).read())
    assert reason == "SERVER_DRAINING"
    await lab.restart(crash=False)
    await reporter("end", "end")  # there are two operations
    assert [e.sequence for e in await lab.events(name, 3)] == [4, 5]


async def test_too_many_watches(make_lab: Any) -> None:
    lab = await make_lab(max_watches=2)
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    watches: list[Any] = [lab.operations.Watch(pb.WatchRequest(name=name)) for _ in range(2)]
    for watch in watches:
        await watch.read()
    before = lab.tables()
    for call in (
        lab.operations.Watch(pb.WatchRequest(name=name)),
        lab.operations.Run(pb.RunRequest(type=Lab.TYPE)),
        lab.lab.PlayAndWatch(lab_pb2.PlayRequest()),
        lab.lab.PlayLive(lab_pb2.PlayRequest()),
    ):
        code, reason, status = await refused(call.read())
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
        assert retry_after(status) > 0
    assert len(lab.tables()["operations"]) == len(before["operations"])
    watches[0].cancel()
    await watches[0].code()
    while lab.engine.watches.count == 2:
        await lab.catch_up()
    await lab.operations.Watch(pb.WatchRequest(name=name)).read()
    await reporter("end")


async def test_watchers_that_leave_leave_nothing_behind(lab: Lab) -> None:
    reporter = Reporter(lab)
    name = (await lab.begin()).operation.name
    calls: list[Any] = [lab.operations.Watch(pb.WatchRequest(name=name)) for _ in range(50)]
    for call in calls:
        await call.read()
    assert lab.engine.watches.count == 50
    for call in calls:
        call.cancel()
    while lab.engine.watches.count:
        await lab.catch_up()
    live = await lab.engine.find(name)
    assert (len(live._waiters), lab.clock.timers(15)) == (0, 0)
    await reporter("end")


async def test_a_run_is_a_start_and_a_watch(lab: Lab) -> None:
    Reporter(lab).commands.put_nowait(("end", None))
    request = pb.RunRequest(type=Lab.TYPE, labels={"a": "b"}, request_id="r", event_types=[PROGRESS])
    snapshot, *events = [m async for m in lab.operations.Run(request)]
    assert dict(snapshot.snapshot.labels) == {"a": "b"}
    assert [m.event.WhichOneof("event") for m in events] == ["completed"]
    (again,) = [m async for m in lab.operations.Run(request)]
    assert again.snapshot.uid == snapshot.snapshot.uid
