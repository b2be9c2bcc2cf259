# ruff: noqa: N818 - named for what happened, as gRPC and AIP-193 name it
"""Typed errors, rebuilt from the `google.rpc.Status` that the server sends.

Two families: an operation that ended without a result (`OperationFailed`, `OperationCancelled`), and a call that was
refused or could not be made (`CallError` and its subclasses, one for each status code). All carry a `reason`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from longshore_client.wire_enum import WireEnum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MessageT = TypeVar("MessageT", bound=Message)
_POOL = descriptor_pool.Default()


class Code(WireEnum):
    """The canonical status codes (`google.rpc.Code`)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def _unknown(cls) -> Self:
        return cls(2)


class FieldViolation(NamedTuple):
    """One broken rule of a request."""

    field: str
    """Path of the field, for example `items[2].sku`."""
    description: str


class LongshoreError(Exception):
    """The base of every error that this library raises on purpose.

    Attributes:
        reason: What happened, in UPPER_SNAKE_CASE. Decide by this, not by `message`.
        message: One sentence for people.
        code: The canonical status code.
        domain: Who defines `reason`: `longshore`, or the service's own.
        metadata: Further facts, as the other side gave them.
        details: The details as they came, of types known to this program or not. See `detail`.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: Code = Code.UNKNOWN,
        domain: str = "",
        metadata: Mapping[str, str] | None = None,
        details: Sequence[AnyMessage] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.domain = domain
        self.metadata: dict[str, str] = dict(metadata or {})
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # What worker processes raise is pickled, and the base class would call the constructor with the message alone.
        return _unpickle, (type(self), str(self.message), self.__dict__)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The details as messages, in their order, without the `ErrorInfo` that `reason` comes from.

        Types that this program does not know are left out: it knows those of the contracts whose modules it has
        imported, and `google.rpc`'s own.
        """
        return tuple(found for item in self.details if (found := _message(item)) is not None)

    def detail(self, message_type: type[MessageT]) -> MessageT | None:
        """Return the first detail of a type, or None if there is none that can be read."""
        return _detail(self.details, message_type)


class OperationFailed(LongshoreError):
    """The operation ended with an error; `code` and `details` are what its handler or the server recorded."""

    def __init__(self, message: str, *, operation: str = "", **more: object) -> None:
        super().__init__(message, **more)  # type: ignore[arg-type]  # the keywords are the base class's
        self.operation = operation
        """Name of the operation."""


class OperationCancelled(LongshoreError):
    """The operation ended because somebody cancelled it, or was asked to and the caller waits no longer."""

    def __init__(self, message: str, *, operation: str = "", **more: object) -> None:
        super().__init__(message, **more)  # type: ignore[arg-type]  # the keywords are the base class's
        self.operation = operation
        """Name of the operation; empty if it was never started."""


class StillRunning(LongshoreError, TimeoutError):
    """The time that the caller would wait is up; the operation goes on. Attach to `operation` to come back to it."""

    def __init__(self, operation: str, timeout: float) -> None:
        super().__init__(
            f"{operation} has not ended within {timeout:g} s; it goes on",
            reason="STILL_RUNNING",
            code=Code.DEADLINE_EXCEEDED,
            domain="longshore",
        )
        self.operation = operation


class UnexpectedMessage(LongshoreError):
    """The server sent a payload of another type than this program's contract says, or one that cannot be read."""


