"""`job`: what the function of a queue sees of the job that it runs, and everything that it can do with it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from google.protobuf.message import Message

from longshore_server.handler import codec
from longshore_server.handler.deferral import Attachable, HandOver
from longshore_server.handler.durable import Durable
from longshore_server.handler.journal import Journal
from longshore_server.handler.operation import ServicesT
from longshore_server.handler.reports import counter
from longshore_server.ids import uid_text
from longshore_server.jobs import progress
from longshore_server.jobs.definition import Definition
from longshore_server.store.job_record import Body, JobRecord
from longshore_server.store.mutations.job import ReportJob
from longshore_server.store.mutations.job_end import JobAttempt

if TYPE_CHECKING:
    from longshore_server.jobs.runner import Run

ResultT = TypeVar("ResultT")


class Job(Durable, Generic[ResultT, ServicesT]):
    """The context of one attempt of a job: `Job[R]`, or `Job[R, Services]` where `services` has its type.

    `services`: what the server's lifespan yielded.
    """

    author: JobAttempt

    def __init__(
        self, run: Run, definition: Definition, record: JobRecord, payload: Any, journal: Journal, services: ServicesT
    ) -> None:
        host = run.host
        ends = [record.deadline]
        if definition.timeout is not None and record.begun is not None:
            ends.append(record.begun + definition.timeout)
        super().__init__(
            JobAttempt(record.uid, record.attempt), record.name, journal, host.store.writer, host.clock, host.tracer,
            deadline=record.deadline, ends=min((end for end in ends if end is not None), default=None),
            max_payload=host.max_payload,
            fields={"job": record.name, "queue": record.queue, "attempt": record.attempt},
        )  # fmt: skip
        self.run = run
        """For the engine: the attempt, with what it holds."""
        self._definition = definition
        self._record = record
        self.payload = payload
        """What it is to work on."""
        self.services: ServicesT = services
        """What the server's lifespan yielded."""
        self.hand_over = HandOver(self.author, host.store.writer, host.waits)
        """For the engine: what this attempt has given away."""

    @property
    def id(self) -> str:
        """The name without `jobs/`."""
        return uid_text(self._record.uid)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._record.queue

    @property
    def key(self) -> str:
        """What its queue's template made of the payload; empty: the queue has none."""
        return self._record.key

    @property
    def failures(self) -> int:
        """How many attempts have failed."""
        return self._record.failures

    @property
    def operation(self) -> str | None:
        """`operations/{uid}` of the operation behind which it works, for `server.operations.control`; None: none."""
        uid = self._record.operation
        return None if uid is None else f"operations/{uid_text(uid)}"

    @property
    def operation_uid(self) -> bytes | None:
        """For the engine: the same as the store keys it."""
        return self._record.operation

    @overload
    def progress(self, value: int, total: int | None = None, message: str = "") -> Awaitable[None]: ...

    @overload
    def progress(self, value: Message) -> Awaitable[None]: ...

    def progress(self, value: Any, total: int | None = None, message: str = "") -> Awaitable[None]:
        """Report progress: how much of how much, or a protobuf message. It counts as a heartbeat.

        Queued in order at once; await the result to know that it is durable. Where the job is attached to an operation
        it becomes that one's progress; see `Operation.attach`.

        Raises `TypeError` for what is neither, `ValueError` for a message larger than the server sends; the awaitable
        raises `ServiceError` when this attempt may no longer report.
        """
        if type(value) is int:
            value = counter(self.name, value, total, message)
        if not isinstance(value, Message):
            raise TypeError(f"{self.name}: progress is numbers or a protobuf message, not {type(value).__name__}")
        stored = codec.encode(value)
        if len(stored.data) > self.run.host.max_payload:
            limit = self.run.host.max_payload
            raise ValueError(f"{self.name}: progress of {len(stored.data)} bytes, more than the {limit} there may be")
        attachments = self.run.record.attachments
        # Once for all that have it in the same way: there may be a thousand, also some that have ended by themselves.
        made = {spelled: progress.translate(spelled, value) for spelled in {a.progress for a in attachments} if spelled}
        reports = [(a.target, report) for a in attachments if (report := made.get(a.progress)) is not None]
        return self._report(Body(*stored), reports)

    def heartbeat(self) -> Awaitable[None]:
        """Say that this attempt is alive, where the queue wants to hear so; durable when it has been awaited.

        The awaitable raises `ServiceError` (STALE_ATTEMPT) when another attempt has taken the job over: stop then.
        """
        return self._report(None, ())

    async def attach(self, job: Attachable, *, shared: bool = False) -> ResultT:
        """Hand this job over to another one: `return await job.attach(other)`. It ends as that one does, and has no
        slot and no place of its key from now on.

        Raises `TypeError` where the other has another result, `ServiceError` where neither would ever end, and for one
        that was created elsewhere, unless `shared`, or has been attached a thousand times.
        """
        if not isinstance(job, Attachable):
            raise TypeError(f"attach takes a job, not {job!r}")
        await self.hand_over.give(job.attachment(self.author, self._definition.result, None, shared, None))
        return cast("ResultT", None)

    def _report(self, value: Body | None, reports: Any) -> Awaitable[None]:
        self.run.heard()
        return self._writer.submit(ReportJob(self.author, self._definition.heartbeat, value, reports))
