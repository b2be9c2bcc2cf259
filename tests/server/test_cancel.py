"""Cancel: what each contract makes of it, who wins against a completion, and that it never leaves a zombie."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab, State, detail, reason_of_end, refused, result_of, turns


async def cancel(lab: Lab, name: str, reason: str = "") -> operation_pb2.OperationSnapshot:
    return await lab.operations.Cancel(pb.CancelRequest(name=name, reason=reason))


class Scene:
    """A handler that says when it has begun and waits for a gate; what happens next is the test's."""

    def __init__(self, lab: Lab, after: Any = None) -> None:
        self.entered, self.gate, self.flagged = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.cancelled = False

        @lab.plays
        async def handler(request, op):
            self.op = op
            self.entered.set()
            try:
                await op.cancelled.wait()
                self.flagged.set()
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            if after is not None:
                return await after(op)
            return lab_pb2.PlayResult(text="late")


async def running(lab: Lab, type: str = "Play", after: Any = None, **fields: Any) -> tuple[Scene, str]:
    scene = Scene(lab, after)
    name = (await lab.begin(type, **fields)).operation.name
    await scene.entered.wait()
    return scene, name


async def test_without_a_declaration_callers_cannot_cancel(lab: Lab) -> None:
    _, name = await running(lab, "PlayThrough")
    before = lab.tables()
    code, reason, status = await refused(cancel(lab, name))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_CANCELLABLE")
    violation = detail(status, error_details_pb2.PreconditionFailure).violations[0]
    assert (violation.type, violation.subject) == ("NOT_CANCELLABLE", name)
    assert lab.tables() == before
    assert (await lab.get(name)).state == State.STATE_RUNNING


async def test_cooperative_raises_the_flag_at_once_and_interrupts_after_the_grace(lab: Lab) -> None:
    scene, name = await running(lab)
    snapshot = await cancel(lab, name, "changed my mind")
    assert snapshot.state == State.STATE_CANCELLING
    assert snapshot.cancel_reason == "changed my mind"
    assert snapshot.HasField("cancel_request_time")
    await scene.flagged.wait()
    lab.clock.advance(9.999)
    await turns()
    assert not scene.cancelled
    assert (await lab.get(name)).state == State.STATE_CANCELLING
    lab.clock.advance(0.001)
    snapshot = await lab.end(name)
    assert scene.cancelled
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_CANCELLED, "CANCELLED")
    assert snapshot.error.code == 1
    assert snapshot.error.message == "changed my mind"
    assert await lab.kinds(name) == ["accepted", "started", "cancelling", "cancelled"]


async def test_a_handler_that_tidies_up_ends_it_before_the_grace_and_may_report_until_then(lab: Lab) -> None:
    async def tidy(op: Any) -> None:
        await op.progress(lab_pb2.PlayProgress(text="tidying"))
        await op.output("bye")
        raise asyncio.CancelledError

    scene, name = await running(lab, after=tidy)
    await cancel(lab, name)
    scene.gate.set()
    assert (await lab.end(name)).state == State.STATE_CANCELLED
    assert await lab.kinds(name) == ["accepted", "started", "cancelling", "progress", "output", "cancelled"]


async def test_a_late_result_ends_as_cancelled_and_is_kept(lab: Lab) -> None:
    scene, name = await running(lab)
    await cancel(lab, name)
    scene.gate.set()
    snapshot = await lab.end(name)
    assert snapshot.state == State.STATE_CANCELLED
    assert not snapshot.HasField("result")
    (entry,) = lab.tables()["journal"]
    assert "late_result" in entry
    assert any(isinstance(column, bytes) and b"late" in column for column in entry)


async def test_a_late_failure_ends_as_cancelled(lab: Lab) -> None:
    async def fail(op: Any) -> None:
        raise OperationError("TOO_LATE")

    scene, name = await running(lab, after=fail)
    await cancel(lab, name)
    scene.gate.set()
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_CANCELLED, "CANCELLED")


