"""What a watch yields: one small immutable class per kind of event, generic in the payload it carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias

from longshore_client.state import OutputT, ProgressT, ResultT, SignalT, State

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from longshore_client.errors import OperationCancelled, OperationFailed
    from longshore_client.grants import DownloadGrant, UploadGrant
    from longshore_client.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBase:
    """What every event carries."""

    sequence: int
    """Position in the operation's log: 1, 2, 3 ... without gaps."""
    revision: int
    """Revision of the snapshot that the event led to."""
    attempt: int
    """The attempt that it belongs to; 0 before the first."""
    time: datetime
    """When it was recorded, in UTC."""
    state: State
    """State of the operation after the event."""


@dataclass(frozen=True, slots=True)
class Accepted(EventBase):
    """The operation was accepted. Always the first event."""

    name: str
    uid: str
    type: str


@dataclass(frozen=True, slots=True)
class Started(EventBase):
    """Its handler began, for the first time."""


@dataclass(frozen=True, slots=True)
class Progress(EventBase, Generic[ProgressT]):
    """The handler reported progress."""

    value: ProgressT


@dataclass(frozen=True, slots=True)
class Output(EventBase, Generic[OutputT]):
    """The handler sent output."""

    value: OutputT


@dataclass(frozen=True, slots=True)
class AttemptFailed(EventBase):
    """An attempt ended without an outcome and will be made again."""

    error: OperationFailed
    retry_delay: timedelta
    """How long until the next attempt; zero: at once."""


@dataclass(frozen=True, slots=True)
class Cancelling(EventBase):
    """A caller asked to cancel."""

    reason: str


@dataclass(frozen=True, slots=True)
class Signalled(EventBase, Generic[SignalT]):
    """A caller's signal was accepted."""

    name: str
    payload: SignalT
    signal_id: str
    """The id that it was sent with, or that the server made."""
    number: int
    """Position among all signals of the operation, from 1."""
    sender: str
    """The principal that sent it."""


@dataclass(frozen=True, slots=True)
class Stopping(EventBase):
    """A caller asked to stop it and to keep what there is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Transfer(EventBase):
    """Bytes of its upload became durable, or the upload came to its end. Not for every byte."""

    upload: UploadGrant


@dataclass(frozen=True, slots=True)
class Offered(EventBase):
    """There are bytes to fetch."""

    download: DownloadGrant


@dataclass(frozen=True, slots=True)
class Completed(EventBase, Generic[ResultT]):
    """It ended with a result. The last event."""

    result: ResultT
    stopped: bool = False
    """It completed after a request to stop: the result may be a part of what was asked for."""


@dataclass(frozen=True, slots=True)
class Failed(EventBase):
    """It ended with an error. The last event."""

    error: OperationFailed


@dataclass(frozen=True, slots=True)
class Cancelled(EventBase):
    """It ended by a cancel request. The last event."""

    error: OperationCancelled


@dataclass(frozen=True, slots=True)
class Reset(EventBase, Generic[ProgressT, ResultT]):
    """The server no longer keeps the next events: this stands for all of them up to `sequence`.

    It comes whatever kinds of events were asked for. When `state` is terminal it is the last, in the place of
    `Completed`, `Failed` or `Cancelled`, and `snapshot` has the result or error.
    """

    snapshot: Snapshot[ProgressT, ResultT]
    """Where the operation stood after these events."""


Event: TypeAlias = (
    Accepted
    | Started
    | Progress[ProgressT]
    | Output[OutputT]
    | AttemptFailed
    | Cancelling
    | Stopping
    | Completed[ResultT]
    | Failed
    | Cancelled
    | Signalled[SignalT]
    | Transfer
    | Offered
    | Reset[ProgressT, ResultT]
)
"""Any event of an operation with these channels."""
