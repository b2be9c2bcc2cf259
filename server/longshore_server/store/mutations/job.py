"""Jobs: how they are created, claimed, reported on and ended, and what ends with them.

Whatever ends a job ends in the same transaction the operations and jobs that are attached to it, and lets the next job
of its key become ready.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobMove, JobState, Stand
from longshore_server.lifecycle import Move, State
from longshore_server.store.jobs import (
    Attachment,
    Body,
    JobRecord,
    Jobs,
    KeyMember,
    QueueRow,
    TargetKind,
    next_event,
    payload,
)
from longshore_server.store.mutations.attempt import Report
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.mutations.settle import Settle
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import Transaction

BATCH = 256
"""The most jobs that time changes in one transaction: callers' changes wait behind it."""
URL_PREFIX = "type.googleapis.com/"


class JobAttempt(Author):
    """An attempt of a job."""

    __slots__ = ()

    def check(self, tx: Transaction) -> None:
        tx.ledger(Jobs).current(self.uid, self.attempt)

    def hand_over(self, tx: Transaction) -> None:
        jobs = tx.ledger(Jobs)
        jobs.note(jobs.current(self.uid, self.attempt), deferred=True, lease=None)


# Creation.


class WhenFull(enum.Enum):
    """What becomes of a job whose key has no room."""

    REJECT = "reject"
    COALESCE = "coalesce"
    REPLACE_OLDEST = "replace_oldest"


class Obstacle(enum.Enum):
    """Why a key has no room."""

    ACTIVE_LIMIT = "ACTIVE_LIMIT"
    """As many jobs of it are active as may be, and none may wait."""
    QUEUE_DEPTH = "QUEUE_DEPTH"
    """As many wait as may."""
    STALE_BLOCKED = "STALE_BLOCKED"
    """One that was lost keeps its place until somebody looks after it."""


class NewJob(NamedTuple):
    """A job to be created. `begin`: a slot of its queue is kept for it, so that it may be ACTIVE at once."""

    record: JobRecord
    payload: Body
    slots: int
    max_queued: int | None
    when_full: WhenFull
    begin: bool
    lease: int | None
    digest: bytes = b""
    request_id: str = ""
    request_ttl: int | None = None


class Admission(NamedTuple):
    """What became of one new job."""

    job: JobRecord | None
    """The one that there is for it: a new one or, where it was coalesced, an older. None: it was rejected."""
    created: bool = False
    replaced: bytes | None = None
    obstacle: Obstacle | None = None
    key: str = ""
    active: int = 0
    queued: int = 0
    limit: int = 0
    existing: bytes | None = None
    """Of a rejected one: a job that has the key."""
    position: int = 0
    """Among those that are created together, from 0."""


