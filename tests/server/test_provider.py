"""`server.operations.control` and `accept`: the service's own code drives operations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_longshore, lab_pb2
from lab.v1.control_pb2 import Verdict

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import DuplicateNameError, OperationControl, OperationError, Reason, ServiceError
from longshore_server.engine.control import SIGNALS
from longshore_server.lifecycle import State as Word
from tests.conftest import Crash, Lab, LabHandlers, State, reason_of_end, result_of
from tests.server.test_control import JUDGE, ControlHandlers, plead

PLAY = lab_longshore.LabService.play


async def deferred(lab: Lab, type: str = "Play") -> Any:
    """The control of an operation whose handler has deferred it and is gone."""

    @lab.plays
    async def handler(request, op):
        return await op.defer()

    name = (await lab.begin(type, key="k")).operation.name
    await lab.catch_up()
    return await lab.server.operations.control(name)


@pytest.mark.parametrize("crash", [True, False])
async def test_a_control_works_after_a_restart(lab: Lab, crash: bool) -> None:
    name = (await deferred(lab)).name
    await lab.restart(crash=crash)
    control = await lab.server.operations.control(name, PLAY)
    assert (control.state, control.type_name, (await control.input()).key) == (Word.RUNNING, Lab.TYPE, "k")
    assert await control.started() is Word.RUNNING
    await control.progress(lab_pb2.PlayProgress(text="half"))
    assert await control.complete(lab_pb2.PlayResult(text="by hand")) is Word.COMPLETED
    assert result_of(await lab.end(name)).text == "by hand"
    with pytest.raises(ServiceError) as caught:
        await control.complete(lab_pb2.PlayResult())
    assert caught.value.reason is Reason.OPERATION_ENDED


async def test_a_control_is_of_the_handler_s_type(lab: Lab) -> None:
    control = await deferred(lab)
    await lab.server.operations.control(control.name, LabHandlers.play)
    with pytest.raises(TypeError, match=r"is a lab\.v1\.LabService/Play, not a lab\.v1\.LabService/Climb"):
        await lab.server.operations.control(control.name, lab_longshore.LabService.climb)
    with pytest.raises(TypeError, match="is no handler of this server"):
        await lab.server.operations.control(control.name, ControlHandlers.judge)
    with pytest.raises(ServiceError) as caught:
        await lab.server.operations.control("operations/nobody")
    assert caught.value.reason is Reason.OPERATION_NOT_FOUND


async def test_a_control_refuses_messages_of_other_types(lab: Lab) -> None:
    control = await deferred(lab)
    for call in (
        control.progress(lab_pb2.PlayResult()),
        control.output(lab_pb2.PlayResult()),
        control.complete(lab_pb2.PlayProgress()),
        control.complete(),
    ):
        with pytest.raises(TypeError, match=r"lab\.v1\.LabService/Play"):
            await call
    assert control.state is Word.RUNNING


async def test_a_control_fails_an_operation(lab: Lab) -> None:
    control = await deferred(lab)
    assert await control.fail(OperationError("REJECTED", "too dear")) is Word.FAILED
    assert reason_of_end(await lab.get(control.name)) == "REJECTED"
    control = await deferred(lab)
    await control.fail(RuntimeError("secret"))
    snapshot = await lab.get(control.name)
    assert (reason_of_end(snapshot), "secret" in snapshot.error.message) == ("HANDLER_ERROR", False)


async def test_a_controller_waits_for_a_cancel_request_and_answers_it(lab: Lab) -> None:
    control = await deferred(lab)
    waiting = asyncio.ensure_future(control.cancelled.wait())
    await lab.catch_up()
    assert not control.cancelled
    assert not waiting.done()
    await lab.operations.Cancel(pb.CancelRequest(name=control.name))
    assert await waiting is True
    assert control.state is Word.CANCELLING
    assert await control.acknowledge_cancel() is Word.CANCELLED
    assert await control.cancelled.wait() is True


async def test_waiting_for_a_wish_ends_with_the_operation(lab: Lab) -> None:
    control = await deferred(lab)
    waiting = [asyncio.ensure_future(wish.wait()) for wish in (control.cancelled, control.stopping)]
    await lab.catch_up()
    await control.complete(lab_pb2.PlayResult())
    assert [await wish for wish in waiting] == [False, False]


async def test_the_provider_cancels_what_callers_cannot(lab: Lab) -> None:
    control = await deferred(lab, "PlayThrough")
    assert await control.cancel("withdrawn") is Word.CANCELLED
    assert (await lab.get(control.name)).error.message == "withdrawn"


@pytest.mark.parametrize("type", ["PlayOn", "PlayThrough"])
async def test_the_provider_s_cancel_gives_a_running_handler_its_grace(lab: Lab, type: str) -> None:
    """Also where a caller's best-effort request has raised the handler's flag before."""
    entered = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        entered.set()
        await asyncio.Event().wait()

    name = (await lab.begin(type)).operation.name
    await entered.wait()
    if type == "PlayOn":
        await lab.operations.Cancel(pb.CancelRequest(name=name))
    control = await lab.server.operations.control(name)
    assert await control.cancel() is Word.CANCELLING
    lab.clock.advance(9.999)
    await lab.catch_up()
    assert control.state is Word.CANCELLING
    lab.clock.advance(0.001)
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_host_code_accepts_an_operation_and_drives_it(lab: Lab) -> None:
    """Seed 2: accept an id, get its control."""
    control = await lab.server.operations.accept(PLAY, lab_pb2.PlayRequest(key="k"), request_id="r", owner="ada")
    assert (control.created, control.state) == (True, Word.PENDING)
    with pytest.raises(ServiceError) as caught:
        await control.complete(lab_pb2.PlayResult())
    assert caught.value.reason is Reason.ILLEGAL_MOVE
    await lab.restart()
    assert (await lab.get(control.name)).state == State.STATE_PENDING
    control = await lab.server.operations.accept(Lab.TYPE, lab_pb2.PlayRequest(key="k"), request_id="r", owner="ada")
    assert not control.created
    assert await control.started() is Word.RUNNING
    await control.complete(lab_pb2.PlayResult(text="host"))
    snapshot = await lab.end(control.name)
    assert (snapshot.owner, result_of(snapshot).text) == ("ada", "host")
    assert await lab.kinds(control.name) == ["accepted", "started", "completed"]


async def test_accepting_takes_no_slot_and_is_no_reason_to_refuse(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    control = await lab.server.operations.accept(PLAY, lab_pb2.PlayRequest())
    await control.started()
    assert result_of(await lab.run()).text == "played"


async def test_a_handler_accepts_once_over_all_attempts(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        control = await lab.server.operations.accept("lab.v1.LabService/PlayOn", lab_pb2.PlayRequest())
        seen.append((control.uid, control.created))
        with pytest.raises(DuplicateNameError):
            await lab.server.operations.accept("lab.v1.LabService/PlayOn", lab_pb2.PlayRequest())
        await crash.here(op)
        await control.started()
        await control.complete(lab_pb2.PlayResult(text="child"))
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    await lab.end(name)
    (one, created), (two, again) = seen
    assert (one, created, again) == (two, True, False)
    assert (await lab.get(f"operations/{one}")).parent == name


async def test_taking_over_what_waits_for_a_slot_keeps_its_handler_from_beginning(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    gate, ran = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        ran.append(request.key)
        await gate.wait()
        return lab_pb2.PlayResult()

    first = (await lab.begin(key="first")).operation.name
    second = (await lab.begin(key="second")).operation.name
    control = await lab.server.operations.control(second)
    assert lab.engine.executor.waiting_of(Lab.TYPE) == 1
    assert await control.started() is Word.RUNNING
    assert lab.engine.executor.waiting_of(Lab.TYPE) == 0
    gate.set()
    await lab.end(first)
    await lab.catch_up()
    assert (control.state, ran) == (Word.RUNNING, ["first"])


async def accepted(lab: Lab) -> OperationControl[Any]:
    return await lab.server.operations.accept("lab.v1.LabService/PlayMinute", lab_pb2.PlayRequest())


async def test_attached_work_completes_what_was_accepted(lab: Lab) -> None:
    control = await accepted(lab)

    async def work():
        await control.progress(lab_pb2.PlayProgress(text="half"))
        return lab_pb2.PlayResult(text="attached")

    assert await control.attach(work()) is Word.COMPLETED
    assert await lab.kinds(control.name) == ["accepted", "started", "progress", "completed"]


async def test_attached_work_may_end_the_operation_itself_and_is_not_interrupted(lab: Lab) -> None:
    """Seed 2: the attached task completes, fails or cancels the operation before it returns."""
    control, done = await accepted(lab), []

    async def work():
        await control.complete(lab_pb2.PlayResult(text="itself"))
        await asyncio.sleep(0)
        done.append(True)

    assert await control.attach(work()) is Word.COMPLETED
    assert done == [True]


async def test_a_handler_may_end_its_operation_itself_and_is_not_interrupted(lab: Lab) -> None:
    done = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        control = await lab.server.operations.control(op.name)
        await control.complete(lab_pb2.PlayResult(text="itself"))
        await asyncio.sleep(0)
        done.set()
        return lab_pb2.PlayResult(text="ignored")

    snapshot = await lab.run()
    await done.wait()
    assert result_of(snapshot).text == "itself"
    assert len(await lab.kinds(snapshot.name)) == 3


async def test_attached_work_that_ends_without_ending_the_operation_fails_it(lab: Lab) -> None:
    control = await accepted(lab)
    assert await control.attach(asyncio.sleep(0)) is Word.FAILED
    assert reason_of_end(await lab.get(control.name)) == "ATTACH_NOT_TERMINAL"


async def test_attached_work_that_raises_fails_the_operation(lab: Lab) -> None:
    control = await accepted(lab)

    async def work():
        raise OperationError("NO_STOCK")

    assert await control.attach(work()) is Word.FAILED
    assert reason_of_end(await lab.get(control.name)) == "NO_STOCK"


async def test_the_end_by_another_hand_reaches_attached_work(lab: Lab) -> None:
    control, interrupted = await accepted(lab), asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    attaching = asyncio.ensure_future(control.attach(work()))
    await lab.reached(control.name, "started")
    lab.clock.advance(60)
    await interrupted.wait()
    assert await attaching is Word.FAILED
    assert reason_of_end(await lab.get(control.name)) == "DEADLINE_EXCEEDED"


async def test_a_controller_reads_signals_and_consumes_what_it_is_done_with(make_lab: Any) -> None:
    lab = await make_lab(services=[ControlHandlers])
    control = await deferred(lab, JUDGE)
    await plead(lab, control.name, 1)
    await plead(lab, control.name, 2, "object")
    seen = []

    async def read() -> None:
        async for signal in control.signals("plead"):
            seen.append(signal.payload.day)
            if signal.payload.day != 3:
                await control.consume(signal)

    reading = asyncio.ensure_future(read())
    while not seen:
        await lab.catch_up()
    assert seen == [1]
    await plead(lab, control.name, 3)
    await plead(lab, control.name, 4)
    while len(seen) < 3:
        await lab.catch_up()
    assert seen == [1, 3, 4]
    await control.complete(Verdict(text="yes"))
    await reading
    with pytest.raises(ServiceError) as caught:
        await anext(control.signals("pleed"))
    assert caught.value.reason is Reason.UNKNOWN_SIGNAL
    # What was not consumed is there again, for another reader.
    assert [signal.number async for signal in control.signals()] == [2, 3]


async def test_a_controller_gets_past_more_signals_of_other_names_than_are_read_at_once(make_lab: Any) -> None:
    lab = await make_lab(services=[ControlHandlers])
    control = await deferred(lab, JUDGE)
    for number in range(1, SIGNALS + 1):
        await plead(lab, control.name, number, "object")
    await plead(lab, control.name, 1)
    await control.complete(Verdict(text="yes"))
    assert [signal.number async for signal in control.signals("plead")] == [SIGNALS + 1]
    assert [signal.number async for signal in control.signals()] == [*range(1, SIGNALS + 2)]


async def test_a_handler_whose_control_call_was_refused_is_interrupted_by_the_end(lab: Lab) -> None:
    entered, interrupted = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        with pytest.raises(ServiceError):
            await (await lab.server.operations.control(op.name)).acknowledge_cancel()
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    name = (await lab.begin("PlayMinute")).operation.name
    await entered.wait()
    lab.clock.advance(60)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    await interrupted.wait()


async def test_work_is_not_attached_to_what_has_ended(lab: Lab) -> None:
    control, begun = await accepted(lab), []
    await control.cancel()

    async def work():
        begun.append(True)

    with pytest.raises(ServiceError) as caught:
        await control.attach(work())
    assert (caught.value.reason, begun) == (Reason.OPERATION_ENDED, [])


async def test_attached_work_ends_with_the_call_that_attached_it(lab: Lab) -> None:
    control, entered, interrupted = await accepted(lab), asyncio.Event(), asyncio.Event()

    async def work():
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    attaching = asyncio.ensure_future(control.attach(work()))
    await entered.wait()
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert interrupted.is_set()
    assert control.state is Word.RUNNING


async def test_a_rerun_that_starts_what_it_accepted_before_is_non_deterministic(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        operations = lab.server.operations
        await (operations.accept if op.attempt == 1 else operations.start)(
            "lab.v1.LabService/PlayOn", lab_pb2.PlayRequest()
        )
        await crash.here(op)

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert reason_of_end(await lab.end(name)) == "NON_DETERMINISTIC"


async def test_a_handler_that_only_asked_to_cancel_its_operation_is_interrupted_by_the_end(lab: Lab) -> None:
    entered, interrupted = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        assert await (await lab.server.operations.control(op.id)).cancel() is Word.CANCELLING
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    name = (await lab.begin("PlayMinute")).operation.name  # its deadline comes before its grace
    await entered.wait()
    lab.clock.advance(60)
    assert (await lab.end(name)).state == State.STATE_CANCELLED
    await interrupted.wait()


async def test_a_controller_is_told_of_a_stop_and_completes_with_what_there_is(lab: Lab) -> None:
    control = await deferred(lab)
    waiting = asyncio.ensure_future(control.stopping.wait())
    await lab.operations.Stop(pb.StopRequest(name=control.name))
    assert await waiting is True
    await control.complete(lab_pb2.PlayResult(text="half"))
    assert (await lab.get(control.name)).stopped
