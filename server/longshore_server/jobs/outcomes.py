"""What becomes of a job that somebody creates, and of one that somebody waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from google.rpc import status_pb2

from longshore_server.errors import reason_of
from longshore_server.job_lifecycle import JobState
from longshore_server.store.mutations.job_creation import Obstacle

if TYPE_CHECKING:
    from longshore_server.jobs.refs import JobRef

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Accepted(Generic[ResultT]):
    """There is a new job; or the one that the same idempotency key created before (`job.created` is then false)."""

    job: JobRef[ResultT]


@dataclass(frozen=True)
class Coalesced(Generic[ResultT]):
    """The key has a job already, the oldest that waits or else that is active: this one stands for both."""

    job: JobRef[ResultT]


@dataclass(frozen=True)
class Replaced(Generic[ResultT]):
    """There is a new job, and the oldest one of its key that waited has ended as REPLACED."""

    job: JobRef[ResultT]
    replaced: JobRef[ResultT]


@dataclass(frozen=True)
class Rejected:
    """There is no new job: its key has no room."""

    reason: Obstacle
    key: str
    active: int
    """How many of the key are active."""
    queued: int
    """How many of it wait."""
    limit: int
    """How many may."""
    existing: str
    """Name of a job that has the key; empty: only others of the same batch would."""


Outcome: TypeAlias = Accepted[ResultT] | Coalesced[ResultT] | Replaced[ResultT] | Rejected


class JobNotEnqueuedError(Exception):
    """`create` made no job: its key has no room.

    Attributes:
        rejection: why, and what has the key.
        reason, key, active, queued, limit, existing: those of the rejection.
        index: which one of a batch it was, from 0.
    """

    def __init__(self, queue: str, rejection: Rejected, index: int = 0, *, batch: bool = False) -> None:
        which = f"{queue}[{index}]" if batch else queue
        owner = f"{rejection.existing} has it" if rejection.existing else "others of the same change have it"
        super().__init__(
            f"{which}: the key {rejection.key!r} has no room ({rejection.reason.value}): {rejection.active} active, "
            f"{rejection.queued} waiting, and {rejection.limit} may; {owner}"
        )
        self.rejection = rejection
        self.reason, self.key, self.existing = rejection.reason, rejection.key, rejection.existing
        self.active, self.queued, self.limit = rejection.active, rejection.queued, rejection.limit
        self.index = index


class JobFailedError(Exception):
    """The job that was waited for ended without a result: FAILED, EXPIRED, REPLACED, DEAD or DISMISSED.

    Attributes:
        name: the job.
        state: how it ended.
        status: its error.
        reason: the reason of that, such as HANDLER_ERROR, DEADLINE_EXCEEDED, or the one of an `OperationError`.
    """

    def __init__(self, name: str, state: JobState, error: bytes) -> None:
        self.status = status_pb2.Status.FromString(error)
        super().__init__(f"{name} {state.name}: {self.status.message}")
        self.name = name
        self.state = state
        self.reason = reason_of(error)


class JobCancelledError(Exception):
    """The job that was waited for was cancelled. Raised by a job's handler: that job ends as CANCELLED.

    Attributes:
        name: the job; empty where a handler raises it for its own.
    """

    def __init__(self, name: str = "", reason: str = "") -> None:
        super().__init__(" ".join(part for part in (name, "was cancelled", reason and f"({reason})") if part))
        self.name = name