@dataclass(slots=True)
class CreateJobs(Mutation[list[Admission]]):
    """Create jobs, all or nothing: where one is rejected there is only its admission, and nothing was changed.

    `by`: the attempt that creates them, and the entry of its journal, to which `outcome` writes what became of them.
    `refusal`: why nothing new may begin now; an idempotency key still finds its job.
    """

    jobs: Sequence[NewJob]
    by: tuple[Author, JournalEntry] | None = None
    keep_rejection: bool = False
    refusal: ServiceError | None = None

    @property
    def patient(self) -> bool:
        return self.by is not None

    def apply(self, tx: Transaction) -> list[Admission]:
        jobs = tx.ledger(Jobs)
        if self.by is not None:
            self.by[0].check(tx)
        plans = self._plan(jobs)
        rejected = [plan for plan in plans if plan.obstacle is not None and plan.job is None]
        if rejected:
            done = rejected[:1]
        else:
            done = [self._carry_out(tx, jobs, new, plan) for new, plan in zip(self.jobs, plans, strict=True)]
        if self.by is not None and (self.keep_rejection or not rejected):
            author, entry = self.by
            tx.note_journal(author.uid, entry._replace(outcome=written(done)))
        return done

    def _plan(self, jobs: Jobs) -> list[Admission]:
        """What is to become of each. Changes nothing."""
        planned: dict[tuple[str, str], int] = {}
        plans = []
        for position, new in enumerate(self.jobs):
            plan = self._known(jobs, new)
            if plan is None:
                if self.refusal is not None:
                    raise self.refusal
                plan = Admission(new.record, True)
                if new.record.key:
                    place = (new.record.queue, new.record.key)
                    before = planned.get(place, 0)
                    plan = _admit(jobs, new, before)
                    planned[place] = before + 1
            plans.append(plan._replace(position=position))
        return plans

    def _known(self, jobs: Jobs, new: NewJob) -> Admission | None:
        """The job that the same request has created before."""
        if not new.request_id:
            return None
        claim = jobs.request(new.record.queue, new.request_id)
        if claim is None:
            return None
        uid, digest = claim
        if digest != new.digest:
            raise ServiceError(
                Reason.REQUEST_ID_REUSED,
                f"idempotency key {new.request_id!r} already created jobs/{uid_text(uid)} with another payload: use a "
                "new key for a new job.",
                metadata={"request_id": new.request_id},
            )
        return Admission(jobs.head(uid))

    def _carry_out(self, tx: Transaction, jobs: Jobs, new: NewJob, plan: Admission) -> Admission:
        if not plan.created:
            return plan
        if plan.replaced is not None:
            end(tx, jobs.head(plan.replaced), JobMove.REPLACE, error=failure(Reason.REPLACED))
        record = new.record
        if record.key and record.stand is Stand.READY:
            members = jobs.members(record.queue, record.key, new.slots)
            if sum(member.stand <= Stand.READY for member in members) >= new.slots:
                record = record.evolve(stand=Stand.BLOCKED)
        record = jobs.insert(record, new.payload)
        if new.begin and record.stand is Stand.READY and not jobs.queue(record.queue).paused:
            if jobs.take(record.queue) is None:
                record = claim(jobs, record, new.lease)
        if new.request_id:
            expires = None if new.request_ttl is None else jobs.now + new.request_ttl
            jobs.claim_request(record.queue, new.request_id, record.uid, new.digest, expires)
        return plan._replace(job=record)


def _admit(jobs: Jobs, new: NewJob, planned: int) -> Admission:
    """Whether the key of a new job has room for it, besides so many that come before it."""
    record = new.record
    limit = new.slots + (new.max_queued or 0)
    members = jobs.members(record.queue, record.key, limit)
    if new.max_queued is None or len(members) + planned < limit:
        return Admission(record, True)
    waiting = [member for member in members if member.state is JobState.QUEUED]
    active = len(members) - len(waiting)
    oldest = _oldest(waiting) or _oldest(members)
    stale = any(member.state is JobState.STALE for member in members)
    # A stale one does nobody's work, and neither does what waits behind it.
    if new.when_full is WhenFull.COALESCE and oldest is not None and not stale:
        return Admission(jobs.head(oldest.uid), key=record.key)
    if new.when_full is WhenFull.REPLACE_OLDEST and waiting:
        return Admission(record, True, replaced=_oldest(waiting).uid, key=record.key)  # type: ignore[union-attr]
    obstacle = Obstacle.QUEUE_DEPTH if new.max_queued else Obstacle.ACTIVE_LIMIT
    if stale:
        obstacle = Obstacle.STALE_BLOCKED
    bound = new.slots if obstacle is Obstacle.ACTIVE_LIMIT else (new.max_queued or 0)
    existing = None if oldest is None else oldest.uid
    return Admission(None, False, None, obstacle, record.key, active, len(waiting) + planned, bound, existing)


def _oldest(members: Sequence[KeyMember]) -> KeyMember | None:
    return min(members, key=lambda member: member.uid, default=None)


def read_back(data: bytes) -> list[tuple[bytes | None, Admission]]:
    """What `written` has kept: of each job its uid, and the admission without it."""
    found = []
    for job, created, replaced, obstacle, key, active, queued, limit, existing, position in json.loads(data):
        admission = Admission(
            None, created, _uid(replaced), None if obstacle is None else Obstacle(obstacle), key, active, queued,
            limit, _uid(existing), position,
        )  # fmt: skip
        found.append((_uid(job), admission))
    return found


