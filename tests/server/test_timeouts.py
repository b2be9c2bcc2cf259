"""Deadlines and attempt timeouts: every operation ends, whatever its handler does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, reason_of_end, turns


class Stubborn:
    """A handler that swallows every interruption until it is released, which the end of the test does at last."""

    def __init__(self) -> None:
        self.released, self.swallowed = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.swallowed.set()
        return lab_pb2.PlayResult()


@pytest.fixture
def stubborn(lab: Lab) -> Iterator[Stubborn]:
    handler = Stubborn()
    lab.plays(handler)
    yield handler
    handler.released.set()


async def test_a_deadline_fails_what_has_not_ended(lab: Lab) -> None:
    interrupted = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    operation = (await lab.begin("PlayMinute")).operation
    assert operation.deadline.ToMicroseconds() - operation.create_time.ToMicroseconds() == 60_000_000
    lab.clock.advance(59.999)
    await turns()
    assert (await lab.get(operation.name)).state == State.STATE_RUNNING
    lab.clock.advance(0.001)
    snapshot = await lab.end(operation.name)
    assert (snapshot.state, reason_of_end(snapshot), snapshot.error.code) == (
        State.STATE_FAILED, "DEADLINE_EXCEEDED", 4,
    )  # fmt: skip
    await interrupted.wait()


async def test_the_handler_knows_its_deadline(lab: Lab) -> None:
    seen: list[Any] = []

    @lab.plays
    async def handler(request, op):
        seen.append(op.deadline)
        return lab_pb2.PlayResult()

    operation = (await lab.begin("PlayMinute")).operation
    await lab.end(operation.name)
    await lab.end((await lab.begin("PlayThrough")).operation.name)
    assert seen[0].timestamp() == operation.deadline.ToMicroseconds() / 1e6
    assert seen[0].utcoffset().total_seconds() == 0
    assert seen[1] is None


async def test_a_contract_without_a_timeout_has_the_default_of_the_server(make_lab: Any) -> None:
    lab = await make_lab(default_timeout=120.0)

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    lab.clock.advance(119)
    await turns()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    lab.clock.advance(1)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


async def test_unbounded_has_none(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    operation = (await lab.begin("PlayThrough")).operation
    assert not operation.HasField("deadline")
    lab.clock.advance(1e9)
    await turns()
    gate.set()
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED


async def test_a_deadline_passes_while_the_operation_waits_for_a_slot(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.name)
        await asyncio.Event().wait()

    first = (await lab.begin("PlayMinute")).operation.name
    lab.clock.advance(30)
    second = (await lab.begin("PlayMinute")).operation.name
    third = (await lab.begin("PlayMinute")).operation.name
    lab.clock.advance(30)
    await lab.end(first)
    await lab.reached(second, "started")
    lab.clock.advance(30)
    snapshot = await lab.end(third)
    assert (snapshot.state, reason_of_end(snapshot), snapshot.attempt) == (State.STATE_FAILED, "DEADLINE_EXCEEDED", 0)
    assert ran == [first, second]


async def test_a_deadline_counts_from_acceptance_over_restarts(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin("PlayMinute")).operation.name
    await lab.reached(name, "started")
    lab.clock.advance(40)
    await lab.restart()
    await lab.reached(name, "attempt_failed")
    lab.clock.advance(19.9)
    await turns()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    lab.clock.advance(0.1)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


async def test_a_handler_that_swallows_everything_does_not_outlive_its_deadline(lab: Lab, stubborn: Stubborn) -> None:
    name = (await lab.begin("PlayMinute")).operation.name
    lab.clock.advance(60)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    await stubborn.swallowed.wait()
    stubborn.released.set()
    await turns(50)
    assert await lab.kinds(name) == ["accepted", "started", "failed"]


async def test_an_attempt_that_takes_too_long_fails_the_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin("PlayShort")).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(4.999)
    await turns()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    lab.clock.advance(0.001)
    snapshot = await lab.end(name)
    assert (reason_of_end(snapshot), snapshot.error.code) == ("ATTEMPT_TIMEOUT", 4)


async def test_what_a_handler_returns_after_its_attempt_timed_out_is_ignored(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return lab_pb2.PlayResult(text="too late")

    name = (await lab.begin("PlayShort")).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(5)
    assert reason_of_end(await lab.end(name)) == "ATTEMPT_TIMEOUT"


async def test_a_handler_that_swallows_its_attempt_timeout_is_settled_without_it(lab: Lab, stubborn: Stubborn) -> None:
    """The type has no deadline: nothing else would ever end the operation."""
    name = (await lab.begin("PlayWhile")).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(5)
    await stubborn.swallowed.wait()
    lab.clock.advance(10)
    assert reason_of_end(await lab.end(name)) == "ATTEMPT_TIMEOUT"
    stubborn.released.set()


async def test_every_attempt_has_the_whole_time(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin("PlayShort")).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(4)
    await lab.restart()
    await lab.clock.armed(5)
    lab.clock.advance(4)
    gate.set()
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.attempt) == (State.STATE_COMPLETED, 2)


async def test_a_timeout_while_a_cancel_is_under_way_is_a_cancel(lab: Lab, stubborn: Stubborn) -> None:
    name = (await lab.begin("PlayMinute")).operation.name
    await lab.reached(name, "started")
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    lab.clock.advance(60)
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_no_timer_outlives_its_operation(lab: Lab) -> None:
    await lab.end((await lab.begin("PlayShort")).operation.name)
    await turns()
    before = lab.clock.pending
    for _ in range(50):
        await lab.end((await lab.begin("PlayShort")).operation.name)
    await turns()
    assert lab.clock.pending == before
