"""What a contract says that this version does not know: it was made for a newer one, and could only be ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


class Unknown(NamedTuple):
    """A field without a name here: the path of the message that has it, empty for the option itself, and its number."""

    path: str
    number: int

    def __str__(self) -> str:
        return (
            f"its field {self.number} is not known to this version: it is made for a newer Longshore, and never "
            "ignored in silence; serve it with that one, or remove the field"
        )


def unknown_fields(message: Message, path: str = "") -> Iterator[Unknown]:
    """The unknown fields of an option and of all messages in it."""
    unknown: Any = UnknownFieldSet(message)  # its stub does not say that it can be iterated over
    for field in unknown:
        yield Unknown(path, field.field_number)
    for descriptor, value in message.ListFields():
        inner = f"{path}.{descriptor.name}" if path else descriptor.name
        if isinstance(value, Message):
            yield from unknown_fields(value, inner)
        elif descriptor.message_type is not None:
            for position, item in enumerate(value):
                yield from unknown_fields(item, f"{inner}[{position}]")