def _uid(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def written(admissions: Sequence[Admission]) -> bytes:
    """What a journal keeps of `CreateJobs`."""
    return json.dumps(
        [
            [
                None if a.job is None else a.job.uid.hex(), a.created, a.replaced and a.replaced.hex(),
                a.obstacle and a.obstacle.value, a.key, a.active, a.queued, a.limit, a.existing and a.existing.hex(),
                a.position,
            ]
            for a in admissions
        ]
    ).encode()  # fmt: skip


# Attempts.


def claim(jobs: Jobs, head: JobRecord, lease: int | None) -> JobRecord:
    """Let an attempt begin."""
    now = max(jobs.now, head.updated)
    return jobs.make(
        head, JobMove.CLAIM, attempt=head.attempt + 1, claims=head.claims + 1, begun=now, started=head.started or now,
        lease=None if lease is None else now + lease,
    )  # fmt: skip


class Claimed(NamedTuple):
    """What a claim has got: jobs with what they are to work on; and when the rate allows more, where it did not."""

    jobs: list[tuple[JobRecord, Body]]
    again: int | None = None


@dataclass(slots=True)
class ClaimJobs(Mutation[Claimed]):
    """Begin attempts of the next jobs of a queue, `limit` at most: the highest priority first, then the oldest."""

    queue: str
    limit: int
    lease: int | None

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> Claimed:
        jobs = tx.ledger(Jobs)
        claimed: list[tuple[JobRecord, Body]] = []
        if jobs.queue(self.queue).paused:
            return Claimed(claimed)
        for head in jobs.ready(self.queue, self.limit):
            again = jobs.take(self.queue)
            if again is not None:
                return Claimed(claimed, again)
            claimed.append((claim(jobs, head, self.lease), payload(tx.connection, head.uid)))
        return Claimed(claimed)


@dataclass(slots=True)
class ReportJob(Mutation[None]):
    """The current attempt of a job is heard of: with progress, or without.

    `reports`: what the progress means to attached operations: their uids, and serialized `google.protobuf.Any`s.
    """

    author: JobAttempt
    lease: int | None
    progress: Body | None = None
    reports: Sequence[tuple[bytes, bytes]] = ()

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        jobs = tx.ledger(Jobs)
        head = jobs.current(self.author.uid, self.author.attempt)
        facts: dict[str, Any] = {"lease": None if self.lease is None else jobs.now + self.lease}
        if self.progress is None:
            jobs.note(head, **facts)
            return
        jobs.make(head, JobMove.PROGRESS, progress=self.progress, **facts)
        for uid, value in self.reports:
            operation = _operation(tx, uid)
            if operation is not None and operation.state in (State.RUNNING, State.CANCELLING):
                Report(uid, None, Move.PROGRESS, value).apply(tx)


@dataclass(slots=True)
class SettleJob(Mutation[JobRecord]):
    """The end of an attempt: COMPLETE with a result; FAIL, BURY or CANCEL with an error; REQUEUE to be made again.

    `by` None: of whatever attempt there is. `delay`: of REQUEUE, in microseconds. What comes in CANCELLING ends as
    CANCELLED: the request came first.
    """

    uid: bytes
    attempt: int | None
    move: JobMove
    result: Body | None = None
    error: bytes | None = None
    problem: str = ""
    delay: int = 0

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid) if self.attempt is None else jobs.current(self.uid, self.attempt)
        if head.state is JobState.CANCELLING:
            return end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))
        facts: dict[str, Any] = {} if self.error is None else {"error": self.error, "problem": self.problem}
        if self.move is JobMove.REQUEUE:
            return requeue(jobs, head, self.delay, failures=head.failures + 1, claims=0, **facts)
        if self.result is not None:
            facts["result"] = self.result
        return end(tx, head, self.move, **facts)


def requeue(jobs: Jobs, head: JobRecord, delay: int = 0, **facts: Any) -> JobRecord:
    """Let a job be run again: at once it keeps its place among the active ones of its key, later it leaves it."""
    if delay > 0:
        facts.update(stand=Stand.DELAYED, due=max(jobs.now, head.updated) + delay)
    else:
        facts["stand"] = Stand.READY
    return jobs.make(head, JobMove.REQUEUE, **facts)


