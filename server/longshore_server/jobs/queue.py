"""A queue, as code sees it: what `@server.job(...)` makes of a function."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from longshore_server.clock import SECOND
from longshore_server.contract.durations import LONGEST, span
from longshore_server.contract.validation import check_flag, check_text
from longshore_server.errors import Reason, ServiceError
from longshore_server.handler import codec
from longshore_server.handler.durable import handling
from longshore_server.handler.journal import Asked, place
from longshore_server.ids import parse_uuid
from longshore_server.jobs.definition import Definition, Span
from longshore_server.jobs.outcomes import Accepted, Coalesced, JobNotEnqueuedError, Outcome, Rejected, Replaced
from longshore_server.jobs.planned import Origin, PlannedJob
from longshore_server.jobs.refs import JobRef
from longshore_server.store.job_record import Body, new_job
from longshore_server.store.job_rows import payloads
from longshore_server.store.mutations.job_creation import Admission, NewJob, WhenFull, read_back, written
from longshore_server.store.record import JournalEntry

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")
KIND = "job"
"""The kind of journal entries: the jobs that a call has made."""
MAX_IDEMPOTENCY_KEY = 256
"""The longest idempotency key, in characters."""
PRIORITIES = range(-(1 << 31), 1 << 31)
MAX_BATCH = 5000
"""The most jobs of one batch: it is one transaction, behind which the changes of all others wait."""


@dataclass(frozen=True)
class JobRequest(Generic[PayloadT]):
    """A job to be created, with options of its own; see `JobQueue.create`."""

    payload: PayloadT
    priority: int = 0
    delay: Span | None = None
    run_at: datetime | None = None
    idempotency_key: str | None = None
    detached: bool = False


class JobQueue(Generic[PayloadT, ResultT]):
    """Creates jobs, and finds them.

    In a handler, of an operation or of another job, what creates them is an entry of its journal, made in the same
    transaction: a re-run finds the jobs of the first one. Its name is the queue's, once in each attempt; a second call
    needs a `name`.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        """For the engine: what the decorator said."""
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<queue {self.name}>"

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.definition.name

    def bind(self, host: Host | None) -> None:
        """For the server: what runs now."""
        self._host = host

    def create(
        self, payload: PayloadT, *, priority: int = 0, delay: Span | None = None, run_at: datetime | None = None,
        idempotency_key: str | None = None, name: str | None = None, detached: bool = False,
    ) -> Coroutine[Any, Any, JobRef[ResultT]]:  # fmt: skip
        """Create a job; durable when this returns.

        Args:
            priority: the highest is run first; among equals the oldest.
            delay: how long it waits before it may run; shorter than the queue's `deadline`.
            run_at: from when on it may run, with a time zone, in place of `delay`.
            idempotency_key: a second call with the same key gives the job of the first one, for as long as that is kept
                or the queue's `idempotency_ttl` says.
            name: tells it from other calls of this queue in one handler.
            detached: whether it goes on when the operation or the job that creates it is cancelled, or too late.

        Raises `JobNotEnqueuedError` where its key has no room, whatever the queue does then for `submit`; `TypeError`
        for another payload than the function takes; `ServiceError` for a payload that makes no key or is too large, for
        an idempotency key that has made a job of another payload (REQUEST_ID_REUSED), where the queue is full
        (TOO_MANY_JOBS), and outside of handlers when the server stops; in handlers `DuplicateNameError` and
        `NonDeterministicError`. Nothing is written then.
        """
        request = JobRequest(payload, priority, delay, run_at, idempotency_key, detached)
        # No coroutine itself: in a task of its own it would find only asyncio as its caller.
        return self._create([request], name, place(2), batch=False)

    def create_many(
        self, payloads: Iterable[PayloadT | JobRequest[PayloadT]], *, name: str | None = None
    ) -> Coroutine[Any, Any, list[JobRef[ResultT]]]:
        """Create jobs in one transaction, at most 5000, all or none. A `JobRequest` has options of its own.

        Raises as `create`; the error says which of them it is about, from 0. `ValueError` for more.
        """
        requests = [p if isinstance(p, JobRequest) else JobRequest(p) for p in islice(payloads, MAX_BATCH + 1)]
        if len(requests) > MAX_BATCH:
            raise ValueError(f"payloads: there are more than {MAX_BATCH:,}, the most of one batch: make several")
        return self._create_many(requests, name, place(2))

    def submit(
        self, payload: PayloadT, *, priority: int = 0, delay: Span | None = None, run_at: datetime | None = None,
        idempotency_key: str | None = None, name: str | None = None, detached: bool = False,
    ) -> Coroutine[Any, Any, Outcome[ResultT]]:  # fmt: skip
        """Create a job, or do what the queue does where its key has no room: the outcome says what has become of it.

        Takes what `create` takes, and raises what that does, but for `JobNotEnqueuedError`.
        """
        request = JobRequest(payload, priority, delay, run_at, idempotency_key, detached)
        return self._submit(request, name, place(2))

    def plan(
        self, payload: PayloadT, *, priority: int = 0, delay: Span | None = None, run_at: datetime | None = None,
        idempotency_key: str | None = None, detached: bool = False,
    ) -> PlannedJob[ResultT]:  # fmt: skip
        """A job that an operation creates by a change of its own, both or neither: by what its handler returns
        (`Operation.then`), by `Operation.defer`, or by a call of its `OperationControl`.

        Takes what `create` takes. What has no room for its key keeps the operation as it is, too. Raises for what is
        wrong with it as `create` does.
        """
        request = JobRequest(payload, priority, delay, run_at, idempotency_key, detached)

        def make(used: set[tuple[str, str]], origin: Origin) -> NewJob:
            return self._new(self._require(), request, WhenFull.REJECT, used, origin)

        make(set(), Origin())  # what is wrong with it is said here
        return PlannedJob(self._require, make, lambda admission: self._refer(_uid(admission), admission))

    def job(self, id: str) -> JobRef[ResultT]:
        """The job with this id, or name: `jobs/{id}`. It is not looked for before it is asked something.

        Raises `ServiceError` (INVALID_NAME) for what is no id, `TypeError` for what is no text.
        """
        uid = parse_uuid(check_text("id", id).removeprefix("jobs/"))
        if uid is None:
            form = "jobs/{id}, where {id} is the UUID that `longshore jobs ls` shows"
            raise ServiceError(Reason.INVALID_NAME, f"{id[:200]!r} is not of the form {form}.")
        return self._ref(uid)

    def _ref(self, uid: bytes, created: bool = False) -> JobRef[ResultT]:
        return JobRef(self._require, self.definition, uid, created)

    def _require(self) -> Host:
        if self._host is None:
            raise RuntimeError(f"queue {self.name!r} works while its server runs")
        return self._host

    async def _create(
        self, requests: Sequence[JobRequest[PayloadT]], name: str | None, where: str, *, batch: bool
    ) -> JobRef[ResultT]:
        return (await self._refs(requests, name, where, batch=batch))[0]

    async def _create_many(
        self, requests: Sequence[JobRequest[PayloadT]], name: str | None, where: str
    ) -> list[JobRef[ResultT]]:
        return await self._refs(requests, name, where, batch=True)

    async def _refs(
        self, requests: Sequence[JobRequest[PayloadT]], name: str | None, where: str, *, batch: bool
    ) -> list[JobRef[ResultT]]:
        found = await self._enqueue(requests, name, where, "create", WhenFull.REJECT, batch=batch)
        return [self._refer(uid, admission, batch=batch) for uid, admission in found]

    def _refer(self, uid: bytes | None, admission: Admission, *, batch: bool = False) -> JobRef[ResultT]:
        """The job that there is now. Raises `JobNotEnqueuedError` where there was no room."""
        if uid is None:
            raise JobNotEnqueuedError(self.name, self._rejected(admission), admission.position, batch=batch)
        return self._ref(uid, admission.created)

    async def _submit(self, request: JobRequest[PayloadT], name: str | None, where: str) -> Outcome[ResultT]:
        policy = self.definition.when_full
        ((uid, admission),) = await self._enqueue([request], name, where, "submit", policy, batch=False)
        if uid is None:
            return self._rejected(admission)
        ref = self._ref(uid, admission.created)
        if admission.replaced is not None:
            return Replaced(ref, self._ref(admission.replaced))
        return Coalesced(ref) if admission.key and not admission.created else Accepted(ref)

    def _rejected(self, admission: Admission) -> Rejected:
        assert admission.obstacle is not None
        existing = "" if admission.existing is None else self._ref(admission.existing).name
        return Rejected(
            admission.obstacle, admission.key, admission.active, admission.queued, admission.limit, existing
        )

    async def _enqueue(
        self, requests: Sequence[JobRequest[PayloadT]], name: str | None, where: str, verb: str, policy: WhenFull,
        *, batch: bool,
    ) -> list[tuple[bytes | None, Admission]]:  # fmt: skip
        """Each request's job, and what became of it. In a handler the journal's, where it has one."""
        host, by = self._require(), handling.get()
        origin = Origin() if by is None else Origin(by.author.uid, by.operation_uid)
        news = []
        used: set[tuple[str, str]] = set()
        for position, request in enumerate(requests):
            try:
                news.append(self._new(host, request, policy, used, origin))
            except (TypeError, ValueError, ServiceError) as error:
                if not batch:
                    raise
                raise _at(position, error) from None
        if by is None:
            if not news:
                return []
            return [(_uid(a), a) for a in await host.create(news, None)]
        asked = self._asked(verb, requests)
        key = await by.journal.claim(KIND, name or self.name, where)
        before = by.journal.found(key)
        if before is not None and before.digest != asked.digest:
            # Written by an older version of the code, the same payload may have had other bytes.
            then = self._asked(verb, await self._as_stored(host, requests, news, read_back(before.outcome)))
            asked = then if then.digest == before.digest else asked
        entry = by.journal.recorded(key, asked)
        if entry is not None:
            return read_back(entry.outcome)
        made = by.journal.entry(key, by.attempt, asked, "jobs")

        def kept(found: list[Admission]) -> JournalEntry | None:
            rejected = found and found[0].job is None and verb == "create"
            return None if rejected else made._replace(outcome=written(found))

        creation = host.create(news, (by.author, made), keep_rejection=verb == "submit")
        return [(_uid(a), a) for a in await by.journal.write(key, creation, kept)]

    def _asked(self, verb: str, requests: Sequence[JobRequest[Any]]) -> Asked:
        """What a journal compares."""
        return Asked(self.name, verb, *(_parts(request) for request in requests))

    async def _as_stored(
        self, host: Host, requests: Sequence[JobRequest[Any]], news: Sequence[NewJob],
        found: Sequence[tuple[bytes | None, Admission]],
    ) -> list[JobRequest[Any]]:  # fmt: skip
        """The requests of a re-run: those whose payload is stored in other bytes, and is the same, with these bytes."""
        uids = [uid for uid, admission in found if uid is not None and admission.created]
        stored = await host.store.read(lambda connection: payloads(connection, uids))
        again = list(requests)
        for position, (new, (uid, admission)) in enumerate(zip(news, found, strict=False)):
            payload = admission.payload or stored.get(uid or b"")
            if payload is not None and payload != new.payload and new.is_same and new.is_same(payload):
                again[position] = replace(requests[position], payload=codec.Encoded(*payload))
        return again

    def _new(
        self, host: Host, request: JobRequest[PayloadT], policy: WhenFull, used: set[tuple[str, str]], origin: Origin
    ) -> NewJob:
        """A job as the store takes it. Raises `TypeError`, `ValueError` or `ServiceError` for what is wrong with it.

        `used`: the idempotency keys of the batch so far.
        """
        definition = self.definition
        definition.check_payload(request.payload)
        try:
            payload = codec.encode(request.payload)
        except codec.NotStorableError as error:
            raise TypeError(f"job {self.name!r}: {error}") from None
        if len(payload.data) > host.max_input:
            problem = f"The payload is {len(payload.data)} bytes; the server accepts {host.max_input}."
            raise ServiceError(Reason.INPUT_TOO_LARGE, problem, metadata={"limit": str(host.max_input)})
        if type(request.priority) is not int or request.priority not in PRIORITIES:
            raise ValueError(f"priority: {request.priority!r} is no whole number of 32 bits")
        check_flag("detached", request.detached)
        if request.idempotency_key is not None:
            if not isinstance(request.idempotency_key, str):
                raise TypeError(f"idempotency_key must be a text, not {request.idempotency_key!r}")
            if not 0 < len(request.idempotency_key) <= MAX_IDEMPOTENCY_KEY or not request.idempotency_key.isprintable():
                raise ValueError(f"idempotency_key: it must have 1 to {MAX_IDEMPOTENCY_KEY} printable characters")
            if (self.name, request.idempotency_key) in used:
                raise ValueError(f"idempotency_key: {request.idempotency_key!r} is that of another job of the batch")
            used.add((self.name, request.idempotency_key))
        uid, now = host.uids.next(), host.uids.time
        due = _due(request, now)
        if due is not None and definition.deadline is not None and due - now >= definition.deadline:
            option = "run_at" if request.delay is None else "delay"
            bound = f"the queue's deadline, {definition.deadline / SECOND:g} s after its creation"
            raise ValueError(f"{option}: the job could never run: it is not due before {bound}, when it is EXPIRED")
        record = new_job(
            uid, self.name, now, priority=request.priority,
            key="" if definition.key is None else definition.key.render(request.payload), due=due,
            deadline=None if definition.deadline is None else now + definition.deadline,
            parent=origin.parent, operation=origin.operation, detached=request.detached,
            trace=host.tracer.traceparent(),
        )  # fmt: skip

        def is_same(stored: Body) -> bool:
            return codec.same(codec.Encoded(*stored), request.payload, definition.payload)

        request_id = request.idempotency_key or ""
        digest = hashlib.sha256(payload.identity).digest()[:16] if request_id else b""
        return NewJob(
            record, Body(*payload), definition.max_active, definition.max_queued, policy, False, definition.heartbeat,
            digest, request_id, definition.idempotency_ttl, is_same if payload.by_class else None,
        )  # fmt: skip


