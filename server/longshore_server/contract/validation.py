"""Checks of one input before anything is written: the contract's `buf.validate` rules, labels, ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from longshore_server.errors import Reason, ServiceError, Violation, invalid

MAX_LABELS = 64
MAX_LABEL_BYTES = 4096
MAX_REQUEST_ID = 128
MAX_REASON = 1024
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_VALUE = re.compile(r"[ -~]*")
_VALIDATE = "buf/validate/validate.proto"


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises `ServiceError` when the labels break a rule (see `StartRequest.labels`)."""
    violations = []
    if len(labels) > MAX_LABELS:
        violations.append(Violation("labels", f"there may be at most {MAX_LABELS}, these are {len(labels)}"))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in labels.items())
    if size > MAX_LABEL_BYTES:
        violations.append(
            Violation("labels", f"keys and values may be {MAX_LABEL_BYTES} bytes in all, these are {size}")
        )
    for key, value in labels.items():
        shown = key[:80]
        if not _KEY.fullmatch(key):
            violations.append(Violation(f"labels[{shown!r}]", "a key must match [a-z][a-z0-9_.-]{0,62}"))
        if not _VALUE.fullmatch(value):
            violations.append(Violation(f"labels[{shown!r}]", "a value may only hold printable ASCII"))
    if violations:
        first = violations[0]
        raise ServiceError(Reason.INVALID_ARGUMENT, f"{first.field}: {first.description}.", violations=violations[:16])


def check_request_id(request_id: str) -> None:
    """Raises `ServiceError` when the idempotency key is not one."""
    if len(request_id.encode()) > MAX_REQUEST_ID:
        raise invalid("request_id", f"must not be longer than {MAX_REQUEST_ID} bytes")


def check_reason(reason: str) -> None:
    """Raises `ServiceError` when the reason of a request to cancel or to stop is too long."""
    if len(reason.encode()) > MAX_REASON:
        raise invalid("reason", f"must not be longer than {MAX_REASON} bytes")


def check_rules(message: Message) -> None:
    """Enforce the `buf.validate` rules of the message's contract, by protovalidate. Raises `ServiceError`."""
    protovalidate = _protovalidate()
    found = [
        Violation(_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
        for violation in protovalidate.collect_violations(message)
    ]
    if found:
        first = found[0]
        where = f"{first.field}: " if first.field else ""
        raise ServiceError(Reason.INVALID_ARGUMENT, f"{where}{first.description}.", violations=found)


@cache
def has_rules(file: FileDescriptor) -> bool:
    """Whether a contract file, or one that it imports, can hold rules: half a second of import is saved otherwise."""
    return any(d.name == _VALIDATE or has_rules(d) for d in file.dependencies)


@cache
def _protovalidate() -> Any:
    import protovalidate

    return protovalidate


def warm(inputs: Iterable[type[Message]]) -> None:
    """Load what the first check of these inputs would load, at start-up instead."""
    if any(has_rules(input.DESCRIPTOR.file) for input in inputs):
        _protovalidate()


def _path(field_path: Any) -> str:
    if field_path is None:
        return ""
    parts = []
    for element in field_path.elements:
        part = element.field_name
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            part += f"[{getattr(subscript, 'value', subscript)}]"
        parts.append(part)
    return ".".join(parts)
