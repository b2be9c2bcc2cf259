"""What a job may do inside: operations of its own, logs, sleeps, further jobs; each of them once, whatever crashes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import DuplicateNameError, Job
from longshore_server.errors import ServiceError
from longshore_server.job_lifecycle import JobState
from tests.conftest import Crash, result_of
from tests.server.jobs.conftest import Yard


async def test_an_operation_that_a_job_starts_is_started_once(yard: Yard) -> None:
    here = asyncio.Event()
    started: list[str] = []

    @yard.job("outer")
    async def outer(payload: int, job: Job[str]) -> str:
        ref = await yard.server.operations.start(yard.TYPE, lab_pb2.PlayRequest(count=payload))
        started.append(ref.name)
        if job.attempt == 1:
            here.set()
            await asyncio.Event().wait()
        result = await ref.wait()
        return str(result.text)

    await yard.start()
    ref = await outer.create(3)
    await here.wait()
    await yard.restart()
    assert await ref.wait() == "played"
    assert len(started) == 2
    assert len(set(started)) == 1


async def test_a_job_created_in_a_job_is_created_once_and_knows_the_operation(yard: Yard) -> None:
    here = asyncio.Event()
    behind: list[str | None] = []

    @yard.job("inner")
    async def inner(payload: int, job: Job[int]) -> int:
        behind.append(job.operation)
        return payload

    @yard.job("outer")
    async def outer(payload: int, job: Job[int]) -> int:
        refs = await inner.create_many([1, 2], name="pair")
        with pytest.raises(DuplicateNameError):
            await inner.create(3, name="pair")
        total: int = sum([await ref.wait() for ref in refs])
        if job.attempt == 1:
            here.set()
            await asyncio.Event().wait()
        return total

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return lab_pb2.PlayResult(number=await (await outer.create(0)).wait())

    await yard.start()
    name = (await yard.begin()).operation.name
    await here.wait()
    await yard.restart()
    end = await yard.end(name)
    assert lab_pb2.PlayResult.FromString(end.result.value).number == 3
    assert behind == [name, name]
    assert [record.queue for record in await yard.jobs()] == ["outer", "inner", "inner"]


async def test_a_job_that_waits_while_the_server_stops_goes_on_at_the_next_one(yard: Yard) -> None:
    waiting = asyncio.Event()
    go = asyncio.Event()

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        await go.wait()
        return lab_pb2.PlayResult(text="at last")

    @yard.job("inner")
    async def inner(payload: int, job: Job[int]) -> int:
        await go.wait()
        return payload

    @yard.job("outer")
    async def outer(payload: int, job: Job[str]) -> str:
        other, operation = await inner.create(7), await yard.server.operations.start(yard.TYPE, lab_pb2.PlayRequest())
        waiting.set()
        return f"{await other.wait()} {(await operation.wait()).text}"

    await yard.start()
    ref = await outer.create(1)
    await waiting.wait()
    outside = asyncio.ensure_future(ref.wait())
    await yard.catch_up()
    await yard.restart(crash=False)
    with pytest.raises(ServiceError, match="shutting down"):
        await outside
    go.set()
    assert await ref.wait() == "7 at last"
    assert [record.failures for record in await yard.jobs()] == [0, 0]


async def test_a_sleep_is_slept_once_and_its_log_and_journal_go_with_the_job(yard: Yard) -> None:
    @yard.job("sleeper", retention=60)
    async def sleeper(payload: int, job: Job[int]) -> int:
        job.log.info("sleeping", seconds=payload)
        await job.sleep(payload)
        return job.attempt

    await yard.start()
    ref = await sleeper.create(30)
    await yard.clock.armed(30)
    await yard.restart()
    await yard.clock.armed(30)
    yard.clock.advance(29)
    assert (await ref.get()).state is JobState.ACTIVE
    yard.clock.advance(1)
    assert await ref.wait() == 2
    await yard.catch_up()
    assert yard.tables()["journal"]
    yard.clock.advance(60)
    await yard.catch_up()
    tables = yard.tables()
    left = ("jobs", "job_bodies", "journal", "logbooks")
    assert {name: tables[name] for name in left} == {name: [] for name in left}


async def test_a_wait_after_that_of_a_step_is_one_of_its_own_in_a_rerun_too(yard: Yard) -> None:
    crash, go = Crash(yard), asyncio.Event()

    @yard.job("slow")
    async def slow(payload: int, job: Job[int]) -> int:
        await go.wait()
        return payload

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        ref = await slow.create(7)

        async def in_time() -> bool:
            with contextlib.suppress(TimeoutError):
                return bool(await ref.wait(10))
            return False

        assert not await op.step("wait-a-little", in_time)
        await crash.here(op)
        return lab_pb2.PlayResult(number=await ref.wait(10))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.clock.armed(10)
    yard.clock.advance(10)
    await crash.happen()
    go.set()
    assert result_of(await yard.end(name)).number == 7


def test_a_definition_that_makes_no_sense_is_refused_where_it_is_written(yard: Yard) -> None:
    async def good(payload: lab_pb2.PlayRequest, job: Job[int]) -> int:
        return 1

    async def untyped(payload, job) -> int:
        return 1

    async def alone(payload: int) -> int:
        return 1

    def plain(payload: int, job: Job[int]) -> int:
        return 1

    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        (good, {"key": "sku"}, "key: 'sku' is made of no field"),
        (good, {"key": 5}, "key: 5 is no text"),
        (good, {"key": "{sku}"}, "'sku' is not a field of lab.v1.PlayRequest"),
        (good, {"max_active": 2}, "are of a key"),
        (good, {"key": "{key}", "max_active": 0}, "max_active: 0 is no whole number"),
        (good, {"key": "{key}", "when_full": "drop"}, "when_full: 'drop' is none of 'reject', 'coalesce'"),
        (good, {"on_stale": "ignore"}, "on_stale: 'ignore'"),
        (good, {"timeout": 0}, "timeout: it must be longer than zero"),
        (good, {"heartbeat": "often"}, "heartbeat: 'often' is no time span"),
        (good, {"concurrency": True}, "concurrency"),
        (good, {"retry": 3}, r"retry: 3 is no JobRetry: write retry=JobRetry\(max_attempts=3\)"),
        (good, {"rate": 10}, "rate: 10 is no Rate"),
        (untyped, {}, "annotate 'payload'"),
        (alone, {}, "two arguments"),
        (plain, {}, "async def"),
    ]
    for function, options, message in mistakes:
        with pytest.raises((TypeError, ValueError), match=message):
            yard.server.job("load", **options)(function)
    yard.server.job("load")(good)
    with pytest.raises(ValueError, match=r"is .*good and again .*good: give each a name"):
        yard.server.job("load")(good)
    with pytest.raises(ValueError, match="cannot name a queue"):
        yard.server.job("a queue")(good)
    with pytest.raises(TypeError, match=r"a queue has a name: write @server.job\('...'\) above <function .*good"):
        yard.server.job(good)  # type: ignore[arg-type]
    assert list(yard.server.queues) == ["load"]


async def test_a_queue_works_only_while_its_server_runs(yard: Yard) -> None:
    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        return payload

    with pytest.raises(RuntimeError, match="works while its server runs"):
        await load.create(1)
    await yard.start()
    ref = await load.create(1)
    await ref.wait()
    await yard.stop()
    with pytest.raises(RuntimeError, match="works while its server runs"):
        await ref.get()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("SELECT uid FROM jobs WHERE queue = 'q' AND stand = 1 ORDER BY priority DESC, uid LIMIT 1", "jobs_ready"),
        (
            """SELECT uid FROM jobs WHERE queue = 'q' AND key = 'k' AND key <> '' AND ended IS NULL AND deferred = 0
               AND stand = 2 ORDER BY priority DESC, uid LIMIT 3""",
            "jobs_key",
        ),
        ("SELECT min(uid) FROM jobs WHERE queue = 'q' AND key = 'k' AND key <> '' AND stand >= 1", "jobs_waiting"),
        ("SELECT uid FROM attachments WHERE target = x'00'", "attachments_target"),
        ("SELECT uid FROM jobs WHERE due <= 1 AND due IS NOT NULL ORDER BY due LIMIT 1", "jobs_due"),
        ("SELECT uid FROM jobs WHERE deadline <= 1 AND deadline IS NOT NULL AND ended IS NULL", "jobs_deadline"),
        ("SELECT uid FROM jobs WHERE expires <= 1 AND expires IS NOT NULL ORDER BY expires LIMIT 1", "jobs_expiry"),
        ("SELECT uid FROM jobs WHERE parent = x'00' AND ended IS NULL AND detached = 0 ORDER BY uid", "jobs_parent"),
        ("SELECT uid FROM jobs WHERE queue = 'q' AND state IN (2, 3) AND ended IS NULL", "jobs_live"),
    ],
)
async def test_what_a_million_jobs_must_not_slow_down_is_found_by_an_index(
    yard: Yard, statement: str, index: str
) -> None:
    await yard.start()
    plan = await yard.engine.store.read(lambda c: c.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall())
    text = " ".join(row[3] for row in plan)
    assert f"INDEX {index}" in text
    assert "SCAN" not in text
    if "priority" in statement:
        assert "TEMP B-TREE" not in text
