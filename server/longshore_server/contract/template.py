"""Public ids made from the input: `orders-process-{order_id}` (seed 2)."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from longshore_server.contract import fields
from longshore_server.errors import Reason, ServiceError, Violation
from longshore_server.ids import parse_uid

_PART = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~-]*")
_VALUE = re.compile(r"[A-Za-z0-9._~-]+")

MAX_VALUE = 128
"""The longest value of a placeholder, in bytes."""
MAX_ID = 1024
"""The longest public id that callers may ask for."""


class IdTemplate:
    """A parsed template. Raises `ValueError` with one sentence when it is not a good one for messages of `input`."""

    def __init__(self, text: str, input: Descriptor) -> None:
        self.text = text
        self._literals: list[str] = []
        self._paths: list[list[str]] = []
        position = 0
        for match in _PART.finditer(text):
            self._literals.append(text[position : match.start()])
            self._paths.append(_path(match[1], input))
            position = match.end()
        self._literals.append(text[position:])
        for literal in self._literals:
            if not _LITERAL.fullmatch(literal):
                raise ValueError(f"{literal!r} may only hold letters, digits, '.', '_', '~' and '-'")
        if not self.prefix:
            raise ValueError("it must begin with a literal prefix, for example 'orders-process-{order_id}'")
        if not self._paths:
            raise ValueError("it has no placeholder, so every operation would have the same name")
        if any(not literal for literal in self._literals[1:-1]):
            raise ValueError("two placeholders must have a literal between them, or two inputs could share a name")
        own, values = sum(map(len, self._literals)), MAX_VALUE * len(self._paths)
        if own + values > MAX_ID:
            raise ValueError(
                f"it makes names of up to {own + values} characters, and they may have {MAX_ID}: the values take "
                f"{values}, its own text {own}"
            )

    @property
    def prefix(self) -> str:
        """The literal text before the first placeholder."""
        return self._literals[0]

    def render(self, message: Message) -> str:
        """The public id of an operation with this input. Raises `ServiceError` (INVALID_ARGUMENT) naming the field."""
        parts = [self._literals[0]]
        for path, literal in zip(self._paths, self._literals[1:], strict=True):
            parts.append(_check(".".join(path), fields.value(message, path)))
            parts.append(literal)
        rendered = "".join(parts)
        if parse_uid(rendered) is not None:
            field = ".".join(self._paths[0])
            problem = f"makes {rendered!r}, which has the form of a uid and cannot be a name"
            raise ServiceError(Reason.INVALID_ARGUMENT, f"{field} {problem}.", violations=[Violation(field, problem)])
        return rendered


def _path(dotted: str, input: Descriptor) -> list[str]:
    names, field = fields.follow(dotted, input)
    if not fields.is_string(field):
        raise ValueError(f"{{{dotted}}} must be a single string field of {input.full_name}")
    return names


def _check(field: str, value: str) -> str:
    if not value:
        problem = "must not be empty: the operation's name is made from it"
    elif len(value.encode()) > MAX_VALUE:
        problem = f"must not be longer than {MAX_VALUE} bytes: the operation's name is made from it"
    elif not _VALUE.fullmatch(value):
        problem = "may only hold letters, digits, '.', '_', '~' and '-': the operation's name is made from it"
    else:
        return value
    raise ServiceError(Reason.INVALID_ARGUMENT, f"{field} {problem}.", violations=[Violation(field, problem)])
