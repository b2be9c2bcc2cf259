"""Public ids made from the input: `orders-process-{order_id}` (seed 2)."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

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
        parts = _PART.split(text)
        literals, fields = parts[::2], parts[1::2]
        paths = [self._path(field, input) for field in fields]
        for literal in literals:
            if not _LITERAL.fullmatch(literal):
                raise ValueError(f"{literal!r} may only hold letters, digits, '.', '_', '~' and '-'")
        self.prefix = literals[0]
        """The literal text before the placeholder."""
        if not self.prefix:
            raise ValueError("it must begin with a literal prefix, for example 'orders-process-{order_id}'")
        if not paths:
            raise ValueError("it has no placeholder, so every operation would have the same name")
        if len(paths) > 1:
            raise ValueError(
                "it has several placeholders, and a value may hold what stands between them, so that two inputs could "
                "share a name; make the name from one field"
            )
        (self._names,), self._suffix = paths, literals[1]
        own = len(self.prefix) + len(self._suffix)
        if own + MAX_VALUE > MAX_ID:
            raise ValueError(
                f"it makes names of up to {own + MAX_VALUE} characters, and they may have {MAX_ID}: a value takes "
                f"{MAX_VALUE}, its own text {own}"
            )

    def render(self, message: Message) -> str:
        """The public id of an operation with this input. Raises `ServiceError` (INVALID_ARGUMENT) naming the field."""
        value: Any = message
        for name in self._names:
            value = getattr(value, name)
        field = ".".join(self._names)
        rendered = self.prefix + _check(field, value) + self._suffix
        if parse_uid(rendered) is not None:
            problem = f"makes {rendered!r}, which has the form of a uid and cannot be a name"
            raise ServiceError(Reason.INVALID_ARGUMENT, f"{field} {problem}.", violations=[Violation(field, problem)])
        return rendered

    def _path(self, dotted: str, input: Descriptor) -> list[str]:
        names = dotted.split(".")
        message: Descriptor | None = input
        for position, name in enumerate(names):
            field: FieldDescriptor | None = None if message is None else message.fields_by_name.get(name)
            if field is None:
                raise ValueError(f"{{{dotted}}} is not a field of {input.full_name}")
            # `is_repeated` came with protobuf 6.31, and `label` warns from 7 on.
            repeated = bool(field.is_repeated)
            last = position == len(names) - 1
            if repeated or (field.type != field.TYPE_STRING if last else field.type != field.TYPE_MESSAGE):
                raise ValueError(f"{{{dotted}}} must be a single string field of {input.full_name}")
            message = field.message_type
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
