"""What was refused because it would never end, and is asked for again: after a restart, and in a further attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore_server import JobRetry, ServiceError
from longshore_server.job_lifecycle import JobState
from longshore_server.jobs.outcomes import JobFailedError
from longshore_server.store.mutations.job import RetryJob
from tests.server.circling import Ring, ring
from tests.server.instances.laboratory import Gate
from tests.server.retrying import RetryHandlers

__all__ = ["ring"]


@pytest.mark.parametrize("refused", ["operation's wait", "job's wait", "operation's hand-over"])
@pytest.mark.parametrize("crash", [True, False])
async def test_who_was_refused_is_refused_again_after_a_restart(ring: Ring, refused: str, crash: bool) -> None:
    """It has gone another way. In the next server it comes first: let through, it would keep who waits from waiting."""
    rightly, again = Gate(), Gate()
    again.opened.set()

    @ring.server.job("meets")
    async def meets(payload: str, job: Any) -> PlayResult:
        return await meet(job, refused == "job's wait", lambda: ring.wait_for(payload))

    async def handler(op: Any) -> Any:
        job = await meets.create(op.name)
        hands_over = refused == "operation's hand-over"
        return await meet(op, refused != "job's wait", lambda: op.attach(job) if hands_over else job.wait())

    async def meet(it: Any, closes: bool, waits: Callable[[], Awaitable[Any]]) -> PlayResult:
        if not closes:
            await again.hold()
            rightly.reached.set()
            return PlayResult(text=f"after {(await waits()).text}")
        await ring.gate.hold()
        await ring.refused(waits())
        await it.step("another way", str)
        await it.sleep(60)
        return PlayResult(text="another way")

    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await rightly.reached.wait()
    await ring.go_on()
    await ring.settled()
    assert len(ring.problems) == 1
    again.opened.clear()
    await ring.restart(crash=crash)
    await again.reached.wait()
    await ring.settled()
    again.opened.set()
    await ring.settled()
    await ring.advance(61)
    ref = await ring.server.operations.find(ref.name)
    assert (await ref.wait()).text == ("after another way" if refused == "job's wait" else "another way")
    [(state,)] = ring.rows("SELECT state FROM jobs")
    assert JobState(state) is JobState.COMPLETED
    assert ring.problems[0] == ring.problems[1]


async def test_a_retry_asks_anew_for_what_was_refused(ring: Ring) -> None:
    """There may be no circle any more."""

    @ring.server.job("closes")
    async def closes(payload: str, job: Any) -> str:
        await ring.gate.hold()
        return str((await ring.wait_for(payload)).text)

    async def handler(op: Any) -> None:
        job = await closes.create(op.name)
        with pytest.raises(JobFailedError):
            await job.wait()
        jobs.append(job)

    jobs: list[Any] = []
    ring.handles(handler)
    await ring.start()
    ref = await ring.begin()
    await ring.go_on()
    await ref.wait()
    await ring.engine.store.writer.submit(RetryJob(UUID(jobs[0].id).bytes, False, None))
    assert await jobs[0].wait() == "done"


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("who", ["job", "operation"])
async def test_a_further_attempt_asks_anew_where_the_refusal_is_what_the_one_before_failed_with(
    ring: Ring, who: str, caught: bool
) -> None:
    """It was told of a circle that there was no more, until it had used up its attempts. Who has gone another way, and
    failed on that, goes it again."""
    other = Gate()

    async def closes(it: Any, waits: Callable[[], Awaitable[Any]]) -> str:
        if it.attempt == 1:
            await ring.gate.hold()
        try:
            return str(await waits())
        except ServiceError as error:
            ring.problems.append(error.message)
            if not caught:
                raise
        if it.attempt == 1:
            raise ConnectionError
        return "another way"

    async def goes_on(waits: Awaitable[Any]) -> str:
        """It waits for one of two, whichever comes first."""
        found = asyncio.ensure_future(waits)
        reached = asyncio.ensure_future(other.opened.wait())
        await asyncio.wait([found, reached], return_when=asyncio.FIRST_COMPLETED)
        found.cancel()
        return "rightly"

    @ring.server.job("closing", retry=JobRetry(2, initial_delay=10))
    async def closing(payload: str, job: Any) -> str:
        if who == "job":
            return await closes(job, lambda: ring.wait_for(payload))
        return await goes_on((await ring.server.operations.find(payload)).wait())

    async def handler(op: Any) -> Any:
        job = await closing.create(op.name)
        jobs.append(job)
        if who == "job":
            return PlayResult(text=await goes_on(job.wait()))
        return PlayResult(text=await closes(op, job.wait))

    jobs: list[Any] = []
    ring.handles(handler)
    handlers: Any = ring.server.services[0]
    ring.server.services = (handlers, RetryHandlers(handlers))
    await ring.start()
    opened = await ring.server.operations.start("lab.v1.RetryService/TrySteadily", PlayRequest())
    await ring.go_on()
    await ring.settled()
    assert len(ring.problems) == 1
    other.opened.set()
    await ring.settled()
    await ring.advance(13)
    text = await jobs[0].wait() if who == "job" else (await opened.wait()).text
    assert ("another way" in text) is caught
    assert len(ring.problems) == 1 + caught


async def test_so_does_one_that_is_refused_what_was_refused_before_a_crash(ring: Ring) -> None:
    other, refused = Gate(), Gate()

    @ring.server.job("closing")
    async def closing(payload: str, job: Any) -> str:
        waits = asyncio.ensure_future((await ring.server.operations.find(payload)).wait())
        reached = asyncio.ensure_future(other.opened.wait())
        await asyncio.wait([waits, reached], return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        return "rightly"

    async def handler(op: Any) -> PlayResult:
        job = await closing.create(op.name)
        if op.attempt == 1:
            await ring.gate.hold()
        try:
            return PlayResult(text=await job.wait())
        except ServiceError as error:
            ring.problems.append(error.message)
            if op.attempt == 1:
                await refused.hold()
            raise

    ring.handles(handler)
    handlers: Any = ring.server.services[0]
    ring.server.services = (handlers, RetryHandlers(handlers))
    await ring.start()
    name = (await ring.server.operations.start("lab.v1.RetryService/TrySteadily", PlayRequest())).name
    await ring.go_on()
    await refused.reached.wait()
    await ring.restart(crash=True)
    await ring.settled()
    assert len(ring.problems) == 2
    other.opened.set()
    await ring.settled()
    await ring.advance(13)
    await ring.settled()
    assert len(ring.problems) == 2
    assert (await (await ring.server.operations.find(name)).wait()).text == "rightly"
