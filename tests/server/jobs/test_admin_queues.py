"""JobsService over the wire: queues, and the worker that serves them."""

from __future__ import annotations

import asyncio
import os

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import Job, JobRetry, Rate
from longshore_server.clock import SECOND
from longshore_server.job_lifecycle import JobState
from longshore_server.jobs.admin import Admin
from longshore_server.store.mutations.job import DeleteJob, PauseQueue
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load, admin, buried, ended, failing, names


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


@pytest.mark.parametrize("paused", [True, False])
async def test_a_pause_or_a_resume_whose_caller_goes_away_is_one_all_the_same(yard: Yard, paused: bool) -> None:
    load = failing(yard)
    await yard.start()
    host, writer = yard.engine.jobs, yard.engine.store.writer
    await Admin(host).pause("load", paused=not paused)
    asked = asyncio.create_task(Admin(host).pause("load", paused=paused))
    # Durable, and not answered yet: as gRPC cancels the handler of a call that is over.
    writer.on_write = lambda mutation: asked.cancel() if type(mutation) is PauseQueue else None
    with pytest.raises(asyncio.CancelledError):
        await asked
    ref = await load.create(Load())
    await yard.catch_up()
    assert (await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))).paused is paused
    assert (await ref.get()).state is (JobState.QUEUED if paused else JobState.COMPLETED)


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
