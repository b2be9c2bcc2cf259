"""JobsService over the wire: what operators see of jobs and queues, and what they do about them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2, jobs_service_pb2_grpc
from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1.records_pb2 import LogLine, StepOutcome
from longshore_server import Job, JobQueue, JobRetry, Rate
from longshore_server.clock import SECOND
from longshore_server.rpc import jobs as rpc
from longshore_server.store import job_attempts
from longshore_server.store.mutations.job import DeleteJob
from tests.conftest import fields_of, reason_of, refused
from tests.server.jobs.conftest import Yard

S, A = pb.JobSnapshot, pb.JobAttempt
NOBODY = "jobs/0199d2f0-0000-7000-8000-000000000000"


@dataclass
class Load:
    name: str = "x"
    fails: int = 0
    """How many attempts fail."""


def admin(yard: Yard) -> Any:
    """The service, as an operator's stub calls it."""
    return jobs_service_pb2_grpc.JobsServiceStub(yard.channel)


def failing(yard: Yard, name: str = "load", **options: Any) -> JobQueue[Load, str]:
    """A queue whose jobs fail as often as their payload says."""

    @yard.job(name, **options)
    async def load(payload: Load, job: Job[str]) -> str:
        if job.attempt <= payload.fails:
            raise ValueError(f"no {job.attempt}")
        return payload.name

    found: JobQueue[Load, str] = load
    return found


async def ended(yard: Yard, *refs: Any) -> None:
    """Return once all have ended, however."""
    await asyncio.gather(*(ref.wait() for ref in refs), return_exceptions=True)


async def names(yard: Yard, filter: str = "", **options: Any) -> list[str]:
    page = await admin(yard).ListJobs(pb.ListJobsRequest(filter=filter, **options))
    return [job.name for job in page.jobs]


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
    assert shown.payload.type == f"{__name__}:Load"
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


async def attempts(yard: Yard, name: str) -> list[tuple[int, str, str]]:
    found = (await admin(yard).ListJobAttempts(pb.ListJobAttemptsRequest(name=name))).attempts
    return [(a.attempt, A.Outcome.Name(a.outcome).removeprefix("OUTCOME_"), a.problem) for a in found]


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


# What is done about one.


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


# Dead letters.


async def buried(yard: Yard, queue: JobQueue[Load, str], count: int) -> list[Any]:
    refs = await queue.create_many([Load(str(number), fails=1) for number in range(count)])
    await ended(yard, *refs)
    return refs


