"""The latest durable view of an operation, with its payloads decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

from longshore_client.state import ProgressT, ResultT, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from longshore_client.errors import OperationCancelled, OperationFailed
    from longshore_client.grants import DownloadGrant, UploadGrant


@dataclass(frozen=True, slots=True)
class PendingSignal:
    """A signal that is accepted and not consumed yet."""

    number: int
    """Position among all signals of the operation, from 1."""
    name: str
    signal_id: str
    accept_time: datetime
    """In UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[ProgressT, ResultT]):
    """Where an operation stands. Times are in UTC."""

    name: str
    """`operations/{id}`."""
    uid: str
    """Unique for ever, even where a name is used again."""
    type: str
    """For example `acme.orders.v1.OrdersService/Process`."""
    state: State
    revision: int
    """Counts the durable changes, from 1."""
    sequence: int
    """The last event that this snapshot includes."""
    progress: ProgressT | None = None
    """The latest progress; None until there is any."""
    result: ResultT | None = None
    """Set when the state is COMPLETED, unless the contract's result is empty."""
    error: OperationFailed | OperationCancelled | None = None
    """Set when the state is FAILED or CANCELLED."""
    create_time: datetime
    start_time: datetime | None = None
    update_time: datetime
    end_time: datetime | None = None
    deadline: datetime | None = None
    """When it fails if it has not ended by then; None: never."""
    attempt: int = 0
    """Number of the current or last attempt; 0 before the first."""
    cancel_request_time: datetime | None = None
    cancel_reason: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    request_id: str = ""
    parent: str = ""
    """Name of the operation whose handler started this one."""
    crashes: int = 0
    """How many crashes of the server interrupted it."""
    failures: int = 0
    """How many attempts failed and were made again, or will be."""
    next_attempt_time: datetime | None = None
    """When the next attempt begins; None: one is under way, or none is due."""
    stop_request_time: datetime | None = None
    stopped: bool = False
    """It completed after a request to stop: the result may be a part of what was asked for."""
    retried_from: str = ""
    """Name of the operation that this one repeats."""
    expire_time: datetime | None = None
    """When it is deleted; None: it has not ended, or it is kept for ever."""
    pending_signals: tuple[PendingSignal, ...] = ()
    """The signals that nobody has consumed yet, in the order of their acceptance."""
    upload: UploadGrant | None = None
    """The bytes that its caller sends; None: its contract declares none."""
    downloads: tuple[DownloadGrant, ...] = ()
    """The bytes that callers may fetch, in the order in which they were offered."""
