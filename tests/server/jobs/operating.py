"""What tests of JobsService share: its stub, a queue whose jobs fail, and short words for what they ask."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from longshore.v1 import jobs_service_pb2 as pb
from longshore.v1 import jobs_service_pb2_grpc
from longshore_server import Job, JobQueue
from tests.server.jobs.conftest import Yard

S, A = pb.JobSnapshot, pb.JobAttempt


@dataclass
class Load:
    name: str = "x"
    fails: int = 0
    """How many attempts fail."""


def admin(yard: Yard) -> Any:
    """The service, as an operator's stub calls it."""
    return jobs_service_pb2_grpc.JobsServiceStub(yard.channel)


def failing(yard: Yard, name: str = "load", **options: Any) -> JobQueue[Load, str]:
    """A queue whose jobs fail as often as their payload says."""

    @yard.job(name, **options)
    async def load(payload: Load, job: Job[str]) -> str:
        if job.attempt <= payload.fails:
            raise ValueError(f"no {job.attempt}")
        return payload.name

    found: JobQueue[Load, str] = load
    return found


async def ended(yard: Yard, *refs: Any) -> None:
    """Return once all have ended, however."""
    await asyncio.gather(*(ref.wait() for ref in refs), return_exceptions=True)


async def names(yard: Yard, filter: str = "", **options: Any) -> list[str]:
    page = await admin(yard).ListJobs(pb.ListJobsRequest(filter=filter, **options))
    return [job.name for job in page.jobs]


async def attempts(yard: Yard, name: str) -> list[tuple[int, str, str]]:
    found = (await admin(yard).ListJobAttempts(pb.ListJobAttemptsRequest(name=name))).attempts
    return [(a.attempt, A.Outcome.Name(a.outcome).removeprefix("OUTCOME_"), a.problem) for a in found]


async def buried(yard: Yard, queue: JobQueue[Load, str], count: int) -> list[Any]:
    refs = await queue.create_many([Load(str(number), fails=1) for number in range(count)])
    await ended(yard, *refs)
    return refs
