"""A job as the server knows it, with what ends with it; and its queue, as far as that is durable."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.store.record import Revision


class Body(NamedTuple):
    """A value as stored; see `handler/codec.py`."""

    codec: str
    data: bytes


class Part(enum.IntEnum):
    """What a job has besides its row."""

    PAYLOAD = 1
    PROGRESS = 2
    RESULT = 3
    ERROR = 4
    """Serialized `google.rpc.Status`: what those learn who wait for it."""
    PROBLEM = 5
    """What the code raised, for operators."""


@dataclass(frozen=True, eq=False)
class JobRecord(Revision):
    """One revision of a job. Times in microseconds since the epoch."""

    uid: bytes
    queue: str
    state: JobState
    stand: Stand
    revision: int
    attempt: int
    failures: int
    claims: int
    priority: int
    key: str
    due: int | None
    deadline: int | None
    created: int
    updated: int
    started: int | None
    begun: int | None
    ended: int | None
    lease: int | None
    parent: bytes | None
    operation: bytes | None
    detached: bool
    deferred: bool
    cancel_requested: int | None
    cancel_reason: str
    reason: str
    trace: str
    expires: int | None
    attachments: tuple[Attachment, ...] = ()
    """What ends with it."""
    progress: Body | None = None
    result: Body | None = None
    error: bytes | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """`jobs/{id}`."""
        return f"jobs/{uid_text(self.uid)}"

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None

    @property
    def resident(self) -> bool:
        """Whether it is about to change: there may be millions that are not."""
        return self.state in (JobState.ACTIVE, JobState.CANCELLING)

    @property
    def occupies(self) -> bool:
        """Whether it counts among the active jobs of its key."""
        return self.counted is not None and self.stand <= Stand.READY

    @property
    def counted(self) -> Stand | None:
        """What it counts as among the jobs of its key; None: it does not. One that ends with another holds no place."""
        return self.stand if self.key and self.ended is None and not self.deferred else None


def new_job(
    uid: bytes, queue: str, created: int, *, priority: int = 0, key: str = "", due: int | None = None,
    deadline: int | None = None, parent: bytes | None = None, operation: bytes | None = None, detached: bool = False,
    trace: str = "",
) -> JobRecord:  # fmt: skip
    """The first revision of a job: QUEUED, and DELAYED where it is due later."""
    record = object.__new__(JobRecord)
    record.__dict__.update(
        uid=uid, queue=queue, state=JobState.QUEUED, stand=Stand.READY if due is None else Stand.DELAYED, revision=1,
        attempt=0, failures=0, claims=0, priority=priority, key=key, due=due, deadline=deadline, created=created,
        updated=created, started=None, begun=None, ended=None, lease=None, parent=parent, operation=operation,
        detached=detached, deferred=False, attachments=(), cancel_requested=None, cancel_reason="", reason="",
        trace=trace, expires=None, progress=None, result=None, error=None, problem="",
    )  # fmt: skip
    return record


class TargetKind(enum.IntEnum):
    """What can end with a job."""

    OPERATION = 1
    JOB = 2


class Attachment(NamedTuple):
    """Something that ends with a job. `progress`: how the job's goes on to it; see `longshore_server.jobs.progress`."""

    target: bytes
    kind: TargetKind
    progress: str = ""


class QueueRow(NamedTuple):
    """One queue: what its definition says, and what is durable about it. Times in microseconds."""

    name: str
    slots: int
    """How many jobs of one key may be active."""
    retention: int | None
    interval: int
    burst: int
    allowed: int = 0
    paused: bool = False

    def next_claim(self, now: int) -> int | None:
        """When the rate allows the next claim; None: now."""
        following = self.allowed + self.interval - self.burst
        return following if self.interval and following > now else None
