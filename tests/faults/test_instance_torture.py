"""Instances under SIGKILL: no event lost or handled twice, no time that was due lost, none early."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.v1 import (
    debounce_service_pb2,
    debounce_service_pb2_grpc,
    instances_pb2,
    recurring_service_pb2,
    recurring_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from tests.faults.instancing import DELAY, EVERY, MAX_EVENTS
from tests.faults.process import HERE, ServerProcess

INSTANCES = 4
MICROSECOND = 2e-6
PATIENCE = 1.0
OVERTAKERS = 6 * INSTANCES
"""What is due is late when, so many seconds later, so many runs begin before it: two of each of the others."""


def text(value: Any) -> instances_pb2.InstanceValue:
    return instances_pb2.InstanceValue(json=json.dumps(value))


class Load:
    """Callers that number their events, and send each until it is acknowledged, under one id."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.recurring = recurring_service_pb2_grpc.RecurringServiceStub(channel)
        self.debounce = debounce_service_pb2_grpc.DebounceServiceStub(channel)
        self.task = task_service_pb2_grpc.TaskServiceStub(channel)
        self.sent: Counter[str] = Counter()
        self.again = 0
        self.over = asyncio.Event()
        self._sent = asyncio.Condition()

    async def insist(self, call: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        """Until it is answered. What is full for now is asked for again, too."""
        while True:
            try:
                return await call(request, wait_for_ready=True, timeout=60)  # type: ignore[call-arg]
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                self.again += 1

    async def add(self, name: str) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            request = debounce_service_pb2.AddEventRequest(
                name=name, event=text(number), event_id=str(number), no_wait=number % 2 == 0
            )
            await self.insist(self.debounce.AddEvent, request)
            await self._acknowledged(name)

    async def send(self, name: str) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            request = task_service_pb2.SendEventRequest(
                name=name, event=text(number), event_id=str(number), no_wait=number % 3 > 0
            )
            await self.insist(self.task.SendEvent, request)
            await self._acknowledged(name)

    async def _acknowledged(self, name: str) -> None:
        async with self._sent:
            self.sent[name] += 1
            self._sent.notify_all()

    async def goes_on(self, least: int) -> None:
        """Return once each instance has got some events more, and more than so many in all."""
        before = self.sent.copy()
        async with self._sent:
            await self._sent.wait_for(
                lambda: (
                    len(self.sent) == 2 * INSTANCES
                    and all(self.sent[name] > max(before[name] + 5, least) for name in self.sent)
                )
            )

    async def start(self, name: str) -> None:
        request = recurring_service_pb2.StartRecurringRequest(name=name, input=text([]))
        await self.insist(self.recurring.StartRecurring, request)

    async def run(self) -> None:
        numbers = range(INSTANCES)
        await asyncio.gather(
            *(self.start(f"recurrings/beat/instances/{n}") for n in numbers),
            *(self.add(f"debounces/numbers/instances/{n}") for n in numbers),
            *(self.send(f"tasks/steps/instances/{n}") for n in numbers),
        )


async def at_rest(load: Load) -> None:
    """Return once all batches were handled and all timers have fired; beats are paused then."""
    await asyncio.sleep(DELAY)
    for n in range(INSTANCES):
        pause = recurring_service_pb2.PauseRecurringRequest(name=f"recurrings/beat/instances/{n}")
        await load.insist(load.recurring.PauseRecurring, pause)
        # It answers once all that was collected was handled.
        flush = debounce_service_pb2.FlushDebounceRequest(name=f"debounces/numbers/instances/{n}")
        await load.insist(load.debounce.FlushDebounce, flush)
        # What was due before it has had its turn then.
        trigger = task_service_pb2.TriggerTaskRequest(name=f"tasks/steps/instances/{n}")
        await load.insist(load.task.TriggerTask, trigger)


async def torture(data: Path, kills: int) -> None:
    kills = int(os.environ.get("TORTURE_KILLS", kills))
    seed = os.environ.get("TORTURE_SEED") or f"{time.time_ns():x}"
    print(f"\nTORTURE_SEED={seed} TORTURE_KILLS={kills}")
    chance = random.Random(seed)
    lines = data / "instances.jsonl"
    server = ServerProcess(
        data, "--drain", "0.5", service=HERE / "instancing.py", environment={"INSTANCES_FILE": str(lines)}
    )
    try:
        await server.start()
        async with server.channel() as channel:
            load = Load(channel)
            running = asyncio.create_task(load.run())
            for _ in range(kills):
                await asyncio.sleep(chance.choice([0.2, 0.5, 1.0]) * chance.uniform(0.5, 1.5) * server.pace**0.5)
                await server.kill()
                await server.start()
            await load.goes_on(kills)
            load.over.set()
            async with asyncio.timeout(90 * server.pace):
                await running
                await at_rest(load)
        assert await server.stop() == 0, "\n".join(server.said[-50:])
        judge(server, load, lines, kills)
    finally:
        await server.close()


def judge(server: ServerProcess, load: Load, lines: Path, kills: int) -> None:
    """What the callers know, what handlers did elsewhere, and what is in the store, held against each other."""
    runs = [json.loads(line) for line in lines.read_text("ascii").splitlines()]
    by_key: dict[str, list[Any]] = defaultdict(list)
    effects: dict[str, list[Any]] = defaultdict(list)
    for name, key, attempt, began, due, what in runs:
        assert began >= due - MICROSECOND, f"{name} began {due - began:g} s early"
        if key not in by_key:
            effects[name].append(what)
        by_key[key].append((attempt, what))
    for key, attempts in by_key.items():
        assert len({json.dumps(what) for _, what in attempts}) == 1, f"{key} is not the same in all attempts"
        numbers = [attempt for attempt, _ in attempts]
        assert numbers == sorted(set(numbers)), f"{key}: an attempt began twice"
    assert len(runs) > len(by_key), "no run was interrupted"
    starts = boots(server)
    check_order(runs, starts)
    assert load.again > kills // 2, "the callers hardly noticed"
    states, left = stored(server)
    for n in range(INSTANCES):
        name = f"recurrings/beat/instances/{n}"
        # The last attempt at each is the one that has come to its end.
        servers = {due: starts[bisect.bisect(starts, began) - 1] for of, _, _, began, due, _ in runs if of == name}
        check_beat(states[f"beat/{n}"], effects[name], servers)
        name = f"debounces/numbers/instances/{n}"
        batches = effects[name]
        # In order, and each in one batch: that is what a list that counts up says.
        assert list(itertools.chain(*batches)) == list(range(load.sent[name])), name
        assert max(map(len, batches)) <= MAX_EVENTS
        name = f"tasks/steps/instances/{n}"
        history = states[f"steps/{n}"]
        assert [number for what, number, _ in history if what == "event"] == list(range(load.sent[name])), name
        fired = Counter(timer for what, timer, _ in history if what == "timer")
        assert fired == Counter(map(str, range(load.sent[name]))), name
    assert left == [], "something waits that nobody handles"
    assert min(load.sent.values()) > kills


def check_order(runs: list[Any], starts: list[float]) -> None:
    """Nothing that is due waits while a server runs, its own instance does nothing, and the others go on.

    How long it takes says nothing, as a busy machine is late with everything. What waits alone is late by more than
    the kills.
    """
    runs = sorted(runs, key=lambda run: float(run[3]))
    begins = [began for _, _, _, began, _, _ in runs]
    latest: dict[str, float] = {}
    held = 0
    for position, (name, _, attempt, began, due, _) in enumerate(runs):
        if due and attempt == 1:
            start = starts[bisect.bisect(starts, began) - 1]
            since = max(due, start, latest.get(name, 0)) + PATIENCE
            others = runs[bisect.bisect(begins, since) : position]
            assert len(others) < OVERTAKERS, f"{name} was due at {due}, began at {began} after {others}"
            held += 1
        latest[name] = began
    assert held > 50


def boots(server: ServerProcess) -> list[float]:
    """When each of the servers began."""
    with server.database() as database:
        return [row[0] / 1e6 for row in database.execute("SELECT started FROM boots ORDER BY epoch")]


def check_beat(planned: list[float], effects: list[int], servers: dict[float, float]) -> None:
    """Every time of the schedule has had its run, once and in order.

    Those that come while a run is under way have one for all of them: where a machine is slow, runs are long. No server
    may make that of what was due before it began. `servers`: by the time of a run, when the server began that ended it.
    """
    assert len(planned) > 10
    assert effects == list(range(1, len(effects) + 1))
    assert len(planned) <= len(effects) <= len(planned) + 1
    for before, after in itertools.pairwise(planned):
        times = round((after - before) / EVERY)
        assert abs(after - before - times * EVERY) < MICROSECOND, f"after {before} came {after}"
        assert times == 1 or before + EVERY > servers[before], f"after {before} came {after}"


def stored(server: ServerProcess) -> tuple[dict[str, Any], list[Any]]:
    """The states by definition and id, and what waits."""
    with server.database() as database:
        rows = database.execute("SELECT definition, id, body FROM instances JOIN instance_states USING (uid)")
        states = {f"{definition}/{id}": json.loads(body) for definition, id, body in rows}
        left = [
            tuple(row)
            for row in database.execute(
                "SELECT definition, id, status, waiting, dead, batch_events, error FROM instances"
                " WHERE waiting + dead + batch_events > 0 OR error IS NOT NULL"
            )
        ]
    return states, left


@pytest.mark.timeout(900)
async def test_no_event_and_no_time_is_lost_in_a_few_kills(tmp_path: Path) -> None:
    await torture(tmp_path, 8)


@pytest.mark.torture
@pytest.mark.timeout(1800)
async def test_no_event_and_no_time_is_lost_in_a_hundred_kills(tmp_path: Path) -> None:
    await torture(tmp_path, 100)
