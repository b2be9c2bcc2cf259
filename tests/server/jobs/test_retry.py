"""RetryJob over the wire: what is done again and what counts, and that a call whose answer was lost is made again."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import Job, JobFailedError, JobRef, JobRetry, OperationError, Rejected
from longshore_server.job_lifecycle import JobState
from longshore_server.store.mutations.job import RetryJob
from tests.conftest import fields_of, refused
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load, S, admin, ended, failing


async def again(yard: Yard, ref: JobRef[Any], **options: Any) -> pb.JobSnapshot:
    found: pb.JobSnapshot = await admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name, **options))
    return found


async def test_a_job_whose_child_died_goes_on_once_that_has_been_replayed(yard: Yard) -> None:
    broken = True
    lifted: list[int] = []

    @yard.job("child", retry=JobRetry(max_attempts=1))
    async def child(payload: int, job: Job[str]) -> str:
        if broken:
            raise ValueError("broken")
        return "done"

    @yard.job("parent")
    async def parent(payload: int, job: Job[str]) -> str:
        await job.step("lift", lifted.append, 1)
        found: str = await (await child.create(payload)).wait()
        return found

    await yard.start()
    ref = await parent.create(1)
    await ended(yard, ref)
    broken = False
    await admin(yard).ReplayDeadLetters(pb.ReplayDeadLettersRequest(filter="queue=child"))
    await again(yard, ref)
    assert await ref.wait() == "done"
    assert len(lifted) == 1
    assert len(await yard.jobs()) == 2, "it has found the child that it made before"


async def test_a_job_whose_child_died_finds_it_dead_unless_it_does_all_anew(yard: Yard) -> None:
    broken = True

    @yard.job("child")
    async def child(payload: int, job: Job[str]) -> str:
        if broken:
            raise ValueError("broken")
        return "done"

    @yard.job("parent")
    async def parent(payload: int, job: Job[str]) -> str:
        found: str = await (await child.create(payload)).wait()
        return found

    await yard.start()
    ref = await parent.create(1)
    await ended(yard, ref)
    broken = False
    await again(yard, ref)
    with pytest.raises(JobFailedError, match="FAILED"):
        await ref.wait()
    assert len(await yard.jobs()) == 2
    await again(yard, ref, fresh=True)
    assert await ref.wait() == "done"
    assert len(await yard.jobs()) == 3


async def test_what_was_waited_for_in_vain_is_waited_for_anew_and_what_came_counts(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("child")
    async def child(payload: str, job: Job[str]) -> str:
        if payload == "slow":
            await gate.wait()
        return payload

    @yard.job("parent")
    async def parent(payload: int, job: Job[str]) -> str:
        quick, slow = await child.create("quick", name="quick"), await child.create("slow", name="slow")
        found: str = await quick.wait() + await slow.wait(timeout=10)
        return found

    await yard.start()
    ref = await parent.create(1)
    await yard.clock.armed(10)
    yard.clock.advance(10)
    with pytest.raises(JobFailedError):
        await ref.wait()
    await again(yard, ref)
    await yard.clock.armed(10)
    gate.set()
    assert await ref.wait() == "quickslow"
    waited = {(entry[4], entry[8]) for entry in yard.tables()["journal"] if entry[1] == "wait"}
    assert waited == {(1, "result json"), (2, "result json")}, "attempt 1 has recorded the one, and 2 the other"


async def test_a_job_that_was_rejected_is_asked_for_anew(yard: Yard) -> None:
    gate, made = asyncio.Event(), []

    @yard.job("child", key="{name}")
    async def child(payload: Load, job: Job[str]) -> str:
        await gate.wait()
        return payload.name

    @yard.job("parent")
    async def parent(payload: int, job: Job[str]) -> str:
        outcome = await child.submit(Load("a"))
        if isinstance(outcome, Rejected):
            raise OperationError("NO_ROOM", "no room")
        made.append(outcome.job)
        found: str = await outcome.job.wait()
        return found

    await yard.start()
    first = await child.create(Load("a"))
    ref = await parent.create(1)
    await ended(yard, ref)
    gate.set()
    await first.wait()
    await again(yard, ref)
    assert await ref.wait() == "a"
    assert len(made) == 1


async def test_a_retry_from_a_step_does_that_one_again_and_what_came_after_it(yard: Yard) -> None:
    """The clock stands still: what happened at the same time has an order all the same."""
    calls: list[str] = []

    @yard.job("child")
    async def child(payload: int, job: Job[None]) -> None: ...

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None:
        await job.step("first", calls.append, "first")
        await (await child.create(1, name="before")).wait()
        await job.step("second", calls.append, "second")
        await (await child.create(1, name="after")).wait()
        await job.step("third", calls.append, "third")
        if job.attempt == 1:
            raise ValueError("broken")

    await yard.start()
    ref = await load.create(1)
    await ended(yard, ref)
    await again(yard, ref, from_step="second")
    await ref.wait()
    assert calls == ["first", "second", "third", "second", "third"]
    names = [entry[2] for entry in yard.tables()["journal"] if entry[1] == "job"]
    assert sorted(names) == ["after", "before"]
    assert len(await yard.jobs("queue = 'child'")) == 3, "the one before it is found again, the one after it is new"


async def test_what_a_later_attempt_recorded_came_after_a_step_of_an_earlier_one(yard: Yard) -> None:
    calls: list[str] = []

    @yard.job("load", retry=JobRetry(max_attempts=2, initial_delay=0))
    async def load(payload: int, job: Job[None]) -> None:
        await job.step("first", calls.append, "first")
        if job.attempt == 1:
            raise ValueError("broken")
        await job.step("second", calls.append, "second")
        if job.attempt == 2:
            raise ValueError("broken")

    await yard.start()
    ref = await load.create(1)
    await ended(yard, ref)
    await yard.restart()
    ref = load.job(ref.id)
    await again(yard, ref, from_step="first")
    await ref.wait()
    assert calls == ["first", "second", "first", "second"]


async def test_a_retry_from_the_step_that_failed_is_one_as_any(yard: Yard) -> None:
    calls: list[str] = []

    def lift() -> None:
        calls.append("lift")
        if len(calls) == 1:
            raise ValueError("broken")

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None:
        await job.step("look", calls.append, "look") if payload else None
        await job.step("lift", lift)

    await yard.start()
    ref = await load.create(0)
    await ended(yard, ref)
    await again(yard, ref, from_step="lift")
    await ref.wait()
    assert calls == ["lift", "lift"]


@pytest.mark.parametrize(("named", "jobs"), [("work", 3), ("early", 4), ("", 2)])
@pytest.mark.parametrize("inside", [True, False])
async def test_what_a_step_has_created_is_created_anew_where_that_is_done_again(
    yard: Yard, named: str, jobs: int, inside: bool
) -> None:
    """By its name, or after the one that is named. One that has failed, and is not named, finds it again."""

    @yard.job("child")
    async def child(payload: int, job: Job[int]) -> int:
        return payload

    @yard.job("parent")
    async def parent(payload: int, job: Job[int]) -> None:
        async def look() -> None:
            await (await child.create(1, name="looked")).wait()

        async def work() -> None:
            await (await child.create(2)).wait()
            if inside and job.attempt == 1:
                raise ValueError("broken")

        await job.step("early", look)
        await job.step("work", work)
        if job.attempt == 1:
            raise ValueError("broken")

    await yard.start()
    ref = await parent.create(1)
    await ended(yard, ref)
    await again(yard, ref, from_step=named)
    await ref.wait()
    assert len(await yard.jobs("queue = 'child'")) == jobs


async def test_what_a_step_beside_the_one_that_is_named_has_created_is_created_anew_where_it_came_after(
    yard: Yard,
) -> None:
    gate = asyncio.Event()

    @yard.job("child")
    async def child(payload: int, job: Job[int]) -> int:
        return payload

    @yard.job("parent")
    async def parent(payload: int, job: Job[int]) -> None:
        async def early() -> None:
            await gate.wait()

        async def late() -> None:
            ref = await child.create(1)
            gate.set()
            await early_done
            await ref.wait()

        early_done = asyncio.ensure_future(job.step("early", early))
        await job.step("late", late)
        if job.attempt == 1:
            raise ValueError("broken")

    await yard.start()
    ref = await parent.create(1)
    await ended(yard, ref)
    await again(yard, ref, from_step="early")
    await ref.wait()
    assert len(await yard.jobs("queue = 'child'")) == 2


async def test_what_such_a_step_has_waited_for_is_waited_for_anew(yard: Yard) -> None:
    """Also where that is all that it has recorded."""
    gate, waited = asyncio.Event(), asyncio.Event()

    @yard.job("child")
    async def child(payload: int, job: Job[int]) -> int:
        return payload

    @yard.job("parent")
    async def parent(payload: int, job: Job[int]) -> None:
        ref = await child.create(1)

        async def late() -> None:
            await ref.wait()
            waited.set()
            await gate.wait()

        late_done = asyncio.ensure_future(job.step("late", late))
        await job.step("early", waited.wait)
        gate.set()
        await late_done
        if job.attempt == 1:
            raise ValueError("broken")

    await yard.start()
    ref = await parent.create(1)
    await ended(yard, ref)
    await again(yard, ref, from_step="early")
    await ref.wait()
    assert [entry[4] for entry in yard.tables()["journal"] if entry[1] == "wait"] == [2]


async def test_a_step_that_the_job_has_not_come_to_is_named_and_nothing_is_written(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    ref = await load.create(Load(fails=9))
    await ended(yard, ref)
    before = yard.tables()
    for options in ({"from_step": "lfit"}, {"from_step": "lift", "fresh": True}):
        code, _, status = await refused(admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name, **options)))
        assert (code, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, ["from_step"])
    code, _, status = await refused(admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name, request_id="x" * 129)))
    assert (code, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, ["request_id"])
    assert yard.tables() == before
    assert (await again(yard, ref, request_id="x" * 128)).state == S.STATE_QUEUED


async def test_a_retry_whose_answer_was_lost_is_made_once(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    ref = await load.create(Load(fails=2))
    await ended(yard, ref)
    crash = yard.harness.crash_after(when=lambda change: isinstance(change, RetryJob))
    with pytest.raises(grpc.aio.AioRpcError):
        await again(yard, ref, request_id="a")
    await crash
    await yard.connect()
    await yard.catch_up()
    assert (await again(yard, ref, request_id="a")).state == S.STATE_FAILED, "it has run again, and failed again"
    assert [record.attempt for record in await yard.jobs()] == [2]
    assert (await again(yard, ref, request_id="b")).state == S.STATE_QUEUED
    assert await load.job(ref.id).wait() == "x"
    assert (await again(yard, ref, request_id="b")).state == S.STATE_COMPLETED
    call = admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name), metadata=[("longshore-request-id", "b")])
    assert (await call).state == S.STATE_COMPLETED


async def test_dead_letters_that_die_again_are_replayed_once_for_one_request_id(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    refs = await load.create_many([Load(fails=9)] * 2)
    await ended(yard, *refs)
    request = pb.ReplayDeadLettersRequest(filter="state=DEAD", request_id="a")
    assert (await admin(yard).ReplayDeadLetters(request)).count == 2
    await ended(yard, *refs)
    assert (await admin(yard).ReplayDeadLetters(request)).count == 0
    assert [(record.state, record.attempt) for record in await yard.jobs()] == [(JobState.DEAD, 2)] * 2
    request.request_id = "b"
    assert (await admin(yard).ReplayDeadLetters(request)).count == 2


async def test_what_a_deleted_job_has_left_is_deleted_with_it(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    ref = await load.create(Load(fails=1))
    await ended(yard, ref)
    await again(yard, ref, request_id="a")
    await ref.wait()
    assert len(yard.tables()["job_retries"]) == 1
    yard.clock.advance(365 * 86_400)
    await yard.catch_up()
    assert (yard.tables()["jobs"], yard.tables()["job_retries"]) == ([], [])
