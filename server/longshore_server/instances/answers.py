"""What the verbs of several kinds answer alike."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from google.rpc import status_pb2

from longshore_server.errors import reason_of
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.run import moment
from longshore_server.store.instances import Handled, InstanceRecord


class Failed(NamedTuple):
    """What failed last."""

    reason: str
    """For machines: of an `OperationError`, or HANDLER_ERROR, STATE_UNREADABLE, STATE_TOO_LARGE, CRASH_LOOP."""
    message: str


class Answer(NamedTuple):
    """What a verb finds once it need not wait any more."""

    record: InstanceRecord | None
    """The instance; None: it is purged, or has begun anew."""
    handled: Handled | None
    """What became of its entry; None: no handler has run for it, and none does now."""


def failed(record: InstanceRecord) -> Failed | None:
    """What an instance failed with last, until something succeeds."""
    if record.error is None:
        return None
    return Failed(reason_of(record.error), status_pb2.Status.FromString(record.error).message)


def standing(record: InstanceRecord, answer: Answer | None) -> tuple[Status, datetime | None]:
    """The status, and when the handler runs again that has failed: of what was waited for, if anything was."""
    if answer is None:
        return record.status, None
    if answer.record is None:
        return Status.TERMINATED, None
    retry_at = None if answer.handled is None else optional_moment(answer.handled.retry_at)
    return answer.record.status, retry_at


def optional_moment(micros: int | None) -> datetime | None:
    """A time of the clock as code reads it; None: there is none."""
    return None if micros is None else moment(micros)
