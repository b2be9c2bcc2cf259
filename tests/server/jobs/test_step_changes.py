"""Steps that were removed or renamed under a job are reported, or fail it, as its queue says."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1.annotations_pb2 import ON_STEP_CHANGE_FAIL, ON_STEP_CHANGE_REPORT
from longshore_server import Job, JobFailedError, JobQueue, JobRetry
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import admin


def deployed(yard: Yard, now: list[str], **options: Any) -> JobQueue[int, int]:
    """A queue whose jobs fail once after the steps `a` and `b`; later attempts have the steps `now`, and complete."""

    @yard.job("load", retry=JobRetry(max_attempts=3, initial_delay=0), **options)
    async def load(payload: int, job: Job[int]) -> int:
        for name in ["a", "b"] if job.attempt == 1 else now:
            await job.step(name, int)
        if job.attempt == 1:
            raise ValueError
        return job.attempt

    found: JobQueue[int, int] = load
    return found


@pytest.mark.parametrize("options", [{}, {"on_step_change": "report"}])
async def test_it_is_reported_by_default(yard: Yard, options: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    load = deployed(yard, ["a", "c"], **options)
    await yard.start()
    ref = await load.create(0)
    assert await ref.wait() == 2
    (report,) = [record for record in caplog.records if "without asking for" in record.message]
    assert f"{ref.name}: the handler completed" in report.message
    assert "'b'" in report.message
    assert (vars(report)["queue"], vars(report)["attempt"]) == ("load", 2)
    settings = (await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))).settings
    assert settings.on_step_change == ON_STEP_CHANGE_REPORT


async def test_it_fails_where_the_queue_says_so_and_is_not_tried_again(yard: Yard) -> None:
    load = deployed(yard, ["b", "c"], on_step_change="fail")
    await yard.start()
    ref = await load.create(0)
    with pytest.raises(JobFailedError, match="'a'") as failed:
        await ref.wait()
    assert (failed.value.reason, (await ref.get()).attempt) == ("NON_DETERMINISTIC", 2)
    settings = (await admin(yard).GetQueue(pb.GetQueueRequest(name="queues/load"))).settings
    assert settings.on_step_change == ON_STEP_CHANGE_FAIL


async def test_steps_in_another_order_and_new_ones_are_no_change(yard: Yard) -> None:
    load = deployed(yard, ["c", "b", "a"], on_step_change="fail")
    await yard.start()
    assert await (await load.create(0)).wait() == 2


def test_another_word_is_refused_where_it_is_written(yard: Yard) -> None:
    with pytest.raises(ValueError, match="on_step_change: 'ignore' is none of 'report', 'fail'"):
        deployed(yard, [], on_step_change="ignore")
