"""Events as bytes: each is encoded once, by the writer, and those bytes are stored and sent to every watcher.

Encoded by hand: an event is a handful of varints around a payload that is bytes already, and the generated message
would take four times as long on the hottest path of the writer. A test holds both against each other.
"""

from __future__ import annotations

from functools import lru_cache

from longshore.v1 import operation_pb2
from longshore_server.ids import uid_text
from longshore_server.lifecycle import EventType
from longshore_server.store.record import OperationRecord

# OperationEvent: the key bytes of its fields (field number << 3 | wire type).
_SEQUENCE, _REVISION, _ATTEMPT, _TIME, _STATE = b"\x08", b"\x10", b"\x18", b"\x22", b"\x28"
# By event type: the key bytes of the field in OperationEvent.event that holds it.
_KIND = [b"", b"\x32", b"\x3a", b"\x42", b"\x4a", b"\x52", b"\x5a", b"\x62", b"\x6a", b"\x72",
         b"\x7a", b"\x82\x01", b"\x8a\x01", b"\x92\x01"]  # fmt: skip
_WHOLE = frozenset({EventType.SIGNAL, EventType.TRANSFER, EventType.OFFERED})  # their payload is their whole content
_FIRST = b"\x0a"  # field 1, length-delimited: the payload in each of the messages above
_UID, _TYPE = b"\x12\x24", b"\x1a"  # Accepted.uid, which has always 36 characters, and Accepted.type
_STOPPED = b"\x10\x01"  # Completed.stopped: true
_RETRY_DELAY = b"\x12"  # AttemptFailed.retry_delay
_SMALL = [bytes((n,)) for n in range(0x80)]
_ATTEMPTS = [b"", *(_ATTEMPT + number for number in _SMALL[1:])]  # proto3 leaves a zero out
_STATES = [_STATE + number for number in _SMALL[:8]]


def encode(record: OperationRecord, event: EventType, payload: bytes | None) -> bytes:
    """The serialized `OperationEvent` that led to `record`.

    `payload` is what the event carries: a serialized Any (progress, output, completed), a serialized Status
    (attempt_failed, failed, cancelled), the caller's reason in UTF-8 (cancelling, stopping), the serialized
    content of the event itself (signal, transfer, offered), or nothing.
    """
    if event is EventType.ACCEPTED:
        name, type = record.name.encode(), record.type.encode()
        content = b"".join(
            (_FIRST, varint(len(name)), name, _UID, uid_text(record.uid).encode(), _TYPE, varint(len(type)), type)
        )
    elif event in _WHOLE:
        content = payload or b""
    elif payload:
        content = _FIRST + varint(len(payload)) + payload
    elif payload is None or event is EventType.CANCELLING or event is EventType.STOPPING:
        content = b""
    else:
        content = _FIRST + b"\0"
    if event is EventType.COMPLETED and record.stopped:
        content += _STOPPED
    elif event is EventType.ATTEMPT_FAILED and record.next_attempt is not None:
        delay = _time(record.next_attempt - record.updated)
        content += _RETRY_DELAY + varint(len(delay)) + delay
    sequence, revision, attempt, length = record.sequence, record.revision, record.attempt, len(content)
    return b"".join(
        (
            _SEQUENCE, _SMALL[sequence] if sequence < 128 else varint(sequence),
            _REVISION, _SMALL[revision] if revision < 128 else varint(revision),
            _ATTEMPTS[attempt] if attempt < 128 else _ATTEMPT + varint(attempt),
            _when(record.updated), _STATES[record.state],
            _KIND[event], _SMALL[length] if length < 128 else varint(length), content,
        )
    )  # fmt: skip


@lru_cache(maxsize=16)
def _when(micros: int) -> bytes:
    """The field `time`. The events of a batch have one time, mostly: it is encoded once for all of them."""
    time = _time(micros)
    return _TIME + _SMALL[len(time)] + time


def _time(micros: int) -> bytes:
    """The content of a Timestamp or a Duration."""
    seconds, rest = divmod(micros, 1_000_000)
    time = b"\x08" + varint(seconds)
    return time + b"\x10" + varint(rest * 1000) if rest else time


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


def varint(value: int) -> bytes:
    """A non-negative number as protobuf writes it."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
