"""How jobs end, and what ends with them: what is attached to them, and what a cancel or a deadline reaches.

Whatever ends a job ends in the same transaction what is attached to it, and lets the next job of its key become ready.
Where that is more than one transaction should hold, those that follow go on with it; see `job_sequels`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.job_lifecycle import JobMove, JobState
from longshore_server.lifecycle import Move
from longshore_server.store.job_record import Attachment, Body, JobRecord, TargetKind
from longshore_server.store.job_sequels import Sequel, Sequels
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.mutations.settle import Settle
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction

URL_PREFIX = "type.googleapis.com/"
BATCH = 256
"""The most jobs that time, an end or a cancel changes in one transaction: callers' changes wait behind it."""
MOST_ATTACHED = 1000
"""The most operations and jobs that end with one job: each report of its progress is theirs, too."""


class JobAttempt(Author):
    """An attempt of a job."""

    __slots__ = ()

    def check(self, tx: Transaction) -> None:
        tx.ledger(Jobs).current(self.uid, self.attempt)

    def hand_over(self, tx: Transaction) -> None:
        jobs = tx.ledger(Jobs)
        head = jobs.note(jobs.running(self.uid, self.attempt), deferred=True, lease=None)
        if head.state is JobState.CANCELLING:
            # It has had its grace: nothing runs any more that could use the rest of it.
            end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))


def end(tx: Transaction, head: JobRecord, move: JobMove, exhausted: str = "", **facts: Any) -> JobRecord:
    """End a job, and with it what is attached to it. `facts`: `result`, or `error` and `problem`.

    `exhausted`: see `SettleJob`. Where it is cancelled, or too late, so is what it has created and not detached.
    """
    record = _end(tx, head, move, exhausted, **facts)
    _carry_out(tx)
    return record


def _end(tx: Transaction, head: JobRecord, move: JobMove, exhausted: str = "", **facts: Any) -> JobRecord:
    """End a job. What comes of that is added to what is to be carried out."""
    record = tx.ledger(Jobs).make(head, move, **facts)
    if tx.outbox is not None:
        telling.job_ended(tx.outbox, head, record, move, exhausted)
    if record.attachments:
        tx.ledger(Sequels).add(Sequel(record.uid, reach=False))
    if move in (JobMove.CANCEL, JobMove.EXPIRE) and record.attempt:
        late = move is JobMove.EXPIRE
        reason = f"The deadline of {record.name} is over." if late else record.cancel_reason
        tx.ledger(Sequels).add(Sequel(record.uid, reach=True, reason=reason))
    return record


def _carry_out(tx: Transaction) -> None:
    """Do what ends and cancels have brought with them, each of which may bring more; what is too much, later."""
    sequels = tx.ledger(Sequels)
    if sequels.busy:
        return  # who does it comes to this, too: however long a chain is, it is no deeper
    sequels.busy = True
    room = BATCH
    try:
        while (sequel := sequels.next()) is not None:
            if room <= 0:
                sequels.add(sequel)
                sequels.postpone()
                break
            room -= _cancel_children(tx, sequel) if sequel.reach else _end_attached(tx, sequel.uid)
    except ServiceError as refusal:
        # No refusal any more, which would keep what was changed before it: all of the mutation is taken back.
        raise RuntimeError(f"what an end or a cancel brings cannot be done: {refusal}") from refusal
    sequels.busy = False


def resume(tx: Transaction, numbers: Iterable[int]) -> None:
    """Go on with what was too much for earlier transactions."""
    for number in numbers:
        tx.ledger(Sequels).resume(number)
    _carry_out(tx)


def _end_attached(tx: Transaction, uid: bytes) -> int:
    """End what is attached to a job; how many those are."""
    job = tx.ledger(Jobs).find(uid)
    if job is None or not job.terminal:
        return 0  # it is run again
    for attachment in job.attachments:
        _settle(tx, attachment, job)
    return len(job.attachments)


def _cancel_children(tx: Transaction, sequel: Sequel) -> int:
    """Cancel some of what an operation or a job has created and not detached; how many those are."""
    jobs = tx.ledger(Jobs)
    found = jobs.children(sequel.uid, sequel.after, BATCH)
    for uid in found:
        head = jobs.head(uid)
        if not head.terminal:
            _cancel(tx, head, sequel.reason)
    if len(found) == BATCH:
        tx.ledger(Sequels).add(sequel._replace(after=found[-1]))
    return len(found)


