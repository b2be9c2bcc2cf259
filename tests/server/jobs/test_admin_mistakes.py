"""JobsService over the wire: what is asked wrongly is named, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import JobRetry
from tests.conftest import fields_of, refused
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import admin, buried, failing

NOBODY = "jobs/0199d2f0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "field"),
    [
        ("GetJob", pb.GetJobRequest(name="x"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(name=NOBODY + "/x"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetJob", pb.GetJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobAttempts", pb.ListJobAttemptsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobSteps", pb.ListJobStepsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobLogs", pb.ListJobLogsRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobAttempts", pb.ListJobAttemptsRequest(name=NOBODY, page_size=-1), "INVALID_ARGUMENT",
         "INVALID_ARGUMENT", "page_size"),
        ("RetryJob", pb.RetryJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("CancelJob", pb.CancelJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("CancelJob", pb.CancelJobRequest(name=NOBODY, reason="x" * 1025), "INVALID_ARGUMENT", "INVALID_ARGUMENT",
         "reason"),
        ("DismissJob", pb.DismissJobRequest(name=NOBODY), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("ListJobs", pb.ListJobsRequest(filter="nope=1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="labels.x=1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="state=RUNNING"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="stand>READY"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="priority=high"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(filter="priority:1"), "INVALID_ARGUMENT", "INVALID_FILTER", "filter"),
        ("ListJobs", pb.ListJobsRequest(order_by="key"), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "order_by"),
        ("ListJobs", pb.ListJobsRequest(page_size=-1), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "page_size"),
        ("ListJobs", pb.ListJobsRequest(page_token="x"), "INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", "page_token"),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(filter=" "), "INVALID_ARGUMENT", "INVALID_ARGUMENT",
         "filter"),
        ("DismissDeadLetters", pb.DismissDeadLettersRequest(), "INVALID_ARGUMENT", "INVALID_ARGUMENT", "filter"),
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(filter="state=DEAD", page_size=-1), "INVALID_ARGUMENT",
         "INVALID_ARGUMENT", "page_size"),
        ("GetQueue", pb.GetQueueRequest(name="load"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ("GetQueue", pb.GetQueueRequest(name="queues/none"), "NOT_FOUND", "QUEUE_NOT_FOUND", ""),
        ("PauseQueue", pb.PauseQueueRequest(name="queues/none"), "NOT_FOUND", "QUEUE_NOT_FOUND", ""),
        ("ResumeQueue", pb.ResumeQueueRequest(name="queues/"), "INVALID_ARGUMENT", "INVALID_NAME", "name"),
    ],
)  # fmt: skip
async def test_a_mistake_is_named_and_changes_nothing(
    yard: Yard, method: str, request_: Any, code: str, reason: str, field: str
) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    await buried(yard, load, 1)
    before = yard.tables()
    found, why, status = await refused(getattr(admin(yard), method)(request_))
    assert (found.name, why) == (code, reason), status.message
    if field:
        assert fields_of(status) == [field]
    assert yard.tables() == before
