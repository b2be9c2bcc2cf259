"""A queue with keys as one would explain it to somebody: a list of jobs, and a few sentences of Python.

It knows nothing of transactions, indexes, commits or tasks. Times in microseconds. No two sums of the spans are
equal: what comes first of two things that are due at the same time is nobody's business.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from longshore_server.clock import SECOND
from longshore_server.job_lifecycle import JobMove, JobState, Stand, rule

GRACE = 3 * SECOND + 11
HEARTBEAT = 7 * SECOND + 103
BACKOFF = 5 * SECOND + 1_009
PACE = 2 * SECOND + 10_007
"""From one claim to the next, where there is a rate."""
TIMEOUT = 4 * SECOND + 20_011
"""Shorter than the silence that an attempt may keep, so that it comes first."""
DEADLINE = 31 * SECOND + 30_013
KEPT = 2 * SECOND
"""How long an idempotency key counts."""
ATTEMPTS = 3
CLAIMS = 3


@dataclass(frozen=True)
class Policy:
    """What the queue says."""

    concurrency: int
    max_active: int
    max_queued: int
    when_full: str
    on_stale: str
    rated: bool = False
    timed: bool = False
    """Whether attempts have a timeout."""
    limited: bool = False
    """Whether jobs have a deadline."""
    forgetful: bool = False
    """Whether idempotency keys count only for a while."""


@dataclass
class ModelChild:
    """What a job has handed itself over to. It runs at once, whenever it can."""

    state: JobState = JobState.ACTIVE
    attempt: int = 1
    claims: int = 1
    grace: int | None = None

    @property
    def running(self) -> bool:
        return self.state in (JobState.ACTIVE, JobState.CANCELLING)

    @property
    def shown(self) -> tuple[Any, ...]:
        """What the store has to say of it, too."""
        return self.state, self.attempt, self.claims

    def end(self, state: JobState) -> None:
        self.state, self.grace = state, None


class Known(NamedTuple):
    """What an idempotency key stands for. `payload`: the number that the payload had."""

    number: int
    payload: int
    until: int | None


@dataclass
class ModelJob:
    """One job, by what can be told of it."""

    number: int
    key: str
    priority: int
    due: int | None
    deadline: int | None = None
    state: JobState = JobState.QUEUED
    stand: Stand = Stand.BLOCKED
    attempt: int = 0
    failures: int = 0
    claims: int = 0
    lease: int | None = None
    grace: int | None = None
    timeout: int | None = None
    child: ModelChild | None = None

    @property
    def ended(self) -> bool:
        return self.state >= JobState.COMPLETED

    @property
    def attached(self) -> bool:
        """Whether it ends with another, and has nothing of its own that runs."""
        return self.child is not None and not self.ended

    @property
    def running(self) -> bool:
        return self.state in (JobState.ACTIVE, JobState.CANCELLING) and not self.attached

    @property
    def occupies(self) -> bool:
        return not self.ended and self.stand <= Stand.READY

    def become(self, state: JobState) -> None:
        self.state, self.stand = state, Stand.NONE
        self.due = self.lease = self.grace = self.timeout = None

    def queue(self, stand: Stand, due: int | None = None) -> None:
        self.become(JobState.QUEUED)
        self.stand, self.due = stand, due

    @property
    def shown(self) -> tuple[Any, ...]:
        """What the store has to say of it, too."""
        return (
            self.state, self.stand, self.attempt, self.failures, self.claims, self.due, self.deadline, self.lease,
            self.child and self.child.shown,
        )  # fmt: skip


def first(job: ModelJob) -> tuple[int, int]:
    """Who comes first: the highest priority, then the oldest."""
    return -job.priority, job.number


@dataclass
class ModelQueue:
    """All jobs, by number, which is the order of their creation."""

    policy: Policy
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    paused: bool = False
    requests: dict[str, Known] = field(default_factory=dict)
    allowed: int = 0
    """When the rate lets the next attempt begin."""

    def copy(self) -> Self:
        return copy.deepcopy(self)

    @property
    def shown(self) -> dict[int, tuple[Any, ...]]:
        return {number: job.shown for number, job in self.jobs.items()}

    @property
    def running(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.running]

    def alive(self, key: str) -> list[ModelJob]:
        """Those that a key counts: what ends with another has left it."""
        return [job for job in self.jobs.values() if job.key == key and not job.ended and not job.attached]

    # What is asked for.

    def request(self, key: str, now: int) -> Known | None:
        """What an idempotency key stands for now."""
        found = self.requests.get(key)
        return found if found is not None and (found.until is None or found.until > now) else None

    def ask(self, new: ModelJob, key: str, payload: int, now: int, *, strict: bool) -> tuple[str, int | None]:
        """`create` with an idempotency key: whoever asks for the same again gets what there is."""
        known = self.request(key, now)
        if known is not None:
            return ("existing", known.number) if known.payload == payload else ("REQUEST_ID_REUSED", None)
        outcome = self.create(new, strict=strict)
        if outcome[0] in ("accepted", "replaced"):
            self.requests[key] = Known(new.number, payload, now + KEPT if self.policy.forgetful else None)
        return outcome

    def create(self, new: ModelJob, *, strict: bool) -> tuple[str, int | None]:
        """What becomes of a new job: a word and the number of the older one that it is about, if it is."""
        policy, alive = self.policy, self.alive(new.key)
        waiting = [job for job in alive if job.state is JobState.QUEUED]
        stale = any(job.state is JobState.STALE for job in alive)
        outcome: tuple[str, int | None] = ("accepted", None)
        if len(alive) >= policy.max_active + policy.max_queued:
            able = waiting or [job for job in alive if job.state is JobState.ACTIVE]
            if not strict and policy.when_full == "coalesce" and able and not stale:
                return "coalesced", able[0].number
            if strict or policy.when_full != "replace_oldest" or not waiting:
                return "STALE_BLOCKED" if stale else "QUEUE_DEPTH" if policy.max_queued else "ACTIVE_LIMIT", None
            waiting[0].become(JobState.REPLACED)
            self.promote()
            outcome = ("replaced", waiting[0].number)
        self.jobs[new.number] = new
        new.queue(Stand.BLOCKED if new.due is None else Stand.DELAYED, new.due)
        self.promote()
        return outcome

    def finish(self, job: ModelJob, how: str, now: int) -> None:
        """Its function has returned, or raised."""
        if job.state is JobState.CANCELLING:
            job.become(JobState.CANCELLED)
        elif how == "complete":
            job.become(JobState.COMPLETED)
        elif how == "fatal":
            job.become(JobState.FAILED)
        else:
            again = now + (BACKOFF << job.failures)
            if job.failures + 1 >= ATTEMPTS or (job.deadline is not None and again >= job.deadline):
                job.become(JobState.DEAD)
            else:
                job.failures, job.claims = job.failures + 1, 0
                job.queue(Stand.DELAYED, again)
        self.promote()

    def attach(self, job: ModelJob) -> None:
        """It makes another job, and ends as that one does."""
        job.child, job.lease, job.timeout = ModelChild(), None, None
        self.promote()

    def finish_child(self, job: ModelJob, how: str) -> None:
        """The function of what it is attached to has returned, or raised."""
        assert job.child is not None
        if job.child.state is JobState.CANCELLING:
            job.child.end(JobState.CANCELLED)
        else:
            job.child.end(JobState.COMPLETED if how == "complete" else JobState.FAILED)
            job.become(job.child.state)
        self.promote()

    def reach(self, job: ModelJob, now: int) -> None:
        """What it has made is cancelled with it."""
        if job.child is not None and job.child.state is JobState.ACTIVE:
            job.child.state, job.child.grace = JobState.CANCELLING, now + GRACE

    def beat(self, job: ModelJob, now: int) -> None:
        """It is heard of."""
        job.lease = now + HEARTBEAT

    def cancel(self, job: ModelJob, now: int) -> None:
        """Somebody asks to cancel it."""
        if job.attached:
            self.reach(job, now)
        if job.running and job.state is JobState.ACTIVE:
            job.state, job.grace = JobState.CANCELLING, now + GRACE
        elif not job.ended and job.state is not JobState.CANCELLING:
            job.become(JobState.CANCELLED)
            self.promote()

    def retry(self, job: ModelJob) -> bool:
        """An admin wants it run again. Whether that is possible."""
        if rule(job.state, JobMove.RETRY) is None:
            return False
        job.queue(Stand.BLOCKED)
        job.failures = job.claims = 0
        job.deadline = None
        self.promote()
        return True

    # What happens by itself.

    def promote(self) -> None:
        """Who waits for a key with room becomes ready."""
        for key in {job.key for job in self.jobs.values()}:
            blocked = sorted((job for job in self.alive(key) if job.stand is Stand.BLOCKED), key=first)
            room = self.policy.max_active - sum(job.occupies for job in self.alive(key))
            for job in blocked[: max(0, room)]:
                job.stand = Stand.READY

    def claim(self, now: int) -> bool:
        """Let one attempt begin, if one can."""
        ready = [job for job in self.jobs.values() if job.stand is Stand.READY]
        if self.paused or not ready or len(self.running) >= self.policy.concurrency:
            return False
        if self.policy.rated:
            if self.allowed > now:
                return False
            self.allowed = max(self.allowed, now) + PACE
        job = min(ready, key=first)
        job.become(JobState.ACTIVE)
        job.attempt, job.claims, job.lease = job.attempt + 1, job.claims + 1, now + HEARTBEAT
        job.timeout = now + TIMEOUT if self.policy.timed else None
        return True

    def go_on(self, now: int) -> None:
        """Everything that can happen without the clock."""
        while self.claim(now):
            pass

    def next_times(self, now: int) -> list[int]:
        """When the clock changes something, a job at a time."""
        times = [self.allowed] if any(job.stand is Stand.READY for job in self.jobs.values()) else []
        for job in self.jobs.values():
            times += [time for time in (job.due, job.lease, job.grace, job.timeout) if time is not None]
            times += [] if job.deadline is None or job.ended else [job.deadline]
            times += [] if job.child is None or job.child.grace is None else [job.child.grace]
        return sorted(time for time in times if time > now)

    def pass_time(self, now: int) -> None:
        """What is due at this time."""
        for job in self.jobs.values():
            if job.child is not None and job.child.grace == now:
                job.child.end(JobState.CANCELLED)
            if job.deadline == now and not job.ended:
                self.reach(job, now)
                job.become(JobState.CANCELLED if job.state is JobState.CANCELLING else JobState.EXPIRED)
            elif job.timeout == now:
                self.finish(job, "fail", now)
            elif job.grace == now:
                job.become(JobState.CANCELLED)
            elif job.lease == now:
                self._lose(job)
            elif job.due == now:
                job.queue(Stand.BLOCKED)
        self.promote()

    def _lose(self, job: ModelJob) -> None:
        if job.state is JobState.CANCELLING:
            job.become(JobState.CANCELLED)
        elif self.policy.on_stale == "retry":
            self._again(job)
        else:
            job.become(JobState.FAILED if self.policy.on_stale == "fail" else JobState.STALE)

    def _again(self, job: ModelJob) -> None:
        """It keeps its place, but not for ever."""
        if job.claims < CLAIMS:
            job.queue(Stand.READY)
        else:
            job.become(JobState.DEAD)

    def restart(self, *, crash: bool) -> None:
        """The server dies, or stops in good order, and the next one begins."""
        for job in self.running:
            if job.state is JobState.CANCELLING:
                job.become(JobState.CANCELLED)
            elif crash:
                self._again(job)
            else:
                job.claims -= 1
                job.queue(Stand.READY)
        for job in self.jobs.values():
            if job.child is not None and job.child.running:
                self._restart_child(job, job.child, crash)
        self.promote()

    def _restart_child(self, job: ModelJob, child: ModelChild, crash: bool) -> None:
        if child.state is JobState.CANCELLING:
            child.end(JobState.CANCELLED)
        elif crash and child.claims >= CLAIMS:
            child.end(JobState.DEAD)
            job.become(JobState.FAILED)
        else:
            child.attempt, child.claims = child.attempt + 1, child.claims + crash

    def after_a_crash(self, change: Callable[[Self], object], now: int) -> list[Self]:
        """What there may be after a crash that came right after one of the commits that `change` brings about."""
        before = self.copy()
        change(before)
        found = [before]
        while found[-1].copy().claim(now):
            found.append(found[-1].copy())
            found[-1].claim(now)
        for model in found:
            model.restart(crash=True)
            model.go_on(now)
        return found
