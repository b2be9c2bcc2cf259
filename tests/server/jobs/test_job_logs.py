"""What jobs log and how their steps fail is kept as it is of operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from longshore_server import Job
from longshore_server.store.mutations.job import AdvanceJobs, DeleteJob
from tests.server.jobs.conftest import Yard


@dataclass
class Load:
    name: str = "x"


async def test_a_job_s_lines_and_steps_are_kept_until_it_is_deleted(yard: Yard) -> None:
    jobs: list[Job[Any]] = []

    @yard.job("load")
    async def load(payload: Load, job: Job[None]) -> None:
        async def lift() -> None:
            job.log.warn("heavy", name=payload.name)  # noqa: G010 - no logger of the standard library
            raise ConnectionError("the crane is away")

        jobs.append(job)
        with pytest.raises(ConnectionError):
            await job.step("lift", lift)

    await yard.start()
    await (await load.create(Load())).wait()
    (job,) = jobs
    uid, store = job.author.uid, yard.engine.store
    await yard.catch_up()
    (stored,) = (await store.lines(uid, 0, 0, 10)).lines
    line = stored.line
    assert (line.attempt, line.step, line.message, line.data) == (1, "lift", "heavy", '{"name":"x"}')
    (step,) = await store.steps(uid, 0, 0, 10)
    assert (step.name, step.completed, step.error) == ("lift", False, "ConnectionError: the crane is away")
    assert job.run_id == job.id
    await store.writer.submit(DeleteJob(uid))
    job.log.info("beyond")
    await yard.catch_up()
    tables = yard.tables()
    assert not any(tables[name] for name in ("logs", "logbooks", "step_failures"))


@pytest.mark.parametrize("over", [False, True], ids=["deleted", "its retention is over"])
async def test_a_line_in_the_batch_that_deletes_its_job_goes_with_it(yard: Yard, over: bool) -> None:
    jobs: list[Job[Any]] = []

    @yard.job("load", retention="1m")
    async def load(payload: Load, job: Job[None]) -> None:
        jobs.append(job)

    await yard.start()
    await (await load.create(Load())).wait()
    (job,) = jobs
    # In one step of the loop, so that they are one batch.
    job.log.info("the last word")
    if over:
        yard.clock.advance(61)
    await yard.engine.store.writer.submit(AdvanceJobs() if over else DeleteJob(job.author.uid))
    tables = yard.tables()
    assert not any(tables[name] for name in ("jobs", "logs", "logbooks"))
