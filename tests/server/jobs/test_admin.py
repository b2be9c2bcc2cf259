"""JobsService over the wire: what operators see of jobs, their attempts, their steps and logs."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2
from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1.records_pb2 import LogLine, StepOutcome
from longshore_server import Job, JobRetry
from longshore_server.clock import SECOND
from longshore_server.store import job_attempts
from tests.conftest import reason_of, refused
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import A, Load, S, admin, attempts, ended, failing, names

# What there is.


async def test_a_job_is_shown_with_all_that_is_known_of_it(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("reserve", key="{name}", deadline="1h", heartbeat=60)
    async def reserve(payload: Load, job: Job[dict[str, Any]]) -> dict[str, Any]:
        await job.progress(1, 2, "half")
        await gate.wait()
        return {"left": 3}

    await yard.start()
    ref = await reserve.create(Load("A1"), priority=7)
    await yard.catch_up()
    request, now = pb.GetJobRequest(name=ref.name), yard.clock.now()
    shown = await admin(yard).GetJob(request)
    assert (shown.name, shown.queue, shown.key, shown.priority) == (ref.name, "queues/reserve", "A1", 7)
    assert (shown.state, shown.attempt, shown.claims) == (S.STATE_ACTIVE, 1, 1)
    assert shown.payload.json == '{"name":"A1","fails":0}'
    assert shown.payload.type == f"{Load.__module__}:Load"
    progress = channels_pb2.CounterProgress()
    assert shown.progress.Unpack(progress)
    assert (progress.current, progress.total, progress.message) == (1, 2, "half")
    assert shown.deadline.ToMicroseconds() == now + 3600 * SECOND
    assert shown.lease_expire_time.ToMicroseconds() == now + 60 * SECOND
    assert shown.create_time == shown.start_time == shown.attempt_time
    assert not shown.HasField("end_time")
    assert not shown.HasField("result")
    gate.set()
    await ref.wait()
    shown = await admin(yard).GetJob(request)
    assert (shown.state, shown.result.json) == (S.STATE_COMPLETED, '{"left":3}')
    assert shown.HasField("end_time")
    assert shown.HasField("expire_time")
    (listed,) = (await admin(yard).ListJobs(pb.ListJobsRequest())).jobs
    shown.ClearField("payload")
    shown.ClearField("result")
    assert listed == shown, "a page has all but what may be large"


async def test_a_job_names_the_operation_and_the_job_that_it_works_for(yard: Yard) -> None:
    gate, refs = asyncio.Event(), []

    @yard.job("inner")
    async def inner(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        await gate.wait()
        return lab_pb2.PlayResult(text="done")

    @yard.job("outer")
    async def outer(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        refs.append(await inner.create(payload, detached=True))
        return await job.attach(refs[-1])

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        refs.append(await outer.create(request))
        return await op.attach(refs[-1])

    await yard.start()
    operation = (await yard.begin()).operation
    await yard.catch_up()
    first, second = [await admin(yard).GetJob(pb.GetJobRequest(name=ref.name)) for ref in refs]
    own = f"operations/{operation.uid}"
    assert (first.operation, first.parent, list(first.attached), first.deferred) == (own, own, [own], True)
    assert (second.operation, second.parent, list(second.attached)) == (own, first.name, [first.name])
    assert (first.detached, second.detached) == (False, True)
    assert first.payload.message.type_url == "type.googleapis.com/lab.v1.PlayRequest"
    for name in (own, operation.name):
        assert await names(yard, f'operation="{name}"') == [second.name, first.name]
    assert await names(yard, 'operation="operations/nobody"') == []
    gate.set()
    await yard.end(operation.name)
    shown = await admin(yard).GetJob(pb.GetJobRequest(name=first.name))
    result = lab_pb2.PlayResult()
    assert shown.result.message.Unpack(result)
    assert result.text == "done"


async def test_halves_of_characters_are_shown_as_json_writes_them(yard: Yard) -> None:
    @yard.job("echo")
    async def echo(payload: str, job: Job[str]) -> str:
        return payload

    await yard.start()
    ref = await echo.create("\ud800 and more")
    await ref.wait()
    shown = await admin(yard).GetJob(pb.GetJobRequest(name=ref.name))
    assert shown.payload.json == shown.result.json == r'"\ud800 and more"'
    assert shown.payload.type == ""


async def test_jobs_are_found_by_each_of_their_facts(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=2, initial_delay=10))
    other = failing(yard, "other", key="{name}", max_queued=9)
    await yard.start()
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/other"))
    done, dead = await load.create(Load()), await load.create(Load(fails=9))
    ready = await other.create(Load("a"), priority=3)
    blocked = await other.create(Load("a"))
    delayed = await other.create(Load("b"), delay=60)
    await yard.catch_up()
    yard.clock.advance(10)
    await ended(yard, done, dead)
    for filter, found in {
        "": [delayed, blocked, ready, dead, done],
        "queue=load": [dead, done],
        "queue=queues/other": [delayed, blocked, ready],
        "queue=none": [],
        "queue!=load": [delayed, blocked, ready],
        "state=DEAD": [dead],
        "state=STATE_COMPLETED": [done],
        "state=QUEUED": [delayed, blocked, ready],
        "queue=load AND state=QUEUED": [],
        "stand=READY": [ready],
        "stand=STAND_BLOCKED": [blocked],
        "stand=DELAYED AND queue=other": [delayed],
        "key=a": [blocked, ready],
        "key=a AND queue=load": [],
        'key=""': [dead, done],
        "reason=HANDLER_ERROR": [dead],
        "reason!=HANDLER_ERROR": [delayed, blocked, ready, done],
        "priority>0": [ready],
        "priority<=-1": [],
        "priority!=3": [delayed, blocked, dead, done],
        "operation!=operations/x": [delayed, blocked, ready, dead, done],
        'end_time>"2026-01-01T00:00:09Z"': [dead],
        'end_time<"2026-01-01T00:00:09Z"': [done],
        'due_time>="2026-01-01T00:01:00Z"': [delayed],
        'create_time>"2026-01-01T00:00:01Z"': [],
        'start_time="2026-01-01T00:00:00Z"': [dead, done],
        'update_time>"2026-01-01T00:00:00Z" AND state=DEAD': [dead],
    }.items():
        assert await names(yard, filter) == [ref.name for ref in found], filter
        oldest = await names(yard, filter, order_by="create_time")
        assert oldest == [ref.name for ref in reversed(found)], filter


async def test_pages_lead_through_all_jobs_once_whatever_ends_meanwhile(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    refs = await load.create_many([Load(str(number)) for number in range(7)])
    request, seen = pb.ListJobsRequest(filter="queue=load", page_size=3), []
    while True:
        page = await admin(yard).ListJobs(request)
        seen += [job.name for job in page.jobs]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
        await refs[-len(seen)].cancel()
    assert seen == [ref.name for ref in reversed(refs)]
    request.page_token = (await admin(yard).ListJobs(pb.ListJobsRequest(page_size=1))).next_page_token
    code, reason, _ = await refused(admin(yard).ListJobs(request))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"), "of another filter"


# What became of attempts.


async def test_every_attempt_says_what_became_of_it_after_a_restart_too(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=3, initial_delay=10))
    await yard.start()
    ref = await load.create(Load(fails=2))
    await yard.catch_up()
    yard.clock.advance(10)
    await yard.catch_up()
    await yard.restart()
    assert await attempts(yard, ref.name) == [(1, "FAILED", "ValueError: no 1"), (2, "FAILED", "ValueError: no 2")]
    yard.clock.advance(20)
    await load.job(ref.id).wait()
    first, second, third = (await admin(yard).ListJobAttempts(pb.ListJobAttemptsRequest(name=ref.name))).attempts
    assert reason_of(second.error) == "HANDLER_ERROR"
    assert (second.start_time.seconds - first.end_time.seconds, third.outcome) == (10, A.OUTCOME_COMPLETED)
    assert third.HasField("end_time")
    assert not third.HasField("error")
    assert third.problem == ""


async def test_attempts_that_a_crash_or_a_stop_ended_and_one_that_was_lost(yard: Yard) -> None:
    @yard.job("load", heartbeat=5)
    async def load(payload: Load, job: Job[None]) -> None:
        if job.attempt < 4:
            await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await yard.catch_up()
    assert await attempts(yard, ref.name) == [(1, "RUNNING", "")]
    await yard.restart()
    await yard.catch_up()
    await yard.restart(crash=False)
    await yard.catch_up()
    yard.clock.advance(5)
    await load.job(ref.id).wait()
    found = await attempts(yard, ref.name)
    assert [outcome for _, outcome, _ in found] == ["INTERRUPTED", "INTERRUPTED", "LOST", "COMPLETED"]


async def test_what_an_attempt_came_to_outlives_what_is_done_to_its_job_later(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=2, initial_delay=10))

    @yard.job("stuck", heartbeat=5, on_stale="block")
    async def stuck(payload: Load, job: Job[None]) -> None:
        await asyncio.Event().wait()

    await yard.start()
    cancelled, dismissed, stale = [await q.create(Load(fails=9)) for q in (load, load, stuck)]
    await yard.catch_up()
    await cancelled.cancel("enough")
    yard.clock.advance(5)
    await yard.catch_up()
    await stale.cancel()
    yard.clock.advance(5)
    await ended(yard, dismissed)
    over = (await admin(yard).GetJob(pb.GetJobRequest(name=dismissed.name))).end_time
    yard.clock.advance(60)
    await admin(yard).DismissJob(pb.DismissJobRequest(name=dismissed.name))
    assert [outcome for _, outcome, _ in await attempts(yard, cancelled.name)] == ["FAILED"]
    assert [outcome for _, outcome, _ in await attempts(yard, stale.name)] == ["LOST"]
    last = (await admin(yard).ListJobAttempts(pb.ListJobAttemptsRequest(name=dismissed.name))).attempts[-1]
    assert (last.attempt, last.end_time, last.outcome) == (2, over, A.OUTCOME_FAILED)


async def test_the_latest_attempts_are_kept_and_come_in_pages(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_attempts, "KEPT", 4)
    load = failing(yard, retry=JobRetry(max_attempts=9, initial_delay=0))
    await yard.start()
    ref = await load.create(Load(fails=8))
    await ref.wait()
    request, seen = pb.ListJobAttemptsRequest(name=ref.name, page_size=2), []
    while True:
        page = await admin(yard).ListJobAttempts(request)
        assert len(page.attempts) <= 2
        seen += [row.attempt for row in page.attempts]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert seen == [5, 6, 7, 8, 9]
    yard.clock.advance(365 * 86_400)
    await yard.catch_up()
    assert not yard.tables()["job_attempts"], "they go with their job"


async def test_steps_and_logs_of_a_job(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        job.log.info("begun", name=payload.name)
        await job.step("lift", int)
        job.log.warn("heavy")  # noqa: G010 - no logger of the standard library

    await yard.start()
    ref = await load.create(Load())
    await ref.wait()
    await yard.catch_up()
    (step,) = (await admin(yard).ListJobSteps(pb.ListJobStepsRequest(name=ref.name))).steps
    assert (step.step, step.attempt, step.state) == ("lift", 1, StepOutcome.STATE_COMPLETED)
    page = await admin(yard).ListJobLogs(pb.ListJobLogsRequest(name=ref.name, page_size=1))
    assert ([line.message for line in page.lines], page.lines[0].data) == (["begun"], '{"name":"x"}')
    following = pb.ListJobLogsRequest(name=ref.name, page_token=page.next_page_token)
    assert [line.message for line in (await admin(yard).ListJobLogs(following)).lines] == ["heavy"]
    request = pb.ListJobLogsRequest(name=ref.name, level=LogLine.LEVEL_WARN)
    assert [line.number for line in (await admin(yard).ListJobLogs(request)).lines] == [2]
