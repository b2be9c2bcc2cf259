"""Events as bytes: each is encoded once, by the writer, and those bytes are stored and sent to every watcher."""

from __future__ import annotations

from longshore.v1 import operation_pb2
from longshore_server.lifecycle import EventType
from longshore_server.store.record import OperationRecord


def encode(record: OperationRecord, event: EventType, payload: bytes | str | None) -> bytes:
    """The serialized `OperationEvent` that led to `record`.

    `payload` is what the event carries: a serialized Any (progress, output, completed), a serialized Status
    (attempt_failed, failed, cancelled), the cancel reason (cancelling), or nothing.
    """
    message = operation_pb2.OperationEvent(
        sequence=record.sequence,
        revision=record.revision,
        attempt=record.attempt,
        state=operation_pb2.OperationSnapshot.State.ValueType(record.state),
    )
    message.time.seconds, micros = divmod(record.updated, 1_000_000)
    message.time.nanos = micros * 1000
    if event is EventType.PROGRESS:
        message.progress.value.ParseFromString(_bytes(payload))
    elif event is EventType.OUTPUT:
        message.output.value.ParseFromString(_bytes(payload))
    elif event is EventType.COMPLETED:
        message.completed.result.ParseFromString(_bytes(payload))
    elif event is EventType.STARTED:
        message.started.SetInParent()
    elif event is EventType.ACCEPTED:
        accepted = message.accepted
        accepted.name, accepted.uid, accepted.type = record.name, uid_text(record.uid), record.type
    elif event is EventType.FAILED:
        message.failed.error.ParseFromString(_bytes(payload))
    elif event is EventType.CANCELLED:
        message.cancelled.error.ParseFromString(_bytes(payload))
    elif event is EventType.ATTEMPT_FAILED:
        message.attempt_failed.error.ParseFromString(_bytes(payload))
    else:
        assert isinstance(payload, str)
        message.cancelling.reason = payload
    return message.SerializeToString()


def payload_of(body: bytes) -> bytes:
    """What `encode` was given for a progress, completed, failed or cancelled event."""
    message = operation_pb2.OperationEvent.FromString(body)
    kind = message.WhichOneof("event")
    if kind == "progress":
        return message.progress.value.SerializeToString()
    if kind == "completed":
        return message.completed.result.SerializeToString()
    if kind == "failed":
        return message.failed.error.SerializeToString()
    assert kind == "cancelled", kind
    return message.cancelled.error.SerializeToString()


def uid_text(uid: bytes) -> str:
    """The usual text of a UUID: 8-4-4-4-12 hexadecimal digits."""
    text = uid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _bytes(payload: bytes | str | None) -> bytes:
    assert isinstance(payload, bytes)
    return payload
