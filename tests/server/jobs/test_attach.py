"""`return await op.attach(job)`: the job's end is the operation's, in one transaction, after any restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import (
    Coalesced,
    Job,
    JobCancelledError,
    JobFailedError,
    JobState,
    OperationError,
    Reason,
    ServiceError,
)
from longshore_server.ids import uid_text
from longshore_server.lifecycle import State
from longshore_server.store.mutations import job_end
from longshore_server.store.mutations.job import RetryJob
from tests.conftest import reason_of_end, result_of
from tests.server.jobs.conftest import Yard

Play = lab_pb2.PlayRequest
Result = lab_pb2.PlayResult


class Reserving:
    """A queue whose jobs do as their script says, and an operation that attaches one."""

    def __init__(self, yard: Yard, script: str = "", **options: Any) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.flagged = asyncio.Event()
        self.created: list[str] = []

        @yard.job("reserve", **options)
        async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
            self.begun.set()
            if payload.script == "fail":
                raise OperationError("OUT_OF_STOCK", "None left.")
            if payload.script == "cancel":
                raise JobCancelledError
            if payload.script == "kind":
                await job.cancelled.wait()
                self.flagged.set()
            elif payload.script == "wait":
                await self.go.wait()
            await job.step("look", lambda: None)
            return Result(text=f"reserved in attempt {job.attempt}")

        self.queue = reserve

        @yard.plays
        async def play(request: Any, op: Any) -> Any:
            ref = await reserve.create(Play(script=script, key=request.key))
            self.created.append(ref.name)
            return await op.attach(ref)


async def test_an_operation_ends_with_the_result_of_its_job(yard: Yard) -> None:
    seen: list[Any] = []

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        seen.append(job.operation)
        return Result(text=payload.script)

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await reserve.create(Play(script="reserved")))

    await yard.start()
    end = await yard.run()
    assert result_of(end).text == "reserved"
    assert seen == [end.name]
    (record,) = await yard.jobs()
    assert (record.state, record.attempt) == (JobState.COMPLETED, 1)
    assert await yard.kinds(end.name) == ["accepted", "started", "completed"]


@pytest.mark.parametrize(
    ("script", "state", "reason"), [("fail", State.FAILED, "OUT_OF_STOCK"), ("cancel", State.CANCELLED, "CANCELLED")]
)
async def test_an_operation_ends_as_its_job_does(yard: Yard, script: str, state: State, reason: str) -> None:
    Reserving(yard, script)
    await yard.start()
    end = await yard.run()
    assert (int(end.state), reason_of_end(end)) == (state, reason)
    if script == "fail":
        assert b"lab.v1" in end.error.details[0].value, "the reason is the contract's: nobody hears of a job"


async def test_no_coroutine_waits_and_a_restart_between_changes_nothing(yard: Yard) -> None:
    reserving = Reserving(yard, "wait")
    await yard.start()
    name = (await yard.begin()).operation.name
    await reserving.begun.wait()
    await yard.catch_up()
    assert yard.engine.executor.running == 0
    reserving.go.set()
    await yard.restart()
    assert result_of(await yard.end(name)).text == "reserved in attempt 2"
    assert len(reserving.created) == 1, "the operation itself was not run again"


async def test_a_crash_between_creation_and_attach_finds_the_first_job(yard: Yard) -> None:
    created: list[str] = []
    here = asyncio.Event()

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        return Result(text="once")

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        ref = await reserve.create(Play(script="x"))
        created.append(ref.name)
        if op.attempt == 1:
            await ref.wait()
            here.set()
            await asyncio.Event().wait()
        return await op.attach(ref)

    await yard.start()
    name = (await yard.begin()).operation.name
    await here.wait()
    await yard.restart()
    assert result_of(await yard.end(name)).text == "once"
    assert len(created) == 2
    assert len(set(created)) == len(await yard.jobs()) == 1, "attached after its end, it settles at once"


async def test_what_a_job_returned_is_remembered_by_who_waited_for_it(yard: Yard) -> None:
    told: list[str] = []
    here = asyncio.Event()

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        if payload.script == "fail" and job.attempt == 1:
            raise OperationError("OUT_OF_STOCK")
        return Result(text=payload.script)

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        refs = [await reserve.create(Play(script=script), name=script) for script in ("a", "b", "fail")]
        told.extend([result.text for result in await asyncio.gather(refs[0].wait(), refs[1].wait())])
        try:
            await refs[2].wait()
        except JobFailedError as error:
            told.append(error.reason)
        try:
            await (await reserve.create(Play(script="late"), delay="1h")).wait(timeout=5)
        except TimeoutError:
            told.append("timeout")
        if op.attempt == 1:
            here.set()
            await asyncio.Event().wait()
        return Result(text="done")

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.clock.armed(5)
    yard.clock.advance(5)
    await here.wait()
    first, told[:] = list(told), []
    assert first == ["a", "b", "OUT_OF_STOCK", "timeout"]
    for record in await yard.jobs("state = 6"):
        await yard.engine.store.writer.submit(RetryJob(record.uid, False, None))
    await yard.restart()
    assert result_of(await yard.end(name)).text == "done"
    assert told == first


async def test_a_second_job_of_a_queue_needs_a_name_and_another_payload_is_not_mixed(yard: Yard) -> None:
    reserving = Reserving(yard)
    problems: list[str] = []

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        await reserving.queue.create(Play(key=str(op.attempt)))
        try:
            await reserving.queue.create(Play())
        except RuntimeError as error:
            problems.append(str(error))
        await asyncio.Event().wait()

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.catch_up()
    await yard.catch_up()
    assert "job 'reserve' is used at" in problems[0]
    assert "test_attach.py" in problems[0]
    await yard.restart()
    assert reason_of_end(await yard.end(name)) == "NON_DETERMINISTIC"


async def test_a_coalesced_job_is_attached_only_when_shared(yard: Yard) -> None:
    reserving = Reserving(yard, "wait", key="{key}", when_full="coalesce")
    refused: list[ServiceError] = []
    mistakes: list[str] = []

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        outcome = await reserving.queue.submit(Play(script="wait", key="A1"))
        if isinstance(outcome, Coalesced):
            try:
                await op.attach(outcome.job)
            except ServiceError as error:
                refused.append(error)
            try:
                await op.attach(outcome.job, shared="yes")
            except TypeError as error:
                mistakes.append(str(error))
            return await op.attach(outcome.job, shared=True)
        return await op.attach(outcome.job)

    await yard.start()
    names = [(await yard.begin()).operation.name for _ in range(2)]
    await yard.reached(names[1], "started")
    await yard.catch_up()
    assert (refused[0].reason, "shared=True" in refused[0].message) == (Reason.ILLEGAL_MOVE, True)
    assert mistakes == ["shared must be True or False, not 'yes'"]
    await yard.operations.Cancel(pb.CancelRequest(name=names[1]))
    await yard.clock.armed(10)
    yard.clock.advance(10)
    assert int((await yard.end(names[1])).state) == State.CANCELLED
    assert (await yard.jobs())[0].state is JobState.ACTIVE, "it is the other one's"
    reserving.go.set()
    assert result_of(await yard.end(names[0])).text == "reserved in attempt 1"


async def test_operations_that_have_ended_by_themselves_are_not_among_those_that_end_with_a_job(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_end, "MOST_ATTACHED", 2)
    reserving = Reserving(yard, "wait")

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(shared, shared=True)

    await yard.start()
    shared = await reserving.queue.create(Play(script="wait"))
    names = []
    for begun in range(3):
        names.append((await yard.begin()).operation.name)
        await yard.reached(names[-1], "started")
        await yard.catch_up()
        (job,) = await yard.jobs()
        assert len(job.attachments) == min(begun + 1, 2)
        if begun == 1:
            await yard.operations.Cancel(pb.CancelRequest(name=names[0]))
            await yard.clock.armed(10)
            yard.clock.advance(10)
            assert int((await yard.end(names[0])).state) == State.CANCELLED
    reserving.go.set()
    for name in names[1:]:
        assert result_of(await yard.end(name)).text == "reserved in attempt 1"


@pytest.mark.parametrize("end", ["cancel", "deadline"])
async def test_cancel_and_deadline_reach_every_job_that_was_not_detached(yard: Yard, end: str) -> None:
    reserving = Reserving(yard)

    @yard.job("outer")
    async def outer(payload: lab_pb2.PlayRequest, job: Job[None]) -> None:
        await reserving.queue.create(Play(script="kind"))
        await job.cancelled.wait()

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        await outer.create(Play(script="kind"))
        await reserving.queue.create(Play(script="wait"), delay="100d")
        await reserving.queue.create(Play(script="wait"), delay="100d", name="kept", detached=True)
        await op.cancelled.wait()
        return Result()

    await yard.start()
    name = (await yard.begin()).operation.name
    await reserving.begun.wait()
    await yard.catch_up()
    if end == "cancel":
        await yard.operations.Cancel(pb.CancelRequest(name=name, reason="enough"))
    else:
        yard.clock.advance(86400)
    await yard.end(name)
    await reserving.flagged.wait()
    await yard.catch_up()
    states = [record.state for record in await yard.jobs()]
    assert sorted(states) == [JobState.QUEUED, *[JobState.CANCELLED] * 3]
    why = {record.cancel_reason for record in await yard.jobs("state = 7")}
    assert why == ({"enough"} if end == "cancel" else {f"The deadline of {name} is over."})


async def test_a_cancel_reaches_the_attached_job_which_ends_the_operation(yard: Yard) -> None:
    """Seed 1: the cancellation signal flows to the active job worker via job.cancelled."""
    reserving = Reserving(yard, "kind")
    await yard.start()
    name = (await yard.begin()).operation.name
    await reserving.begun.wait()
    await yard.operations.Cancel(pb.CancelRequest(name=name, reason="enough"))
    end = await yard.end(name)
    assert (int(end.state), end.error.message) == (State.CANCELLED, "enough")
    assert reserving.flagged.is_set()
    assert [record.state for record in await yard.jobs()] == [JobState.CANCELLED]


async def test_a_cancel_of_what_waits_ends_both_in_one_answer(yard: Yard) -> None:
    reserving = Reserving(yard, "wait", concurrency=1)
    await yard.start()
    first, second = [(await yard.begin()).operation.name for _ in range(2)]
    await yard.catch_up()
    answer = await yard.operations.Cancel(pb.CancelRequest(name=second))
    assert int(answer.state) == State.CANCELLED, "the answer is the state after all of it"
    reserving.go.set()
    assert int((await yard.end(first)).state) == State.COMPLETED


async def test_a_chain_of_attached_jobs_ends_the_operation_over_a_restart(yard: Yard) -> None:
    go = asyncio.Event()
    inner_begun = asyncio.Event()

    @yard.job("inner", concurrency=1)
    async def inner(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        inner_begun.set()
        await go.wait()
        return Result(text="from the inside")

    @yard.job("outer", concurrency=1, key="{key}")
    async def outer(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        return await job.attach(await inner.create(payload))

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await outer.create(Play(key="k")))

    await yard.start()
    name = (await yard.begin()).operation.name
    await inner_begun.wait()
    await yard.catch_up()
    assert yard.engine.jobs.scheduler.lines["outer"].slots.held == 0, "it holds no slot"
    await yard.restart()
    go.set()
    assert result_of(await yard.end(name)).text == "from the inside"
    assert [(record.queue, record.attempt) for record in await yard.jobs()] == [("outer", 1), ("inner", 2)]


async def test_a_job_of_another_result_is_a_mistake_before_anything_is_handed_over(yard: Yard) -> None:
    problems: list[str] = []

    @yard.job("other")
    async def other(payload: lab_pb2.PlayRequest, job: Job[str]) -> str:
        return ""

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        ref = await other.create(Play())
        for options in ({}, {"progress": lambda progress: progress}):
            try:
                await op.attach(ref, **options)
            except (TypeError, ValueError) as error:
                problems.append(str(error))
        return Result(text="went on")

    await yard.start()
    assert result_of(await yard.run()).text == "went on"
    assert problems[0] == "job 'other' returns str, and what is to end with it ends with lab.v1.PlayResult"


def shown(progress: channels_pb2.CounterProgress) -> lab_pb2.PlayProgress:
    return lab_pb2.PlayProgress(text=f"{progress.current} of {progress.total}")


@pytest.mark.parametrize("through", ["type", "function"])
async def test_progress_of_an_attached_job_becomes_the_operations(yard: Yard, through: str) -> None:
    go = asyncio.Event()

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        await go.wait()
        await job.progress(1, 2)
        await job.progress(lab_pb2.PlayProgress(text="2 of 2"))
        return Result()

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        ref = await reserve.create(Play())
        return await op.attach(ref, progress=shown if through == "function" else None)

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.reached(name, "started")
    await yard.catch_up()
    go.set()
    await yard.end(name)
    found = []
    for event in await yard.events(name):
        if event.WhichOneof("event") == "progress":
            message = lab_pb2.PlayProgress()
            assert event.progress.value.Unpack(message)
            found.append(message.text)
    assert found == (["2 of 2"] if through == "type" else ["1 of 2", "2 of 2"])


made: list[int] = []


def noted(progress: channels_pb2.CounterProgress) -> lab_pb2.PlayProgress:
    made.append(progress.current)
    return shown(progress)


async def test_progress_is_made_once_for_all_that_have_it_in_the_same_way(yard: Yard) -> None:
    go = asyncio.Event()

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        await go.wait()
        await job.progress(1, 2)
        return Result()

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(shared, shared=True, progress=noted)

    await yard.start()
    shared = await reserve.create(Play())
    names = [(await yard.begin()).operation.name for _ in range(3)]
    for name in names:
        await yard.reached(name, "started")
    await yard.catch_up()
    assert len((await yard.jobs())[0].attachments) == 3
    made.clear()
    go.set()
    for name in names:
        await yard.end(name)
        assert "progress" in [event.WhichOneof("event") for event in await yard.events(name)]
    assert made == [1]


async def test_a_job_drives_the_operation_itself(yard: Yard) -> None:
    """Seed 1: the job or review handler resumes the operation through the operation-scoped control helper."""

    @yard.job("review")
    async def review(payload: lab_pb2.PlayRequest, job: Job[None]) -> None:
        control = await yard.server.operations.control(payload.key)
        await control.progress(lab_pb2.PlayProgress(text="fulfilling"))
        await control.complete(Result(text="ready to ship"))

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        await review.create(Play(key=op.id))
        return await op.defer()

    await yard.start()
    end = await yard.run()
    assert result_of(end).text == "ready to ship"
    (record,) = await yard.jobs()
    await review.job(f"jobs/{uid_text(record.uid)}").wait()
