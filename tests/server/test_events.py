"""The hand-written encoding of events says what the generated message would."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from longshore.v1 import operation_pb2
from longshore_server.ids import uid_text
from longshore_server.lifecycle import EventType, State
from longshore_server.store import events
from longshore_server.store.transaction import new_record

numbers = st.integers(min_value=1, max_value=2**62)


@given(
    event=st.sampled_from(EventType),
    state=st.sampled_from(State),
    sequence=numbers,
    revision=numbers,
    attempt=st.integers(min_value=0, max_value=2**31 - 1),
    time=st.integers(min_value=0, max_value=253_402_300_799_999_999),
    value=st.binary(max_size=300),
    text=st.text(max_size=100),
    stopped=st.booleans(),
    delay=st.none() | st.integers(min_value=0, max_value=10**15),
)
def test_encoding_by_hand_equals_the_generated_message(
    event: EventType, state: State, sequence: int, revision: int, attempt: int, time: int, value: bytes, text: str,
    stopped: bool, delay: int | None,
) -> None:  # fmt: skip
    record = new_record(
        uid=bytes(range(16)), id="an-id", type="a.B/C", created=0, deadline=None, labels={}, owner="", request_id="",
        parent="",
    ).evolve(
        state=state, sequence=sequence, revision=revision, attempt=attempt, updated=time, stopped=stopped,
        next_attempt=None if delay is None else time + delay,
    )  # fmt: skip
    payload = AnyMessage(type_url="t/x", value=value)
    status = status_pb2.Status(code=len(text), message=text)
    wanted = operation_pb2.OperationEvent(
        sequence=sequence,
        revision=revision,
        attempt=attempt,
        state=operation_pb2.OperationSnapshot.State.ValueType(state),
    )
    wanted.time.FromMicroseconds(time)
    given: bytes | None = None
    if event is EventType.ACCEPTED:
        accepted = operation_pb2.OperationEvent.Accepted
        wanted.accepted.CopyFrom(accepted(name=record.name, uid=uid_text(record.uid), type=record.type))
    elif event is EventType.STARTED:
        wanted.started.SetInParent()
    elif event in (EventType.PROGRESS, EventType.OUTPUT):
        getattr(wanted, event.name.lower()).value.CopyFrom(payload)
        given = payload.SerializeToString()
    elif event is EventType.COMPLETED:
        wanted.completed.result.CopyFrom(payload)
        wanted.completed.stopped = stopped
        given = payload.SerializeToString()
    elif event in (EventType.CANCELLING, EventType.STOPPING):
        getattr(wanted, event.name.lower()).reason = text
        getattr(wanted, event.name.lower()).SetInParent()
        given = text.encode()
    elif event is EventType.SIGNAL:
        wanted.signal.payload.CopyFrom(payload)
        wanted.signal.name, wanted.signal.number = text, sequence
        given = wanted.signal.SerializeToString()
    elif event is EventType.TRANSFER:
        wanted.transfer.upload.name, wanted.transfer.upload.committed_size = text, sequence
        given = wanted.transfer.SerializeToString()
    elif event is EventType.OFFERED:
        wanted.offered.download.name, wanted.offered.download.size = text, sequence
        given = wanted.offered.SerializeToString()
    else:
        if event is EventType.ATTEMPT_FAILED and delay is not None:
            wanted.attempt_failed.retry_delay.FromMicroseconds(delay)
        getattr(wanted, event.name.lower()).error.CopyFrom(status)
        given = status.SerializeToString()
    encoded = events.encode(record, event, given)
    assert operation_pb2.OperationEvent.FromString(encoded) == wanted
    if event in (EventType.PROGRESS, EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED):
        assert events.payload_of(encoded) == given
