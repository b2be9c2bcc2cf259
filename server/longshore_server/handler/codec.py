"""How outcomes of steps become bytes and come back: protobuf messages, JSON values and dataclasses, nothing else.

The live run decodes what it has just stored, so that it sees exactly what a re-run will see.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message


class Encoded(NamedTuple):
    """A value as stored: `codec` is `json`, `proto:FULL.NAME` or `dataclass:MODULE:QUALNAME`."""

    codec: str
    data: bytes


class NotStorableError(TypeError):
    """A value that the journal cannot keep without changing it."""


def encode(value: Any) -> Encoded:
    """Raises `NotStorableError` naming the part that cannot be stored."""
    if isinstance(value, Message):
        return Encoded(f"proto:{value.DESCRIPTOR.full_name}", value.SerializeToString(deterministic=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value)
    _check_json(value, "the value")
    return Encoded(
        "json", json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    )


def decode(encoded: Encoded) -> Any:
    """The value that `encode` was given, of the same type."""
    kind, _, rest = encoded.codec.partition(":")
    if kind == "json":
        return json.loads(encoded.data.decode("utf-8", "surrogatepass"))
    if kind == "proto":
        descriptor = descriptor_pool.Default().FindMessageTypeByName(rest)
        return message_factory.GetMessageClass(descriptor).FromString(encoded.data)
    if kind == "dataclass":
        import msgspec

        return msgspec.json.decode(encoded.data, type=_import(rest))
    raise ValueError(f"this version does not know the codec {encoded.codec!r}")


def _encode_dataclass(value: Any) -> Encoded:
    import msgspec

    kind = type(value)
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _import(path)
    except (ImportError, AttributeError):
        found = None
    if found is not kind:
        raise NotStorableError(f"{path} cannot be imported by a re-run: define the dataclass at the top of a module")
    try:
        data = msgspec.json.encode(value)
        back = msgspec.json.decode(data, type=kind)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise NotStorableError(f"{kind.__qualname__} cannot be stored: {error}") from None
    if kind.__dataclass_params__.eq and back != value:
        raise NotStorableError(
            f"{kind.__qualname__} would come back changed: annotate its fields with the types that they hold"
        )
    return Encoded(f"dataclass:{path}", data)


def _check_json(value: Any, path: str) -> None:
    """Only what JSON gives back unchanged: a tuple would return as a list, an int key as a string."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return
    if kind is float:
        if not math.isfinite(value):
            raise NotStorableError(f"{path} is {value}, which JSON cannot hold")
        return
    if kind is list:
        for position, item in enumerate(value):
            _check_json(item, f"{path}[{position}]")
        return
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise NotStorableError(f"{path} has the key {key!r}: keys must be strings")
            _check_json(item, f"{path}[{key!r}]")
        return
    raise NotStorableError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}: return a protobuf message, a JSON value or a dataclass"
    )


def _import(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found
