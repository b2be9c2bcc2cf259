"""A watch never lies: hypothesis mixes writers, slow watchers, resumes, filters, conflation, crashes and stops."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.contract import loading
from longshore_server.engine.engine import Engine, Limits
from longshore_server.engine.watch import Heartbeat, Item, Skip, Snapshot, WatchOptions
from longshore_server.lifecycle import TERMINAL_EVENTS, EventType
from longshore_server.rpc import wire
from longshore_server.store.record import Event
from longshore_server.testing.rest import at_rest
from tests.conftest import LabClock, LabHandlers, turns

TYPE = "lab.v1.LabService/Play"
FILTERS = (None, frozenset({EventType.PROGRESS}), frozenset({EventType.OUTPUT}), frozenset({EventType.ATTEMPT_FAILED}))


class World:
    """One operation, its handler on a string, and any number of watchers, over any number of servers."""

    def __init__(self, directory: Path, max_events: int) -> None:
        self.directory, self.max_events = directory, max_events
        self.clock, self.handlers = LabClock(), LabHandlers()
        self.types = loading.load([self.handlers], default_timeout=10**15)
        self.handlers.handler = self.handle
        self.commands: asyncio.Queue[str] = asyncio.Queue()
        self.watchers: list[Watcher] = []
        self.uid = b""

    async def open(self) -> None:
        limits = Limits(
            concurrency=100, concurrency_per_owner=100, queue=100, queue_per_owner=100, max_live=1000,
            max_live_per_owner=1000,
            max_events=self.max_events, max_input=1 << 20, max_payload=1 << 20, max_watches=1000,
            max_watches_per_owner=1000, max_transfers=10, max_transfers_per_owner=10, retention=0,
            log_retention=0,
        )  # fmt: skip
        self.engine = Engine(self.types, self.directory, self.clock, limits)
        await self.engine.open()
        await self.engine.recover(None)

    async def begin(self) -> None:
        await self.open()
        started = await self.engine.start(self.engine.types[TYPE], lab_pb2.PlayRequest())
        self.uid = started.live.record.uid

    async def handle(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        number = 0
        while (command := await self.commands.get()) != "end":
            number += 1
            if command == "output":
                op.output(str(number))
            else:
                op.progress(lab_pb2.PlayProgress(number=number))
        return lab_pb2.PlayResult()

    async def restart(self, *, crash: bool) -> None:
        if crash:
            self.engine.abandon()
            await self.engine.executor.drain(self.clock.now())
        else:
            await self.engine.stop(self.clock.now())
        for watcher in self.watchers:
            await watcher.disconnect()
        await self.engine.close()
        self.clock.advance(120)  # no two quick crashes: that is another test's subject
        await self.open()
        for watcher in self.watchers:
            watcher.connect()

    async def finish(self) -> None:
        self.commands.put_nowait("end")
        live = await self.engine.load(self.uid)
        await self.engine.wait(live, None)
        for watcher in self.watchers:
            watcher.allow(10**6)
        await asyncio.gather(*(watcher.task for watcher in self.watchers if watcher.task is not None))
        await self.engine.close()


class Watcher:
    """Reads one batch for each permit, remembers what it got, and resumes after the last of it."""

    def __init__(self, world: World, after: int | None, types: frozenset[EventType] | None, conflate: bool) -> None:
        self.world, self.after, self.types, self.conflate = world, after, types, conflate
        self.items: list[Item] = []
        self.permits = asyncio.Semaphore(0)
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.connect()

    def allow(self, count: int) -> None:
        self.permits._value += count - 1
        self.permits.release()

    def connect(self) -> None:
        if not self.ended:
            self.task = asyncio.ensure_future(self._run())

    async def disconnect(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        live = await self.world.engine.load(self.world.uid)
        options = WatchOptions(after=self.after, types=self.types, conflate=self.conflate)
        stream: AsyncIterator[Sequence[Item]] = self.world.engine.watch(live, options)
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            while True:
                await self.permits.acquire()
                try:
                    batch = await anext(stream)
                except StopAsyncIteration:
                    self.ended = True
                    return
                for item in batch:
                    self.items.append(item)
                    self.after = item.record.sequence if isinstance(item, Snapshot) else _sequence(item)


def _sequence(item: Event | Skip | Heartbeat) -> int:
    return item.event.sequence if isinstance(item, Skip) else item.sequence


def check(watcher: Watcher, start: int | None, log: dict[int, tuple[EventType, bytes]], last: int) -> None:
    """The whole promise, against what the store holds in the end."""
    position = start
    terminal = 0
    for number, item in enumerate(watcher.items):
        assert terminal == 0, "something follows the end"
        if isinstance(item, Snapshot):
            assert (number == 0 and start is None) or item.reset
            assert position is None or item.record.sequence > position
            position = item.record.sequence
            terminal += item.record.terminal
            continue
        assert position is not None
        if isinstance(item, Heartbeat):
            assert item.sequence >= position
            continue
        event, covers_after = (item.event, item.covers_after) if isinstance(item, Skip) else (item, None)
        assert event.sequence > position
        skipped = range(position + 1, event.sequence)
        assert covers_after == (position if skipped else None)
        for sequence in skipped:
            _may_be_left_out(watcher, sequence, event.sequence, log)
        if event.sequence in log:
            assert (event.type, event.body) == log[event.sequence]
        decoded = pb.WatchResponse.FromString(wire.watch_response(item))
        assert decoded.event == operation_pb2.OperationEvent.FromString(event.body)
        position = event.sequence
        terminal += event.type in TERMINAL_EVENTS
    assert terminal == 1
    assert position == last


def _may_be_left_out(watcher: Watcher, sequence: int, now: int, log: dict[int, tuple[EventType, bytes]]) -> None:
    if sequence not in log:
        return  # the cap has removed it since
    kind = log[sequence][0]
    assert kind not in TERMINAL_EVENTS
    unwanted = watcher.types is not None and kind not in watcher.types
    later = any(log[s][0] is EventType.PROGRESS for s in log if sequence < s)
    stale = watcher.conflate and kind is EventType.PROGRESS and later
    assert unwanted or stale, f"{kind.name} {sequence} is missing before {now}"


ACTIONS = st.one_of(
    st.tuples(st.just("report"), st.sampled_from(["progress", "output"]), st.integers(1, 40)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("turns"), st.integers(1, 30)),
    st.tuples(st.just("watch"), st.sampled_from([None, 0, 1, 2, 5]), st.sampled_from(FILTERS), st.booleans()),
    st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 4)),
    st.tuples(st.just("reconnect"), st.integers(0, 5)),
    st.tuples(st.just("restart"), st.booleans()),
)


async def play(directory: Path, actions: list[tuple[Any, ...]], max_events: int) -> None:
    world = World(directory, max_events)
    await world.begin()
    starts: list[int | None] = []
    for action in actions:
        match action:
            case ("report", kind, count):
                for _ in range(count):
                    world.commands.put_nowait(kind)
            case ("settle",):
                await at_rest(world.engine.store)
            case ("turns", count):
                await turns(count)
            case ("watch", after, types, conflate):
                record = (await world.engine.load(world.uid)).record
                after = None if after is None else min(after, record.sequence)
                starts.append(after)
                world.watchers.append(Watcher(world, after, types, conflate))
            case ("read", index, count) if index < len(world.watchers):
                world.watchers[index].allow(count)
                await turns()
            case ("reconnect", index) if index < len(world.watchers):
                await world.watchers[index].disconnect()
                world.watchers[index].connect()
            case ("restart", crash):
                await world.restart(crash=crash)
    await world.finish()
    with contextlib.closing(sqlite3.connect(directory / "longshore.db")) as database:
        rows = database.execute("SELECT sequence, type, body FROM events ORDER BY sequence").fetchall()
        ((last, floor),) = database.execute("SELECT sequence, first_sequence FROM operations")
    log = {sequence: (EventType(kind), body) for sequence, kind, body in rows}
    assert [s for s in log if s >= floor] == list(range(floor, last + 1))
    assert sum(kind in TERMINAL_EVENTS for kind, _ in log.values()) == 1
    assert log[last][0] in TERMINAL_EVENTS
    for watcher, start in zip(world.watchers, starts, strict=True):
        if max_events > 1000:
            assert not any(isinstance(item, Snapshot) and item.reset for item in watcher.items)
        check(watcher, start, log, last)


COMMON = settings(
    deadline=None, max_examples=60, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@COMMON
@given(actions=st.lists(ACTIONS, min_size=4, max_size=30))
def test_no_interleaving_shows_a_gap_a_repetition_or_an_invention(actions: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory), actions, 1_000_000))


@COMMON
@given(actions=st.lists(ACTIONS, min_size=4, max_size=30))
def test_a_capped_log_resets_and_still_tells_no_lie(actions: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory), actions, 16))