@dataclass(slots=True)
class LoseJob(Mutation[JobRecord]):
    """An attempt was not heard of in time: it is fenced off, and the policy of the queue decides.

    `move`: REQUEUE, FAIL or LOSE; REQUEUE at most `max_claims` times in a row.
    """

    uid: bytes
    attempt: int
    move: JobMove
    max_claims: int

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.current(self.uid, self.attempt)
        if head.lease is None or head.lease > jobs.now:
            return head  # it was heard of meanwhile
        error = failure(Reason.HEARTBEAT_LOST)
        if head.state is JobState.CANCELLING:
            return end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))
        if self.move is JobMove.REQUEUE and head.claims < self.max_claims:
            return requeue(jobs, head, error=error)
        if self.move is JobMove.LOSE:
            return jobs.make(head, JobMove.LOSE, error=error)
        return end(tx, head, JobMove.BURY if self.move is JobMove.REQUEUE else self.move, error=error)


@dataclass(slots=True)
class ReleaseJobs(Mutation[list[JobRecord]]):
    """The attempts that are under way are lost with their server: each is to be made again.

    `max_claims`: by queue, after how many attempts in a row that came to no outcome a job is buried. `crashed` False:
    the stop was announced, and does not count.
    """

    max_claims: Mapping[str, int]
    crashed: bool

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> list[JobRecord]:
        jobs = tx.ledger(Jobs)
        done = []
        for queue, most in self.max_claims.items():
            running = "queue = ? AND state IN (2, 3) AND ended IS NULL AND deferred = 0 ORDER BY uid"
            for head in jobs.select(running, queue):
                if head.state is JobState.CANCELLING:
                    done.append(end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason)))
                elif not self.crashed:
                    done.append(requeue(jobs, head, claims=head.claims - 1))
                elif head.claims >= most:
                    message = f"It was under way in {head.claims} crashes of the server in a row."
                    done.append(end(tx, head, JobMove.BURY, error=failure(Reason.CRASH_LOOP, message)))
                else:
                    done.append(requeue(jobs, head))
        return done


# Ends.


def end(tx: Transaction, head: JobRecord, move: JobMove, **facts: Any) -> JobRecord:
    """End a job, and with it what is attached to it. `facts`: `result`, or `error` and `problem`."""
    jobs = tx.ledger(Jobs)
    record = jobs.make(head, move, **facts)
    for attachment in record.attachments:
        _settle(tx, attachment, record)
    return record


def _settle(tx: Transaction, attachment: Attachment, job: JobRecord) -> None:
    """End what is attached to a job that has ended, as that has."""
    error = job.error or failure(Reason.INTERNAL)
    if attachment.kind is TargetKind.JOB:
        target = tx.ledger(Jobs).find(attachment.target)
        if target is None or not target.resident or not target.deferred:
            return
        if target.state is JobState.CANCELLING or job.state is JobState.CANCELLED:
            end(tx, target, JobMove.CANCEL, error=failure(Reason.CANCELLED, job.cancel_reason))
        elif job.state is JobState.COMPLETED:
            end(tx, target, JobMove.COMPLETE, result=job.result)
        else:
            end(tx, target, JobMove.FAIL, error=error, problem=job.problem)
        return
    operation = _operation(tx, attachment.target)
    if operation is None or operation.terminal:
        return
    settle = Settle(operation.uid, None, Move.FAIL, _in_domain(error, operation.type.rpartition(".")[0]))
    if job.state is JobState.COMPLETED:
        settle = Settle(operation.uid, None, Move.COMPLETE, _packed(job.result))
    elif job.state is JobState.CANCELLED:
        settle = Settle(operation.uid, None, Move.CANCEL, failure(Reason.CANCELLED, job.cancel_reason))
    settle.apply(tx)


def _operation(tx: Transaction, uid: bytes) -> OperationRecord | None:
    try:
        return tx.head(uid)
    except ServiceError:
        return None  # deleted


def _packed(result: Body | None) -> bytes:
    """The result as an operation has it: a message, or an empty one where the job returns nothing."""
    if result is None or not result.codec.startswith("proto:"):
        return AnyMessage(type_url=URL_PREFIX + Empty.DESCRIPTOR.full_name).SerializeToString()
    return AnyMessage(type_url=URL_PREFIX + result.codec[6:], value=result.data).SerializeToString()