async def test_a_handler_that_swallows_its_interruption_cannot_keep_the_operation(lab: Lab) -> None:
    release, swallowed = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                swallowed.set()
        await op.progress(lab_pb2.PlayProgress())

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await cancel(lab, name)
    await lab.clock.armed(10)
    lab.clock.advance(10)
    await swallowed.wait()
    assert (await lab.get(name)).state == State.STATE_CANCELLING
    lab.clock.advance(10)
    assert (await lab.end(name)).state == State.STATE_CANCELLED
    release.set()
    await lab.harness.settle()
    assert await lab.kinds(name) == ["accepted", "started", "cancelling", "cancelled"]
    assert lab.engine.executor.running == 0


async def test_best_effort_stays_running_with_the_flag_and_a_result_completes_it(lab: Lab) -> None:
    scene, name = await running(lab, "PlayOn")
    snapshot = await cancel(lab, name, "please")
    assert snapshot.state == State.STATE_RUNNING
    assert snapshot.cancel_reason == "please"
    await scene.flagged.wait()
    lab.clock.advance(3600)
    await turns()
    assert not scene.cancelled
    scene.gate.set()
    assert result_of(await lab.end(name)).text == "late"
    assert await lab.kinds(name) == ["accepted", "started", "cancelling", "completed"]


async def test_best_effort_ends_as_cancelled_when_the_handler_says_so(lab: Lab) -> None:
    async def give_up(op: Any) -> None:
        raise asyncio.CancelledError

    scene, name = await running(lab, "PlayOn", after=give_up)
    await cancel(lab, name)
    scene.gate.set()
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_best_effort_may_still_fail(lab: Lab) -> None:
    async def fail(op: Any) -> None:
        raise OperationError("BROKEN")

    scene, name = await running(lab, "PlayOn", after=fail)
    await cancel(lab, name)
    scene.gate.set()
    assert reason_of_end(await lab.end(name)) == "BROKEN"


async def test_a_handler_that_raises_cancelled_error_though_nobody_asked_has_failed(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        raise asyncio.CancelledError

    snapshot = await lab.end((await lab.begin()).operation.name)
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_FAILED, "HANDLER_ERROR")


@pytest.mark.parametrize("type", ["Play", "PlayOn"])
async def test_a_pending_operation_is_cancelled_at_once_and_never_begins(make_lab: Any, type: str) -> None:
    lab = await make_lab(concurrency=1)
    scene, first = await running(lab, type)
    waiting = (await lab.begin(type)).operation
    assert waiting.state == State.STATE_PENDING
    snapshot = await cancel(lab, waiting.name, "no")
    assert (snapshot.state, snapshot.attempt) == (State.STATE_CANCELLED, 0)
    assert await lab.kinds(waiting.name) == ["accepted", "cancelled"]
    await cancel(lab, first)
    scene.gate.set()
    await lab.end(first)
    lab.handlers.handler = None
    assert (await lab.end((await lab.begin(type)).operation.name)).state == State.STATE_COMPLETED  # its slot is free


async def test_repeating_is_ok_and_changes_nothing(lab: Lab) -> None:
    _, name = await running(lab)
    one = await cancel(lab, name, "first")
    lab.clock.advance(1)
    two = await cancel(lab, name, "second")
    assert one == two
    assert two.cancel_reason == "first"


async def test_a_hundred_at_once_are_one(lab: Lab) -> None:
    _, name = await running(lab)
    snapshots = await asyncio.gather(*(cancel(lab, name) for _ in range(100)))
    assert {s.revision for s in snapshots} == {snapshots[0].revision}


@pytest.mark.parametrize("type", ["Play", "PlayThrough"])
async def test_cancelling_what_has_ended_is_ok(lab: Lab, type: str) -> None:
    name = (await lab.begin(type)).operation.name
    ended = await lab.end(name)
    assert await cancel(lab, name) == ended


