"""Jobs that are created by a change of their operation: both or neither, whatever crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lab.v1 import lab_pb2
from lab.v1.lab_longshore import LabService

from longshore.v1.operation_pb2 import OperationSnapshot
from longshore.v1.operations_service_pb2 import CancelRequest
from longshore_server import Job, JobNotEnqueuedError, JobQueue, OperationError, ServiceError
from longshore_server.job_lifecycle import JobState
from longshore_server.store.mutations.with_jobs import WithJobs
from tests.conftest import reason_of
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load

Change = Callable[[Any, list[Any]], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "complete": lambda control, jobs: control.complete(lab_pb2.PlayResult(text="done"), jobs=jobs),
    "fail": lambda control, jobs: control.fail(OperationError("NO", "Not today."), jobs=jobs),
    "progress": lambda control, jobs: control.progress(lab_pb2.PlayProgress(), jobs=jobs),
}


def queues(yard: Yard) -> tuple[JobQueue[Load, str], JobQueue[int, int]]:
    @yard.job("load", key="{name}")
    async def load(payload: Load, job: Job[str]) -> str:
        await asyncio.Event().wait()
        return ""

    @yard.job("count")
    async def count(payload: int, job: Job[int]) -> int:
        return payload

    return load, count


async def deferred(yard: Yard) -> Any:
    """The control of an operation that nobody runs."""

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        return await op.defer()

    operation = (await yard.begin()).operation
    await yard.catch_up()
    return await yard.server.operations.control(operation.name, LabService.play)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_control_call_creates_jobs_of_its_operation(yard: Yard, change: str) -> None:
    load, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    first, second = load.plan(Load("a"), priority=3), count.plan(7)
    assert first.job is None
    await CHANGES[change](control, [first, second])
    assert first.job is not None
    assert second.job is not None
    assert (first.job.created, await second.job.wait()) == (True, 7)
    one, two = await yard.jobs()
    assert (first.job.id, one.queue, one.priority, one.state) == (first.job.id, "load", 3, JobState.ACTIVE)
    assert one.parent == one.operation == two.parent
    assert control.uid == (await first.job.get()).operation.removeprefix("operations/")


@pytest.mark.parametrize("change", CHANGES)
async def test_where_one_has_no_room_nothing_is_changed(yard: Yard, change: str) -> None:
    load, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    await load.create(Load("a"))
    await yard.catch_up()
    before = yard.tables()
    first, second = count.plan(7), load.plan(Load("a"))
    with pytest.raises(JobNotEnqueuedError) as refused:
        await CHANGES[change](control, [first, second])
    assert (refused.value.key, refused.value.index, first.job) == ("a", 1, None)
    await yard.catch_up()
    assert yard.tables() == before
    assert (await count.create(1)) is not None, "the slot that was kept for it is free again"


@pytest.mark.parametrize("change", CHANGES)
async def test_where_the_change_is_refused_there_are_no_jobs(yard: Yard, change: str) -> None:
    _, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    await control.complete(lab_pb2.PlayResult())
    before = yard.tables()
    with pytest.raises(ServiceError):
        await CHANGES[change](control, [count.plan(7)])
    await yard.catch_up()
    assert yard.tables() == before


@pytest.mark.parametrize("commits", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_crash_after_any_commit_finds_both(yard: Yard, change: str, commits: int) -> None:
    _, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    before = (await yard.get(control.name)).revision
    crash = yard.harness.crash_after(commits=commits)
    asked = asyncio.ensure_future(CHANGES[change](control, [count.plan(7)]))
    await crash
    asked.cancel()
    await yard.connect()
    await yard.catch_up()
    assert (await yard.get(control.name)).revision == before + 1
    assert [record.state for record in await yard.jobs()] == [JobState.COMPLETED]


async def test_an_operation_that_is_being_cancelled_creates_none(yard: Yard) -> None:
    _, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    await yard.operations.Cancel(CancelRequest(name=control.name))
    planned = count.plan(7)
    await control.progress(lab_pb2.PlayProgress(), jobs=[planned])
    state = await control.complete(lab_pb2.PlayResult(), jobs=[planned])
    assert (state.name, planned.job, await yard.jobs()) == ("CANCELLED", None, [])


async def test_what_a_handler_returns_creates_what_it_has_planned_and_nothing_else_does(yard: Yard) -> None:
    _, count = queues(yard)

    @yard.plays
    async def handler(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        op.then(count.plan(1), count.plan(2))
        if request.script == "fail":
            raise OperationError("NO", "Not today.")
        if request.script == "defer":
            return await op.defer()  # type: ignore[no-any-return]
        return lab_pb2.PlayResult()

    await yard.start()
    for script in ("fail", "defer"):
        await yard.begin(script=script)
    await yard.catch_up()
    assert await yard.jobs() == []
    crash = yard.harness.crash_after(when=lambda mutation: isinstance(mutation, WithJobs))
    name = (await yard.begin()).operation.name
    await crash
    await yard.connect()
    await yard.catch_up()
    ended = await yard.end(name)
    assert (ended.state, ended.attempt) == (OperationSnapshot.STATE_COMPLETED, 1)
    assert [record.state for record in await yard.jobs()] == [JobState.COMPLETED] * 2


async def test_a_handler_whose_jobs_have_no_room_fails_and_says_so(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    load, _ = queues(yard)

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        op.then(load.plan(Load("a")))
        return lab_pb2.PlayResult()

    await yard.start()
    await load.create(Load("a"))
    ended = await yard.run()
    assert (ended.state, reason_of(ended.error)) == (OperationSnapshot.STATE_FAILED, "HANDLER_ERROR")
    assert "the key 'a' has no room" in caplog.text
    (job,) = await yard.jobs()
    assert f"{job.name} has it" in caplog.text


async def test_a_handler_whose_jobs_are_refused_fails_too(yard: Yard) -> None:
    _, count = queues(yard)

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        op.then(count.plan(2, idempotency_key="x"))
        return lab_pb2.PlayResult()

    await yard.start()
    await count.create(1, idempotency_key="x")
    ended = await yard.run()
    assert (ended.state, reason_of(ended.error)) == (OperationSnapshot.STATE_FAILED, "HANDLER_ERROR")


@pytest.mark.parametrize("mistake", ["one key", "changed since"])
async def test_a_handler_whose_plans_are_mistaken_fails_as_by_any_other_mistake(
    yard: Yard, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, count = queues(yard)

    @yard.job("keep")
    async def keep(payload: list[Any], job: Job[None]) -> None:
        pass

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        if mistake == "one key":
            op.then(count.plan(2, idempotency_key="x"), count.plan(3, idempotency_key="x"))
        else:
            payload: list[Any] = []
            op.then(keep.plan(payload))
            payload.append(object())
        return lab_pb2.PlayResult()

    await yard.start()
    ended = await yard.run()
    assert (ended.state, reason_of(ended.error)) == (OperationSnapshot.STATE_FAILED, "HANDLER_ERROR")
    assert ("that of another job" if mistake == "one key" else "job 'keep'") in caplog.text
    assert await yard.jobs() == []


async def test_a_handler_defers_to_a_job_that_ends_the_operation(yard: Yard) -> None:
    @yard.job("drive")
    async def drive(payload: str, job: Job[None]) -> None:
        control = await yard.server.operations.control(job.operation or "", LabService.play)
        await control.complete(lab_pb2.PlayResult(text=payload))

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        return await op.defer(jobs=[drive.plan("driven")])  # type: ignore[no-any-return]

    await yard.start()
    result = lab_pb2.PlayResult()
    (await yard.run()).result.Unpack(result)
    assert result.text == "driven"


async def test_what_is_no_planned_job_is_refused_where_it_is_said(yard: Yard) -> None:
    load, count = queues(yard)
    await yard.start()
    control = await deferred(yard)
    with pytest.raises(TypeError, match=r"queue\.plan"):
        await control.complete(lab_pb2.PlayResult(), jobs=[await count.create(1)])
    with pytest.raises(TypeError, match="takes Load, not str"):
        load.plan("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="that of another job"):
        await control.complete(
            lab_pb2.PlayResult(), jobs=[count.plan(1, idempotency_key="x"), count.plan(2, idempotency_key="x")]
        )
    assert (await yard.get(control.name)).state == OperationSnapshot.STATE_RUNNING
    third, fourth = count.plan(1, idempotency_key="x"), load.plan(Load(), idempotency_key="x")
    await control.complete(lab_pb2.PlayResult(), jobs=[third, fourth])
    assert len(await yard.jobs("queue = 'load'")) == 1, "keys are of their queue"
