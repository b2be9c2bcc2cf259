"""`return await op.attach(job)`: the job's end is the operation's, in one transaction, after any restart."""

from __future__ import annotations

from typing import Any

from lab.v1 import lab_pb2

from longshore_server import Job, JobState
from tests.conftest import result_of
from tests.server.jobs.conftest import Yard


async def test_an_operation_ends_with_the_result_of_its_job(yard: Yard) -> None:
    steps = []

    @yard.job("reserve")
    async def reserve(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
        steps.append(await job.step("look", lambda: "found"))
        return lab_pb2.PlayResult(text=f"{payload.script} by {job.operation}")

    @yard.plays
    async def play(request: Any, op: Any) -> Any:
        return await op.attach(await reserve.create(lab_pb2.PlayRequest(script="reserved")))

    await yard.start()
    end = await yard.run()
    assert result_of(end).text == f"reserved by {end.name}"
    assert steps == ["found"]
    (record,) = await yard.jobs()
    assert (record.state, record.attempt, record.ended) == (JobState.COMPLETED, 1, record.updated)
    assert await yard.kinds(end.name) == ["accepted", "started", "completed"]