def _in_domain(error: bytes, domain: str) -> bytes:
    """The error of a job, which knows of no contract, as that of an operation, whose contract defines its reason."""
    status = status_pb2.Status.FromString(error)
    info = error_details_pb2.ErrorInfo()
    if not status.details or not status.details[0].Unpack(info) or info.domain:
        return error
    info.domain = domain
    status.details[0].Pack(info)
    return status.SerializeToString()


@dataclass(slots=True)
class AttachJob(Mutation[JobRecord]):
    """An attempt hands its operation, or its job, over: it ends as the job `uid` does, at once where that has ended."""

    author: Author
    uid: bytes
    shared: bool
    progress: str = ""

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        self.author.check(tx)
        head = jobs.head(self.uid)
        kind = TargetKind.JOB if isinstance(self.author, JobAttempt) else TargetKind.OPERATION
        attachment = Attachment(self.author.uid, kind, self.progress)
        if kind is TargetKind.JOB:
            self._check_chain(jobs, head)
        if head.parent != self.author.uid and not self.shared:
            problem = f"{head.name} was created elsewhere, and others may wait for it: attach it with shared=True."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        self.author.hand_over(tx)
        if head.terminal:
            _settle(tx, attachment, head)
            return head
        return jobs.attach(head, attachment)

    def _check_chain(self, jobs: Jobs, head: JobRecord) -> None:
        """Raises `ServiceError` (ILLEGAL_MOVE) where the one would wait for the other for ever."""
        own = jobs.head(self.author.uid)
        problem = ""
        if head.stand is Stand.BLOCKED and (head.queue, head.key) == (own.queue, own.key):
            problem = f"waits for the key {own.key!r}, which {own.name} has"
        ends = [own.uid]
        while ends:
            uid = ends.pop()
            if uid == head.uid:
                problem = f"ends with {own.name} itself"
                break
            found = jobs.find(uid)
            ends += [] if found is None else [attachment.target for attachment in found.attachments]
        if problem:
            raise ServiceError(Reason.ILLEGAL_MOVE, f"{head.name} {problem}: neither would end.", resource=head.name)


@dataclass(slots=True)
class CancelJob(Mutation[JobRecord]):
    """Somebody asks to cancel a job: it ends at once, or has its grace where it runs. Repeatable."""

    uid: bytes
    reason: str

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        return head if head.terminal else _cancel(tx, head, self.reason)


def _cancel(tx: Transaction, head: JobRecord, reason: str) -> JobRecord:
    jobs = tx.ledger(Jobs)
    if head.state is JobState.CANCELLING:
        return head
    facts = {"cancel_requested": max(jobs.now, head.updated), "cancel_reason": reason}
    if head.state is JobState.ACTIVE and not head.deferred:
        record = jobs.make(head, JobMove.REQUEST_CANCEL, **facts)
        reach_children(tx, head.uid, reason)
        return record
    if head.state is JobState.ACTIVE:
        # What it waits for may be its own, and then ends it.
        head = jobs.note(head, **facts)
        reach_children(tx, head.uid, reason)
        head = jobs.head(head.uid)
        facts = {}
    return head if head.terminal else end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, reason), **facts)


def reach_children(tx: Transaction, parent: bytes, reason: str) -> None:
    """Cancel what an operation or a job has created and not detached."""
    for head in tx.ledger(Jobs).children(parent):
        # One of them may have ended another.
        found = tx.ledger(Jobs).head(head.uid)
        if not found.terminal:
            _cancel(tx, found, reason)


def reach(tx: Transaction, operation: OperationRecord, reason: str) -> None:
    """Cancel the jobs of an operation that is cancelled, or whose deadline is over."""
    reach_children(tx, operation.uid, reason)


# Admin.


