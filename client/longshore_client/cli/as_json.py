"""What there is as JSON for programs: events, snapshots, errors and grants, one object a line."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from longshore_client import events
from longshore_client.cli.text import shown
from longshore_client.grants import UploadState
from longshore_client.state import State

if TYPE_CHECKING:
    from longshore_client.cli.reflection import Types
    from longshore_client.errors import LongshoreError
    from longshore_client.grants import DownloadGrant, SendProgress, UploadGrant
    from longshore_client.snapshot import Snapshot

_SNAKE: dict[type[events.EventBase], str] = {
    events.Accepted: "accepted",
    events.Started: "started",
    events.Progress: "progress",
    events.Output: "output",
    events.AttemptFailed: "attempt_failed",
    events.Cancelling: "cancelling",
    events.Stopping: "stopping",
    events.Signalled: "signal",
    events.Transfer: "transfer",
    events.Offered: "offered",
    events.Completed: "completed",
    events.Failed: "failed",
    events.Cancelled: "cancelled",
    events.Reset: "reset",
}


def error_dict(error: LongshoreError, types: Types) -> dict[str, Any]:
    """An error as JSON values."""
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "domain": error.domain,
        "metadata": error.metadata,
        "details": [types.to_dict(item) for item in error.details],
    }


def event_dict(event: events.Event[Any, Any, Any], types: Types) -> dict[str, Any]:
    """An event as JSON values: what all events have, then the payload of its kind."""
    kind = _SNAKE[type(event)]
    data: dict[str, Any] = {
        "type": kind,
        "sequence": event.sequence,
        "revision": event.revision,
        "attempt": event.attempt,
        "time": stamp(event.time),
        "state": event.state.name,
    }
    match event:
        case events.Accepted():
            data |= {"name": event.name, "uid": event.uid, "operation_type": event.type}
        case events.Progress() | events.Output():
            data["value"] = types.to_dict(event.value)
        case events.Completed():
            data["result"] = types.to_dict(event.result)
            if event.stopped:
                data["stopped"] = True
        case events.Failed() | events.Cancelled():
            data["error"] = error_dict(event.error, types)
        case events.AttemptFailed():
            data |= {"error": error_dict(event.error, types), "retry_delay": event.retry_delay.total_seconds()}
        case events.Cancelling() | events.Stopping():
            data["reason"] = event.reason
        case events.Signalled():
            data |= {"name": event.name, "payload": types.to_dict(event.payload), "signal_id": event.signal_id}
            data |= {"number": event.number, "sender": event.sender}
        case events.Transfer():
            data["upload"] = grant_dict(event.upload)
        case events.Offered():
            data["download"] = grant_dict(event.download)
        case events.Reset():
            data["snapshot"] = snapshot_dict(event.snapshot, types)
        case _:
            pass
    return data


def snapshot_dict(snapshot: Snapshot[Any, Any], types: Types) -> dict[str, Any]:
    """A snapshot as JSON values. What is not there is left out."""
    data: dict[str, Any] = {}
    for field in snapshot.__slots__:
        value = getattr(snapshot, field)
        if isinstance(value, State):
            value = value.name
        elif isinstance(value, datetime):
            value = stamp(value)
        elif field in ("progress", "result") and value is not None:
            value = types.to_dict(value)
        elif field == "error" and value is not None:
            value = error_dict(value, types)
        elif field == "labels":
            value = dict(value)
        elif value is False:
            value = None
        elif field == "upload" and value is not None:
            value = grant_dict(value)
        elif field == "downloads":
            value = [grant_dict(grant) for grant in value]
        elif field == "pending_signals":
            value = [{**dataclasses.asdict(signal), "accept_time": stamp(signal.accept_time)} for signal in value]
        if value not in (None, "", {}, []):
            data[field] = value
    return data


def grant_dict(grant: UploadGrant | DownloadGrant) -> dict[str, Any]:
    """What there is to send or to fetch, as JSON values. What is not there is left out."""
    data = dataclasses.asdict(grant)
    for field, value in data.items():
        if isinstance(value, UploadState):
            data[field] = value.name
        elif isinstance(value, datetime):
            data[field] = stamp(value)
    # A size of nothing is a fact.
    return {field: value for field, value in data.items() if value not in (None, "", (), False) or value == 0}


def print_json(data: object) -> None:
    """One object, one line, at once: a reader on a pipe follows live."""
    click.echo(shown(json.dumps(data, ensure_ascii=False)))


def print_result(result: Any, types: Types) -> None:
    """The result as JSON on stdout; an empty one prints nothing."""
    data = types.to_dict(result)
    if data is not None and not (data == {} and result.DESCRIPTOR.full_name == "google.protobuf.Empty"):
        print_json(data)


def stamp(moment: datetime) -> str:
    """A time as JSON has it."""
    return moment.isoformat().replace("+00:00", "Z")


class JsonRenderer:
    """One event a line, on stdout."""

    def __init__(self, types: Types, name: str) -> None:
        self._types = types
        self._name = name

    def event(self, event: events.Event[Any, Any, Any]) -> None:
        data = event_dict(event, self._types)
        print_json({"type": data.pop("type"), "operation": self._name} | data)

    def sent(self, progress: SendProgress) -> None:
        pass  # the events of the operation say it

    def ended(self, snapshot: Snapshot[Any, Any]) -> None:
        print_json({"type": "snapshot", "operation": self._name, "snapshot": snapshot_dict(snapshot, self._types)})

    def close(self) -> None:
        pass
