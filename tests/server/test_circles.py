"""Operations, jobs and instances that wait for one another: what could never end is refused where the circle closes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from tests.server.circling import Ring, ring
from tests.server.instances.laboratory import Ping, Token

__all__ = ["ring"]


@pytest.mark.parametrize("crash", [False, True])
async def test_a_circle_of_all_three_is_refused_where_it_closes(ring: Ring, crash: bool) -> None:
    """The operation waits for its job, which waits for the instance, which waits for the operation; also where all of
    them have begun in a server that has died."""
    jobs: list[str] = []

    @ring.server.job("sends")
    async def sends(payload: str, job: Any) -> None:
        jobs.append(job.name)
        await ring.task.send("i", Ping(1), event_id=payload)

    async def handler(op: Any) -> None:
        await (await sends.create(op.name)).wait()

    async def closes(id: str) -> None:
        await ring.gate.hold()
        await ring.refused(ring.wait_for(ref.name))

    ring.handles(handler)
    ring.does(closes)
    await ring.start()
    ref = await ring.begin()
    if crash:
        await ring.gate.reached.wait()
        await ring.harness.crash()
        ring.gate.reached.clear()
        await ring.start()
        ref = await ring.server.operations.find(ref.name)
    await ring.go_on()
    assert (await ref.wait()).text == "done"
    way = f"{ref.name} waits for {jobs[-1]}, {jobs[-1]} waits for tasks/calls/instances/i"
    assert ring.problems[0] == (
        f"tasks/calls/instances/i cannot wait for {ref.name}, which cannot end before it does: {way}. Let one of "
        "them not wait for the other, or wait with a timeout."
    )


async def test_a_verb_that_closes_a_circle_of_all_three_is_refused_before_anything_is_sent(ring: Ring) -> None:
    """The instance waits for the operation, which waits for its job, which would wait for the instance."""
    problems: list[str] = []
    names: list[str] = []

    @ring.server.job("sends")
    async def sends(payload: str, job: Any) -> None:
        names.append(job.name)
        await ring.gate.hold()
        with pytest.raises(RuntimeError) as caught:
            await ring.task.send("i", Ping(2))
        problems.append(str(caught.value))

    async def handler(op: Any) -> None:
        names.append(op.name)
        await (await sends.create("x")).wait()

    async def begins(id: str) -> None:
        await (await ring.begin()).wait()

    ring.handles(handler)
    ring.does(begins)
    await ring.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(ring.task.send("i", Ping(1)))
        await ring.go_on()
    operation, job = names
    instance = "tasks/calls/instances/i"
    assert problems[0] == (
        f"a handler of {job} waits for {instance}, and {instance} waits for {operation}, {operation} waits for {job}: "
        "neither would end. Give no_wait=True: it is done after this handler"
    )
    assert (await ring.task.status("i")).event_count == 1


async def test_a_job_and_an_operation_that_it_has_started_do_not_wait_for_each_other(ring: Ring) -> None:
    @ring.server.job("starts")
    async def starts(payload: str, job: Any) -> str:
        child = await ring.begin()
        await child.wait()
        return str(child.name)

    async def handler(op: Any) -> None:
        await ring.gate.hold()
        await ring.refused(starts.job(ref.id).wait())

    ring.handles(handler)
    await ring.start()
    ref = await starts.create("x")
    await ring.go_on()
    child = await ref.wait()
    way = f"which cannot end before it does: {ref.name} waits for {child}. Let one of them not wait for the other"
    assert f"{child} cannot wait for {ref.name}, {way}" in ring.problems[0]


async def test_a_key_may_be_what_stands_between(ring: Ring) -> None:
    """A job waits for the operation, which would wait for another job: that needs the key of the first."""

    @ring.server.job("keyed", key="{note}", max_queued=None)
    async def keyed(payload: Token, job: Any) -> PlayResult:
        if job.id == first.id:
            await (await ring.begin()).wait()
        return PlayResult()

    async def handler(op: Any) -> None:
        await ring.gate.hold()
        second = await keyed.create(Token(note="k"))
        await ring.refused(second.wait())
        await ring.refused(op.attach(second))
        ring.problems.append(second.name)

    ring.handles(handler)
    await ring.start()
    first = await keyed.create(Token(note="k"))
    await ring.go_on()
    await first.wait()
    waits, attaches, second = ring.problems
    assert f"{second} needs the key 'k' of {first.name}, {first.name} waits for operations/" in waits
    assert "Give the two keys that differ" in waits
    assert f"cannot end with {second}, which cannot end before it does: {second} needs the key" in attaches


async def test_a_job_does_not_wait_for_the_operation_that_ends_with_it(ring: Ring) -> None:
    @ring.server.job("ends")
    async def ends(payload: str, job: Any) -> PlayResult:
        await ring.gate.hold()
        await ring.refused(ring.wait_for(job.operation))
        ring.problems.append(job.name)
        return PlayResult(text="by the job")

    async def handler(op: Any) -> Any:
        return await op.attach(await ends.create("x"))

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.go_on()
    assert (await ref.wait()).text == "by the job"
    assert f"{ref.name} ends with {ring.problems[1]}. Let one" in ring.problems[0]


async def test_an_operation_does_not_attach_a_job_that_waits_for_it(ring: Ring) -> None:
    @ring.server.job("ends")
    async def ends(payload: str, job: Any) -> PlayResult:
        await ring.wait_for(payload)
        return PlayResult()

    async def handler(op: Any) -> None:
        job = await ends.create(op.name, detached=True)
        await ring.gate.hold()
        await ring.refused(op.attach(job))
        ring.problems.append(job.name)

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.go_on()
    assert (await ref.wait()).text == "done"
    told = (
        f"{ref.name} cannot end with {ring.problems[1]}, which cannot end before it does: {ring.problems[1]} waits for"
    )
    assert ring.problems[0] == f"{told} {ref.name}. Attach another one, or return a result."


async def test_work_that_is_attached_and_waits_is_not_waited_for(ring: Ring) -> None:
    @ring.server.job("waits")
    async def waits(payload: str, job: Any) -> None:
        await ring.gate.hold()
        await ring.refused(ring.wait_for(job.operation))

    async def handler(op: Any) -> Any:
        async def work() -> PlayResult:
            await (await waits.create("x")).wait()
            return PlayResult(text="worked")

        return await op.attach(work())

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.go_on()
    assert (await ref.wait()).text == "worked"
    assert f"{ref.name} waits for jobs/" in ring.problems[0]


async def test_what_a_handler_still_waits_for_that_has_given_its_operation_away_does_not_count(ring: Ring) -> None:
    jobs: list[Any] = []

    @ring.server.job("waits")
    async def waits(payload: str, job: Any) -> str:
        await ring.gate.hold()
        return str((await ring.wait_for(job.operation)).text)

    async def handler(op: Any) -> Any:
        jobs.append(await waits.create("x"))
        left = asyncio.create_task(jobs[0].wait())
        await ring.gate.reached.wait()
        left.add_done_callback(lambda task: task.exception())
        return await op.defer()

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.go_on()
    await ring.settled()
    await (await ring.server.operations.control(ref.name)).complete(PlayResult(text="by hand"))
    assert await jobs[0].wait() == "by hand"


async def test_a_wait_with_an_end_of_its_own_closes_no_circle(ring: Ring) -> None:
    @ring.server.job("waits")
    async def waits(payload: str, job: Any) -> None:
        with pytest.raises(TimeoutError):
            await ring.wait_for(payload, timeout=5)
        with pytest.raises(TimeoutError):
            await ring.wait_for(payload, timeout=0)

    async def handler(op: Any) -> None:
        await (await waits.create(op.name)).wait()

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.settled()
    await ring.advance(5)
    assert (await ref.wait()).text == "done"


async def test_an_operation_does_not_wait_for_itself(ring: Ring) -> None:
    async def handler(op: Any) -> None:
        await ring.refused(ring.wait_for(op.name))

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ref.wait()
    assert f"{ref.name} cannot wait for itself: its end would never come." in ring.problems[0]


async def test_who_has_given_up_its_wait_closes_no_circle(ring: Ring) -> None:
    """The operation no longer waits for its job when that waits for the operation."""

    @ring.server.job("waits")
    async def waits(payload: str, job: Any) -> str:
        await ring.gate.hold()
        return str((await ring.wait_for(payload)).text)

    async def handler(op: Any) -> None:
        jobs.append(await waits.create(op.name, detached=True))
        waiting = asyncio.create_task(jobs[0].wait())
        await ring.gate.reached.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await given_up.wait()

    jobs: list[Any] = []
    given_up = asyncio.Event()
    ring.handles(handler)
    await ring.start()
    await ring.begin()
    await ring.go_on()
    await ring.settled()
    given_up.set()
    assert await jobs[0].wait() == "done"


@pytest.mark.parametrize("of", ["an operation", "an instance"])
async def test_a_job_lends_its_slot_to_a_job_that_what_it_waits_for_needs(ring: Ring, of: str) -> None:
    """Of a queue that runs one job at a time."""

    @ring.server.job("single", concurrency=1)
    async def single(payload: str, job: Any) -> None:
        if payload == "outer" and of == "an operation":
            await (await ring.begin()).wait()
        elif payload == "outer":
            await ring.task.send("i", Ping(1))

    async def inner(_: Any) -> None:
        await (await single.create("inner")).wait()

    ring.handles(inner)
    ring.does(inner)
    await ring.start()
    await (await single.create("outer")).wait()
