"""What the outbox is told of: the changes of jobs and instances, as events. Called only where there are sinks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.rpc import status_pb2

from longshore_server.errors import Reason, reason_of
from longshore_server.job_lifecycle import JobMove, JobState
from longshore_server.store.instances import Entry, InstanceRecord, Value
from longshore_server.store.job_record import JobRecord
from longshore_server.store.outbox import EventType, Outbox

_OVER = frozenset({JobMove.CANCEL, JobMove.REPLACE, JobMove.EXPIRE})
_LOST = frozenset({Reason.HEARTBEAT_LOST.name, Reason.CRASH_LOOP.name})


# Instances.


def begun(outbox: Outbox, record: InstanceRecord, input: Value | None) -> None:
    """An instance was created, or has begun anew."""
    _tell(outbox, EventType.STARTED, record, {"generation": record.generation}, input)


def batch_begun(outbox: Outbox, record: InstanceRecord) -> None:
    """The first event of a batch was added."""
    _tell(outbox, EventType.BATCH_STARTED, record, {"flushAt": _iso(record.timers[""])})


def executed(
    outbox: Outbox, run: InstanceRecord, after: InstanceRecord, entry: Entry | None, value: Value | None
) -> None:
    """A handler has run to its end. `run`: the instance before that."""
    took = _took(run.attempt_begun, after.updated)
    _tell(outbox, EventType.EXECUTED, after, {"runCount": after.runs, "attempt": run.attempt, **took}, value)
    if entry is not None and entry.events:
        data = {
            "eventCount": entry.events, "reason": entry.cause.name.lower(), "startedAt": _iso(entry.started), **took,
        }  # fmt: skip
        _tell(outbox, EventType.BATCH_FLUSHED, after, data)


def failed(
    outbox: Outbox, run: InstanceRecord, after: InstanceRecord, error: bytes, problem: str, exhausted: str,
    value: Value | None,
) -> None:  # fmt: skip
    """A handler has failed. `exhausted`: why no attempt is left; empty: one is, or there was only one ever."""
    told = _error(error, problem)
    data: dict[str, Any] = {"error": told, "runCount": run.runs + 1, "attempt": run.attempt}
    data.update(_took(run.attempt_begun, after.updated), willRetry=after.retry_at is not None)
    if after.retry_at is not None:
        data["retryAt"] = _iso(after.retry_at)
    _tell(outbox, EventType.FAILED, after, data, value)
    if exhausted:
        _tell(outbox, EventType.EXHAUSTED, after, {"attempts": run.attempt, "reason": exhausted, "error": told})


def scheduled(outbox: Outbox, after: InstanceRecord, timers: Mapping[str, str]) -> None:
    """Handlers of a task have set timers: by each name, which one it was."""
    for name, trigger in timers.items():
        if name in after.timers:
            data = {"timer": name, "scheduledAt": _iso(after.timers[name]), "trigger": trigger}
            _tell(outbox, EventType.SCHEDULED, after, data)


def terminated(outbox: Outbox, record: InstanceRecord) -> None:
    """An instance has ended."""
    _tell(outbox, EventType.TERMINATED, record, {"reason": record.reason, "runCount": record.runs})


def _tell(
    outbox: Outbox, type: EventType, record: InstanceRecord, data: Mapping[str, Any], value: Value | None = None
) -> None:
    outbox.add(type, record.updated, record.name, record.definition, data, value)


# Jobs.


def job_created(outbox: Outbox, record: JobRecord, payload: Value) -> None:
    """A job was created."""
    outbox.add(EventType.STARTED, record.created, record.name, record.queue, {}, payload)


def job_failed(outbox: Outbox, head: JobRecord, record: JobRecord, exhausted: str = "") -> None:
    """An attempt has failed, or was lost. `head`: the job before that. `exhausted`: why none is left, if so."""
    told = _error(record.error or b"", record.problem)
    will_retry = record.state is JobState.QUEUED
    data: dict[str, Any] = {"error": told, "attempt": head.attempt, **_took(head.begun, record.updated)}
    data["willRetry"] = will_retry
    if will_retry:
        data["retryAt"] = _iso(record.due or record.updated)
    outbox.add(EventType.FAILED, record.updated, record.name, record.queue, data)
    if exhausted:
        spent = {"attempts": head.attempt, "reason": exhausted, "error": told}
        outbox.add(EventType.EXHAUSTED, record.updated, record.name, record.queue, spent)


def job_ended(outbox: Outbox, head: JobRecord, record: JobRecord, move: JobMove, exhausted: str) -> None:
    """A job has come to its end by `move`."""
    if move is JobMove.COMPLETE:
        data: dict[str, Any] = {"attempt": head.attempt, **_took(head.begun, record.updated)}
        outbox.add(EventType.EXECUTED, record.updated, record.name, record.queue, data, record.result)
    elif move in _OVER:
        data = {"attempt": head.attempt, "reason": record.cancel_reason, "error": _error(record.error or b"", "")}
        outbox.add(EventType.TERMINATED, record.updated, record.name, record.queue, data)
    else:
        lost = move is JobMove.BURY and reason_of(record.error or b"") in _LOST
        job_failed(outbox, head, record, "max_claims" if lost else exhausted)


def _error(status: bytes, problem: str) -> dict[str, str]:
    """What went wrong: `problem` is what the code raised, which callers do not see."""
    message = status_pb2.Status.FromString(status).message
    return {"reason": reason_of(status), "message": message, **({"problem": problem} if problem else {})}


def _took(begun: int | None, ended: int) -> dict[str, float]:
    """How long an attempt took, where that is known."""
    return {} if begun is None else {"durationMs": (ended - begun) / 1000}


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat(timespec="milliseconds")