async def test_dead_letters_are_replayed_in_bulk_by_filter_a_bounded_number_a_call(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MAX_DEAD", 4)
    load, other = (failing(yard, name, retry=JobRetry(max_attempts=1)) for name in ("load", "other"))
    await yard.start()
    refs, others = await buried(yard, load, 5), await buried(yard, other, 1)
    request, counts = pb.ReplayDeadLettersRequest(filter="queue=load", page_size=1000), []
    while True:
        answer = await admin(yard).ReplayDeadLetters(request)
        counts.append(answer.count)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert counts == [4, 1]
    assert [await ref.wait() for ref in refs] == list("01234")
    request.page_token = ""
    assert (await admin(yard).ReplayDeadLetters(request)).count == 0, "repeated, there is nothing left"
    assert await names(yard, "state=DEAD") == [others[0].name]
    answer = await admin(yard).DismissDeadLetters(pb.DismissDeadLettersRequest(filter="reason=HANDLER_ERROR"))
    assert answer.count == 1
    assert await names(yard, "state=DISMISSED") == [others[0].name]


async def test_a_replay_of_all_ends_though_they_die_again(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    refs = await load.create_many([Load(fails=99)] * 3)
    await ended(yard, *refs)
    request, count = pb.ReplayDeadLettersRequest(filter="state=DEAD", page_size=1), 0
    while True:
        answer = await admin(yard).ReplayDeadLetters(request)
        count += answer.count
        await ended(yard, *refs)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert count == 3
    assert [job.attempt for job in await yard.jobs()] == [2, 2, 2]


async def test_a_dead_letter_that_changes_meanwhile_is_left_alone(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    first, second = await buried(yard, load, 2)
    service = yard.engine.jobs.store
    read = service.read

    async def slow(query: Any) -> Any:
        found = await read(query)
        monkeypatch.undo()
        await admin(yard).DismissJob(pb.DismissJobRequest(name=first.name))
        return found

    monkeypatch.setattr(service, "read", slow)
    answer = await admin(yard).ReplayDeadLetters(pb.ReplayDeadLettersRequest(filter="state=DEAD"))
    assert answer.count == 1
    assert await names(yard, "state=DISMISSED") == [first.name]
    assert await second.wait() == "1"


# Queues.


async def test_a_queue_shows_what_is_declared_of_it(yard: Yard) -> None:
    @yard.job(
        "reserve", key="{name}", max_active=2, max_queued=None, when_full="coalesce", on_stale="block", concurrency=4,
        rate=Rate(10, per="1m"), retry=JobRetry(max_attempts=3, initial_delay=2, non_retryable_reasons=["BX", "AX"]),
        timeout="1m", deadline="1h", heartbeat=30, max_claims=7, cancel_grace=1.5, retention="7d", idempotency_ttl="1d",
    )  # fmt: skip
    async def reserve(payload: Load, job: Job[str]) -> str:
        return ""

    @yard.job("plain")
    async def plain(payload: lab_pb2.PlayRequest, job: Job[None]) -> None: ...

    await yard.start()
    second, first = (await admin(yard).ListQueues(pb.ListQueuesRequest())).queues
    assert (first.name, second.name) == ("queues/reserve", "queues/plain")
    found = first.settings
    assert (found.function.rpartition(".")[2], found.payload_type, found.result_type) == ("reserve", "Load", "str")
    assert (found.key, found.max_active, found.HasField("max_queued")) == ("{name}", 2, False)
    assert found.when_full == pb.QueueSettings.WHEN_FULL_COALESCE
    assert found.on_stale == pb.QueueSettings.ON_STALE_BLOCK
    assert (found.concurrency, found.rate.count, found.rate.per.seconds) == (4, 10, 60)
    assert (found.retry.max_attempts, found.retry.initial_delay.seconds) == (3, 2)
    assert list(found.retry.non_retryable_reasons) == ["AX", "BX"]
    spans = (found.timeout, found.deadline, found.heartbeat, found.retention, found.idempotency_ttl)
    assert [span.seconds for span in spans] == [60, 3600, 30, 7 * 86_400, 86_400]
    assert (found.max_claims, found.cancel_grace.ToMilliseconds()) == (7, 1500)
    found = second.settings
    assert (found.payload_type, found.result_type, found.max_queued) == ("lab.v1.PlayRequest", "None", 0)
    for absent in ("rate", "retry", "timeout", "deadline", "heartbeat", "idempotency_ttl"):
        assert not found.HasField(absent), absent


async def counts(yard: Yard, queue: str = "load") -> dict[str, int]:
    """Those that are not zero."""
    found = (await admin(yard).GetQueue(pb.GetQueueRequest(name=f"queues/{queue}"))).counts
    return {field.name: value for field, value in found.ListFields()}


async def test_a_queue_counts_its_jobs_by_what_they_wait_for_and_after_a_restart_the_same(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("load", key="{name}", max_queued=9, concurrency=2, retry=JobRetry(max_attempts=1), retention=60)
    async def load(payload: Load, job: Job[None]) -> None:
        if payload.fails:
            raise ValueError
        await gate.wait()

    await yard.start()
    dead = await load.create(Load(fails=1))
    await ended(yard, dead)
    for name in "aabbcc":
        await load.create(Load(name))
    await load.create(Load("d"), delay=60)
    await yard.catch_up()
    expected = {"ready": 1, "blocked": 3, "delayed": 1, "active": 2, "dead": 1}
    assert await counts(yard) == expected
    await yard.restart()
    await yard.catch_up()
    assert await counts(yard) == expected
    gate.set()
    while (await counts(yard)).keys() != {"delayed", "dead"}:
        await yard.catch_up()
    await admin(yard).DismissJob(pb.DismissJobRequest(name=dead.name))
    assert await counts(yard) == {"delayed": 1}
    yard.clock.advance(60)
    while await counts(yard):
        await yard.catch_up()
    yard.clock.advance(60)
    await yard.catch_up()
    await yard.restart()
    assert await counts(yard) == {}
    assert await names(yard) == []


async def test_a_dead_letter_that_is_deleted_is_counted_no_more(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    await buried(yard, load, 2)
    assert await counts(yard) == {"dead": 2}
    await yard.engine.store.writer.submit(DeleteJob((await yard.jobs())[0].uid))
    assert await counts(yard) == {"dead": 1}


async def test_a_stale_job_is_counted_and_so_is_one_that_is_cancelled(yard: Yard) -> None:
    @yard.job("load", heartbeat=5, on_stale="block", cancel_grace=60)
    async def load(payload: Load, job: Job[None]) -> None:
        await asyncio.Event().wait()

    await yard.start()
    await load.create(Load())
    await yard.catch_up()
    yard.clock.advance(5)
    await yard.catch_up()
    assert await counts(yard) == {"stale": 1}
    await (await load.create(Load())).cancel()
    assert await counts(yard) == {"stale": 1, "cancelling": 1}


async def test_a_paused_queue_begins_nothing_over_restarts_too_until_it_is_resumed(yard: Yard) -> None:
    load = failing(yard)
    await yard.start()
    for _ in range(2):
        answer = await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
        assert (answer.name, answer.paused) == ("queues/load", True)
    ref = await load.create(Load())
    await yard.restart()
    await yard.catch_up()
    assert await counts(yard) == {"ready": 1}
    assert (await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))).paused
    assert not (await admin(yard).ResumeQueue(pb.ResumeQueueRequest(name="queues/load"))).paused
    assert await load.job(ref.id).wait() == "x"


async def test_a_queue_tells_when_its_rate_lets_the_next_one_begin(yard: Yard) -> None:
    load = failing(yard, rate=Rate(2, per=60))
    await yard.start()
    now = yard.clock.now()
    for _ in range(2):
        queue = await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))
        assert not queue.HasField("next_claim_time")
        await (await load.create(Load())).wait()
    queue = await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))
    assert queue.next_claim_time.ToMicroseconds() == now + 30 * SECOND
    ref = await load.create(Load())
    yard.clock.advance(30)
    assert await ref.wait() == "x"


