"""Who may see and steer jobs: nobody else learns even that there are any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1 import jobs_service_pb2_grpc, operation_control_service_pb2_grpc
from longshore.v1 import operation_control_service_pb2 as control
from longshore_server import Job, ServiceError
from longshore_server.errors import Reason
from tests.conftest import refused
from tests.server.auth.conftest import ALL, Guarded, Metadata


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    """A server that knows its callers, with a job that waits."""
    found = Guarded(tmp_path / "server")

    @found.server.job("secret")
    async def secret(payload: str, job: Job[None]) -> None:
        await asyncio.Event().wait()

    await found.start()
    await secret.create("payload")
    await found.harness.settle()
    yield found
    await found.stop()


async def callers(guarded: Guarded, *capabilities: str) -> Metadata:
    token = guarded.token("ada", *capabilities)
    await guarded.learn()
    return token


@pytest.mark.parametrize("capability", ["longshore.admin", "longshore.provider"])
async def test_either_capability_is_enough(guarded: Guarded, capability: str) -> None:
    ada = await callers(guarded, capability)
    jobs: Any = jobs_service_pb2_grpc.JobsServiceStub(guarded.channel)
    (job,) = (await jobs.ListJobs(pb.ListJobsRequest(), metadata=ada)).jobs
    shown = await jobs.GetJob(pb.GetJobRequest(name=job.name), metadata=ada)
    assert shown.payload.json == '"payload"'


async def test_all_others_are_told_the_same_whether_a_job_exists_or_not(guarded: Guarded) -> None:
    ada = await callers(guarded, *ALL)
    jobs: Any = jobs_service_pb2_grpc.JobsServiceStub(guarded.channel)
    (record,) = [run.record for run in guarded.harness.running.engine.jobs.runs.values()]
    answers = set()
    for name in (record.name, "jobs/0199d2f0-0000-7000-8000-000000000000", "nonsense"):
        code, reason, status = await refused(jobs.GetJob(pb.GetJobRequest(name=name), metadata=ada))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")
        assert "longshore.admin" in status.message
        answers.add(status.SerializeToString())
    assert len(answers) == 1
    for queue in ("queues/secret", "queues/none"):
        _, reason, status = await refused(jobs.PauseQueue(pb.PauseQueueRequest(name=queue), metadata=ada))
        assert (reason, status.SerializeToString()) == ("CAPABILITY_MISSING", *answers)
    assert not guarded.harness.running.engine.jobs.scheduler.lines["secret"].paused


async def test_who_administers_jobs_does_not_drive_operations(guarded: Guarded) -> None:
    ada = await callers(guarded, "longshore.admin", *ALL)
    name = (await guarded.begin("Open", ada)).name
    stub: Any = operation_control_service_pb2_grpc.OperationControlServiceStub(guarded.channel)
    code, reason, _ = await refused(stub.GetOperation(control.GetOperationRequest(name=name), metadata=ada))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")


async def test_a_job_is_no_operation_to_anybody(guarded: Guarded) -> None:
    (record,) = [run.record for run in guarded.harness.running.engine.jobs.runs.values()]
    with pytest.raises(ServiceError) as caught:
        await guarded.harness.running.engine.find(f"operations/{record.name.removeprefix('jobs/')}")
    assert caught.value.reason is Reason.OPERATION_NOT_FOUND
