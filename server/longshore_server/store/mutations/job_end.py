"""How jobs end, and what ends with them: what is attached to them, and what a cancel or a deadline reaches.

Whatever ends a job ends in the same transaction what is attached to it, and lets the next job of its key become ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.job_lifecycle import JobMove, JobState, Stand
from longshore_server.lifecycle import Move
from longshore_server.store.jobs import (
    Attachment,
    Body,
    JobRecord,
    Jobs,
    TargetKind,
)
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.mutations.settle import Settle
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction

URL_PREFIX = "type.googleapis.com/"


class JobAttempt(Author):
    """An attempt of a job."""

    __slots__ = ()

    def check(self, tx: Transaction) -> None:
        tx.ledger(Jobs).current(self.uid, self.attempt)

    def hand_over(self, tx: Transaction) -> None:
        jobs = tx.ledger(Jobs)
        jobs.note(jobs.current(self.uid, self.attempt), deferred=True, lease=None)


def end(tx: Transaction, head: JobRecord, move: JobMove, exhausted: str = "", **facts: Any) -> JobRecord:
    """End a job, and with it what is attached to it. `facts`: `result`, or `error` and `problem`.

    `exhausted`: see `SettleJob`.
    """
    jobs = tx.ledger(Jobs)
    record = jobs.make(head, move, **facts)
    if tx.outbox is not None:
        telling.job_ended(tx.outbox, head, record, move, exhausted)
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
    facts: dict[str, Any] = {"cancel_requested": max(jobs.now, head.updated), "cancel_reason": reason}
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