def _settle(tx: Transaction, attachment: Attachment, job: JobRecord) -> None:
    """End what is attached to a job that has ended, as that has."""
    error = job.error or failure(Reason.INTERNAL)
    if attachment.kind is TargetKind.JOB:
        target = tx.ledger(Jobs).find(attachment.target)
        if target is None or not target.resident or not target.deferred:
            return
        if target.state is JobState.CANCELLING:
            # The request came first. Of old databases alone: today one that is being cancelled ends as it attaches.
            _end(tx, target, JobMove.CANCEL, error=failure(Reason.CANCELLED, target.cancel_reason))
        elif job.state is JobState.CANCELLED:
            error = failure(Reason.CANCELLED, job.cancel_reason)
            _end(tx, target, JobMove.CANCEL, error=error, cancel_reason=job.cancel_reason)
        elif job.state is JobState.COMPLETED:
            _end(tx, target, JobMove.COMPLETE, result=job.result)
        else:
            _end(tx, target, JobMove.FAIL, error=error, problem=job.problem)
        return
    operation = operation_of(tx, attachment.target)
    if operation is None or operation.terminal:
        return
    settle = Settle(operation.uid, None, Move.FAIL, _in_domain(error, operation.type.rpartition(".")[0]))
    if job.state is JobState.COMPLETED:
        settle = Settle(operation.uid, None, Move.COMPLETE, _packed(job.result))
    elif job.state is JobState.CANCELLED:
        settle = Settle(operation.uid, None, Move.CANCEL, failure(Reason.CANCELLED, job.cancel_reason))
    settle.apply(tx)


def operation_of(tx: Transaction, uid: bytes) -> OperationRecord | None:
    """An operation with which something is to happen; None: it was deleted."""
    try:
        return tx.head(uid)
    except ServiceError:
        return None


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
        if head.parent != self.author.uid and not self.shared:
            problem = f"{head.name} was created elsewhere, and others may wait for it: attach it with shared=True."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        if not head.terminal and len(head.attachments) >= MOST_ATTACHED:
            tx.flush()
            if len(jobs.detach_ended(self.uid).attachments) >= MOST_ATTACHED:
                problem = (
                    f"{MOST_ATTACHED} operations and jobs end with {head.name} already: wait for it, `job.wait()`."
                )
                raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        self.author.hand_over(tx)
        kind = TargetKind.JOB if isinstance(self.author, JobAttempt) else TargetKind.OPERATION
        attachment = Attachment(self.author.uid, kind, self.progress)
        head = jobs.head(self.uid)  # a job that is being cancelled has ended, and this may have ended with it
        if not head.terminal:
            return jobs.attach(head, attachment)
        _settle(tx, attachment, head)
        _carry_out(tx)
        return head


@dataclass(slots=True)
class CancelJob(Mutation[JobRecord]):
    """Somebody asks to cancel a job: it ends at once, or has its grace where it runs. Repeatable."""

    uid: bytes
    reason: str

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        if head.terminal:
            return head
        head = _cancel(tx, head, self.reason)
        _carry_out(tx)
        return jobs.head(head.uid)  # what it has created may have been all that it waited for


def _cancel(tx: Transaction, head: JobRecord, reason: str) -> JobRecord:
    """Cancel a job that has not ended. What it has created is added to what is to be carried out."""
    jobs = tx.ledger(Jobs)
    if head.state is JobState.CANCELLING:
        return head
    facts: dict[str, Any] = {"cancel_requested": max(jobs.now, head.updated), "cancel_reason": reason}
    if head.state is JobState.ACTIVE and not head.deferred:
        tx.ledger(Sequels).add(Sequel(head.uid, reach=True, reason=reason))
        return jobs.make(head, JobMove.REQUEST_CANCEL, **facts)
    return _end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, reason), **facts)


def reach(tx: Transaction, operation: OperationRecord, reason: str) -> None:
    """Cancel the jobs of an operation that is cancelled, or whose deadline is over."""
    tx.ledger(Sequels).add(Sequel(operation.uid, reach=True, reason=reason))
    _carry_out(tx)
