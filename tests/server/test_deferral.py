"""`op.defer()` and `op.attach()`: what a handler gives away, and who ends it then."""

from __future__ import annotations

import asyncio

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, Reason, ServiceError
from tests.conftest import Lab, State, reason_of_end, result_of, turns
from tests.server.retrying import RetryHandlers


async def deferred(lab: Lab, type: str = "Play") -> str:
    """The name of an operation whose handler has deferred it and is gone."""

    @lab.plays
    async def handler(request, op):
        return await op.defer()

    name = (await lab.begin(type)).operation.name
    await lab.reached(name, "started")
    await lab.catch_up()
    snapshot = await lab.get(name)
    assert (snapshot.state, snapshot.deferred) == (State.STATE_RUNNING, True)
    assert lab.engine.executor.running == 0
    return name


async def test_a_deferred_operation_is_not_run_again(lab: Lab) -> None:
    name = await deferred(lab)
    for crash in (True, False):
        await lab.restart(crash=crash)
        await lab.catch_up()
        snapshot = await lab.get(name)
        assert (snapshot.state, snapshot.attempt, snapshot.crashes) == (State.STATE_RUNNING, 1, 0)


async def test_the_result_of_a_deferral_is_nobody_s_business(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    await deferred(lab)
    assert not caplog.records


async def test_deferral_is_durable_when_it_returns_and_frees_the_slot(make_lab) -> None:
    lab = await make_lab(concurrency=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        if request.script == "next":
            return lab_pb2.PlayResult(text="next")
        assert not lab.engine.table.get(op.author.uid).record.deferred
        await op.defer()
        assert lab.engine.table.get(op.author.uid).record.deferred
        await gate.wait()
        return lab_pb2.PlayResult(text="ignored")

    name = (await lab.begin()).operation.name
    assert result_of(await lab.run(script="next")).text == "next"
    gate.set()
    await lab.catch_up()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    assert lab.engine.executor.running_of(Lab.TYPE) == 0


@pytest.mark.parametrize("error", [OperationError("LATE"), RuntimeError("late")])
async def test_what_a_handler_raises_after_its_deferral_is_ignored(lab: Lab, error: Exception) -> None:
    @lab.plays
    async def handler(request, op):
        await op.defer()
        raise error

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await lab.catch_up()
    assert (await lab.get(name)).state == State.STATE_RUNNING


async def test_the_time_of_an_attempt_does_not_count_after_deferral(lab: Lab) -> None:
    name = await deferred(lab, "PlayShort")
    lab.clock.advance(59)
    await lab.catch_up()
    assert (await lab.get(name)).state == State.STATE_RUNNING
    lab.clock.advance(1)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


async def test_an_unanswered_cancel_request_settles_after_the_grace(lab: Lab) -> None:
    name = await deferred(lab)
    snapshot = await lab.operations.Cancel(pb.CancelRequest(name=name, reason="no need"))
    assert snapshot.state == State.STATE_CANCELLING
    lab.clock.advance(9.999)
    await lab.catch_up()
    assert (await lab.get(name)).state == State.STATE_CANCELLING
    lab.clock.advance(0.001)
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "no need")


@pytest.mark.parametrize("crash", [True, False])
async def test_a_restart_keeps_the_grace(lab: Lab, crash: bool) -> None:
    name = await deferred(lab)
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    lab.clock.advance(4)
    await lab.restart(crash=crash)
    lab.clock.advance(5.999)
    await lab.catch_up()
    assert (await lab.get(name)).state == State.STATE_CANCELLING
    lab.clock.advance(0.001)
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_best_effort_stays_running_until_its_controller_ends_it(lab: Lab) -> None:
    name = await deferred(lab, "PlayOn")
    snapshot = await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (snapshot.state, snapshot.HasField("cancel_request_time")) == (State.STATE_RUNNING, True)
    await lab.restart()
    lab.clock.advance(3600)
    await turns()
    assert (await lab.get(name)).state == State.STATE_RUNNING


async def test_a_stop_is_not_held_up_by_what_is_deferred(lab: Lab) -> None:
    await deferred(lab)
    await asyncio.wait_for(lab.harness.running.engine.stop(lab.clock.now() + 10**9), 10)
    assert lab.clock.pending == 0


async def test_what_is_attached_completes_the_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        async def work():
            assert (await lab.get(op.name)).deferred
            await op.progress(lab_pb2.PlayProgress(text="attached"))
            return lab_pb2.PlayResult(text="done")

        return await op.attach(work())

    snapshot = await lab.run()
    assert result_of(snapshot).text == "done"
    assert await lab.kinds(snapshot.name) == ["accepted", "started", "progress", "completed"]


async def test_the_time_of_an_attempt_does_not_count_for_attached_work(lab: Lab) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        async def work():
            entered.set()
            await gate.wait()
            return lab_pb2.PlayResult(text="late")

        return await op.attach(work())

    name = (await lab.begin("PlayShort")).operation.name
    await entered.wait()
    lab.clock.advance(59)
    await lab.catch_up()
    gate.set()
    assert result_of(await lab.end(name)).text == "late"


async def test_a_cancel_request_reaches_attached_work(lab: Lab) -> None:
    entered, interrupted = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        async def work():
            entered.set()
            await op.cancelled.wait()
            try:
                await asyncio.Event().wait()
            finally:
                interrupted.set()

        return await op.attach(work())

    name = (await lab.begin()).operation.name
    await entered.wait()
    assert (await lab.operations.Cancel(pb.CancelRequest(name=name))).state == State.STATE_CANCELLING
    lab.clock.advance(9.999)
    await lab.catch_up()
    assert not interrupted.is_set()
    lab.clock.advance(0.001)
    await interrupted.wait()
    assert (await lab.end(name)).state == State.STATE_CANCELLED


async def test_attached_work_that_fails_is_not_tried_again(make_lab) -> None:
    lab = await make_lab(services=[RetryHandlers])

    @lab.plays
    async def handler(request, op):
        async def work():
            raise OperationError("NO_STOCK")

        return await op.attach(work())

    snapshot = await lab.end((await lab.begin("RetryService/Try")).operation.name)
    assert (snapshot.attempt, snapshot.failures, reason_of_end(snapshot)) == (1, 0, "NO_STOCK")


async def test_what_cannot_be_attached_any_more_is_never_begun(lab: Lab) -> None:
    begun, errors, done = [], [], asyncio.Event()

    @lab.plays
    async def handler(request, op):
        async def work():
            begun.append(True)

        await (await lab.server.operations.control(op.name)).complete(lab_pb2.PlayResult())
        try:
            await op.attach(work())
        except ServiceError as error:
            errors.append(error.reason)
        done.set()

    await lab.run("PlayNamed", key="k")
    await done.wait()
    assert (errors, begun) == ([Reason.OPERATION_ENDED], [])


async def test_a_stop_gives_attached_work_the_time_of_the_drain_and_says_what_is_lost(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    entered = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        async def work():
            entered.set()
            await asyncio.Event().wait()

        return await op.attach(work())

    name = (await lab.begin()).operation.name
    await entered.wait()
    stopping = asyncio.ensure_future(lab.engine.stop(lab.clock.now() + 10_000_000))
    await lab.clock.armed(10)
    assert not stopping.done()
    lab.clock.advance(10)
    await stopping
    assert f"{name} is not run again" in caplog.text


async def test_attached_work_without_a_value_fails_the_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return await op.attach(asyncio.sleep(0))

    assert reason_of_end(await lab.run()) == "ATTACH_NOT_TERMINAL"


async def test_attached_work_that_raises_fails_the_operation_like_a_handler(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        async def work():
            raise OperationError("NO_STOCK", "none left")

        return await op.attach(work())

    assert reason_of_end(await lab.run()) == "NO_STOCK"


async def test_attached_work_that_is_lost_with_its_process_is_not_run_again(lab: Lab) -> None:
    entered, runs = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        async def work():
            runs.append(op.attempt)
            entered.set()
            await asyncio.Event().wait()

        return await op.attach(work())

    name = (await lab.begin("PlayMinute")).operation.name
    await entered.wait()
    await lab.restart()
    await lab.catch_up()
    assert ((await lab.get(name)).state, runs) == (State.STATE_RUNNING, [1])
    lab.clock.advance(60)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("way", ["defer", "attach"])
async def test_an_interruption_on_the_way_to_the_deferral_leaves_no_zombie(lab: Lab, way: str) -> None:
    """The time of the attempt is up while the deferral is being written: whichever counts, it can still be ended."""
    begun = []

    @lab.plays
    async def handler(request, op):
        async def work():
            begun.append(True)
            return lab_pb2.PlayResult()

        giving = asyncio.ensure_future(op.defer() if way == "defer" else op.attach(work()))
        await asyncio.sleep(0)
        lab.clock.advance(5)
        return await giving

    name = (await lab.begin("PlayWhile")).operation.name
    await lab.reached(name, "started")
    await lab.catch_up()
    snapshot = await lab.get(name)
    assert lab.engine.executor.running == lab.engine.executor.running_of("lab.v1.LabService/PlayWhile") == 0
    if snapshot.state == State.STATE_FAILED:
        assert reason_of_end(snapshot) == "ATTEMPT_TIMEOUT"
    else:
        assert (snapshot.deferred, way) == (True, "defer")
        await (await lab.server.operations.control(name)).cancel()
    assert not begun
