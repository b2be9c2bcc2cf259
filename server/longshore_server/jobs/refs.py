"""A job from outside: its name, what is known of it, the wait for its end. Its id alone makes it again, at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from longshore_server.clock import SECOND
from longshore_server.contract.durations import span
from longshore_server.contract.validation import check_flag, check_reason
from longshore_server.errors import Reason, failure
from longshore_server.handler import codec
from longshore_server.handler.deferral import Attachable
from longshore_server.handler.durable import Durable, handling
from longshore_server.handler.journal import Asked
from longshore_server.handler.running import apart
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.jobs import progress as reports
from longshore_server.jobs.definition import Definition, shown
from longshore_server.jobs.outcomes import JobCancelledError, JobFailedError
from longshore_server.store.job_record import Body, JobRecord
from longshore_server.store.mutations import Author
from longshore_server.store.mutations.job_end import AttachJob, CancelJob

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host

ResultT = TypeVar("ResultT")
WAIT, UNTIL = "wait", "wait_until"
"""Kinds of journal entries: how a job ended that was waited for, and when the wait itself ends."""


@dataclass(frozen=True)
class JobSnapshot:
    """What is known of a job at one time."""

    name: str
    queue: str
    state: JobState
    stand: Stand
    """What a QUEUED one waits for."""
    revision: int
    attempt: int
    """Number of the latest attempt; 0: none has begun."""
    failures: int
    claims: int
    """How many attempts have begun since one came to an outcome."""
    priority: int
    key: str
    reason: str
    """Of the error that it ended with."""
    problem: str
    """What its code raised last, for operators."""
    progress: Message | None
    created: datetime
    updated: datetime
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    deadline: datetime | None
    expires: datetime | None
    cancel_requested: datetime | None
    cancel_reason: str
    operation: str | None


def snapshot(record: JobRecord) -> JobSnapshot:
    """What code sees of a record."""
    return JobSnapshot(
        record.name, record.queue, record.state, record.stand, record.revision, record.attempt, record.failures,
        record.claims, record.priority, record.key, record.reason, record.problem,
        None if record.progress is None else codec.decode(codec.Encoded(*record.progress)),
        datetime.fromtimestamp(record.created / SECOND, UTC), datetime.fromtimestamp(record.updated / SECOND, UTC),
        _time(record.started), _time(record.ended), _time(record.due), _time(record.deadline), _time(record.expires),
        _time(record.cancel_requested), record.cancel_reason,
        None if record.operation is None else f"operations/{uid_text(record.operation)}",
    )  # fmt: skip


class JobRef(Attachable, Generic[ResultT]):
    """One job."""

    def __init__(self, host: Callable[[], Host], definition: Definition, uid: bytes, created: bool = False) -> None:
        self._host = host
        self._definition = definition
        self._uid = uid
        self.created = created
        """Whether the call that gave this has made the job."""

    def __repr__(self) -> str:
        return f"<{self.name} in {self._definition.name}>"

    @property
    def id(self) -> str:
        """The UUIDv7 that is this job's alone."""
        return uid_text(self._uid)

    @property
    def name(self) -> str:
        """`jobs/{id}`."""
        return f"jobs/{self.id}"

    async def get(self) -> JobSnapshot:
        """What is known of it now. Raises `ServiceError` (JOB_NOT_FOUND)."""
        return snapshot(await self._host().find(self._uid, self._definition.name))

    async def wait(self, timeout: float | timedelta | str | None = None) -> ResultT:
        """The result, once there is one.

        In a handler how it ended is an entry of the journal: a re-run is told the same at once, and where a timeout was
        given it waits only what is left of that.

        Args:
            timeout: default: as long as it takes.

        In a job, or an instance's handler, the slot is lent to others meanwhile, and taken back before this returns.

        Raises `JobCancelledError`, `JobFailedError` with the reason; `TimeoutError` when the time is up; `ServiceError`
        JOB_NOT_FOUND at once where there is no such job, or it is deleted meanwhile, and ILLEGAL_MOVE in a handler
        before whose end it cannot end: it waits for the key of that job, for example, or its own handler for that.
        """
        limit = None if timeout is None else span(timeout, zero=True)
        inside, host = handling.get(), self._host()
        if inside is None:
            until = None if limit is None else host.clock.now() + limit
            async with host.waits.of(self._uid, timed=until is not None):
                record = await host.wait(self._uid, self._definition.name, until)
            return self._outcome(record)
        return await self._wait_inside(host, inside, limit)

    async def _wait_inside(self, host: Host, inside: Durable, limit: int | None) -> ResultT:
        asked = Asked(limit)
        key = inside.journal.count(WAIT, apart(self.id))
        entry = inside.journal.recorded(key, asked)
        if entry is None:
            until = None
            if limit is not None:
                until = await inside.until((UNTIL, *key[1:]), asked, limit / SECOND)
            async with host.waits.of(self._uid, timed=until is not None, key=key):
                record = await host.wait(self._uid, self._definition.name, until, inside)
            entry = await inside.record(key, asked, _ending(record))
        return self._decoded(codec.Encoded(entry.codec, entry.outcome))

    def _decoded(self, stored: codec.Encoded) -> ResultT:
        """What the journal has kept of an end."""
        kind, _, rest = stored.codec.partition(" ")
        if kind == "result":
            result: ResultT = codec.decode(codec.Encoded(rest, stored.data), self._definition.result)
            return result
        raise self._error(None if kind == "timeout" else JobState[kind], stored.data, rest)

    def _outcome(self, record: JobRecord) -> ResultT:
        if record.state is JobState.COMPLETED and record.result is not None:
            result: ResultT = codec.decode(codec.Encoded(*record.result), self._definition.result)
            return result
        state = record.state if record.terminal else None
        raise self._error(state, record.error or failure(Reason.INTERNAL), record.cancel_reason)

    def _error(self, state: JobState | None, error: bytes, reason: str) -> Exception:
        if state is None:
            return TimeoutError(f"{self.name} has not ended in time")
        if state is JobState.CANCELLED:
            return JobCancelledError(self.name, reason)
        return JobFailedError(self.name, state, error)

    async def cancel(self, reason: str = "") -> JobState:
        """Ask to cancel it. Returns the state after that: CANCELLED at once, or CANCELLING where it runs and has its
        grace. Repeatable, and does nothing where it has ended. Raises `ServiceError` (JOB_NOT_FOUND, and
        INVALID_ARGUMENT for a reason that is too long), `TypeError` for a reason that is no text."""
        check_reason(reason)
        host = self._host()
        await host.find(self._uid, self._definition.name)
        return (await host.store.writer.submit(CancelJob(self._uid, reason))).state

    def attachment(
        self, author: Author, result: type[Any], progress: type[Any] | None, shared: bool,
        mapping: Callable[[Any], Any] | None,
    ) -> AttachJob:  # fmt: skip
        """For the engine: see `Attachable`."""
        own = Empty if self._definition.result in (None, type(None)) and result is Empty else self._definition.result
        if own != result:
            names = f"{shown(self._definition.result)}, and what is to end with it ends with {shown(result)}"
            raise TypeError(f"job {self._definition.name!r} returns {names}")
        return AttachJob(author, self._uid, check_flag("shared", shared), reports.spell(progress, mapping))


def _ending(record: JobRecord) -> codec.Encoded:
    """How a job ended, or that it did not in time, as the journal keeps it."""
    if record.state is JobState.COMPLETED:
        result = record.result or Body("json", b"null")
        return codec.Encoded(f"result {result.codec}", result.data)
    if not record.terminal:
        return codec.Encoded("timeout", b"")
    return codec.Encoded(f"{record.state.name} {record.cancel_reason}", record.error or failure(Reason.INTERNAL))


def _time(value: int | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value / SECOND, UTC)