# Workers.


async def test_the_server_is_a_worker_that_says_what_it_runs(yard: Yard) -> None:
    gate = asyncio.Event()

    @yard.job("load", concurrency=1)
    async def load(payload: Load, job: Job[None]) -> None:
        await gate.wait()

    failing(yard, "other")
    await yard.start()
    started = yard.clock.now()
    ref = await load.create(Load())
    await load.create(Load())
    await yard.catch_up()
    yard.clock.advance(7)
    (worker,) = (await admin(yard).ListWorkers(pb.ListWorkersRequest())).workers
    assert (worker.pid, list(worker.queues), worker.running) == (os.getpid(), ["queues/load", "queues/other"], 1)
    assert worker.start_time.ToMicroseconds() == started
    assert worker.seen_time.ToMicroseconds() == started + 7 * SECOND
    (run,) = worker.runs
    assert (run.job, run.queue, run.attempt) == (ref.name, "queues/load", 1)
    assert run.start_time.ToMicroseconds() == started
    queue = await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))
    assert (queue.running, queue.counts.active, queue.counts.ready) == (1, 1, 1)
    await yard.restart()
    (again,) = (await admin(yard).ListWorkers(pb.ListWorkersRequest())).workers
    assert again.name != worker.name


# Mistakes.


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "field"),
    [
        ("GetJob", pb.GetJobRequest(name="x"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(name=NOBODY + "/x"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobAttempts", pb.ListJobAttemptsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobSteps", pb.ListJobStepsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobLogs", pb.ListJobLogsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobAttempts", pb.ListJobAttemptsRequest(name=NOBODY, page_size=-1), "INVALID_ARGUMENT",
         "INVALID_ARGUMENT", "page_size"),
        ("RetryJob", pb.RetryJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("CancelJob", pb.CancelJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("CancelJob", pb.CancelJobRequest(name=NOBODY, reason="x" * 1025), "INVALID_ARGUMENT", "INVALID_ARGUMENT",
         "reason"),
        ("DismissJob", pb.DismissJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobs", pb.ListJobsRequest(filter="nope=1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="labels.x=1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="state=RUNNING"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="stand>READY"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="priority=high"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="priority:1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(order_by="key"), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "order_by"),
        ("ListJobs", pb.ListJobsRequest(page_size=-1), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "page_size"),
        ("ListJobs", pb.ListJobsRequest(page_token="x"), "INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", "page_token"),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(filter=" "), "INVALID_ARGUMENT", "INVALID_ARGUMENT",
         "filter"),
        ("DismissDeadLetters", pb.DismissDeadLettersRequest(), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "filter"),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(filter="state=DEAD", page_size=-1), "INVALID_ARGUMENT",
         "INVALID_ARGUMENT", "page_size"),
        ("GetQueue", pb.GetQueueRequest(name="load"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetQueue", pb.GetQueueRequest(name="queues/none"), "NOT_FOUND", "QUEUE_NOT_FOUND", ""),
        ("PauseQueue", pb.PauseQueueRequest(name="queues/none"), "NOT_FOUND", "QUEUE_NOT_FOUND", ""),
        ("ResumeQueue", pb.ResumeQueueRequest(name="queues/"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
    ],
)  # fmt: skip
async def test_a_mistake_is_named_and_changes_nothing(
    yard: Yard, method: str, request_: Any, code: str, reason: str, field: str
) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    await buried(yard, load, 1)
    before = yard.tables()
    found, why, status = await refused(getattr(admin(yard), method)(request_))
    assert (found.name, why) == (code, reason), status.message
    if field:
        assert fields_of(status) == [field]
    assert yard.tables() == before


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