def _uid(admission: Admission) -> bytes | None:
    return None if admission.job is None else admission.job.uid


def _due(request: JobRequest[Any], now: int) -> int | None:
    """When the job may run; None: at once."""
    if request.delay is not None and request.run_at is not None:
        raise ValueError("delay and run_at say the same: give one of them")
    due = now
    if request.delay is not None:
        try:
            due = now + span(request.delay, zero=True)
        except (TypeError, ValueError) as error:
            raise type(error)(f"delay: {error}") from None
    elif request.run_at is not None:
        if not isinstance(request.run_at, datetime):
            raise TypeError(f"run_at: {request.run_at!r} is no datetime: give one with a time zone")
        if request.run_at.tzinfo is None:
            raise ValueError("run_at: it has no time zone: give one, such as datetime.now(UTC)")
        due = round(request.run_at.timestamp() * SECOND)
        if due > now + LONGEST * SECOND:
            raise ValueError(f"run_at: {request.run_at} is more than {LONGEST:,} seconds from now")
    return due if due > now else None


def _parts(request: JobRequest[Any]) -> list[Any]:
    return [
        request.payload, request.priority, str(request.delay), str(request.run_at), request.idempotency_key or "",
        request.detached,
    ]  # fmt: skip


def _at(position: int, error: Exception) -> Exception:
    """The same error, of one request among several."""
    if isinstance(error, ServiceError):
        return ServiceError(
            error.reason, f"[{position}]: {error.message}", violations=error.violations, resource=error.resource,
            retry_after=error.retry_after, metadata=error.metadata,
        )  # fmt: skip
    return type(error)(f"[{position}]: {error}")
