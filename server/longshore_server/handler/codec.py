"""How outcomes of steps become bytes and come back: protobuf messages, JSON values, dataclasses and pydantic models.

Anything else is refused, and so is what would come back changed. The live run decodes what it has just stored, so that
it sees exactly what a re-run will see.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

MAX_DEPTH = 200
"""How deep lists and dictionaries may be nested. What is deeper is read or not by how deep its reader's own calls are.
"""


class Encoded(NamedTuple):
    """A value as stored. `codec`: `json`, `proto:FULL.NAME`, `dataclass:MODULE:CLASS` or `pydantic:MODULE:CLASS`."""

    codec: str
    data: bytes

    @property
    def identity(self) -> bytes:
        """What tells it from other values. The module of its class does not: classes may move."""
        kind, colon, path = self.codec.partition(":")
        return f"{kind}{colon}{path.rpartition(':')[2]}\0".encode() + self.data

    @property
    def by_class(self) -> bool:
        """Whether only its class can read it, and tell whether it is the same as another; else its bytes do."""
        return self.codec.startswith(("dataclass:", "pydantic:"))


class NotStorableError(TypeError):
    """A value that the journal cannot keep without changing it."""


def encode(value: Any) -> Encoded:
    """Raises `NotStorableError` naming the part that cannot be stored."""
    if isinstance(value, Message):
        return Encoded(f"proto:{value.DESCRIPTOR.full_name}", value.SerializeToString(deterministic=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value)
    if _is_model(value):
        return _encode_model(value)
    _check_json(value, "the value")
    return Encoded(
        "json", json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    )


def decode(encoded: Encoded, declared: Any = Any) -> Any:
    """The value that `encode` was given, of the same type.

    `declared`: the type that it is to have today. A dataclass or a model is read by what that says, wherever it was
    defined and whatever it was called when it was stored; where the type leaves it open, by the class that it was.
    """
    kind, _, rest = encoded.codec.partition(":")
    if kind == "json":
        return json.loads(encoded.data.decode("utf-8", "surrogatepass"))
    if kind == "proto":
        descriptor = descriptor_pool.Default().FindMessageTypeByName(rest)
        return message_factory.GetMessageClass(descriptor).FromString(encoded.data)
    if kind == "dataclass":
        import msgspec

        return msgspec.json.decode(encoded.data, type=_class(encoded.codec, declared))
    if kind == "pydantic":
        return _class(encoded.codec, declared).model_validate_json(encoded.data)
    raise ValueError(f"this version does not know the codec {encoded.codec!r}")


def same(encoded: Encoded, value: Any, declared: Any) -> bool:
    """Whether a value is the one that is stored, as its class reads that today: new fields have their defaults there.

    They are compared as that class writes them: what it takes for equal itself may be anything.
    """
    if not encoded.by_class:
        return encode(value) == encoded
    try:
        found = decode(encoded, declared)
        if type(found) is not type(value):
            return False
        # Read as the other one was: what is written may be more exact than what was given, 1.0 for the 1 of a float.
        return _fields(found) == _fields(decode(encode(value), type(value)))
    except (Exception, SystemExit):  # noqa: BLE001 - what cannot be read, or be written, is another one
        return False


def _fields(value: Any) -> bytes:
    """All that a dataclass or a model holds, also what it has by default, alike for values that are."""
    import msgspec

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = msgspec.to_builtins(dataclasses.asdict(value), str_keys=True, order="deterministic")
        return msgspec.json.encode(plain, order="deterministic")
    return msgspec.json.encode(json.loads(encode(value).data), order="deterministic")


def members(declared: Any) -> list[Any]:
    """The types of which a declared one is the union, without their arguments."""
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(declared) for member in members(part)]
    if declared is None:
        return [type(None)]
    return [typing.get_origin(declared) or declared]


def namesake(codec: str, function: Callable[..., Any] | None) -> Any:
    """The class that a function is annotated to return, and that has the name of the one that is stored; Any: none."""
    try:
        returned = typing.get_type_hints(function).get("return", Any)
    except Exception:  # noqa: BLE001 - what is no function, and annotations that raise whatever they like
        return Any
    _, _, name = codec.rpartition(":")
    return next((member for member in members(returned) if getattr(member, "__qualname__", "") == name), Any)


def codec_of(member: Any) -> str:
    """By which codec the values of a class are stored; empty: it is none of those that are stored as classes."""
    if not isinstance(member, type):
        return ""
    if issubclass(member, Message):
        return f"proto:{member.DESCRIPTOR.full_name}" if member is not Message else ""
    path = f"{member.__module__}:{member.__qualname__}"
    if dataclasses.is_dataclass(member):
        return f"dataclass:{path}"
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(member, pydantic.BaseModel):
        return f"pydantic:{path}"
    return ""


def _class(codec: str, declared: Any) -> Any:
    """What has become of the class that is stored: the declared one that is it, or has its name; or, where it is gone,
    the one that is declared alone."""
    kind, _, path = codec.partition(":")
    known = {codec_of(member): member for member in members(declared)}
    if codec in known:
        return known[codec]
    alike = [member for found, member in known.items() if found.startswith(f"{kind}:")]
    named = [member for member in alike if member.__qualname__ == path.rpartition(":")[2]]
    if len(named) == 1:
        return named[0]
    try:
        # One that is still there was not renamed: it is another one than those that are declared.
        return _import(path)
    except (ImportError, AttributeError):
        if len(alike) != 1:
            raise
        return alike[0]


def _encode_dataclass(value: Any) -> Encoded:
    import msgspec

    kind = type(value)
    path = _path(kind, "dataclass")
    try:
        data = msgspec.json.encode(value)
        back = msgspec.json.decode(data, type=kind)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise NotStorableError(f"{kind.__qualname__} cannot be stored: {error}") from None
    if kind.__dataclass_params__.eq and back != value:
        raise NotStorableError(
            f"{kind.__qualname__} would come back changed: annotate its fields with the types that they hold"
        )
    return Encoded(f"dataclass:{path}", data)


def _is_model(value: Any) -> bool:
    """Whether it is a model of pydantic 2. Who has made one has imported it; nobody else needs to have it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel) and hasattr(value, "model_dump_json")