@pytest.mark.parametrize("result_first", [True, False])
async def test_the_order_of_the_writer_is_the_truth(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, result_first: bool
) -> None:
    """A result and a cancel request meet: the first of them wins, and both callers hear so."""
    scene, name = await running(lab)
    writer = lab.engine.store.writer
    submit, held = writer.submit, []

    pending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def hold(mutation: Any, settled: Any = None) -> asyncio.Future[Any]:
        held.append(mutation)
        return pending

    monkeypatch.setattr(writer, "submit", hold)
    scene.op.cancelled.set()
    scene.gate.set()
    await turns()
    (result,) = held
    monkeypatch.setattr(writer, "submit", submit)
    if result_first:
        submit(result)
        assert (await cancel(lab, name)).state == State.STATE_COMPLETED
    else:
        assert (await cancel(lab, name)).state == State.STATE_CANCELLING
        submit(result)
        assert (await lab.end(name)).state == State.STATE_CANCELLED
    pending.cancel()


async def test_the_request_is_durable_before_the_answer(lab: Lab) -> None:
    _, name = await running(lab)
    await cancel(lab, name, "kept")
    await lab.restart()
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.cancel_reason, snapshot.attempt) == (State.STATE_CANCELLED, "kept", 1)


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
@pytest.mark.parametrize("type", ["Play", "PlayOn"])
async def test_a_restart_settles_a_requested_cancel_without_another_run(lab: Lab, type: str, crash: bool) -> None:
    scene, name = await running(lab, type)
    await cancel(lab, name)
    await scene.flagged.wait()
    scene.entered.clear()
    await lab.restart(crash=crash)
    assert (await lab.end(name)).state == State.STATE_CANCELLED
    await turns(50)
    assert not scene.entered.is_set()
    assert (await lab.kinds(name))[-2:] == ["cancelling", "cancelled"]


@pytest.mark.parametrize("type", ["Play", "PlayOn"])
async def test_a_running_operation_that_waits_to_be_run_again_is_cancelled_at_once(make_lab: Any, type: str) -> None:
    """After a restart it waits for a slot: no handler is there to tidy up, and nobody else would settle it."""
    lab = await make_lab(concurrency=2)
    scene = Scene(lab)
    names = [(await lab.begin(type)).operation.name for _ in range(2)]
    for name in names:
        await lab.reached(name, "started")
    scene.entered.clear()
    await lab.restart(concurrency=1)
    await scene.entered.wait()
    (waiting,) = [name for name in names if not name.endswith(scene.op.uid)]
    assert (await lab.get(waiting)).state == State.STATE_RUNNING
    assert (await cancel(lab, waiting, "enough")).state == State.STATE_CANCELLED
    assert (await lab.kinds(waiting))[-1] == "cancelled"


async def test_the_deadline_ends_a_cancel_whose_grace_is_longer(lab: Lab) -> None:
    scene, name = await running(lab, "PlayMinute")
    await cancel(lab, name)
    await scene.flagged.wait()
    lab.clock.advance(60)
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_CANCELLED, "CANCELLED")


async def test_ending_a_watch_a_run_or_a_wait_never_cancels(lab: Lab) -> None:
    scene, name = await running(lab)
    watch = lab.operations.Watch(pb.WatchRequest(name=name))
    await watch.read()
    wait = lab.operations.Wait(pb.WaitRequest(name=name))
    run = lab.operations.Run(pb.RunRequest(type=Lab.TYPE, request_id="r"))
    await run.read()
    twin = lab.lab.PlayAndWatch(lab_pb2.PlayRequest(request_id="r"))
    await twin.read()
    for call in (watch, wait, run, twin):
        call.cancel()
    await lab.connect()
    snapshot = await lab.get(name)
    assert (snapshot.state, snapshot.HasField("cancel_request_time")) == (State.STATE_RUNNING, False)
    assert not scene.cancelled


async def test_the_flag_of_an_operation_that_was_cancelled_while_it_was_prepared(lab: Lab) -> None:
    """The request is committed between the start and the handler's first line: the flag is up when it begins."""
    flags = []

    @lab.plays
    async def handler(request, op):
        flags.append(bool(op.cancelled))
        await op.cancelled.wait()
        return lab_pb2.PlayResult()

    started = await asyncio.gather(*(lab.begin() for _ in range(20)))
    await asyncio.gather(*(cancel(lab, s.operation.name) for s in started))
    for s in started:
        assert (await lab.end(s.operation.name)).state == State.STATE_CANCELLED
