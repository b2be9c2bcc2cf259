"""States and events as JSON texts: how callers of any language write what is no protobuf message."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from longshore_server.handler.codec import Encoded, codec_of, decode
from longshore_server.instances.values import Shape
from longshore_server.store.instances import Value

TYPE = "@type"
"""The field that says which class is meant, where a shape has several."""


def read_json(shape: Shape, text: str) -> Any:
    """The value that a JSON text says. Raises `ValueError` with one sentence where the shape has no such value."""
    try:
        plain = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None
    classes = {member.__name__: member for member in shape.members if codec_of(member)}
    if not classes or not isinstance(plain, dict) or dict in shape.members:
        if not shape.has(plain):
            raise ValueError(f"must be {shape}")
        return plain
    if len(classes) == 1:
        ((_, kind),) = classes.items()
        plain.pop(TYPE, None)
    else:
        found = classes.get(str(plain.pop(TYPE, "")))
        if found is None:
            raise ValueError(f"must say which of {', '.join(classes)} it is, in the field {TYPE}")
        kind = found
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        # As protobuf has it: a name that is misspelt must not become a default in silence.
        unknown = plain.keys() - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise ValueError(f"is no {kind.__name__}: that has no field {min(unknown)[:200]!r}")
    try:
        if issubclass(kind, Message):
            return json_format.ParseDict(plain, kind())
        return decode(Encoded(codec_of(kind), json.dumps(plain).encode()), kind)
    except Exception as error:  # noqa: BLE001 - each kind of class has errors of its own
        raise ValueError(f"is no {kind.__name__}: {error}") from None


def read_message(shape: Shape, name: str, data: bytes) -> Message:
    """A protobuf message by its full name. Raises `ValueError` where the shape has none such."""
    codec = f"proto:{name}"
    for member in shape.members:
        if codec_of(member) == codec:
            try:
                message: Message = member.FromString(data)
            except Exception:  # noqa: BLE001 - DecodeError of whichever implementation
                raise ValueError(f"is no serialized {name}") from None
            return message
    raise ValueError(f"must be {shape}, not {name[:200] or 'without a type'}")


def write_json(shape: Shape, stored: Value) -> str:
    """A stored value, no protobuf message, as the text of its JSON; with the name of its class where there are several.

    As it is stored, also where the definition of today cannot read it.
    """
    codec, data = stored
    text = data.decode("utf-8", "replace")
    classes = [member for member in shape.members if codec_of(member)]
    kind, _, path = codec.partition(":")
    if len(classes) < 2 or kind not in ("dataclass", "pydantic"):
        return text
    return json.dumps({TYPE: path.rpartition(":")[2].rpartition(".")[2], **json.loads(text)}, ensure_ascii=False)


def _no_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