@dataclass(slots=True)
class RetryJob(Mutation[JobRecord]):
    """Run an ended or a stale job again: from the step that failed, or all of it. Failures and claims begin anew.

    `deadline`: how long it then has, in microseconds; None: as long as it takes.
    """

    uid: bytes
    fresh: bool
    deadline: int | None

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        record = jobs.make(
            head, JobMove.RETRY, stand=Stand.BLOCKED if head.key else Stand.READY, failures=0, claims=0, ended=None,
            expires=None, cancel_requested=None, cancel_reason="", result=None, started=None,
            deadline=None if self.deadline is None else max(jobs.now, head.updated) + self.deadline,
        )  # fmt: skip
        if self.fresh:
            jobs.forget_journal(record.uid)
        return record


@dataclass(slots=True)
class DismissJob(Mutation[JobRecord]):
    """Be done with a dead letter: from now on its retention counts."""

    uid: bytes

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        return head if head.state is JobState.DISMISSED else jobs.make(head, JobMove.DISMISS)


@dataclass(slots=True)
class DeleteJob(Mutation[None]):
    """Remove an ended job. Raises `ServiceError` (ILLEGAL_MOVE) where it has not ended."""

    uid: bytes

    def apply(self, tx: Transaction) -> None:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        if not head.terminal:
            problem = f"{head.name} is {head.state.name}: cancel it before deleting it."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        jobs.delete(head.uid)


@dataclass(slots=True)
class DeclareQueues(Mutation[list[QueueRow]]):
    """Keep what the definitions of today say of their queues; what is durable about these stays."""

    queues: Sequence[QueueRow]

    def apply(self, tx: Transaction) -> list[QueueRow]:
        jobs = tx.ledger(Jobs)
        rows = []
        for row in self.queues:
            before = tx.connection.execute("SELECT allowed, paused FROM queues WHERE name = ?", (row.name,)).fetchone()
            if before is not None:
                row = row._replace(allowed=before[0], paused=bool(before[1]))  # noqa: PLW2901 - as it is from now on
            jobs.set_queue(row)
            rows.append(row)
        return rows


@dataclass(slots=True)
class PauseQueue(Mutation[QueueRow]):
    """Let no attempt of a queue begin, or let them again. What runs goes on. Repeatable."""

    queue: str
    paused: bool

    def apply(self, tx: Transaction) -> QueueRow:
        jobs = tx.ledger(Jobs)
        jobs.set_queue(jobs.queue(self.queue)._replace(paused=self.paused))
        return jobs.queue(self.queue)


# Time.


@dataclass(slots=True)
class AdvanceJobs(Mutation[int | None]):
    """Do what time brings, a bounded number of it: deadlines first, then what is due, then what was kept long enough.

    Returns when time next changes a job; None: never.
    """

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> int | None:
        jobs = tx.ledger(Jobs)
        for head in jobs.select("deadline <= ? AND deadline IS NOT NULL AND ended IS NULL LIMIT ?", jobs.now, BATCH):
            found = jobs.head(head.uid)
            if found.terminal:
                continue  # it has ended with another
            if found.state is JobState.CANCELLING:
                end(tx, found, JobMove.CANCEL, error=failure(Reason.CANCELLED, found.cancel_reason))
            else:
                end(tx, found, JobMove.EXPIRE, error=failure(Reason.DEADLINE_EXCEEDED))
                reach_children(tx, found.uid, f"The deadline of {found.name} is over.")
        for head in jobs.select("due <= ? AND due IS NOT NULL ORDER BY due LIMIT ?", jobs.now, BATCH):
            if head.stand is Stand.DELAYED:
                jobs.note(head, stand=Stand.BLOCKED if head.key else Stand.READY, due=None)
        for head in jobs.select("expires <= ? AND expires IS NOT NULL ORDER BY expires LIMIT ?", jobs.now, BATCH):
            jobs.delete(head.uid)
        jobs.flush()
        return next_event(tx.connection)


__all__ = [
    "Admission", "AdvanceJobs", "AttachJob", "CancelJob", "ClaimJobs", "Claimed", "CreateJobs", "DeclareQueues",
    "DeleteJob", "DismissJob", "JobAttempt", "LoseJob", "NewJob", "Obstacle", "PauseQueue", "ReleaseJobs", "ReportJob",
    "RetryJob", "SettleJob", "WhenFull", "reach", "read_back",
]  # fmt: skip
