"""`longshore.v1.JobsService`: the operators' side of jobs."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Sequence
from itertools import islice

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, invalid
from longshore_server.ids import parse_uuid
from longshore_server.jobs.admin import Admin
from longshore_server.jobs.scheduler import Line
from longshore_server.rpc import filters, job_messages
from longshore_server.rpc.authorization import ADMIN, Authorization
from longshore_server.rpc.boundary import Context, Method, unary
from longshore_server.rpc.listing import oldest_first
from longshore_server.rpc.metadata import read_retry
from longshore_server.rpc.paging import Fit, make_token, read_page, read_size, read_token
from longshore_server.rpc.records import log_page, step_page
from longshore_server.rpc.wire import set_time
from longshore_server.store import queries
from longshore_server.store.job_record import JobRecord, QueueRow
from longshore_server.store.search import Condition

SERVICE = "longshore.v1.JobsService"
MAX_DEAD = 250
"""How many dead letters one call handles at most: callers' changes wait behind it."""
MAX_RUNS = 1000
"""Of how many attempts a worker tells."""


class JobsService:
    """Shows and steers jobs and their queues."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._admin = Admin(engine.jobs)
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "GetJob": unary(pb.GetJobRequest, self._get),
            "ListJobs": unary(pb.ListJobsRequest, self._list),
            "ListJobAttempts": unary(pb.ListJobAttemptsRequest, self._attempts),
            "ListJobSteps": unary(pb.ListJobStepsRequest, self._steps),
            "ListJobLogs": unary(pb.ListJobLogsRequest, self._logs),
            "RetryJob": unary(pb.RetryJobRequest, self._retry),
            "CancelJob": unary(pb.CancelJobRequest, self._cancel),
            "DismissJob": unary(pb.DismissJobRequest, self._dismiss),
            "ReplayDeadLetters": unary(pb.ReplayDeadLettersRequest, self._replay),
            "DismissDeadLetters": unary(pb.DismissDeadLettersRequest, self._dismiss_dead),
            "GetQueue": unary(pb.GetQueueRequest, self._queue),
            "ListQueues": unary(pb.ListQueuesRequest, self._queues),
            "PauseQueue": unary(pb.PauseQueueRequest, self._pause),
            "ResumeQueue": unary(pb.ResumeQueueRequest, self._resume),
            "ListWorkers": unary(pb.ListWorkersRequest, self._workers),
        }

    # Jobs.

    async def _get(self, request: pb.GetJobRequest, context: Context) -> bytes:
        record, payload = await self._admin.get(self._uid(context, request.name))
        return job_messages.full(record, payload).SerializeToString()

    async def _list(self, request: pb.ListJobsRequest, context: Context) -> bytes:
        self._check(context)
        conditions = filters.parse(request.filter, filters.JOBS)
        ascending = oldest_first(request.order_by)

        def find(after: bytes | None, size: int) -> Awaitable[tuple[Sequence[JobRecord], bytes | None]]:
            return self._admin.page(conditions, after, size, ascending=ascending)

        async def shown(record: JobRecord) -> pb.JobSnapshot:
            return job_messages.snapshot(record)

        query = ("jobs", request.filter, ascending)
        jobs, token = await read_page(self._engine.store.page_key, request, query, find, shown)
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token).SerializeToString()

    async def _attempts(self, request: pb.ListJobAttemptsRequest, context: Context) -> bytes:
        uid, size = self._uid(context, request.name), read_size(request.page_size)
        key, query = self._engine.store.page_key, ("attempts", uid)
        after = int.from_bytes(read_token(key, request.page_token, query)) if request.page_token else 0
        response = pb.ListJobAttemptsResponse()
        fit = Fit()
        for row in await self._admin.attempts(uid, after, size + 1):
            shown = job_messages.attempt(row)
            if len(response.attempts) == size or not fit.takes(shown):
                response.next_page_token = make_token(key, after.to_bytes(16), query)
                break
            response.attempts.append(shown)
            after = row.attempt
        return response.SerializeToString()

    async def _steps(self, request: pb.ListJobStepsRequest, context: Context) -> bytes:
        uid = self._uid(context, request.name)
        await self._admin.check(uid)
        page = await step_page(self._engine.store, uid, request, pb.ListJobStepsResponse())
        return page.SerializeToString()

    async def _logs(self, request: pb.ListJobLogsRequest, context: Context) -> bytes:
        uid = self._uid(context, request.name)
        await self._admin.check(uid)
        page = await log_page(self._engine.store, uid, request, pb.ListJobLogsResponse())
        return page.SerializeToString()

    async def _retry(self, request: pb.RetryJobRequest, context: Context) -> bytes:
        uid, request_id = self._uid(context, request.name), read_retry(request, context)
        return _answer(
            await self._admin.retry(uid, fresh=request.fresh, from_step=request.from_step, request_id=request_id)
        )

    async def _cancel(self, request: pb.CancelJobRequest, context: Context) -> bytes:
        return _answer(await self._admin.cancel(self._uid(context, request.name), request.reason))

    async def _dismiss(self, request: pb.DismissJobRequest, context: Context) -> bytes:
        return _answer(await self._admin.dismiss(self._uid(context, request.name)))

    # Dead letters.

    async def _replay(self, request: pb.ReplayDeadLettersRequest, context: Context) -> bytes:
        conditions, after, size = self._dead(context, "replay", request)
        request_id = read_retry(request, context)
        count, following = await self._admin.replay(conditions, after, size, fresh=request.fresh, request_id=request_id)
        token = self._token("replay", request, following)
        return pb.ReplayDeadLettersResponse(count=count, next_page_token=token).SerializeToString()

    async def _dismiss_dead(self, request: pb.DismissDeadLettersRequest, context: Context) -> bytes:
        conditions, after, size = self._dead(context, "dismiss", request)
        count, following = await self._admin.dismiss_dead(conditions, after, size)
        token = self._token("dismiss", request, following)
        return pb.DismissDeadLettersResponse(count=count, next_page_token=token).SerializeToString()

    def _dead(
        self, context: Context, verb: str, request: pb.ReplayDeadLettersRequest | pb.DismissDeadLettersRequest
    ) -> tuple[list[Condition], bytes | None, int]:
        """Which dead letters, after which one, and how many at most."""
        self._check(context)
        if not request.filter.strip():
            raise invalid("filter", "must be set: all dead letters are those of state=DEAD")
        conditions = filters.parse(request.filter, filters.JOBS)
        after = None
        if request.page_token:
            after = read_token(self._engine.store.page_key, request.page_token, (verb, request.filter))
        return conditions, after, min(read_size(request.page_size), MAX_DEAD)

    def _token(
        self, verb: str, request: pb.ReplayDeadLettersRequest | pb.DismissDeadLettersRequest, following: bytes | None
    ) -> str:
        key = self._engine.store.page_key
        return "" if following is None else make_token(key, following, (verb, request.filter))

    # Queues.

    async def _queue(self, request: pb.GetQueueRequest, context: Context) -> bytes:
        return self._shown(await self._admin.queue(self._queue_name(context, request.name))).SerializeToString()

    async def _queues(self, request: pb.ListQueuesRequest, context: Context) -> bytes:
        self._check(context)
        found = await self._admin.queues()
        return pb.ListQueuesResponse(queues=[self._shown(queue) for queue in found]).SerializeToString()

    async def _pause(self, request: pb.PauseQueueRequest, context: Context) -> bytes:
        found = await self._admin.pause(self._queue_name(context, request.name), paused=True)
        return self._shown(found).SerializeToString()

    async def _resume(self, request: pb.ResumeQueueRequest, context: Context) -> bytes:
        found = await self._admin.pause(self._queue_name(context, request.name), paused=False)
        return self._shown(found).SerializeToString()

    def _shown(self, queue: tuple[Line, QueueRow]) -> pb.Queue:
        return job_messages.queue(*queue, self._engine.jobs.tally, self._engine.clock.now())

    # Workers.

    async def _workers(self, request: pb.ListWorkersRequest, context: Context) -> bytes:
        self._check(context)
        boot, host = await self._engine.store.read(queries.boot), self._engine.jobs
        worker = pb.Worker(
            name=f"workers/{boot.epoch}", host=socket.gethostname(), pid=os.getpid(), running=len(host.runs),
            queues=[f"queues/{name}" for name in sorted(host.queues)],
        )  # fmt: skip
        set_time(worker.start_time, boot.started)
        set_time(worker.seen_time, self._engine.clock.now())
        for run in islice(host.runs.values(), MAX_RUNS):
            record = run.record
            shown = worker.runs.add(job=record.name, queue=f"queues/{record.queue}", attempt=record.attempt)
            set_time(shown.start_time, record.begun or record.created)
        return pb.ListWorkersResponse(workers=[worker]).SerializeToString()

    # What is asked about. Who may not ask learns nothing, not even of a wrong name.

    def _check(self, context: Context) -> None:
        self._authorization.check_provider(context.caller, ADMIN)

    def _uid(self, context: Context, name: str) -> bytes:
        self._check(context)
        prefix, _, id = name.partition("/")
        uid = parse_uuid(id) if prefix == "jobs" else None
        if uid is None:
            form = "jobs/{id}, where {id} is the UUID that `longshore jobs ls` shows"
            raise invalid("name", f"{name[:200]!r} is not of the form {form}", reason=Reason.INVALID_NAME)
        return uid

    def _queue_name(self, context: Context, name: str) -> str:
        self._check(context)
        prefix, _, queue = name.partition("/")
        if prefix != "queues" or not queue or "/" in queue:
            raise invalid("name", f"{name[:200]!r} is not of the form queues/{{queue}}", reason=Reason.INVALID_NAME)
        return queue


def _answer(record: JobRecord) -> bytes:
    return job_messages.snapshot(record).SerializeToString()