class CallError(LongshoreError):
    """A call was refused or could not be made. Caught by subclass, one for each status code."""

    status_code: ClassVar[Code] = Code.UNKNOWN
    resource: str = ""
    """Name of the resource that the error is about, if the server said it."""
    retry_after: float | None = None
    """Seconds after which trying again makes sense, if the server said it."""
    field_violations: tuple[FieldViolation, ...] = ()
    """The fields at fault, for `InvalidArgument`."""
    advice: str = ""
    """What is wrong and what to do, where this side knows it better than `message`: then it is the error's text."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.advice}" if self.advice else super().__str__()


class CallCancelled(CallError):
    """The server or something between cancelled the call, again and again."""

    status_code = Code.CANCELLED


class InvalidArgument(CallError):
    """The request breaks a rule, whatever the state of things; `field_violations` says which."""

    status_code = Code.INVALID_ARGUMENT


class DeadlineExceeded(CallError):
    """The server did not answer in time."""

    status_code = Code.DEADLINE_EXCEEDED


class NotFound(CallError):
    """No such operation or type."""

    status_code = Code.NOT_FOUND


class AlreadyExists(CallError):
    """The request id or the name was used with another input."""

    status_code = Code.ALREADY_EXISTS


class PermissionDenied(CallError):
    """The caller may not do this."""

    status_code = Code.PERMISSION_DENIED


class ResourceExhausted(CallError):
    """The server has too much to do or the message is too large; `retry_after` says when to try again."""

    status_code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(CallError):
    """The state of things does not allow it."""

    status_code = Code.FAILED_PRECONDITION


class Aborted(CallError):
    """Somebody else was faster."""

    status_code = Code.ABORTED


class OutOfRange(CallError):
    """The sequence to resume after does not exist yet."""

    status_code = Code.OUT_OF_RANGE


class Unimplemented(CallError):
    """The server does not know the method or a field; it may not be a Longshore server."""

    status_code = Code.UNIMPLEMENTED


class InternalError(CallError):
    """Something unexpected went wrong in the server."""

    status_code = Code.INTERNAL


class Unavailable(CallError):
    """The server could not be reached, for as long as the client was ready to try."""

    status_code = Code.UNAVAILABLE


class DataLoss(CallError):
    """The server lost or corrupted data, or sent events that do not follow each other."""

    status_code = Code.DATA_LOSS


class Unauthenticated(CallError):
    """The server does not know who calls."""

    status_code = Code.UNAUTHENTICATED


_CLASSES: dict[int, type[CallError]] = {
    kind.status_code: kind
    for kind in (
        CallCancelled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        InternalError,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def _unpickle(kind: type[LongshoreError], message: str, state: dict[str, object]) -> LongshoreError:
    error = kind.__new__(kind, message)
    error.__dict__.update(state)
    return error


def call_error(code: int, message: str, details_bin: bytes | None) -> CallError:
    """Build the typed error of a call that ended with a status other than OK.

    Args:
        code: The status code.
        message: The status message, used when the details cannot be read.
        details_bin: Value of the trailing metadata `grpc-status-details-bin`, if there was one.
    """
    status = Status(code=code, message=message)
    if details_bin is not None:
        try:
            parsed = Status.FromString(details_bin)
        except DecodeError:
            pass  # something between rewrote them: the plain status still says what happened
        else:
            # The status code of the call is the truth; details of another status are not ours.
            status = parsed if parsed.code == code else status
    info = _detail(status.details, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
    error = _CLASSES.get(code, CallError)(
        status.message or Code(code).name,
        reason=info.reason or Code(code).name,
        code=Code(code),
        domain=info.domain,
        metadata=info.metadata,
        details=status.details,
    )
    bad = _detail(status.details, error_details_pb2.BadRequest)
    if bad is not None:
        error.field_violations = tuple(FieldViolation(item.field, item.description) for item in bad.field_violations)
    retry = _detail(status.details, error_details_pb2.RetryInfo)
    if retry is not None:
        error.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    resource = _detail(status.details, error_details_pb2.ResourceInfo)
    if resource is not None:
        error.resource = resource.resource_name
    return error


def channel_closed() -> CallCancelled:
    """What ends a call whose channel was closed while it was under way."""
    return CallCancelled(
        "the channel was closed while the call was under way",
        reason="CHANNEL_CLOSED",
        code=Code.CANCELLED,
        domain="longshore",
    )


def operation_failed(status: Status, operation: str) -> OperationFailed:
    """Build the error of an operation or an attempt that failed."""
    info = _detail(status.details, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
    return OperationFailed(
        status.message,
        operation=operation,
        reason=info.reason or Code(status.code).name,
        code=Code(status.code),
        domain=info.domain,
        metadata=info.metadata,
        details=status.details,
    )


def operation_cancelled(status: Status, operation: str) -> OperationCancelled:
    """Build the error of an operation that was cancelled."""
    info = _detail(status.details, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
    return OperationCancelled(
        status.message,
        operation=operation,
        reason=info.reason or "CANCELLED",
        code=Code(status.code),
        domain=info.domain,
        metadata=info.metadata,
        details=status.details,
    )


def _message(item: AnyMessage) -> Message | None:
    name = item.type_url.rpartition("/")[2]
    if name == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name:
        return None
    try:
        return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name)).FromString(item.value)
    except (KeyError, DecodeError):
        return None


def _detail(details: Sequence[AnyMessage], message_type: type[MessageT]) -> MessageT | None:
    suffix = f"/{message_type.DESCRIPTOR.full_name}"
    for item in details:
        if item.type_url.endswith(suffix):
            try:
                return message_type.FromString(item.value)
            except DecodeError:
                continue
    return None
