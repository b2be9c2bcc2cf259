"""Jobs that wait for jobs: what could never end is refused, whatever lies between, and who waits takes no slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from longshore_server import Job, JobRetry, JobState, Reason, ServiceError
from longshore_server.job_lifecycle import Stand
from longshore_server.store.mutations.job_end import AttachJob
from tests.server.jobs.conftest import Yard


@dataclass
class Part:
    key: str
    depth: int = 0


async def refusal(awaitable: Any) -> str:
    """Why it is refused."""
    with pytest.raises(ServiceError) as caught:
        await awaitable
    assert caught.value.reason is Reason.ILLEGAL_MOVE
    return caught.value.message


@pytest.mark.parametrize("delay", [None, 60])
async def test_a_job_that_attaches_one_of_its_own_key_gives_the_key_to_it(yard: Yard, delay: int | None) -> None:
    """Also one that needs the key later: to look again in a minute is what such a chain is for."""

    @yard.job("look", key="{key}", max_queued=1)
    async def look(payload: Part, job: Job[str]) -> str:
        if payload.depth == 2:
            return "found"
        return await job.attach(await look.create(Part(payload.key, payload.depth + 1), delay=delay))

    await yard.start()
    ref = await look.create(Part("k"))
    for _ in range(2 if delay else 0):
        await yard.catch_up()
        yard.clock.advance(60)
    assert await ref.wait() == "found"
    assert not yard.tables()["job_keys"]


async def test_an_attached_job_that_waits_for_its_retry_gets_its_key_back(yard: Yard) -> None:
    @yard.job("inner", key="{key}", max_queued=None, retry=JobRetry(max_attempts=2, initial_delay=10))
    async def inner(payload: Part, job: Job[int]) -> int:
        if job.attempt == 1 and payload.depth == 1:
            raise ConnectionError
        return job.attempt

    @yard.job("outer", key="{key}")
    async def outer(payload: Part, job: Job[int]) -> int:
        return await job.attach(await middle.create(payload))

    @yard.job("middle", key="{key}")
    async def middle(payload: Part, job: Job[int]) -> int:
        return await job.attach(await inner.create(Part(payload.key, 1)))

    await yard.start()
    ref = await outer.create(Part("k"))
    other = await inner.create(Part("k"))
    await yard.catch_up()
    await other.wait()
    yard.clock.advance(10)
    assert await ref.wait() == 2


async def test_who_hands_its_job_over_leaves_its_key_to_the_next(yard: Yard) -> None:
    go = asyncio.Event()

    @yard.job("rest")
    async def rest(payload: Part, job: Job[None]) -> None:
        await go.wait()

    @yard.job("outer", key="{key}", max_queued=1)
    async def outer(payload: Part, job: Job[None]) -> None:
        if payload.depth == 0:
            return await job.attach(await rest.create(payload))
        return None

    await yard.start()
    first, second = await outer.create_many([Part("k"), Part("k", 1)])
    await second.wait()
    assert (await first.get()).state is JobState.ACTIVE
    go.set()
    await first.wait()


async def test_a_job_cannot_wait_for_one_that_needs_its_key(yard: Yard) -> None:
    problems: list[str] = []

    @yard.job("loop", key="{key}", max_queued=None)
    async def loop(payload: Part, job: Job[str]) -> str:
        if payload.depth:
            return payload.key
        same = await loop.create(Part("k", 1))
        later = await loop.create(Part("k", 1), name="later", delay="1h")
        problems.extend([await refusal(ref.wait()) for ref in (same, later, loop.job(job.id))])
        with pytest.raises(TimeoutError):
            await same.wait(timeout=0)
        other: str = await (await loop.create(Part("other", 1), name="other")).wait()
        return other

    await yard.start()
    ref = await loop.create(Part("k"))
    assert await ref.wait() == "other"
    assert [f"needs the key 'k' of {ref.name}" in problem for problem in problems] == [True, True, False]
    assert "Give the two keys that differ, wait with a timeout, or `return await job.attach(...)`" in problems[0]
    own = f"{ref.name} cannot wait for itself: its end would never come. Return its result instead."
    assert problems[2] == own


async def test_of_two_that_wait_for_each_other_the_later_one_is_told_what_helps(yard: Yard) -> None:
    problems: list[str] = []
    begun, waited_for = asyncio.Event(), asyncio.Event()

    @yard.job("outer")
    async def outer(payload: Part, job: Job[str]) -> str:
        done: str = await (await inner.create(Part(job.id))).wait()
        return done

    @yard.job("inner")
    async def inner(payload: Part, job: Job[str]) -> str:
        begun.set()
        await waited_for.wait()
        problems.append(await refusal(outer.job(payload.key).wait()))
        return "done"

    await yard.start()
    ref = await outer.create(Part("k"))
    await begun.wait()
    await yard.catch_up()
    waited_for.set()
    assert await ref.wait() == "done"
    # No key has a part in it, and an attachment would close the same circle.
    assert problems[0].endswith("Let one of them not wait for the other, or wait with a timeout.")


async def test_a_circle_over_many_jobs_is_closed_by_none(yard: Yard) -> None:
    """first (key k) waits for second, which has attached third, which waits for fourth, which needs the key k."""
    problems: list[str] = []
    begun, attached = asyncio.Event(), asyncio.Event()

    @yard.job("keyed", key="{key}", max_queued=None)
    async def keyed(payload: Part, job: Job[str]) -> str:
        return "alone" if payload.depth else await (await second.create(payload)).wait()

    @yard.job("second")
    async def second(payload: Part, job: Job[str]) -> str:
        return await job.attach(await third.create(payload))

    @yard.job("third")
    async def third(payload: Part, job: Job[str]) -> str:
        begun.set()
        await attached.wait()
        fourth = await keyed.create(Part("k", 1))
        problems.append(await refusal(fourth.wait()))
        problems.append(await refusal(job.attach(fourth)))
        return "without it"

    await yard.start()
    ref = await keyed.create(Part("k"))
    await begun.wait()
    await yard.catch_up()
    attached.set()
    assert await ref.wait() == "without it"
    first, other, own, fourth = [record.name for record in await yard.jobs()]
    way = f"{fourth} needs the key 'k' of {first}, {first} waits for {other}, {other} ends with {own}."
    assert way in problems[0]
    assert f"{own} cannot end with {fourth}" in problems[1]


async def test_of_two_that_wait_for_each_other_one_is_refused(yard: Yard) -> None:
    refs: dict[str, Any] = {}
    here = asyncio.Barrier(2)
    problems: list[str] = []

    @yard.job("pair", key="{key}")
    async def pair(payload: Part, job: Job[str]) -> str:
        await here.wait()
        other = "b" if payload.key == "a" else "a"
        try:
            return f"{payload.key} after {await pair.job(refs[other].id).wait()}"
        except ServiceError as error:
            problems.append(error.message)
            return payload.key

    await yard.start()
    for key in "ab":
        refs[key] = await pair.create(Part(key))
    ended = {await ref.wait() for ref in refs.values()}
    assert len(problems) == 1
    assert ended in ({"a", "b after a"}, {"b", "a after b"})


async def test_jobs_cannot_end_with_each_other(yard: Yard) -> None:
    problems: list[str] = []
    refs: list[Any] = []
    begun, attached = asyncio.Event(), asyncio.Event()

    @yard.job("outer")
    async def outer(payload: Part, job: Job[str]) -> str:
        problems.append(await refusal(job.attach(outer.job(job.id), shared=True)))
        return await job.attach(await inner.create(payload))

    @yard.job("inner")
    async def inner(payload: Part, job: Job[str]) -> str:
        begun.set()
        await attached.wait()
        problems.append(await refusal(job.attach(outer.job(refs[0].id), shared=True)))
        return "done"

    await yard.start()
    refs.append(await outer.create(Part("k"), delay=1))
    yard.clock.advance(1)
    await begun.wait()
    await yard.catch_up()
    attached.set()
    assert await refs[0].wait() == "done"
    assert problems[0] == f"{refs[0].name} cannot end with itself: its end would never come. Return its result instead."
    assert f"cannot end with {refs[0].name}, which cannot end before it does" in problems[1]


async def test_nobody_waits_for_a_job_that_gives_itself_to_who_waits_though_its_function_is_interrupted_there(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, interrupted = asyncio.Event(), asyncio.Event()
    give_on: list[Callable[[], Any]] = []

    @yard.job("outer")
    async def outer(payload: Part, job: Job[str]) -> str:
        attaching = asyncio.ensure_future(job.attach(inner.job(other.id), shared=True))
        await held.wait()
        attaching.cancel()
        await asyncio.wait([attaching])
        interrupted.set()
        await asyncio.Event().wait()
        return "never"

    @yard.job("inner")
    async def inner(payload: Part, job: Job[str]) -> str:
        await interrupted.wait()
        problem = await refusal(outer.job(ref.id).wait())
        await give_on[0]()
        return problem

    await yard.start()
    writer = yard.engine.store.writer
    submit = writer.submit

    def hold(change: Any, settled: Any = None) -> Any:
        if not isinstance(change, AttachJob):
            return submit(change, settled)
        give_on.append(lambda: submit(change, settled))
        held.set()
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(writer, "submit", hold)
    other = await inner.create(Part("k"))
    ref = await outer.create(Part("k"))
    assert f"{ref.name} waits for {other.name}" in await ref.wait()


async def test_a_key_with_room_for_two_is_blocked_only_when_both_wait(yard: Yard) -> None:
    go, problems = asyncio.Event(), []

    @yard.job("two", key="{key}", max_active=2, max_queued=None)
    async def two(payload: Part, job: Job[str]) -> str:
        if payload.depth == 2:
            return "third"
        if payload.depth == 1:
            await go.wait()
            problems.append(await refusal(two.job(refs[2].id).wait()))
            return "second"
        third: str = await two.job(refs[2].id).wait()
        return third

    await yard.start()
    refs = await two.create_many([Part("k", depth) for depth in range(3)])
    await yard.catch_up()
    assert (await yard.jobs())[2].stand is Stand.BLOCKED
    go.set()
    assert [await ref.wait() for ref in refs] == ["third", "second", "third"]
    assert "needs the key 'k' of" in problems[0]


async def test_a_queue_that_is_full_of_jobs_that_wait_for_its_own_goes_on(yard: Yard) -> None:
    running, most = 0, 0

    @yard.job("tree", concurrency=2)
    async def tree(payload: Part, job: Job[int]) -> int:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        leaves = [] if payload.depth == 0 else await tree.create_many([Part("", payload.depth - 1)] * 2)
        running -= 1
        found = await asyncio.gather(*(leaf.wait() for leaf in leaves))
        running, most = running + 1, max(most, running + 1)
        running -= 1
        return 1 + int(sum(found))

    await yard.start()
    roots = await tree.create_many([Part("", 3)] * 3)
    assert [await root.wait() for root in roots] == [15] * 3
    await yard.catch_up()
    line = yard.engine.jobs.scheduler.lines["tree"]
    assert (most, line.slots.held, len(line.slots._returning)) == (2, 0, 0)


async def test_who_is_interrupted_waits_for_no_slot(yard: Yard) -> None:
    go = asyncio.Event()
    tidied = asyncio.Event()

    @yard.job("one", concurrency=1, cancel_grace=1)
    async def one(payload: Part, job: Job[None]) -> None:
        if payload.depth == 0:
            await go.wait()
            return
        try:
            await one.job(waited.id).wait()
        finally:
            tidied.set()

    await yard.start()
    waited = await one.create(Part("", 0), delay="1h")
    waiting = await one.create(Part("", 1))
    await yard.catch_up()
    other = await one.create(Part("", 0))
    await yard.catch_up()
    assert (await other.get()).state is JobState.ACTIVE, "the slot was lent"
    await waiting.cancel()
    await yard.clock.armed(1)
    yard.clock.advance(1)
    await tidied.wait()
    await yard.catch_up()
    assert (await waiting.get()).state is JobState.CANCELLED
    go.set()
    await other.wait()
    await yard.catch_up()
    assert yard.engine.jobs.scheduler.lines["one"].slots.held == 0
