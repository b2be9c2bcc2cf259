"""Between the wire's messages and the typed ones: one `Codec` per operation type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from typing_extensions import TypeVar

from longshore_client import events
from longshore_client.errors import (
    Code,
    OperationCancelled,
    OperationFailed,
    UnexpectedMessage,
    operation_cancelled,
    operation_failed,
)
from longshore_client.grants import DownloadGrant, UploadGrant, UploadState
from longshore_client.snapshot import PendingSignal, Snapshot
from longshore_client.state import OutputT, ProgressT, ResultT, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

    from longshore.v1 import operation_pb2 as pb
    from longshore.v1.operation_pb2 import OperationEvent, OperationSnapshot

ValueT = TypeVar("ValueT")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPE_URL = "type.googleapis.com/"

TERMINAL = frozenset({"completed", "failed", "cancelled"})
"""The kinds of events that are last."""


def to_any(message: Message) -> AnyMessage:
    """Pack a message; half the price of `Any.Pack`."""
    return AnyMessage(type_url=_TYPE_URL + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def to_datetime(stamp: Timestamp) -> datetime:
    """Turn a timestamp into a UTC time, to the microsecond."""
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


def upload_grant(wire: pb.UploadGrant) -> UploadGrant:
    """Decode what a snapshot says of an upload."""
    digests = wire.digests if wire.HasField("digests") else None
    return UploadGrant(
        name=wire.name,
        state=UploadState(wire.state),
        committed_size=wire.committed_size,
        part_sizes=tuple(wire.part_sizes),
        total_size=wire.total_size if wire.HasField("total_size") else None,
        max_bytes=wire.max_bytes,
        max_chunk_bytes=wire.max_chunk_bytes,
        expire_time=to_datetime(wire.expire_time) if wire.HasField("expire_time") else None,
        sha256=digests.sha256.hex() if digests is not None else "",
        crc32c=digests.crc32c if digests is not None else None,
        reason=wire.reason,
        require_checksum=wire.require_checksum,
    )


def download_grant(wire: pb.DownloadGrant) -> DownloadGrant:
    """Decode what a snapshot says of a download."""
    digests = wire.digests if wire.HasField("digests") else None
    return DownloadGrant(
        name=wire.name,
        expire_time=to_datetime(wire.expire_time),
        size=wire.size if wire.HasField("size") else None,
        content_type=wire.content_type,
        filename=wire.filename,
        sha256=digests.sha256.hex() if digests is not None else "",
        # The wire has no presence here, and zero for what the store does not know.
        crc32c=(digests.crc32c or None) if digests is not None else None,
        max_uses=wire.max_uses,
        url=wire.url,
        revoked=wire.revoked,
    )


def duration(seconds: float) -> Duration:
    """Turn seconds into what goes over the wire."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


