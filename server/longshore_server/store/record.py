"""The rows of the store as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from longshore_server.lifecycle import EventType, State
from longshore_server.store.transfers import DownloadRecord, UploadRecord


class PendingSignal(NamedTuple):
    """A signal that is accepted and not consumed yet."""

    number: int
    """Position among all signals of the operation, from 1."""
    name: str
    id: str
    accepted: int


class Revision:
    """A row as it was at one time."""

    def evolve(self, **changes: Any) -> Self:
        """A copy with `changes`. The hot path of every transition: `dataclasses.replace` takes four times as long."""
        copy = object.__new__(self.__class__)
        attributes = copy.__dict__
        attributes.update(self.__dict__)
        attributes.update(changes)
        return copy


@dataclass(frozen=True, eq=False)
class OperationRecord(Revision):
    """One revision of an operation. Times in microseconds since the epoch; payloads are serialized messages."""

    uid: bytes
    id: str
    type: str
    state: State
    revision: int
    sequence: int
    first_sequence: int
    progress_sequence: int | None
    attempt: int
    crashes: int
    under_way: bool
    begun: int | None
    created: int
    updated: int
    started: int | None
    ended: int | None
    deadline: int | None
    cancel_requested: int | None
    cancel_reason: str
    labels: Mapping[str, str]
    owner: str
    request_id: str
    parent: str
    capabilities: tuple[str, ...] = ()
    """What the caller who started it may do."""
    contract: int | None = None
    """Which stored contract it was started under; None: none was stored."""
    retried_from: str = ""
    """Name of the operation that it repeats; empty: none."""
    trace: str = ""
    """Whose trace it belongs to, as a `Tracer` wrote it; empty: it is not traced."""
    failures: int = 0
    """How many attempts failed and are made again."""
    next_attempt: int | None = None
    """When the next attempt is due, while it waits for that."""
    deferred: bool = False
    """No handler will end it: a control call, its deadline or a cancel request does."""
    stop_requested: int | None = None
    stopped: bool = False
    """It completed after a stop request."""
    signals: int = 0
    """How many signals have been accepted."""
    pending: tuple[PendingSignal, ...] = ()
    """Those of them that are not consumed, in the order of acceptance."""
    reason: str = ""
    """The reason of `error`."""
    expires: int | None = None
    """When it is deleted; None: never, or it has not ended."""
    upload: UploadRecord | None = None
    """What its caller sends; None: nothing."""
    downloads: tuple[DownloadRecord, ...] = ()
    """What callers may fetch, in the order in which it was offered."""
    progress: bytes | None = None
    """The latest progress, a serialized `google.protobuf.Any`."""
    result: bytes | None = None
    """The result, a serialized `google.protobuf.Any`."""
    error: bytes | None = None
    """Why there is no result, a serialized `google.rpc.Status`."""

    @property
    def name(self) -> str:
        """`operations/{id}`; of one whose template name has gone over to another, `operations/{uid}`.

        Names are decided where they are claimed: see `Transaction.claim_name`.
        """
        return f"operations/{self.id}"

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None


class Event:
    """One entry of a log: `body` is the serialized `longshore.v1.OperationEvent`.

    `wire` caches what the rpc layer made of it: made once, sent to all.
    """

    __slots__ = ("body", "sequence", "type", "wire")

    def __init__(self, sequence: int, type: EventType, body: bytes) -> None:
        self.sequence = sequence
        self.type = type
        self.body = body
        self.wire: bytes | None = None


class JournalEntry(NamedTuple):
    """What one durable await of a handler asked for and got."""

    kind: str
    name: str
    occurrence: int
    attempt: int
    digest: bytes
    asked: str
    codec: str
    outcome: bytes
    started: int | None = None
    """When the function of a step was first called, in microseconds since the epoch; None: it is no step."""
    kept: bool = False
    """Whether the operation that this one repeats has recorded it, and not this one."""
    within: str = ""
    """The step in whose function it was recorded; empty: in none."""
