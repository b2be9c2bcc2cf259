"""Records and watch items as the bytes of their messages, and the small messages that others consist of."""

from __future__ import annotations

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from longshore.v1 import annotations_pb2, operation_pb2, operations_service_pb2
from longshore_server.contract.retry import RetryPolicy
from longshore_server.contract.types import OperationType
from longshore_server.engine.live import Live
from longshore_server.engine.watch import Item, Skip, Snapshot
from longshore_server.ids import uid_text
from longshore_server.lifecycle import State
from longshore_server.store.events import varint
from longshore_server.store.record import Event, OperationRecord
from longshore_server.store.transfers import download_grant, upload_grant

_EVENT_TAG = b"\x12"  # WatchResponse.event, length-delimited
_COVERS_TAG = b"\x20"  # WatchResponse.covers_after, varint


def snapshot(record: OperationRecord) -> operation_pb2.OperationSnapshot:
    """The snapshot of a record, without its input."""
    message = operation_pb2.OperationSnapshot(
        name=record.name,
        uid=uid_text(record.uid),
        type=record.type,
        state=operation_pb2.OperationSnapshot.State.ValueType(record.state),
        revision=record.revision,
        sequence=record.sequence,
        attempt=record.attempt,
        owner=record.owner,
        first_sequence=record.first_sequence,
    )
    set_time(message.create_time, record.created)
    set_time(message.update_time, record.updated)
    if record.started is not None:
        set_time(message.start_time, record.started)
    if record.ended is not None:
        set_time(message.end_time, record.ended)
    if record.deadline is not None:
        set_time(message.deadline, record.deadline)
    if record.cancel_requested is not None:
        set_time(message.cancel_request_time, record.cancel_requested)
        message.cancel_reason = record.cancel_reason
    if record.progress is not None:
        message.progress.ParseFromString(record.progress)
    if record.result is not None:
        message.result.ParseFromString(record.result)
    if record.error is not None:
        message.error.ParseFromString(record.error)
    if record.labels:
        message.labels.update(record.labels)
    if record.request_id:
        message.request_id = record.request_id
    if record.parent:
        message.parent = record.parent
    if record.crashes:
        message.crashes = record.crashes
    if record.failures:
        message.failures = record.failures
    if record.next_attempt is not None:
        set_time(message.next_attempt_time, record.next_attempt)
    if record.deferred:
        message.deferred = True
    if record.stop_requested is not None:
        set_time(message.stop_request_time, record.stop_requested)
        message.stopped = record.stopped
    for waiting in record.pending:
        signal = message.pending_signals.add(number=waiting.number, name=waiting.name, signal_id=waiting.id)
        set_time(signal.accept_time, waiting.accepted)
    if record.retried_from:
        message.retried_from = record.retried_from
    if record.expires is not None:
        set_time(message.expire_time, record.expires)
    if record.upload is not None:
        message.upload.CopyFrom(upload_grant(record.uid, record.upload))
    for download in record.downloads:
        message.downloads.append(download_grant(record.uid, download))
    return message


def watch_response(item: Item) -> bytes:
    """One message of a watch. An event's bytes are made once, whoever watches."""
    if isinstance(item, Event):
        return item.wire or _event(item)
    if isinstance(item, Skip):
        return (item.event.wire or _event(item.event)) + _COVERS_TAG + varint(item.covers_after)
    if isinstance(item, Snapshot):
        response = operations_service_pb2.WatchResponse(snapshot=snapshot(item.record), reset=item.reset)
        return response.SerializeToString()
    heartbeat = operations_service_pb2.WatchResponse.Heartbeat(sequence=item.sequence)
    set_time(heartbeat.time, item.time)
    return operations_service_pb2.WatchResponse(heartbeat=heartbeat).SerializeToString()


def _event(event: Event) -> bytes:
    event.wire = _EVENT_TAG + varint(len(event.body)) + event.body
    return event.wire


def long_running(record: OperationRecord, type: OperationType | None) -> operations_pb2.Operation:
    """The record as `google.longrunning.Operation`.

    `metadata` is always of the contract's progress type, empty until there is any: Java clients unpack it blindly.
    """
    message = operations_pb2.Operation(name=record.name)
    if record.progress is not None:
        message.metadata.ParseFromString(record.progress)
    elif type is not None:
        message.metadata.type_url = type.progress_url
    if record.state is State.COMPLETED:
        message.done = True
        message.response.ParseFromString(record.result or b"")
    elif record.terminal:
        message.done = True
        message.error.ParseFromString(record.error or b"")
    return message


class LongRunningStream:
    """Turns the items of one watch into `google.longrunning.Operation` messages: the operation after each event."""

    def __init__(self, live: Live, type: OperationType) -> None:
        self._name = live.record.name
        self._metadata = Any(type_url=type.progress_url)
        self._type = type
        self._last = b""

    def message(self, item: Item) -> bytes:
        """The operation after `item`; a heartbeat repeats the last one."""
        if isinstance(item, Snapshot):
            operation = long_running(item.record, self._type)
            self._metadata = operation.metadata
            self._last = operation.SerializeToString()
        elif isinstance(item, Event):
            self._last = self._after(item)
        return self._last

    def _after(self, event: Event) -> bytes:
        body = operation_pb2.OperationEvent.FromString(event.body)
        operation = operations_pb2.Operation(name=self._name)
        kind = body.WhichOneof("event")
        if kind == "progress":
            self._metadata = body.progress.value
        elif kind == "completed":
            operation.done = True
            operation.response.CopyFrom(body.completed.result)
        elif kind in ("failed", "cancelled"):
            operation.done = True
            error: status_pb2.Status = getattr(body, kind).error
            operation.error.CopyFrom(error)
        operation.metadata.CopyFrom(self._metadata)
        return bytes(operation.SerializeToString())


def set_time(timestamp: Timestamp, micros: int) -> None:
    """Set `timestamp` to microseconds since the epoch."""
    timestamp.seconds, rest = divmod(micros, 1_000_000)
    timestamp.nanos = rest * 1000


def duration(micros: int | None) -> Duration | None:
    """Microseconds as a message."""
    if micros is None:
        return None
    seconds, rest = divmod(micros, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def retry_policy(policy: RetryPolicy | None) -> annotations_pb2.RetryPolicy | None:
    """A policy as a contract writes it."""
    if policy is None:
        return None
    return annotations_pb2.RetryPolicy(
        max_attempts=policy.max_attempts, backoff=policy.backoff, initial_delay=duration(policy.initial_delay),
        max_delay=duration(policy.max_delay), jitter=policy.jitter, max_duration=duration(policy.max_duration),
        non_retryable_reasons=sorted(policy.non_retryable),
    )  # fmt: skip