class Codec(Generic[ProgressT, OutputT, ResultT]):
    """Decodes the payloads of one operation type.

    Args:
        progress_type: Class of the progress message; None: there is none.
        output_type: Class of the output message; None: there is none.
        result_type: Class of the result message; None: the result is empty and callers get None.
        signal_types: Classes of the signals' payloads, by the signals' names.
    """

    __slots__ = ("_output_type", "_progress_type", "_result_type", "_signal_types")

    def __init__(
        self,
        progress_type: type[ProgressT] | None,
        output_type: type[OutputT] | None,
        result_type: type[ResultT] | None,
        signal_types: Mapping[str, type[Any]] = MappingProxyType({}),
    ) -> None:
        self._progress_type = progress_type
        self._output_type = output_type
        self._result_type = result_type
        self._signal_types = signal_types

    def progress(self, value: AnyMessage) -> ProgressT:
        """Decode a progress payload.

        Raises:
            UnexpectedMessage: It is of another type or cannot be read.
        """
        if self._progress_type is None:
            raise _unexpected("progress", value.type_url, "none")
        return self._payload(value, self._progress_type, "progress")

    def output(self, value: AnyMessage) -> OutputT:
        """Decode an output payload.

        Raises:
            UnexpectedMessage: It is of another type or cannot be read.
        """
        if self._output_type is None:
            raise _unexpected("output", value.type_url, "none")
        return self._payload(value, self._output_type, "output")

    def result(self, value: AnyMessage) -> ResultT:
        """Decode a result.

        Raises:
            UnexpectedMessage: It is of another type or cannot be read.
        """
        if self._result_type is None:
            return cast("ResultT", None)
        return self._payload(value, self._result_type, "result")

    def signal_type(self, name: str) -> type[Any] | None:
        """The class of a signal's payload; None: this program's contract does not declare the signal."""
        return self._signal_types.get(name)

    def outcome(self, snapshot: OperationSnapshot) -> ResultT:
        """Return the result of an operation that has ended, or raise how it ended instead.

        Raises:
            OperationFailed, OperationCancelled: It ended that way.
        """
        if State(snapshot.state) is State.COMPLETED:
            return self.result(snapshot.result)
        raise _snapshot_error(snapshot)

    def snapshot(self, wire: OperationSnapshot) -> Snapshot[ProgressT, ResultT]:
        """Decode a snapshot."""

        def time(field: str) -> datetime | None:
            return to_datetime(getattr(wire, field)) if wire.HasField(field) else None  # type: ignore[arg-type]

        state = State(wire.state)
        progress = (
            self._payload(wire.progress, self._progress_type, "progress")
            if self._progress_type is not None and wire.HasField("progress")
            else None
        )
        return Snapshot(
            name=wire.name,
            uid=wire.uid,
            type=wire.type,
            state=state,
            revision=wire.revision,
            sequence=wire.sequence,
            progress=progress,
            result=self.result(wire.result) if state is State.COMPLETED else None,
            error=_snapshot_error(wire) if state in (State.FAILED, State.CANCELLED) else None,
            create_time=to_datetime(wire.create_time),
            start_time=time("start_time"),
            update_time=to_datetime(wire.update_time),
            end_time=time("end_time"),
            deadline=time("deadline"),
            attempt=wire.attempt,
            cancel_request_time=time("cancel_request_time"),
            cancel_reason=wire.cancel_reason,
            labels=dict(wire.labels),
            owner=wire.owner,
            request_id=wire.request_id,
            parent=wire.parent,
            crashes=wire.crashes,
            failures=wire.failures,
            next_attempt_time=time("next_attempt_time"),
            stop_request_time=time("stop_request_time"),
            stopped=wire.stopped,
            retried_from=wire.retried_from,
            expire_time=time("expire_time"),
            pending_signals=tuple(
                PendingSignal(signal.number, signal.name, signal.signal_id, to_datetime(signal.accept_time))
                for signal in wire.pending_signals
            ),
            upload=upload_grant(wire.upload) if wire.HasField("upload") else None,
            downloads=tuple(map(download_grant, wire.downloads)),
        )

    def event(self, wire: OperationEvent, operation: str) -> events.Event[ProgressT, OutputT, ResultT, Any] | None:
        """Decode an event; None for a kind that this version, or a signal that this program's contract, does not know.

        Raises:
            UnexpectedMessage: A payload is of another type than the contract says.
        """
        kind = wire.WhichOneof("event")
        at = to_datetime(wire.time)
        state = State(wire.state)
        sequence, revision, attempt = wire.sequence, wire.revision, wire.attempt
        # Spelled out rather than by a table of classes: it runs once an event, and the type checker sees each payload.
        if kind == "progress":
            progress = self.progress(wire.progress.value)
            return events.Progress(
                progress, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state
            )
        if kind == "output":
            output = self.output(wire.output.value)
            return events.Output(output, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state)
        if kind == "completed":
            result = self.result(wire.completed.result)
            return events.Completed(
                result,
                wire.completed.stopped,
                sequence=sequence,
                revision=revision,
                attempt=attempt,
                time=at,
                state=state,
            )
        if kind == "started":
            return events.Started(sequence=sequence, revision=revision, attempt=attempt, time=at, state=state)
        if kind == "accepted":
            accepted = wire.accepted
            return events.Accepted(
                accepted.name,
                accepted.uid,
                accepted.type,
                sequence=sequence,
                revision=revision,
                attempt=attempt,
                time=at,
                state=state,
            )
        if kind == "failed":
            failed = operation_failed(wire.failed.error, operation)
            return events.Failed(failed, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state)
        if kind == "cancelled":
            cancelled = operation_cancelled(wire.cancelled.error, operation)
            return events.Cancelled(
                cancelled, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state
            )
        if kind == "cancelling":
            return events.Cancelling(
                wire.cancelling.reason, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state
            )
        if kind == "signal":
            signal = wire.signal
            signal_type = self.signal_type(signal.name)
            if signal_type is None:
                return None
            return events.Signalled(
                signal.name,
                self._payload(signal.payload, signal_type, f"signal {signal.name}"),
                signal.signal_id,
                signal.number,
                signal.sender,
                sequence=sequence,
                revision=revision,
                attempt=attempt,
                time=at,
                state=state,
            )
        if kind == "transfer":
            upload = upload_grant(wire.transfer.upload)
            return events.Transfer(upload, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state)
        if kind == "offered":
            download = download_grant(wire.offered.download)
            return events.Offered(download, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state)
        if kind == "stopping":
            return events.Stopping(
                wire.stopping.reason, sequence=sequence, revision=revision, attempt=attempt, time=at, state=state
            )
        if kind == "attempt_failed":
            delay = wire.attempt_failed.retry_delay
            return events.AttemptFailed(
                operation_failed(wire.attempt_failed.error, operation),
                timedelta(seconds=delay.seconds, microseconds=delay.nanos // 1000),
                sequence=sequence,
                revision=revision,
                attempt=attempt,
                time=at,
                state=state,
            )
        return None

    def reset(self, wire: OperationSnapshot) -> events.Reset[ProgressT, ResultT]:
        """Decode a snapshot that stands for events which the server no longer keeps."""
        snapshot = self.snapshot(wire)
        return events.Reset(
            snapshot,
            sequence=snapshot.sequence,
            revision=snapshot.revision,
            attempt=snapshot.attempt,
            time=snapshot.update_time,
            state=snapshot.state,
        )

    def _payload(self, value: AnyMessage, kind: type[ValueT], channel: str) -> ValueT:
        """Unpack a payload. `kind` is a message class; its variable has no bound because None and Never occur too."""
        message_type = cast("type[Message]", kind)
        name = message_type.DESCRIPTOR.full_name
        if value.type_url.rpartition("/")[2] != name:
            raise _unexpected(channel, value.type_url, name)
        try:
            return cast("ValueT", message_type.FromString(value.value))
        except DecodeError as error:
            raise UnexpectedMessage(
                f"the {channel} cannot be read as {name}",
                reason="MALFORMED_MESSAGE",
                code=Code.DATA_LOSS,
                domain="longshore",
            ) from error


def _snapshot_error(snapshot: OperationSnapshot) -> OperationFailed | OperationCancelled:
    if State(snapshot.state) is State.CANCELLED:
        return operation_cancelled(snapshot.error, snapshot.name)
    return operation_failed(snapshot.error, snapshot.name)


def _unexpected(channel: str, type_url: str, expected: str) -> UnexpectedMessage:
    got = type_url.rpartition("/")[2] or "nothing"
    return UnexpectedMessage(
        f"the {channel} is {got}, but this program's contract says {expected}: generate its modules anew",
        reason="UNEXPECTED_MESSAGE",
        code=Code.INTERNAL,
        domain="longshore",
    )
