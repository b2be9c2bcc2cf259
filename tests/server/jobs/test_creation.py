"""Creating jobs: strict and by policy, keys, idempotency, batches, time; and what is refused before any write."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import (
    Accepted,
    Coalesced,
    Job,
    JobCancelledError,
    JobFailedError,
    JobNotEnqueuedError,
    JobQueue,
    JobRequest,
    JobState,
    Reason,
    Rejected,
    Replaced,
    ServiceError,
)
from longshore_server.job_lifecycle import Stand
from tests.server.jobs.conftest import Yard


@dataclass
class Reserve:
    sku: str
    count: int = 1


class Gate:
    """A function that runs until the test lets it go."""

    def __init__(self, yard: Yard, **options: Any) -> None:
        self.open = asyncio.Event()
        self.ran: list[str] = []
        self.begun: asyncio.Queue[str] = asyncio.Queue()

        @yard.job("reserve", **options)
        async def reserve(payload: Reserve, job: Job[str]) -> str:
            self.begun.put_nowait(payload.sku)
            await self.open.wait()
            self.ran.append(payload.sku)
            return f"{payload.sku} x {payload.count}"

        self.queue: JobQueue[Reserve, str] = reserve


async def test_a_job_is_created_run_and_waited_for(yard: Yard) -> None:
    gate = Gate(yard)
    gate.open.set()
    await yard.start()
    ref = await gate.queue.create(Reserve("A1", 2))
    assert ref.created
    assert await ref.wait() == "A1 x 2"
    found = await ref.get()
    assert (found.name, found.state, found.attempt) == (ref.name, JobState.COMPLETED, 1)
    assert await gate.queue.job(ref.id).wait() == "A1 x 2", "a ref is made again from its id"
    await yard.restart()
    assert await gate.queue.job(ref.name).wait() == "A1 x 2", "in another life of the process, too"


async def test_a_key_without_room_is_refused_by_create_and_told_by_submit(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_active=1)
    await yard.start()
    first = await gate.queue.create(Reserve("A1"))
    other = await gate.queue.create(Reserve("B2"))
    with pytest.raises(JobNotEnqueuedError) as caught:
        await gate.queue.create(Reserve("A1"))
    told = caught.value
    assert (told.reason.value, told.key, told.active, told.queued, told.limit) == ("ACTIVE_LIMIT", "A1", 1, 0, 1)
    assert told.existing == first.name
    outcome = await gate.queue.submit(Reserve("A1"))
    assert isinstance(outcome, Rejected)
    assert outcome == told.rejection
    gate.open.set()
    assert [await first.wait(), await other.wait()] == ["A1 x 1", "B2 x 1"]
    assert isinstance(await gate.queue.submit(Reserve("A1")), Accepted), "its key is free again"
    assert len(await yard.jobs()) == 3


async def test_as_many_wait_for_their_key_as_may_and_come_in_order(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_queued=2)
    await yard.start()
    refs = [await gate.queue.create(Reserve("A1", count)) for count in (1, 2)]
    refs.append(await gate.queue.create(Reserve("A1", 3), priority=1))
    assert [record.stand for record in await yard.jobs()] == [Stand.NONE, Stand.BLOCKED, Stand.BLOCKED]
    with pytest.raises(JobNotEnqueuedError) as caught:
        await gate.queue.create(Reserve("A1", 4))
    assert (caught.value.reason.value, caught.value.active, caught.value.queued, caught.value.limit) == (
        "QUEUE_DEPTH", 1, 2, 2,
    )  # fmt: skip
    assert caught.value.existing == refs[1].name
    gate.open.set()
    assert [await ref.wait() for ref in refs] == ["A1 x 1", "A1 x 2", "A1 x 3"]
    begun = {record.uid: record.begun for record in await yard.jobs()}
    records = await yard.jobs()
    assert records[2].revision < records[1].revision or begun, "the higher priority is promoted first"


async def test_coalesce_gives_the_oldest_that_waits_else_the_active_one(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_queued=1, when_full="coalesce")
    await yard.start()
    active, waiting = await gate.queue.create(Reserve("A1")), await gate.queue.create(Reserve("A1"))
    outcome = await gate.queue.submit(Reserve("A1", 9))
    assert isinstance(outcome, Coalesced)
    assert (outcome.job.name, outcome.job.created) == (waiting.name, False)
    with pytest.raises(JobNotEnqueuedError):
        await gate.queue.create(Reserve("A1"))
    await waiting.cancel("no more")
    gate.open.set()
    assert await active.wait() == "A1 x 1"
    with pytest.raises(JobCancelledError, match="no more"):
        await waiting.wait()


async def test_coalesce_without_a_line_gives_the_active_one(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", when_full="coalesce")
    await yard.start()
    active = await gate.queue.create(Reserve("A1"))
    outcome = await gate.queue.submit(Reserve("A1"))
    assert isinstance(outcome, Coalesced)
    assert outcome.job.name == active.name


async def test_replace_oldest_takes_the_place_of_one_that_waits_never_of_an_active_one(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_queued=2, when_full="replace_oldest")
    await yard.start()
    active, oldest, younger = [await gate.queue.create(Reserve("A1", count)) for count in (1, 2, 3)]
    outcome = await gate.queue.submit(Reserve("A1", 4))
    assert isinstance(outcome, Replaced)
    assert outcome.replaced.name == oldest.name
    with pytest.raises(JobFailedError) as caught:
        await oldest.wait()
    assert (caught.value.state, caught.value.reason) == (JobState.REPLACED, "REPLACED")
    gate.open.set()
    assert [await ref.wait() for ref in (active, younger, outcome.job)] == ["A1 x 1", "A1 x 3", "A1 x 4"]


async def test_replace_oldest_with_nobody_waiting_is_refused(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", when_full="replace_oldest")
    await yard.start()
    await gate.queue.create(Reserve("A1"))
    outcome = await gate.queue.submit(Reserve("A1"))
    assert isinstance(outcome, Rejected)
    assert outcome.reason.value == "ACTIVE_LIMIT"


async def test_max_active_counts_ready_ones_too(yard: Yard) -> None:
    """What is ready has its place: else two of a key would be claimed at once."""
    gate = Gate(yard, key="{sku}", max_active=2, max_queued=None, concurrency=1)
    await yard.start()
    refs = [await gate.queue.create(Reserve("A1")) for _ in range(4)]
    stands = [record.stand for record in await yard.jobs()]
    assert stands == [Stand.NONE, Stand.READY, Stand.BLOCKED, Stand.BLOCKED]
    await refs[1].cancel()
    stands = [record.stand for record in await yard.jobs()]
    assert stands == [Stand.NONE, Stand.NONE, Stand.READY, Stand.BLOCKED], "its place goes to the next"


async def test_a_key_that_gets_more_room_uses_it_at_the_next_start(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_queued=None)
    await yard.start()
    refs = [await gate.queue.create(Reserve("A1", count)) for count in range(3)]
    gate.queue.definition.max_active = 2
    await yard.restart()
    await yard.catch_up()
    assert [record.state for record in await yard.jobs()] == [JobState.ACTIVE, JobState.ACTIVE, JobState.QUEUED]
    gate.open.set()
    assert [await ref.wait() for ref in refs] == ["A1 x 0", "A1 x 1", "A1 x 2"]


async def test_an_idempotency_key_gives_the_same_job_and_refuses_another_payload(yard: Yard) -> None:
    gate = Gate(yard, idempotency_ttl="1h")
    gate.open.set()
    await yard.start()
    first = await gate.queue.create(Reserve("A1"), idempotency_key="order-1")
    again = await gate.queue.create(Reserve("A1"), idempotency_key="order-1")
    assert (again.name, again.created) == (first.name, False)
    with pytest.raises(ServiceError) as caught:
        await gate.queue.create(Reserve("A2"), idempotency_key="order-1")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    assert first.name in caught.value.message
    await first.wait()
    assert (await gate.queue.create(Reserve("A1"), idempotency_key="order-1")).name == first.name, "once ended, too"
    yard.clock.advance(3601)
    assert (await gate.queue.create(Reserve("A2"), idempotency_key="order-1")).name != first.name


async def test_a_batch_is_all_or_nothing_and_the_error_names_the_index(yard: Yard) -> None:
    gate = Gate(yard, key="{sku}", max_active=1, max_queued=1)
    await yard.start()
    before = yard.tables()["jobs"]
    with pytest.raises(JobNotEnqueuedError) as caught:
        await gate.queue.create_many([Reserve("A1"), Reserve("B2"), Reserve("A1"), Reserve("A1")])
    assert caught.value.index == 3
    with pytest.raises(TypeError, match=r"\[1\]: job 'reserve' takes Reserve, not str"):
        await gate.queue.create_many([Reserve("A1"), "B2"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"\[1\]: idempotency_key: 'x' is that of another job"):
        await gate.queue.create_many([JobRequest(Reserve("A1"), idempotency_key="x")] * 2)
    assert yard.tables()["jobs"] == before
    refs = await gate.queue.create_many([Reserve("A1"), JobRequest(Reserve("B2"), delay=5), Reserve("A1")])
    assert [record.stand for record in await yard.jobs()] == [Stand.NONE, Stand.DELAYED, Stand.BLOCKED]
    assert await gate.queue.create_many([]) == []
    with pytest.raises(ValueError, match="more than 5,000, the most of one batch"):
        await gate.queue.create_many(Reserve("A1") for _ in itertools.count())
    gate.open.set()
    yard.clock.advance(5)
    assert [await ref.wait() for ref in refs] == ["A1 x 1", "B2 x 1", "A1 x 1"]


async def test_a_delay_and_a_time_are_kept_over_a_restart_and_never_early(yard: Yard) -> None:
    gate = Gate(yard)
    gate.open.set()
    await yard.start()
    late = await gate.queue.create(Reserve("late"), delay="1m")
    at = datetime.fromtimestamp(yard.clock.now() / 1e6, UTC) + timedelta(seconds=30)
    soon = await gate.queue.create(Reserve("soon"), run_at=at)
    now = await gate.queue.create(Reserve("now"), run_at=at - timedelta(hours=1))
    await now.wait()
    await yard.restart()
    yard.clock.advance(29)
    await yard.catch_up()
    assert gate.ran == ["now"]
    yard.clock.advance(1)
    await soon.wait()
    assert gate.ran == ["now", "soon"]
    yard.clock.advance(30)
    await late.wait()


async def test_a_delay_that_begins_while_time_is_looked_after_is_not_forgotten(yard: Yard) -> None:
    gate = Gate(yard)
    gate.open.set()
    await yard.start()
    first = await gate.queue.create(Reserve("first"), delay=10)
    late = asyncio.ensure_future(gate.queue.create(Reserve("late"), delay=5))
    yard.clock.advance(10)  # written in one transaction, the look at what is due before the creation
    await first.wait()
    ref = await late
    yard.clock.advance(5)
    assert await ref.wait() == "late x 1"


async def test_the_highest_priority_is_run_first_and_the_oldest_among_equals(yard: Yard) -> None:
    gate = Gate(yard, concurrency=1)
    await yard.start()
    first = await gate.queue.create(Reserve("first"))
    refs = [await gate.queue.create(Reserve(f"{priority}"), priority=priority) for priority in (0, 5, 5, -1)]
    gate.open.set()
    for ref in [first, *refs]:
        await ref.wait()
    assert gate.ran == ["first", "5", "5", "0", "-1"]


async def test_an_unknown_id_is_not_found_at_once_and_never_hangs(yard: Yard) -> None:
    gate = Gate(yard)
    await yard.start()
    ref = gate.queue.job("01900000-0000-7000-8000-000000000000")
    for call in (ref.get, ref.wait, ref.cancel):
        with pytest.raises(ServiceError) as caught:
            await call()
        assert caught.value.reason is Reason.JOB_NOT_FOUND
    with pytest.raises(ServiceError) as caught:
        gate.queue.job("jobs/1")
    assert caught.value.reason is Reason.INVALID_NAME


@pytest.mark.parametrize(
    ("payload", "options", "message"),
    [
        ("A1", {}, "job 'reserve' takes Reserve, not str"),
        (lab_pb2.PlayRequest(), {}, "takes Reserve, not PlayRequest"),
        (Reserve("A1", "many"), {}, "Reserve"),  # type: ignore[arg-type]
        (Reserve("A1"), {"delay": -1}, "delay: it must not be negative"),
        (Reserve("A1"), {"delay": "soon"}, "delay: 'soon' is no time span"),
        (Reserve("A1"), {"run_at": datetime(2026, 1, 1)}, "run_at: it has no time zone"),  # noqa: DTZ001
        (Reserve("A1"), {"run_at": datetime(2026, 1, 1, tzinfo=UTC), "delay": 1}, "give one of them"),
        (Reserve("A1"), {"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at: 9999-12-31 .* more than 1,000,000"),
        (Reserve("A1"), {"run_at": "tomorrow"}, "run_at: 'tomorrow' is no datetime"),
        (Reserve("A1"), {"detached": "yes"}, "detached must be True or False, not 'yes'"),
        (Reserve("A1"), {"priority": 1 << 31}, "priority"),
        (Reserve("A1"), {"priority": 1.5}, "priority"),
        (Reserve("A1"), {"idempotency_key": ""}, "idempotency_key"),
        (Reserve("A1"), {"idempotency_key": 5}, "idempotency_key must be a text, not 5"),
        (Reserve(""), {}, "sku must not be empty"),
        (Reserve("x" * 600), {}, "at most 512 bytes"),
    ],
)
async def test_bad_input_is_refused_before_any_write(
    yard: Yard, payload: Any, options: dict[str, Any], message: str
) -> None:
    gate = Gate(yard, key="{sku}")
    await yard.start()
    before = yard.tables()
    for call in (gate.queue.create, gate.queue.submit):
        with pytest.raises((TypeError, ValueError, ServiceError), match=message):
            await call(payload, **options)
    assert yard.tables() == before


async def test_a_job_that_could_not_run_before_its_deadline_is_refused(yard: Yard) -> None:
    """It used to be created, and was EXPIRED without a word."""
    gate = Gate(yard, deadline=60)
    await yard.start()
    before = yard.tables()
    tomorrow = datetime.fromtimestamp(yard.clock.now() / 1e6, UTC) + timedelta(days=1)
    for option in ({"delay": 60}, {"delay": "1d"}, {"run_at": tomorrow}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: .* never run: .* 60 s after its creation"):
            await gate.queue.create(Reserve("A1"), **option)
    assert yard.tables() == before
    ref = await gate.queue.create(Reserve("A1"), delay=59)
    yard.clock.advance(59)
    assert await gate.begun.get() == "A1"
    assert (await ref.get()).state is JobState.ACTIVE


async def test_a_payload_that_is_too_large_is_refused(make_yard: Any) -> None:
    yard = make_yard(max_input=2000)
    gate = Gate(yard)
    await yard.start()
    with pytest.raises(ServiceError) as caught:
        await gate.queue.create(Reserve("x" * 2000))
    assert caught.value.reason is Reason.INPUT_TOO_LARGE


@pytest.mark.parametrize(
    ("reason", "error"),
    [("x" * 1025, ServiceError), ("\ud800", ServiceError), (5, TypeError)],
    ids=["long", "half", "5"],
)
async def test_a_reason_that_cannot_be_kept_cancels_nothing(yard: Yard, reason: Any, error: type[Exception]) -> None:
    gate = Gate(yard)
    await yard.start()
    ref = await gate.queue.create(Reserve("A1"), delay=60)
    before = yard.tables()
    with pytest.raises(error, match="reason: "):
        await ref.cancel(reason)
    assert yard.tables() == before
