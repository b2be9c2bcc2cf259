"""Checks of one input before anything is written: labels, ids, reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping

from longshore_server.errors import Reason, ServiceError, Violation, invalid

MAX_LABELS = 64
MAX_LABEL_BYTES = 4096
MAX_REQUEST_ID = 128
MAX_REASON = 1024
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_VALUE = re.compile(r"[ -~]*")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises `ServiceError` when labels break a rule (see `StartRequest.labels`), `TypeError` for what is no text."""
    if not hasattr(labels, "items"):
        raise TypeError(f"labels: {labels!r} is no dict of texts")
    check_number_of_labels(labels)
    for key, value in labels.items():
        check_text(f"labels[{check_text('a key of labels', key)!r}]", value)
    violations = []
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


def check_number_of_labels(labels: Mapping[str, str]) -> None:
    """Raises `ServiceError` for more than there may be. To be asked before anything is done with each of them: a
    request has room for a million, and nobody else is served meanwhile."""
    if len(labels) > MAX_LABELS:
        raise invalid("labels", f"there may be at most {MAX_LABELS}, these are {len(labels)}")


def check_size(what: str, size: int, limit: int) -> None:
    """Raises `ServiceError` (INPUT_TOO_LARGE) for more bytes than the server accepts. To be asked of the bytes that
    came, before they are read, too: ten million of them can hold a million messages."""
    if size > limit:
        problem = f"The {what} is {size} bytes; the server accepts {limit}."
        raise ServiceError(Reason.INPUT_TOO_LARGE, problem, metadata={"limit": str(limit)})


def check_request_id(request_id: str) -> None:
    """Raises `ServiceError` when the idempotency key is not one, `TypeError` for no text."""
    if _size("request_id", request_id) > MAX_REQUEST_ID:
        raise invalid("request_id", f"must not be longer than {MAX_REQUEST_ID} bytes")


def check_text(name: str, value: object) -> str:
    """A text. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: {value!r} is no text")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Whether something is so. Raises `TypeError` for anything but a bool: `"no"` would mean yes."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_reason(reason: str) -> str:
    """Why something is done. Raises `ServiceError` (INVALID_ARGUMENT), `TypeError` for no text."""
    if _size("reason", reason) > MAX_REASON:
        raise invalid("reason", f"must not be longer than {MAX_REASON} bytes")
    return reason


def _size(name: str, text: str) -> int:
    """How many bytes a text has on the wire."""
    try:
        return len(check_text(name, text).encode())
    except UnicodeEncodeError:
        raise invalid(name, "holds what no text can: half of a character") from None
