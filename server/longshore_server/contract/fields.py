"""Fields of an input that options name by their path: `order_id`, `document.key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message


def follow(dotted: str, input: Descriptor) -> tuple[list[str], FieldDescriptor]:
    """The names on the path, and the field at its end. Raises `ValueError` with what is wrong with it."""
    names = dotted.split(".")
    message: Descriptor | None = input
    field: FieldDescriptor | None = None
    for name in names:
        # `is_repeated` came with protobuf 6.31, and `label` warns from 7 on.
        if field is not None and (field.is_repeated or message is None):
            raise ValueError(f"{dotted!r} is no path of {input.full_name}: {field.name} is not a single message")
        field = None if message is None else message.fields_by_name.get(name)
        if field is None:
            raise ValueError(f"{dotted!r} is not a field of {input.full_name}")
        message = field.message_type
    assert field is not None
    return names, field


def value(message: Message, names: Sequence[str]) -> Any:
    """What a message has at the end of a path."""
    found: Any = message
    for name in names:
        found = getattr(found, name)
    return found


def is_string(field: FieldDescriptor) -> bool:
    """Whether it is a single string."""
    return not field.is_repeated and field.type == FieldDescriptor.TYPE_STRING


def is_string_map(field: FieldDescriptor) -> bool:
    """Whether it is a map of strings to strings."""
    entry = field.message_type
    return (
        entry is not None
        and entry.GetOptions().map_entry
        and all(entry.fields_by_name[name].type == FieldDescriptor.TYPE_STRING for name in ("key", "value"))
    )
