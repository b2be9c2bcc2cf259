"""The errors of the domain, free of gRPC, and their one translation to `google.rpc.Status`.

A `Reason` is the machine-readable word that reaches callers in `google.rpc.ErrorInfo` (AIP-193); it fixes the status
code. A `ServiceError` refuses a call. A `Failure` says how an operation ended without a result.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "longshore"
"""The `ErrorInfo.domain` of every error that the server itself makes."""

# Refusals travel in trailers, which peers refuse beyond 8 KiB: a caller would see a broken call and not its reason.
MAX_MESSAGE = 768
"""The longest message, in bytes; on the wire a byte that is not ASCII takes three."""
MAX_FIELD = 256
"""The longest name of a field or a resource, in bytes."""
MAX_VIOLATIONS = 2400
"""How many bytes of violations are told; the first ones count."""


class Code(enum.IntEnum):
    """The canonical status codes of gRPC (`google.rpc.Code`) that Longshore uses."""

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


class Reason(enum.Enum):
    """Why: the word, and the status code that it always comes with."""

    # Calls that are refused.
    MALFORMED_REQUEST = Code.INVALID_ARGUMENT, "The bytes are not the request message."
    INVALID_ARGUMENT = Code.INVALID_ARGUMENT, "A field of the request breaks a rule; the violations name it."
    UNKNOWN_TYPE = Code.INVALID_ARGUMENT, "No operation type has this name."
    WRONG_INPUT_TYPE = Code.INVALID_ARGUMENT, "The input is not of the type's input message."
    UNKNOWN_SIGNAL = Code.INVALID_ARGUMENT, "The contract declares no signal of this name."
    WRONG_PAYLOAD_TYPE = Code.INVALID_ARGUMENT, "The payload is of another message type than the contract declares."
    INVALID_FILTER = Code.INVALID_ARGUMENT, "The filter is not one that List understands."
    INVALID_PAGE_TOKEN = Code.INVALID_ARGUMENT, "The page token was not made by this server for this request."
    INVALID_NAME = Code.INVALID_ARGUMENT, "The name has another form than operations/{id}."
    OPERATION_NOT_FOUND = Code.NOT_FOUND, "No operation has this name."
    TYPE_NOT_FOUND = Code.NOT_FOUND, "No operation type has this name."
    REQUEST_ID_REUSED = Code.ALREADY_EXISTS, "The request id was used with another input or other labels."
    SIGNAL_ID_REUSED = Code.ALREADY_EXISTS, "The signal id was used for another signal of this operation."
    NAME_IN_USE = (
        Code.ALREADY_EXISTS,
        "The name belongs to an operation that was started with another input, or by another caller.",
    )
    CREDENTIALS_MISSING = Code.UNAUTHENTICATED, "The call carries no credentials."
    CREDENTIALS_INVALID = Code.UNAUTHENTICATED, "The credentials are not ones that this server accepts."
    CREDENTIALS_EXPIRED = Code.UNAUTHENTICATED, "The time of the credentials is over; call again with new ones."
    CAPABILITY_MISSING = Code.PERMISSION_DENIED, "The caller lacks a capability that the contract's gate asks for."
    INPUT_TOO_LARGE = Code.RESOURCE_EXHAUSTED, "The input is larger than the server accepts."
    TOO_MANY_OPERATIONS = Code.RESOURCE_EXHAUSTED, "Too many operations wait or run already; try again later."
    TOO_MANY_SIGNALS = Code.RESOURCE_EXHAUSTED, "As many signals of this name wait as the contract allows."
    TOO_MANY_WATCHES = Code.RESOURCE_EXHAUSTED, "Too many watches are open already; try again later."
    TOO_MUCH_UNACKNOWLEDGED = Code.RESOURCE_EXHAUSTED, "More reports wait to be durable than may; await them."
    NOT_CANCELLABLE = Code.FAILED_PRECONDITION, "The contract does not let callers cancel."
    OPERATION_RUNNING = Code.FAILED_PRECONDITION, "The operation has not ended."
    UID_MISMATCH = Code.FAILED_PRECONDITION, "The name now belongs to another operation."
    ILLEGAL_MOVE = Code.FAILED_PRECONDITION, "The operation's state does not allow it."
    OPERATION_ENDED = Code.FAILED_PRECONDITION, "The operation has already ended."
    NO_CANCEL_REQUEST = Code.FAILED_PRECONDITION, "Nobody asked to cancel the operation."
    SIGNAL_CONSUMED = Code.FAILED_PRECONDITION, "The signal is consumed already, or was never accepted."
    STALE_ATTEMPT = Code.FAILED_PRECONDITION, "This attempt is no longer the operation's current one."
    SEQUENCE_OUT_OF_RANGE = Code.OUT_OF_RANGE, "The log has no such sequence yet."
    UNSUPPORTED_FIELD = Code.UNIMPLEMENTED, "This server does not support the field."
    SERVER_STARTING = Code.UNAVAILABLE, "The server is starting; try again."
    SERVER_DRAINING = Code.UNAVAILABLE, "The server is shutting down; try again, on the next one."
    IDENTITY_UNAVAILABLE = Code.UNAVAILABLE, "What proves who calls cannot be asked for now; try again."
    STORE_UNAVAILABLE = Code.UNAVAILABLE, "The store cannot write now; nothing was changed."
    INTERNAL = Code.INTERNAL, "Something unexpected went wrong; the server's log has the trace."

    # Operations that end without a result, and attempts that end without an outcome.
    HANDLER_ERROR = Code.UNKNOWN, "The handler raised an error that is not for callers; the server's log has the trace."
    DEADLINE_EXCEEDED = Code.DEADLINE_EXCEEDED, "The operation did not end before its deadline."
    ATTEMPT_TIMEOUT = Code.DEADLINE_EXCEEDED, "The attempt took longer than the contract allows."
    INTERRUPTED = Code.ABORTED, "The server stopped while the attempt was under way."
    CRASH_LOOP = Code.ABORTED, "The operation was part of as many crashes as the contract allows."
    NON_DETERMINISTIC = Code.ABORTED, "A re-run asked for something else than the journal has recorded."
    ATTACH_NOT_TERMINAL = Code.INTERNAL, "What was attached to the operation returned without ending it."
    FAILED = Code.UNKNOWN, "The provider ended the operation with an error that gives no reason of its own."
    RESULT_TOO_LARGE = Code.RESOURCE_EXHAUSTED, "The result is larger than a caller could receive."
    WRONG_RESULT_TYPE = Code.INTERNAL, "The handler returned something else than the contract's result message."
    CANCELLED = Code.CANCELLED, "The operation was cancelled."

    def __init__(self, code: Code, meaning: str) -> None:
        self.code = code
        self.meaning = meaning

    def __new__(cls, code: Code, _meaning: str) -> Self:
        member = object.__new__(cls)
        # Reasons share codes: without a value of its own the second of a code would become an alias of the first.
        member._value_ = (len(cls.__members__), code)
        return member


class Violation(NamedTuple):
    """One broken rule of a request: the path of the field and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """A call is refused, before anything was written unless its reason says otherwise.

    Attributes:
        reason: why; it fixes the status code.
        message: one sentence for the developer, that says what to do where something can be done.
        violations: the fields at fault, for INVALID_ARGUMENT.
        resource: name of the resource that it is about, if any.
        retry_after: seconds after which trying again makes sense, if it does.
        metadata: further facts for `ErrorInfo.metadata`.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        resource: str | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.resource = resource
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def status(self) -> status_pb2.Status:
        """The error as callers see it, with its details (AIP-193), cut to what trailers can hold."""
        message = shorten(self.message, MAX_MESSAGE)
        resource = None if self.resource is None else shorten(self.resource, MAX_FIELD)
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason.name, domain=DOMAIN, metadata=self.metadata)
        ]
        if self.violations:
            bad, room = error_details_pb2.BadRequest(), MAX_VIOLATIONS
            for v in self.violations:
                violation = error_details_pb2.BadRequest.FieldViolation(
                    field=shorten(v.field, MAX_FIELD), description=shorten(v.description, MAX_MESSAGE)
                )
                room -= violation.ByteSize()
                if room < 0:
                    break
                bad.field_violations.append(violation)
            details.append(bad)
        if self.reason.code is Code.FAILED_PRECONDITION:
            failed = error_details_pb2.PreconditionFailure.Violation(
                type=self.reason.name, subject=resource or "", description=message
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[failed]))
        if resource is not None:
            kind = "OperationType" if self.reason is Reason.TYPE_NOT_FOUND else "Operation"
            details.append(
                error_details_pb2.ResourceInfo(
                    resource_type=f"longshore.v1.{kind}", resource_name=resource, description=message
                )
            )
        if self.retry_after is not None:
            info = error_details_pb2.RetryInfo()
            info.retry_delay.FromNanoseconds(int(self.retry_after * 1e9))
            details.append(info)
        return make_status(self.reason.code, message, details)


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, with an ellipsis where something is missing."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "\u2026"


def invalid(field: str, description: str, *, reason: Reason = Reason.INVALID_ARGUMENT) -> ServiceError:
    """A refusal of one field of the request."""
    return ServiceError(reason, f"{field}: {description}", violations=[Violation(field, description)])


class OperationError(Exception):
    """Raised by a handler: the operation fails, and callers see exactly this.

    Args:
        reason: UPPER_SNAKE_CASE word for machines, for example `CARD_DECLINED`; at most 63 characters (AIP-193).
        message: one sentence for people.
        code: canonical status code; default FAILED_PRECONDITION.
        domain: who defines the reason; default the operation type's proto package.
        metadata: further facts, strings by key.
        details: further protobuf messages for the caller.
    """

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        code: Code | int = Code.FAILED_PRECONDITION,
        domain: str | None = None,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message or reason)
        for key, value in (metadata or {}).items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"metadata[{key!r}] is {value!r}: keys and values of metadata must be strings")
        for detail in details:
            if not isinstance(detail, Message):
                raise TypeError(f"details hold {detail!r}: only protobuf messages can be details")
        self.reason = reason
        self.message = message or reason
        self.code = Code(code)
        self.domain = domain
        self.metadata = dict(metadata or {})
        self.details = tuple(details)

    def status(self, default_domain: str) -> status_pb2.Status:
        """The failure as callers see it."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=self.domain or default_domain, metadata=self.metadata
        )
        return make_status(self.code, self.message, [info, *self.details])


def make_status(code: int, message: str, details: Sequence[Message] = ()) -> status_pb2.Status:
    """A `google.rpc.Status` with `details` packed in order."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def failure(reason: Reason, message: str = "", **metadata: str) -> bytes:
    """The serialized `google.rpc.Status` with which the server itself ends an operation or an attempt."""
    info = error_details_pb2.ErrorInfo(reason=reason.name, domain=DOMAIN, metadata=metadata)
    return make_status(reason.code, message or reason.meaning, [info]).SerializeToString()


def reason_of(status: bytes) -> str:
    """The reason that a serialized `google.rpc.Status` carries in its first `ErrorInfo`; empty: it has none."""
    for detail in status_pb2.Status.FromString(status).details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            return error_details_pb2.ErrorInfo.FromString(detail.value).reason
    return ""
