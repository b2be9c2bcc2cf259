"""The errors of the domain, free of gRPC, and their one translation to `google.rpc.Status`.

A `Reason` is the machine-readable word that reaches callers in `google.rpc.ErrorInfo` (AIP-193); it fixes the status
code. A `ServiceError` refuses a call. A `Failure` says how an operation ended without a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from longshore_server.reasons import Code, Reason

__all__ = [
    "Code", "OperationError", "Reason", "ServiceError", "Violation", "failure", "invalid", "make_status", "reason_of",
    "shorten",
]  # fmt: skip

DOMAIN = "longshore"
"""The `ErrorInfo.domain` of every error that the server itself makes."""

# Refusals travel in trailers, which peers refuse beyond 8 KiB: a caller would see a broken call and not its reason.
MAX_MESSAGE = 768
"""The longest message, in bytes; on the wire a byte that is not ASCII takes three."""
MAX_FIELD = 256
"""The longest name of a field or a resource, in bytes."""
MAX_VIOLATIONS = 2400
"""How many bytes of violations are told; the first ones count."""

_RESOURCES = {Reason.TYPE_NOT_FOUND: "longshore.v1.OperationType", Reason.SERVICE_NOT_FOUND: "grpc.health.v1.Service"}
"""What a refusal's resource is, where its name does not say it."""
_COLLECTIONS = {
    "uploads": "longshore.v1.Upload", "downloads": "longshore.v1.Download", "recurrings": "longshore.v1.Recurring",
    "debounces": "longshore.v1.Debounce", "tasks": "longshore.v1.Task", "jobs": "longshore.v1.Job",
    "queues": "longshore.v1.Queue",
}  # fmt: skip


CANCELLED = "callers would take an operation with the code CANCELLED for a cancelled one, and it failed"
"""Why no failure has that code: google.api_core, for one, looks at nothing else."""


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
            named = _COLLECTIONS.get(resource.partition("/")[0], "longshore.v1.Operation")
            kind = _RESOURCES.get(self.reason, named)
            details.append(
                error_details_pb2.ResourceInfo(resource_type=kind, resource_name=resource, description=message)
            )
        if self.retry_after is not None:
            info = error_details_pb2.RetryInfo()
            info.retry_delay.FromNanoseconds(int(self.retry_after * 1e9))
            details.append(info)
        return make_status(self.reason.code, message, details)


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, with an ellipsis where something is missing.

    Half of a character, which JSON may hold, becomes a question mark: nothing could be sent that has one.
    """
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "\u2026"


def invalid(field: str, description: str, *, reason: Reason = Reason.INVALID_ARGUMENT) -> ServiceError:
    """A refusal of one field of the request."""
    return ServiceError(reason, f"{field}: {description}", violations=[Violation(field, description)])


class OperationError(Exception):
    """Raised by a handler: the operation fails, and callers see exactly this.

    Args:
        reason: UPPER_SNAKE_CASE word for machines, for example `CARD_DECLINED`; at most 63 characters (AIP-193).
        message: one sentence for people.
        code: canonical status code; default FAILED_PRECONDITION. CANCELLED is refused with `ValueError`: callers would
            take the failure for a cancellation.
        domain: who defines the reason; default the operation type's proto package.
        metadata: further facts, strings by key.
        details: further protobuf messages for the caller.
        final: whether another try would only meet it again: no retry policy, of a step or of the contract, makes one.
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
        final: bool = False,
    ) -> None:
        super().__init__(message or reason)
        for what, text in (("reason", reason), ("message", message or "")):
            if not isinstance(text, str):
                raise TypeError(f"{what}: {text!r} is no text")
        if code == Code.CANCELLED:
            raise ValueError(
                f"{CANCELLED}: choose another, such as ABORTED; after a cancel request, raise asyncio.CancelledError"
            )
        if not isinstance(metadata, Mapping | None):
            raise TypeError(f"metadata: {metadata!r} is no dict of texts")
        for key, value in (metadata or {}).items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"metadata[{key!r}] is {value!r}: keys and values of metadata must be strings")
        if not isinstance(details, Iterable):
            raise TypeError(f"details: give a list of protobuf messages, not {type(details).__name__}")
        for detail in details:
            if not isinstance(detail, Message):
                raise TypeError(f"details hold {detail!r}: only protobuf messages can be details")
        self.reason = reason
        self.message = message or reason
        self.code = Code(code)
        self.domain = domain
        self.metadata = dict(metadata or {})
        self.details = tuple(details)
        self.final = final

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
