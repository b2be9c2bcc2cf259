"""A test for every sentence of seed 1 about jobs behind operations, named after it, over the wire.

Those on an upload that a job works on are in `tests/server/transfers/test_seed_transfer.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import (
    Accepted,
    Coalesced,
    Job,
    JobCancelledError,
    JobNotEnqueuedError,
    JobQueue,
    JobRef,
    JobState,
    OperationError,
    Reason,
    Rejected,
    Replaced,
    ServiceError,
)
from longshore_server.lifecycle import State
from tests.conftest import reason_of_end, result_of
from tests.server.jobs.conftest import Yard


def reserving(yard: Yard, **options: Any) -> tuple[JobQueue[PlayRequest, PlayResult], asyncio.Event]:
    """A queue of one job at a time for each key, and what lets its jobs go on."""
    go = asyncio.Event()

    @yard.job("reserve-inventory", key="{key}", **options)
    async def reserve_inventory(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        await job.progress(PlayProgress(text=f"reserving {payload.key}"))
        await go.wait()
        return PlayResult(text=f"reserved {payload.key}")

    queue: JobQueue[PlayRequest, PlayResult] = reserve_inventory
    return queue, go


async def test_one_operation_can_be_backed_by_many_jobs_which_remain_hidden(yard: Yard) -> None:
    queue, go = reserving(yard)

    @yard.plays
    async def play(request: Any, op: Any) -> PlayResult:
        jobs = [await queue.create(PlayRequest(key=key), name=key) for key in ("A1", "A2")]
        return PlayResult(text=", ".join([(await job.wait()).text for job in jobs]))

    go.set()
    await yard.start()
    end = await yard.run()
    assert result_of(end).text == "reserved A1, reserved A2"
    seen = b"".join(event.SerializeToString() for event in await yard.events(end.name)) + end.SerializeToString()
    assert b"reserve-inventory" not in seen
    assert len(await yard.jobs()) == 2
    assert all(record.name.encode() not in seen for record in await yard.jobs())


async def test_create_is_a_ref_or_a_typed_error(yard: Yard) -> None:
    """The seed's `Result<JobRef>`: the one is returned, the other raised, and nothing was made then."""
    queue, _ = reserving(yard)
    await yard.start()
    assert isinstance(await queue.create(PlayRequest(key="A1")), JobRef)
    with pytest.raises(JobNotEnqueuedError):
        await queue.create(PlayRequest(key="A1"))
    with pytest.raises(TypeError, match="takes"):
        await queue.create("A1")  # type: ignore[arg-type]
    assert len(await yard.jobs()) == 1


async def test_attach_wires_the_terminal_result_of_the_job_chain_through_to_the_operation(yard: Yard) -> None:
    queue, go = reserving(yard)

    @yard.job("relay")
    async def relay(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        result: PlayResult = await job.attach(await queue.create(payload))
        return result

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await relay.create(PlayRequest(key="A1")))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.harness.settle()
    assert int((await yard.get(name)).state) == State.RUNNING, "until the chain completes"
    go.set()
    assert result_of(await yard.end(name)).text == "reserved A1"


@pytest.mark.parametrize("queued", [False, True])
async def test_an_expected_failure_when_another_active_or_queued_job_owns_the_same_key(
    yard: Yard, queued: bool
) -> None:
    """It is typed, and the handler makes of it what is meaningful to the caller."""
    queue, _ = reserving(yard, max_queued=1 if queued else 0)

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        try:
            await queue.create(PlayRequest(key="A1"))
        except JobNotEnqueuedError as error:
            await op.progress(PlayProgress(text=f"{error.key}: {error.reason.value}, {error.active}, {error.queued}"))
            raise OperationError("OUT_OF_STOCK", "Somebody else reserves it.") from error

    await yard.start()
    owners = [await queue.create(PlayRequest(key="A1")) for _ in range(1 + queued)]
    end = await yard.run()
    assert (int(end.state), reason_of_end(end)) == (State.FAILED, "OUT_OF_STOCK")
    progress = PlayProgress()
    assert end.progress.Unpack(progress)
    assert progress.text == ("A1: QUEUE_DEPTH, 1, 1" if queued else "A1: ACTIVE_LIMIT, 1, 0")
    assert {f"jobs/{owner.id}" for owner in owners} == {record.name for record in await yard.jobs()}


@pytest.mark.parametrize("policy", ["coalesce", "replace_oldest"])
async def test_attach_only_accepted_or_replaced(yard: Yard, policy: Any) -> None:
    """`submit` tells which it is; one that is merely running already needs a decision to share it."""
    queue, go = reserving(yard, max_queued=1, when_full=policy)
    outcomes: list[Any] = []
    refused: list[ServiceError] = []

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        outcome = await queue.submit(PlayRequest(key="A1"))
        outcomes.append(type(outcome))
        assert not isinstance(outcome, Rejected)
        try:
            return await op.attach(outcome.job)
        except ServiceError as error:
            refused.append(error)
            raise OperationError("OUT_OF_STOCK", "It is under way already.") from error

    await yard.start()
    names = []
    for _ in range(3):
        names.append((await yard.begin()).operation.name)
        await yard.harness.settle()
    go.set()
    ends = [int((await yard.end(name)).state) for name in names]
    if policy == "coalesce":
        assert outcomes == [Accepted, Accepted, Coalesced]
        assert ends == [State.COMPLETED, State.COMPLETED, State.FAILED]
        assert [(error.reason, "shared=True" in error.message) for error in refused] == [(Reason.ILLEGAL_MOVE, True)]
    else:
        assert outcomes == [Accepted, Accepted, Replaced]
        assert ends == [State.COMPLETED, State.FAILED, State.COMPLETED], "what was replaced fails who had attached it"
        assert not refused


async def test_job_progress_wires_through(yard: Yard) -> None:
    """Its worker reports progress and returns its result, and knows of no operation."""
    queue, go = reserving(yard)

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await queue.create(PlayRequest(key="A1"), delay=1))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.harness.settle()
    await yard.harness.advance(1)
    progress = PlayProgress()
    assert (await yard.get(name)).progress.Unpack(progress)
    assert progress.text == "reserving A1"
    go.set()
    end = await yard.end(name)
    assert result_of(end).text == "reserved A1"
    assert await yard.kinds(name) == ["accepted", "started", "progress", "completed"]


async def test_when_the_job_returns_a_cancelled_error_attach_resolves_with_a_cancelled_operation(yard: Yard) -> None:
    """The signal flows to the active worker, which checks it cooperatively."""
    begun = asyncio.Event()

    @yard.job("reserve-inventory")
    async def reserve_inventory(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        begun.set()
        await job.cancelled.wait()
        raise JobCancelledError

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await reserve_inventory.create(PlayRequest(key="A1")))

    await yard.start()
    name = (await yard.begin()).operation.name
    await begun.wait()
    await yard.operations.Cancel(pb.CancelRequest(name=name, reason="enough"))
    end = await yard.end(name)
    assert (int(end.state), reason_of_end(end)) == (State.CANCELLED, "CANCELLED")
    assert [record.state for record in await yard.jobs()] == [JobState.CANCELLED]
