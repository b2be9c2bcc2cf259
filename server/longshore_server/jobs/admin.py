"""What operators see of jobs, and what they do about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from longshore_server.contract.source import hint_or_all
from longshore_server.contract.validation import check_reason, check_request_id
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.job_lifecycle import JobState
from longshore_server.jobs.host import Host
from longshore_server.jobs.scheduler import Line
from longshore_server.store import job_attempts, job_pages
from longshore_server.store import job_rows as rows
from longshore_server.store.job_attempts import JobAttemptRow
from longshore_server.store.job_record import Body, JobRecord, QueueRow
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.dead_letters import ForEachJob
from longshore_server.store.mutations.job import DismissJob, RetryJob
from longshore_server.store.mutations.job_end import CancelJob
from longshore_server.store.search import Condition

T = TypeVar("T")
_DEAD = Condition("state", "=", int(JobState.DEAD))


class Admin:
    """The jobs of one host. Raises `ServiceError` (JOB_NOT_FOUND, QUEUE_NOT_FOUND) for what there is not."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # Jobs.

    async def get(self, uid: bytes) -> tuple[JobRecord, Body]:
        """A job and its payload."""
        return await self._about(uid, lambda connection, record: (record, rows.payload(connection, uid)))

    async def check(self, uid: bytes) -> None:
        """See that there is a job."""
        await self._host.find(uid)

    async def attempts(self, uid: bytes, after: int, limit: int) -> list[JobAttemptRow]:
        """At most `limit` attempts of a job after a number, in order."""
        return await self._about(uid, lambda connection, record: job_attempts.read(connection, record, after, limit))

    async def page(
        self, conditions: Sequence[Condition], after: bytes | None, size: int, *, ascending: bool = False
    ) -> tuple[list[JobRecord], bytes | None]:
        """One page of jobs, and the uid to go on after; see `job_pages.page`."""
        return await self._host.store.read(lambda c: job_pages.page(c, conditions, after, size, ascending=ascending))

    async def retry(self, uid: bytes, *, fresh: bool, from_step: str = "", request_id: str = "") -> JobRecord:
        """Run a job again: from the step that failed, from the one that is named or, `fresh`, all of it.

        Repeatable where there is a `request_id`. Raises `ServiceError`: ILLEGAL_MOVE, QUEUE_NOT_SERVED, and
        INVALID_ARGUMENT for a step that it has not come to.
        """
        check_request_id(request_id)
        if fresh and from_step:
            raise invalid("from_step", "says where to go on, and fresh to do everything anew: say one of the two")
        record = await self._host.find(uid)
        if record.queue not in self._host.queues:
            problem = f"{record.name} is of the queue {record.queue!r}, which this server does not have any more."
            raise ServiceError(Reason.QUEUE_NOT_SERVED, problem, resource=record.name)
        return await self._host.store.writer.submit(self._retry(record, fresh, from_step, request_id))

    async def cancel(self, uid: bytes, reason: str) -> JobRecord:
        """Cancel a job. Repeatable. Raises `ServiceError` for a reason that is too long."""
        check_reason(reason)
        return await self._host.store.writer.submit(CancelJob(uid, reason))

    async def dismiss(self, uid: bytes) -> JobRecord:
        """Be done with a dead letter. Repeatable. Raises `ServiceError` (ILLEGAL_MOVE)."""
        return await self._host.store.writer.submit(DismissJob(uid))

    async def replay(
        self, conditions: Sequence[Condition], after: bytes | None, size: int, *, fresh: bool, request_id: str = ""
    ) -> tuple[int, bytes | None]:
        """Run dead letters again, the oldest first, so many at most, none twice for one `request_id`. Returns how many,
        and the uid to go on after."""
        check_request_id(request_id)
        found, following = await self._dead(conditions, after, size)
        served = [record for record in found if record.queue in self._host.queues]
        count = await self._each(served, lambda record: self._retry(record, fresh, "", request_id))
        return count, following

    async def dismiss_dead(
        self, conditions: Sequence[Condition], after: bytes | None, size: int
    ) -> tuple[int, bytes | None]:
        """Be done with dead letters, as `replay`."""
        found, following = await self._dead(conditions, after, size)
        return await self._each(found, lambda record: DismissJob(record.uid)), following

    async def _dead(
        self, conditions: Sequence[Condition], after: bytes | None, size: int
    ) -> tuple[list[JobRecord], bytes | None]:
        return await self.page([*conditions, _DEAD], after, size, ascending=True)

    async def _each(self, found: Sequence[JobRecord], do: Callable[[JobRecord], Mutation[JobRecord]]) -> int:
        return await self._host.store.writer.submit(ForEachJob(found, do)) if found else 0

    def _retry(self, record: JobRecord, fresh: bool, from_step: str, request_id: str) -> RetryJob:
        deadline = self._host.queues[record.queue].definition.deadline
        return RetryJob(record.uid, fresh, deadline, from_step, request_id)

    async def _about(self, uid: bytes, read: Callable[[sqlite3.Connection, JobRecord], T]) -> T:
        def run(connection: sqlite3.Connection) -> T:
            record = rows.load(connection, uid)
            if record is None:
                raise rows.job_not_found(uid)
            return read(connection, record)

        return await self._host.store.read(run)

    # Queues.

    async def queue(self, name: str) -> tuple[Line, QueueRow]:
        """A queue in this server, and in the store."""
        line = self._host.scheduler.lines.get(name)
        if line is None:
            resource = f"queues/{name[:200]}"
            problem = f"This server has no {resource}{hint_or_all(name, self._host.queues)}"
            raise ServiceError(Reason.QUEUE_NOT_FOUND, problem, resource=resource)
        return line, await self._host.store.read(lambda connection: rows.queue_row(connection, name))

    async def queues(self) -> list[tuple[Line, QueueRow]]:
        """All queues, by name."""
        return [await self.queue(name) for name in sorted(self._host.queues)]

    async def pause(self, name: str, *, paused: bool) -> tuple[Line, QueueRow]:
        """Let no attempt of a queue begin, or let them again. Repeatable."""
        await self.queue(name)
        await self._host.pause(name, paused)
        return await self.queue(name)
