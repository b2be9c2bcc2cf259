"""JobsService over the wire: what operators do about one job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import Job, JobRetry
from longshore_server.clock import SECOND
from tests.conftest import refused
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load, S, admin, attempts, ended, failing


async def test_a_retry_goes_on_from_the_failed_step_or_begins_anew(yard: Yard) -> None:
    calls: list[str] = []
    broken = True

    @yard.job("load", deadline="1h")
    async def load(payload: Load, job: Job[str]) -> str:
        await job.step("first", calls.append, "first")
        if broken:
            raise ValueError("broken")
        return "done"

    await yard.start()
    ref = await load.create(Load())
    await ended(yard, ref)
    yard.clock.advance(7200)
    answer = await admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name))
    assert (answer.state, answer.failures, answer.attempt) == (S.STATE_QUEUED, 0, 1)
    assert answer.deadline.ToMicroseconds() == yard.clock.now() + 3600 * SECOND, "a time of its own"
    await ended(yard, ref)
    broken = False
    await admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name, fresh=True))
    assert await ref.wait() == "done"
    assert calls == ["first", "first"], "once for the first two attempts, and anew in the third"
    code, reason, status = await refused(admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_MOVE")
    assert "COMPLETED" in status.message


async def test_the_answer_to_a_retry_knows_of_the_room_that_its_key_has(yard: Yard) -> None:
    load = failing(yard, key="{name}", max_queued=9)
    await yard.start()
    refs = [await load.create(Load(fails=1)) for _ in range(2)]
    await ended(yard, *refs)
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    answers = [await admin(yard).RetryJob(pb.RetryJobRequest(name=ref.name)) for ref in refs]
    assert [answer.stand for answer in answers] == [S.STAND_READY, S.STAND_BLOCKED]
    shown = [await admin(yard).GetJob(pb.GetJobRequest(name=ref.name)) for ref in refs]
    assert [job.revision for job in shown] == [answer.revision for answer in answers]


async def test_a_job_of_a_queue_that_is_no_more_is_not_run_again_but_dismissed(
    make_yard: Callable[..., Yard],
) -> None:
    before = make_yard()
    gone = failing(before, "gone", retry=JobRetry(max_attempts=1))
    await before.start()
    refs = [await gone.create(Load(fails=9)) for _ in range(2)]
    await ended(before, *refs)
    await before.stop()
    yard = Yard(before.data)
    await yard.start()
    try:
        code, reason, _ = await refused(admin(yard).RetryJob(pb.RetryJobRequest(name=refs[0].name)))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_SERVED")
        answer = await admin(yard).ReplayDeadLetters(pb.ReplayDeadLettersRequest(filter="state=DEAD"))
        assert (answer.count, answer.next_page_token) == (0, "")
        answer = await admin(yard).DismissJob(pb.DismissJobRequest(name=refs[0].name))
        assert (answer.state, answer.HasField("expire_time")) == (S.STATE_DISMISSED, True)
        assert (await admin(yard).DismissJob(pb.DismissJobRequest(name=refs[0].name))) == answer, "repeatable"
        answer = await admin(yard).DismissDeadLetters(pb.DismissDeadLettersRequest(filter="queue=gone"))
        assert answer.count == 1
        assert (await admin(yard).ListQueues(pb.ListQueuesRequest())).queues == []
    finally:
        await yard.stop()


async def test_a_cancel_reaches_what_waits_and_what_runs_and_is_repeatable(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("load", concurrency=1, cancel_grace=10)
    async def load(payload: Load, job: Job[None]) -> None:
        await job.cancelled.wait()
        gate.set()
        await asyncio.Event().wait()

    await yard.start()
    runs, waits = await load.create(Load()), await load.create(Load())
    await yard.catch_up()
    answer = await admin(yard).CancelJob(pb.CancelJobRequest(name=waits.name, reason="not needed"))
    assert (answer.state, answer.cancel_reason) == (S.STATE_CANCELLED, "not needed")
    assert (await admin(yard).CancelJob(pb.CancelJobRequest(name=waits.name))) == answer
    answer = await admin(yard).CancelJob(pb.CancelJobRequest(name=runs.name))
    assert answer.state == S.STATE_CANCELLING
    await gate.wait()
    yard.clock.advance(10)
    await ended(yard, runs)
    assert await attempts(yard, runs.name) == [(1, "CANCELLED", "")]


async def test_only_a_dead_letter_is_dismissed(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    ref = await load.create(Load(fails=1))
    await ended(yard, ref)
    before = yard.tables()
    code, reason, status = await refused(admin(yard).DismissJob(pb.DismissJobRequest(name=ref.name)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_MOVE")
    assert "FAILED" in status.message
    assert yard.tables() == before
