"""Jobs are created: admitted by their keys, or found by their idempotency keys, and begun where a slot is free."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobMove, Stand
from longshore_server.store.job_record import Body, JobRecord
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations import telling
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.mutations.job import claim
from longshore_server.store.mutations.job_end import end
from longshore_server.store.record import JournalEntry
from longshore_server.store.transaction import Transaction


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
    """A job to be created.

    `begin`: a slot of its queue is kept for it, so that it may be ACTIVE at once. `is_same`: whether its payload is a
    stored one that an older version of the code has written, in other bytes; None: other bytes are another payload.
    That is code of the service: never to be called where others wait for a transaction.
    """

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
    is_same: Callable[[Body], bool] | None = None


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
    payload: Body | None = None
    """What was asked for, where a journal has to compare it, and no job was made which would have it."""


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
        rejected = done = _rejected(plans)
        if not rejected:
            done = [self._carry_out(tx, jobs, new, plan) for new, plan in zip(self.jobs, plans, strict=True)]
        if self.by is not None and (self.keep_rejection or not rejected):
            author, entry = self.by
            tx.note_journal(author.uid, entry._replace(outcome=written(done)))
        return done

    def rejected(self, tx: Transaction) -> list[Admission]:
        """The first for which there is no room, if any. Changes nothing; raises as `apply`."""
        return _rejected(self._plan(tx.ledger(Jobs)))

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
            # Jobs have their payloads themselves.
            kept = self.by is not None and new.is_same is not None and not plan.created
            plans.append(plan._replace(position=position, payload=new.payload if kept else None))
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
            if jobs.key_count(record.queue, record.key).occupied >= new.slots:
                record = record.evolve(stand=Stand.BLOCKED)
        record = jobs.insert(record, new.payload)
        if tx.outbox is not None:
            telling.job_created(tx.outbox, record, new.payload)
        if new.begin and record.stand is Stand.READY and not jobs.queue(record.queue).paused:
            if jobs.take(record.queue) is None:
                record = claim(jobs, record, new.lease)
        if new.request_id:
            expires = None if new.request_ttl is None else jobs.now + new.request_ttl
            jobs.claim_request(record.queue, new.request_id, record.uid, new.digest, expires)
        return plan._replace(job=record)


def _rejected(plans: Sequence[Admission]) -> list[Admission]:
    return [plan for plan in plans if plan.obstacle is not None and plan.job is None][:1]


def _admit(jobs: Jobs, new: NewJob, planned: int) -> Admission:
    """Whether the key of a new job has room for it, besides so many that come before it."""
    record = new.record
    count = jobs.key_count(record.queue, record.key)
    if new.max_queued is None or count.occupied + count.waiting + planned < new.slots + new.max_queued:
        return Admission(record, True)
    found = jobs.key_holders(record.queue, record.key)
    # One that is cancelled, or stale, does nobody's work; nor does what waits behind a stale one.
    able = None if found.stale else (found.queued or found.active)
    if new.when_full is WhenFull.COALESCE and able is not None:
        return Admission(jobs.head(able), key=record.key)
    if new.when_full is WhenFull.REPLACE_OLDEST and found.queued is not None:
        return Admission(record, True, replaced=found.queued, key=record.key)
    obstacle = Obstacle.QUEUE_DEPTH if new.max_queued else Obstacle.ACTIVE_LIMIT
    if found.stale:
        obstacle = Obstacle.STALE_BLOCKED
    bound = new.slots if obstacle is Obstacle.ACTIVE_LIMIT else (new.max_queued or 0)
    existing = found.queued or found.begun
    return Admission(None, False, None, obstacle, record.key, count.begun, count.queued + planned, bound, existing)


def read_back(data: bytes) -> list[tuple[bytes | None, Admission]]:
    """What `written` has kept: of each job its uid, and the admission without it."""
    found = []
    # The last one is missing in journals that were written before it was.
    for job, created, replaced, obstacle, key, active, queued, limit, existing, position, *asked in json.loads(data):
        admission = Admission(
            None, created, _uid(replaced), None if obstacle is None else Obstacle(obstacle), key, active, queued,
            limit, _uid(existing), position, Body(asked[0][0], bytes.fromhex(asked[0][1])) if any(asked) else None,
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
                a.position, a.payload and [a.payload.codec, a.payload.data.hex()],
            ]
            for a in admissions
        ]
    ).encode()  # fmt: skip
