"""A server that dies at each point of a job's life at which something could be lost, doubled or torn apart.

`crash_after` ends it between a commit and the first who hears of that. What a mix of all of these does: test_model.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Job, JobCancelledError, JobFailedError, JobRetry, JobState
from longshore_server.job_lifecycle import Stand
from longshore_server.lifecycle import State
from longshore_server.store.mutations import Record
from longshore_server.store.mutations.job import ClaimJobs, SettleJob
from longshore_server.store.mutations.job_creation import CreateJobs
from longshore_server.store.mutations.job_end import AttachJob, CancelJob
from tests.conftest import result_of
from tests.server.jobs.conftest import Yard


@dataclass
class Load:
    key: str = "k"
    number: int = 0


def of(*kinds: type) -> Callable[[Any], bool]:
    """The changes of some kinds."""
    return lambda change: isinstance(change, kinds)


async def unheard(yard: Yard, call: Any, *kinds: type) -> None:
    """Make a call whose change is durable, and that nobody hears of: the server dies."""
    crash = yard.harness.crash_after(when=of(*kinds))
    task = asyncio.ensure_future(call)
    await crash
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await yard.harness.settle()


@pytest.mark.parametrize("free", [True, False])
async def test_between_create_and_claim(yard: Yard, free: bool) -> None:
    """With a free slot the creation is the claim; without one somebody has to remember it."""
    go, ran = asyncio.Event(), list[tuple[int, int]]()

    @yard.job("load", concurrency=1)
    async def load(payload: Load, job: Job[None]) -> None:
        ran.append((payload.number, job.attempt))
        if payload.number == 0:
            await go.wait()

    await yard.start()
    await yard.harness.settle()  # until it has looked, no queue knows that nobody waits
    if not free:
        await load.create(Load(number=0))
    await unheard(yard, load.create(Load(number=1)), CreateJobs)
    go.set()
    await yard.harness.settle()
    assert ran == ([(1, 2)] if free else [(0, 1), (0, 2), (1, 1)])
    assert {record.state for record in await yard.jobs()} == {JobState.COMPLETED}


async def test_between_claim_and_the_first_line_of_the_function(yard: Yard) -> None:
    ran: list[int] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        ran.append(job.attempt)

    await yard.start()
    await load.create(Load(), delay=5)
    crash = yard.harness.crash_after(when=of(ClaimJobs))
    yard.clock.advance(5)
    await crash
    await yard.harness.settle()
    assert ran == [2]


async def test_in_a_step_and_right_after_its_record(yard: Yard) -> None:
    effects: list[str] = []
    here, planned = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        effects.append("first")
        here.set()
        await planned.wait()

    @yard.job("load")
    async def load(payload: Load, job: Job[int]) -> int:
        await job.step("first", first)
        await job.step("second", effects.append, "second")
        return job.attempt

    await yard.start()
    ref = await load.create(Load())
    await here.wait()
    await yard.harness.crash()
    await yard.harness.start()
    crash = yard.harness.crash_after(commits=2, when=of(Record))
    planned.set()
    await crash
    await yard.harness.settle()
    assert await ref.wait() == 3
    assert effects == ["first", "first", "second"], "what was recorded, and nobody had heard of, is not done again"
    assert [row[1:4] for row in yard.tables()["journal"]] == [("step", "first", 0), ("step", "second", 0)]


async def test_between_the_end_of_a_job_and_that_of_its_operation_there_is_nothing(yard: Yard) -> None:
    ran: list[int] = []

    @yard.job("load")
    async def load(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        ran.append(job.attempt)
        await job.sleep(5)
        return PlayResult(text="done")

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await load.create(request))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.harness.settle()
    crash = yard.harness.crash_after(when=of(SettleJob))
    yard.clock.advance(5)
    await crash
    await yard.connect()
    end = await yard.get(name)
    assert result_of(end).text == "done"
    (record,) = await yard.jobs()
    assert (record.state, record.ended) == (JobState.COMPLETED, end.end_time.ToMicroseconds()), "one transaction"
    assert ran == [1]


async def test_right_after_an_attach(yard: Yard) -> None:
    go, ran = asyncio.Event(), list[str]()

    @yard.job("load")
    async def load(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        await go.wait()
        return PlayResult(text=f"in {job.attempt}")

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        ran.append(f"attempt {op.attempt}")
        return await op.attach(await load.create(request))

    await yard.start()
    crash = yard.harness.crash_after(when=of(AttachJob))
    name = (await yard.begin()).operation.name
    await crash
    await yard.connect()
    go.set()
    assert result_of(await yard.end(name)).text == "in 2"
    assert ran == ["attempt 1"]
    assert len(await yard.jobs()) == 1


async def test_in_the_wait_for_the_next_attempt(yard: Yard) -> None:
    """Neither the time of it nor the number of failures is lost, and it does not come at once."""
    ran: list[tuple[int, int]] = []

    @yard.job("load", retry=JobRetry(max_attempts=3, initial_delay=10))
    async def load(payload: Load, job: Job[int]) -> int:
        ran.append((job.attempt, job.failures))
        if job.failures < 2:
            raise RuntimeError("no")
        return job.attempt

    await yard.start()
    crash = yard.harness.crash_after(when=of(SettleJob))
    ref = await load.create(Load())
    await crash
    await yard.harness.advance(9)
    await yard.harness.crash_and_restart()
    assert ran == [(1, 0)]
    await yard.harness.advance(1)
    assert ran == [(1, 0), (2, 1)]
    await yard.harness.advance(20)
    assert await ref.wait() == 3


async def test_in_cancelling(yard: Yard) -> None:
    """The request is kept: what was asked to stop is not run again."""
    ran: list[int] = []

    @yard.job("load", cancel_grace=60)
    async def load(payload: Load, job: Job[None]) -> None:
        ran.append(job.attempt)
        await asyncio.Event().wait()

    await yard.start()
    ref = await load.create(Load())
    await yard.harness.settle()
    await unheard(yard, ref.cancel("enough"), CancelJob)
    with pytest.raises(JobCancelledError, match="enough"):
        await ref.wait()
    assert ran == [1]


async def test_after_replace_oldest(yard: Yard) -> None:
    """The old one has gone and the new one has come, both or neither."""
    go, ran = asyncio.Event(), list[int]()

    @yard.job("load", key="{key}", max_queued=1, when_full="replace_oldest")
    async def load(payload: Load, job: Job[None]) -> None:
        await go.wait()
        ran.append(payload.number)

    await yard.start()
    await load.create(Load(number=0))
    old = await load.create(Load(number=1))
    await unheard(yard, load.submit(Load(number=2)), CreateJobs)
    assert [record.state for record in await yard.jobs()] == [JobState.ACTIVE, JobState.REPLACED, JobState.QUEUED]
    with pytest.raises(JobFailedError) as caught:
        await old.wait()
    assert caught.value.reason == "REPLACED"
    go.set()
    await yard.harness.settle()
    assert ran == [0, 2]


async def test_after_the_end_that_lets_the_next_one_of_its_key_begin(yard: Yard) -> None:
    go, ran = asyncio.Event(), list[int]()

    @yard.job("load", key="{key}", max_queued=1)
    async def load(payload: Load, job: Job[None]) -> None:
        await go.wait()
        ran.append(payload.number)

    await yard.start()
    for number in range(2):
        await load.create(Load(number=number))
    assert [record.stand for record in await yard.jobs()] == [Stand.NONE, Stand.BLOCKED]
    crash = yard.harness.crash_after(when=of(SettleJob))
    go.set()
    await crash
    await yard.harness.settle()
    assert ran == [0, 1]


async def test_a_cancelled_operation_whose_server_dies_at_once_has_cancelled_its_jobs(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        await load.create(request, delay="1h", name="later")
        return await op.attach(await load.create(request))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.harness.settle()
    crash = yard.harness.crash_after(when=lambda change: "Cancel" in type(change).__name__)
    with pytest.raises(grpc.aio.AioRpcError):
        await yard.operations.Cancel(pb.CancelRequest(name=name))
    await crash
    await yard.connect()
    assert int((await yard.end(name)).state) == State.CANCELLED
    assert {record.state for record in await yard.jobs()} == {JobState.CANCELLED}
