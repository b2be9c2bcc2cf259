"""Jobs from one attempt to the next: claimed, heard of, settled, lost; and what operators and time do with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longshore_server.clock import SECOND
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.job_lifecycle import JobMove, JobState, Stand
from longshore_server.lifecycle import Move, State
from longshore_server.store import job_retries
from longshore_server.store.job_record import Body, JobRecord, QueueRow
from longshore_server.store.job_rows import payload
from longshore_server.store.job_sequels import Sequels
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.attempt import Report
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.job_end import BATCH, JobAttempt, end, operation_of, resume
from longshore_server.store.transaction import Transaction

LATER = 60 * SECOND
"""How long an ended job is kept after its time where what is attached to it has yet to end."""


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
class ClaimJob(Mutation[tuple[JobRecord, Body] | None]):
    """Begin the attempt of one job, whatever others are ready; None where it does not wait for a runner any more."""

    uid: bytes
    lease: int | None

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> tuple[JobRecord, Body] | None:
        jobs = tx.ledger(Jobs)
        tx.flush()  # its key may have room
        head = jobs.find(self.uid)
        if head is None or head.stand is not Stand.READY or jobs.queue(head.queue).paused:
            return None
        return claim(jobs, head, self.lease), payload(tx.connection, head.uid)


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
        # Of one that has handed its job over nothing more need be heard.
        facts: dict[str, Any] = {"lease": None if self.lease is None or head.deferred else jobs.now + self.lease}
        if self.progress is None:
            jobs.note(head, **facts)
            return
        jobs.make(head, JobMove.PROGRESS, progress=self.progress, **facts)
        for uid, value in self.reports:
            operation = operation_of(tx, uid)
            if operation is not None and operation.state in (State.RUNNING, State.CANCELLING):
                Report(uid, None, Move.PROGRESS, value).apply(tx)


@dataclass(slots=True)
class SettleJob(Mutation[JobRecord]):
    """The end of an attempt: COMPLETE with a result; FAIL, BURY or CANCEL with an error; REQUEUE to be made again.

    `by` None: of whatever attempt there is. `delay`: of REQUEUE, in microseconds. What comes in CANCELLING ends as
    CANCELLED: the request came first. `exhausted`: of BURY, which bound of the policy leaves no further attempt.
    `anew`: of REQUEUE, the entry of the journal that the next attempt does not find.
    """

    uid: bytes
    attempt: int | None
    move: JobMove
    result: Body | None = None
    error: bytes | None = None
    problem: str = ""
    delay: int = 0
    exhausted: str = ""
    anew: tuple[str, str, int] | None = None

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid) if self.attempt is None else jobs.running(self.uid, self.attempt)
        if head.state is JobState.CANCELLING:
            return end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))
        facts: dict[str, Any] = {} if self.error is None else {"error": self.error, "problem": self.problem}
        if self.move is JobMove.REQUEUE:
            tx.forget_journal(self.uid, self.anew)
            record = requeue(jobs, head, self.delay, failures=head.failures + 1, claims=0, **facts)
            if tx.outbox is not None:
                telling.job_failed(tx.outbox, head, record)
            return record
        if self.result is not None:
            facts["result"] = self.result
        return end(tx, head, self.move, self.exhausted, **facts)


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
        if self.move is JobMove.LOSE or (self.move is JobMove.REQUEUE and head.claims < self.max_claims):
            lose = self.move is JobMove.LOSE
            record = jobs.make(head, JobMove.LOSE, error=error) if lose else requeue(jobs, head, error=error)
            if tx.outbox is not None:
                telling.job_failed(tx.outbox, head, record)
            return record
        return end(tx, head, JobMove.BURY if self.move is JobMove.REQUEUE else self.move, error=error)


@dataclass(slots=True)
class ReleaseJobs(Mutation[bool]):
    """The attempts that are under way are lost with their server: each is to be made again. A bounded number of them;
    returns whether there may be more.

    `max_claims`: by queue, after how many attempts in a row that came to no outcome a job is buried. `crashed` False:
    the stop was announced, and does not count. `innocent`: nor does what began at this time or before.
    """

    max_claims: Mapping[str, int]
    crashed: bool
    innocent: int = -1

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> bool:
        jobs = tx.ledger(Jobs)
        room = BATCH
        for queue, most in self.max_claims.items():
            # In old databases one that is being cancelled may end with another one: nothing else would end it now.
            running = "queue = ? AND state IN (2, 3) AND ended IS NULL AND (deferred = 0 OR state = 3)"
            for head in map(jobs.head, jobs.select(f"{running} ORDER BY state, uid LIMIT ?", queue, room)):
                room -= 1
                if head.terminal:
                    continue  # it has ended with another
                if head.state is JobState.CANCELLING:
                    end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))
                elif not self.crashed or (head.begun or 0) <= self.innocent:
                    requeue(jobs, head, claims=head.claims - 1)
                elif head.claims >= most:
                    message = f"It was under way in {head.claims} crashes of the server in a row."
                    end(tx, head, JobMove.BURY, error=failure(Reason.CRASH_LOOP, message))
                else:
                    requeue(jobs, head)
        return not room


# Admin.


@dataclass(slots=True)
class RetryJob(Mutation[JobRecord]):
    """Run an ended or a stale job again: from the step that failed, or from the one that is named, or all of it.

    Failures and claims begin anew. What it has recorded counts until then, if it was a success. `deadline`: how long it
    then has, in microseconds; None: as long as it takes. Repeatable where it has a `request_id`. Raises `ServiceError`
    (ILLEGAL_MOVE) while what it has created has yet to be cancelled: that would reach what it then creates, too.
    """

    uid: bytes
    fresh: bool
    deadline: int | None
    from_step: str = ""
    request_id: str = ""

    def apply(self, tx: Transaction) -> JobRecord:
        jobs = tx.ledger(Jobs)
        head = jobs.head(self.uid)
        tx.flush()  # its journal, and a retry of this very batch
        if job_retries.made(tx.connection, head.uid, self.request_id):
            return head
        if tx.ledger(Sequels).pending(head.uid, reach=True):
            problem = f"What {head.name} has created has yet to be cancelled with it: retry it after that."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        since = job_retries.BEGINNING if self.fresh else job_retries.END
        if self.from_step:
            since = job_retries.place(tx.connection, head.uid, self.from_step)
        record = jobs.make(
            head, JobMove.RETRY, stand=Stand.BLOCKED if head.key else Stand.READY, failures=0, claims=0, ended=None,
            expires=None, cancel_requested=None, cancel_reason="", result=None, started=None,
            deadline=None if self.deadline is None else max(jobs.now, head.updated) + self.deadline,
        )  # fmt: skip
        jobs.detach(record.uid)  # what it has ended with is over for it
        job_retries.note(tx.connection, record.uid, self.request_id)
        job_retries.forget(tx.connection, record.uid, since, self.from_step)
        if record.key:
            jobs.flush()  # its key may have room
        return jobs.head(record.uid)


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
        if tx.ledger(Sequels).pending(head.uid, reach=False):
            problem = f"What is attached to {head.name} has yet to end with it: delete it after that."
            raise ServiceError(Reason.ILLEGAL_MOVE, problem, resource=head.name)
        tx.flush()  # lines that this batch has of it are rows first, and go with it
        jobs.delete(head)


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
            jobs.use_room(row.name)
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
    """Do what time brings, a bounded number of it: what ends have left to do, deadlines, what is due, what was kept for
    long enough.

    Returns when time next changes a job; None: never. Where it fails, `at` says with what, a job or the number of a
    sequel, and it can be asked to `skip` that. `limit`: the most of each kind; with 1 what it says is exact.
    """

    limit: int = BATCH
    skip: frozenset[bytes | int] = frozenset()
    at: bytes | int | None = field(default=None, init=False)

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> int | None:
        jobs, sequels = tx.ledger(Jobs), tx.ledger(Sequels)
        numbers = sequels.postponed(self.limit, self.skip)
        self.at = numbers[0] if numbers else None
        resume(tx, numbers)
        for head in self._each(tx, "deadline <= ? AND deadline IS NOT NULL AND ended IS NULL"):
            if head.terminal:
                continue  # it has ended with another
            if head.state is JobState.CANCELLING:
                end(tx, head, JobMove.CANCEL, error=failure(Reason.CANCELLED, head.cancel_reason))
            else:
                end(tx, head, JobMove.EXPIRE, error=failure(Reason.DEADLINE_EXCEEDED))
        for head in self._each(tx, "due <= ? AND due IS NOT NULL"):
            if head.stand is Stand.DELAYED:
                jobs.note(head, stand=Stand.BLOCKED if head.key else Stand.READY, due=None)
        for head in self._each(tx, "expires <= ? AND expires IS NOT NULL"):
            if sequels.pending(head.uid, reach=False):
                jobs.note(head, expires=jobs.now + LATER)
            else:
                jobs.delete(head)
        tx.flush()
        return jobs.now if sequels.postponed(1, self.skip) else jobs.next_event(self.skip)

    def _each(self, tx: Transaction, condition: str) -> Iterator[JobRecord]:
        tx.flush()  # where that fails, it is with what was changed last; and lines of what goes are rows before they go
        jobs = tx.ledger(Jobs)
        found = jobs.select(f"{condition} LIMIT ?", jobs.now, self.limit + len(self.skip))
        for uid in [uid for uid in found if uid not in self.skip][: self.limit]:
            self.at = uid
            yield jobs.head(uid)
