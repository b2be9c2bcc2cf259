"""How many jobs of a queue may be live, and what is refused beyond that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import JobQueue, ServiceError
from longshore_server.ids import uid_text
from longshore_server.reasons import Reason
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load, admin, ended, failing


@pytest.fixture
async def load(yard: Yard) -> JobQueue[Any, Any]:
    """A queue with room for two, whose jobs do not begin."""
    found = failing(yard, max_live=2)
    await yard.start()
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    return found


async def test_a_job_more_is_refused_before_any_write_and_says_which_bound_it_was(
    yard: Yard, load: JobQueue[Any, Any]
) -> None:
    await load.create(Load(), delay="1d")
    await load.create(Load(), idempotency_key="x")
    before = yard.tables()
    for call in (load.create(Load()), load.submit(Load()), load.create(Load(), delay=60), load.create_many([Load()])):
        with pytest.raises(ServiceError) as refused:
            await call
        error = refused.value
        assert (error.reason, error.metadata) == (Reason.TOO_MANY_JOBS, {"queue": "load", "limit": "2"})
        assert error.retry_after is not None
    assert yard.tables() == before
    assert not (await load.create(Load(), idempotency_key="x")).created


async def test_several_at_once_do_not_pass_it_together(yard: Yard, load: JobQueue[Any, Any]) -> None:
    made = await asyncio.gather(*(load.create(Load()) for _ in range(5)), return_exceptions=True)
    assert [isinstance(found, ServiceError) for found in made] == [False, False, True, True, True]
    with pytest.raises(ServiceError):
        await load.create_many([Load(), Load()])
    assert len(await yard.jobs()) == 2


async def test_what_has_ended_makes_room_and_a_restart_counts_anew(yard: Yard, load: JobQueue[Any, Any]) -> None:
    first, _ = await load.create_many([Load(), Load()])
    await yard.restart()
    with pytest.raises(ServiceError):
        await load.create(Load())
    await load.job(first.id).cancel()
    await load.create(Load())
    with pytest.raises(ServiceError):
        await load.create(Load())


async def test_a_handler_is_refused_too_and_finds_the_jobs_that_it_has(yard: Yard) -> None:
    load = failing(yard, max_live=1)
    seen: list[str] = []

    @yard.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        seen.append((await load.create(Load())).id)
        try:
            await load.create(Load(), name="second")
        except ServiceError as error:
            seen.append(error.reason.name)
        await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    await yard.start()
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    await yard.begin()
    await yard.catch_up()
    await yard.restart()
    await yard.catch_up()
    (record,) = await yard.jobs()
    assert seen == [uid_text(record.uid), "TOO_MANY_JOBS"] * 2


async def test_an_operator_is_not(yard: Yard) -> None:
    load = failing(yard, max_live=1)
    await yard.start()
    dead = await load.create(Load(fails=1))
    await ended(yard, dead)
    await admin(yard).PauseQueue(pb.PauseQueueRequest(name="queues/load"))
    await load.create(Load())
    await admin(yard).RetryJob(pb.RetryJobRequest(name=dead.name))
    queue = await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))
    assert (queue.counts.ready, queue.settings.max_live) == (2, 1)


async def test_the_bound_is_a_number_that_makes_sense(yard: Yard) -> None:
    for wrong in (0, -1, 2.5, 10**10):
        with pytest.raises(ValueError, match="max_live"):
            failing(yard, max_live=wrong)
    assert failing(yard).definition.max_live == 1_000_000
