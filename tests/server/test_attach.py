"""`OperationControlService.Attach` and `control.attach`: the work of another process becomes the operation's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, ServiceError
from longshore_server.lifecycle import State as Word
from longshore_server.reasons import Reason
from longshore_server.store.mutations import TakeOver
from tests.conftest import Lab, State, reason_of_end, refused, result_of
from tests.server.retrying import RetryHandlers
from tests.server.test_control import PROGRESS, RESULT, deferred, stub


class Running:
    """Handlers that go on until they are interrupted."""

    def __init__(self, lab: Lab) -> None:
        self.attempts: list[int] = []
        self.refused: list[Reason] = []
        self.entered, self.interrupted = asyncio.Event(), asyncio.Event()
        lab.plays(self._run)

    async def _run(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        self.attempts.append(op.attempt)
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As one would that does not care: nothing of it counts any more.
            for late in (op.progress(lab_pb2.PlayProgress(text="late")), op.step("late", lambda: 1)):
                with pytest.raises(ServiceError) as caught:
                    await late
                self.refused.append(caught.value.reason)
            self.interrupted.set()
        return lab_pb2.PlayResult(text="late")


async def attach(lab: Lab, name: str) -> Any:
    return await stub(lab).Attach(cpb.AttachRequest(name=name))


async def complete(lab: Lab, name: str) -> None:
    snapshot = await stub(lab).Complete(cpb.CompleteRequest(name=name, result=RESULT))
    assert (snapshot.state, result_of(snapshot).text) == (State.STATE_COMPLETED, "by hand")


@pytest.mark.parametrize("crash", [None, True, False], ids=["at once", "after a crash", "after a stop"])
async def test_what_a_handler_runs_is_taken_from_it_for_good(make_lab: Any, crash: bool | None) -> None:
    lab = await make_lab(concurrency=1)
    running = Running(lab)
    name = (await lab.begin()).operation.name
    await running.entered.wait()
    snapshot = await attach(lab, name)
    assert (snapshot.state, snapshot.deferred) == (State.STATE_RUNNING, True)
    await running.interrupted.wait()
    await lab.catch_up()
    assert running.refused == [Reason.STALE_ATTEMPT] * 2
    assert (lab.engine.executor.running, lab.engine.executor.running_of(Lab.TYPE)) == (0, 0), "its slot is free"
    if crash is not None:
        await lab.restart(crash=crash)
        await lab.catch_up()
    await stub(lab).ReportProgress(cpb.ReportProgressRequest(name=name, progress=PROGRESS))
    await complete(lab, name)
    assert running.attempts == [1]
    assert await lab.kinds(name) == ["accepted", "started", "progress", "completed"]


async def test_what_waits_for_a_slot_never_begins(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    running = Running(lab)
    first, second = [(await lab.begin()).operation.name for _ in range(2)]
    assert (await attach(lab, second)).state == State.STATE_RUNNING
    await attach(lab, first)
    await lab.catch_up()
    assert (running.attempts, lab.engine.executor.waiting_of(Lab.TYPE)) == ([1], 0)
    await complete(lab, second)


async def test_what_waits_to_be_tried_again_is_not(make_lab: Any) -> None:
    lab = await make_lab(services=[RetryHandlers])
    attempts = []

    @lab.plays
    async def handler(request, op):
        attempts.append(op.attempt)
        raise OperationError("NOT_YET")

    name = (await lab.begin("RetryService/Try")).operation.name
    await lab.reached(name, "attempt_failed")
    assert (await attach(lab, name)).HasField("next_attempt_time") is False
    lab.clock.advance(3600)
    await lab.catch_up()
    assert attempts == [1]
    await complete(lab, name)


async def test_what_begins_in_the_same_commit_does_not(lab: Lab) -> None:
    running, executor = Running(lab), lab.engine.executor
    executor.held = True
    name = (await lab.begin()).operation.name
    live = await lab.engine.find(name)
    executor.release()
    await asyncio.sleep(0)  # the beginning is on its way, and not yet read by the writer
    await lab.engine.store.writer.submit(TakeOver(live.record.uid, running=True))
    await lab.catch_up()
    assert live.record.attempt == 2, "it has begun, and was taken over"
    assert (running.attempts, executor.running, executor.running_of(Lab.TYPE)) == ([], 0, 0)


async def test_repeating_it_and_what_is_deferred_change_nothing(lab: Lab) -> None:
    for name in (await deferred(lab), (await lab.begin()).operation.name):
        await attach(lab, name)
        before = lab.tables()
        await attach(lab, name)
        assert lab.tables() == before


@pytest.mark.parametrize("answered", [True, False])
async def test_a_cancel_request_that_waits_is_its_controller_s_to_answer(lab: Lab, answered: bool) -> None:
    running = Running(lab)
    name = (await lab.begin()).operation.name
    await running.entered.wait()
    await lab.operations.Cancel(pb.CancelRequest(name=name, reason="why"))
    assert (await attach(lab, name)).state == State.STATE_CANCELLING
    await running.interrupted.wait()
    if answered:
        await stub(lab).AcknowledgeCancel(cpb.AcknowledgeCancelRequest(name=name))
    else:
        lab.clock.advance(10)
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "why")


async def test_its_deadline_ends_it_all_the_same(lab: Lab) -> None:
    running = Running(lab)
    name = (await lab.begin("PlayMinute")).operation.name
    await running.entered.wait()
    await attach(lab, name)
    lab.clock.advance(60)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


async def test_nobody_attaches_what_there_is_not(lab: Lab) -> None:
    before = lab.tables()
    assert (await refused(attach(lab, "operations/nobody")))[1] == "OPERATION_NOT_FOUND"
    assert (await refused(attach(lab, "nobody")))[1] == "INVALID_NAME"
    assert lab.tables() == before


async def test_the_service_s_own_work_takes_a_running_operation_from_its_handler(lab: Lab) -> None:
    running, gate = Running(lab), asyncio.Event()
    name = (await lab.begin()).operation.name
    await running.entered.wait()
    control = await lab.server.operations.control(name)

    async def work():
        await gate.wait()
        return lab_pb2.PlayResult(text="attached")

    attaching = asyncio.ensure_future(control.attach(work()))
    await running.interrupted.wait()
    gate.set()
    assert await attaching is Word.COMPLETED
    assert result_of(await lab.get(name)).text == "attached"


async def test_a_task_of_the_handler_may_attach_what_the_handler_defers(lab: Lab) -> None:
    """Seed 2: the handler begins a task that attaches, and returns."""
    deferred, tasks = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        async def work():
            await deferred.wait()
            return lab_pb2.PlayResult(text="attached")

        tasks.append(asyncio.create_task((await lab.server.operations.control(op.id)).attach(work())))
        await lab.catch_up()
        await op.defer()
        deferred.set()

    assert result_of(await lab.run()).text == "attached"
    assert await tasks[0] is Word.COMPLETED