def _encode_model(value: Any) -> Encoded:
    kind = type(value)
    path = _path(kind, "model")
    try:
        data = value.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
        back = kind.model_validate_json(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorableError(f"{kind.__qualname__} cannot be stored: {error}") from None
    if back != value:
        raise NotStorableError(
            f"{kind.__qualname__} would come back changed: its own JSON must hold all that it holds, of the same types"
        )
    return Encoded(f"pydantic:{path}", data)


def _path(kind: type, what: str) -> str:
    """How a re-run finds a class."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _import(path)
    except (ImportError, AttributeError):
        found = None
    if found is not kind:
        raise NotStorableError(f"{path} cannot be imported by a re-run: define the {what} at the top of a module")
    return path


def _check_json(value: Any, path: str, depth: int = 0) -> None:
    """Only what JSON gives back unchanged: a tuple would return as a list, an int key as a string."""
    if depth > MAX_DEPTH:
        raise NotStorableError(f"the value is nested more than {MAX_DEPTH} levels deep: make it flatter")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return
    if kind is float:
        if not math.isfinite(value):
            raise NotStorableError(f"{path} is {value}, which JSON cannot hold")
        return
    if kind is list:
        for position, item in enumerate(value):
            _check_json(item, f"{path}[{position}]", depth + 1)
        return
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise NotStorableError(f"{path} has the key {key!r}: keys must be strings")
            _check_json(item, f"{path}[{key!r}]", depth + 1)
        return
    remedy = _REMEDIES.get(kind, "return a protobuf message, a JSON value, a dataclass or a pydantic model")
    raise NotStorableError(f"{path} is a {kind.__module__}.{kind.__qualname__}, which is no JSON: {remedy}")


_IN_A_FIELD = "or put it into a dataclass or a pydantic model, in a field of that type"
_REMEDIES: dict[type, str] = {
    tuple: f"make it a list, {_IN_A_FIELD}",
    set: f"make it a list, {_IN_A_FIELD}",
    bytes: f"make it a text, in base64 for example, {_IN_A_FIELD}",
}


def _import(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found
