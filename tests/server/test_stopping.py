"""Stop: a caller asks to end and to keep what there is."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab, State, fields_of, reason_of_end, refused, result_of, turns
from tests.server.retrying import RetryHandlers


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


async def until_stopped(request: Any, op: Any) -> lab_pb2.PlayResult:
    await op.stopping.wait()
    return lab_pb2.PlayResult(text="a part of it", number=op.attempt)


async def stop(lab: Lab, name: str, reason: str = "enough") -> operation_pb2.OperationSnapshot:
    return await lab.operations.Stop(pb.StopRequest(name=name, reason=reason))


async def test_what_the_handler_returns_then_is_the_result(lab: Lab) -> None:
    lab.plays(until_stopped)
    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    asked = await stop(lab, name)
    assert (asked.state, asked.stopped) == (State.STATE_RUNNING, False)
    assert asked.HasField("stop_request_time")
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.stopped) == (State.STATE_COMPLETED, True)
    assert result_of(snapshot).text == "a part of it"
    events = await lab.events(name)
    assert [e.WhichOneof("event") for e in events] == ["accepted", "started", "stopping", "completed"]
    assert (events[2].stopping.reason, events[3].completed.stopped) == ("enough", True)


async def test_what_completes_by_itself_is_not_stopped(lab: Lab) -> None:
    snapshot = await lab.run()
    assert (snapshot.state, snapshot.stopped) == (State.STATE_COMPLETED, False)
    assert not (await lab.events(snapshot.name))[-1].completed.stopped


async def test_a_handler_need_not_look(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(text="all of it")

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await stop(lab, name)
    await turns()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    gate.set()
    assert (await lab.end(name)).stopped


async def test_repeating_it_changes_nothing(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    first = await stop(lab, name)
    assert await stop(lab, name, "again") == first
    gate.set()
    ended = await lab.end(name)
    assert await stop(lab, name) == ended
    assert (await lab.kinds(name)).count("stopping") == 1


async def test_stopping_what_has_ended_is_no_error(lab: Lab) -> None:
    ended = await lab.run()
    assert await stop(lab, ended.name) == ended
    assert not (await lab.get(ended.name)).HasField("stop_request_time")


async def test_what_is_pending_begins_with_the_flag_up(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        if request.script == "first":
            await gate.wait()
        return lab_pb2.PlayResult(text="stopping" if op.stopping else "")

    await lab.begin(script="first")
    name = (await lab.begin()).operation.name
    assert (await stop(lab, name)).state == State.STATE_PENDING
    gate.set()
    snapshot = await lab.end(name)
    assert (result_of(snapshot).text, snapshot.stopped) == ("stopping", True)
    assert await lab.kinds(name) == ["accepted", "stopping", "started", "completed"]


async def test_what_is_being_cancelled_cannot_be_stopped(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    cancelling = await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert await stop(lab, name) == cancelling
    lab.clock.advance(10)
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_a_stop_can_be_followed_by_a_cancel(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await stop(lab, name)
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.stopped) == (State.STATE_CANCELLED, False)
    assert await lab.kinds(name) == ["accepted", "started", "stopping", "cancelling", "cancelled"]


async def test_a_contract_without_cancellation_can_be_stopped(lab: Lab) -> None:
    lab.plays(until_stopped)
    name = (await lab.begin("PlayThrough")).operation.name
    await stop(lab, name)
    assert (await lab.end(name)).stopped


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_after_a_restart_the_flag_is_up_from_the_start(lab: Lab, crash: bool) -> None:
    seen: list[bool] = []

    @lab.plays
    async def handler(request, op):
        seen.append(bool(op.stopping))
        if op.attempt == 1:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await stop(lab, name)
    await lab.restart(crash=crash)
    assert (await lab.end(name)).stopped
    assert seen == [False, True]


async def test_a_failed_attempt_that_waits_is_made_at_once_and_is_the_last(lab: Lab) -> None:
    handled: list[tuple[int, bool]] = []

    @lab.plays
    async def handler(request, op):
        handled.append((op.attempt, bool(op.stopping)))
        if request.script == "fails" or op.attempt == 1:
            raise OperationError("BUSY")
        return lab_pb2.PlayResult(text="what there is")

    for script in ("", "fails"):
        handled.clear()
        name = (await lab.begin("RetryService/Try", script=script)).operation.name
        await lab.reached(name, "attempt_failed")
        await stop(lab, name)
        snapshot = await lab.end(name)
        assert handled == [(1, False), (2, True)]
        if script:
            assert (reason_of_end(snapshot), snapshot.failures) == ("BUSY", 1)
        else:
            assert (result_of(snapshot).text, snapshot.stopped) == ("what there is", True)
        lab.clock.advance(3600)
        await lab.catch_up()
        assert len(handled) == 2


async def test_an_attempt_that_fails_after_it_is_the_last(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.stopping.wait()
        raise OperationError("BUSY")

    name = (await lab.begin("RetryService/Try")).operation.name
    await lab.reached(name, "started")
    await stop(lab, name)
    snapshot = await lab.end(name)
    assert (reason_of_end(snapshot), snapshot.attempt) == ("BUSY", 1)


async def test_a_due_attempt_that_waits_for_a_slot_begins_once(make_lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab = await make_lab(services=[RetryHandlers], concurrency=1)
    gate, attempts = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        if request.script == "hold":
            await gate.wait()
            return lab_pb2.PlayResult()
        attempts.append(op.attempt)
        if op.attempt == 1:
            raise OperationError("BUSY")
        return lab_pb2.PlayResult()

    name = (await lab.begin("RetryService/Try")).operation.name
    await lab.reached(name, "attempt_failed")
    held = (await lab.begin("RetryService/Try", script="hold")).operation.name
    due = (await lab.get(name)).next_attempt_time
    lab.clock.advance(15)
    await lab.catch_up()
    assert (await stop(lab, name)).next_attempt_time == due, "it is due already"
    gate.set()
    await stop(lab, name)
    await lab.end(held)
    assert (await lab.end(name)).stopped
    assert attempts == [1, 2]
    assert "could not begin" not in caplog.text


async def test_a_reason_that_is_too_long_and_a_name_that_is_none(lab: Lab) -> None:
    name = (await lab.begin()).operation.name
    code, reason, status = await refused(stop(lab, name, "x" * 1025))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["reason"])
    assert (await refused(stop(lab, "operations/nothing")))[:2] == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
