"""States and events of instances between their Python types and the wire.

The words are those of the service's definitions: protobuf messages, dataclasses, pydantic models, JSON values, and
unions of them.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Generic, cast

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from typing_extensions import TypeVar

from longshore.v1.instances_pb2 import InstanceValue
from longshore_client.codec import to_any
from longshore_client.errors import Code, UnexpectedMessage

ValueT = TypeVar("ValueT", default=Any)
Declared = type[ValueT] | types.UnionType | None
"""How a program says the type of a state or an event; None: whatever there is, as it is on the wire."""

_TYPE = "@type"
"""The field of a JSON object that says which class it is, where there are several."""


class Values(Generic[ValueT]):
    """Writes and reads the values of one declared type.

    Args:
        declared: A class, or a union of classes. None: all JSON values and all messages go, and come back so; of a
            message that this program does not know comes back the `google.protobuf.Any`.
        what: What it is the type of, for the texts of errors: `state` or `event`.

    Raises:
        ImportError: A dataclass is declared, and the package msgspec is not installed.
    """

    def __init__(self, declared: Declared[ValueT], what: str) -> None:
        self._what = what
        self._members = () if declared is None else tuple(_members(declared))
        for member in self._members:
            if not isinstance(member, type):
                raise TypeError(f"{what} is declared by a class, or a union of classes, not by {member!r}")
        self._classes = {member.__name__: member for member in self._members if _is_class(member)}
        if any(map(dataclasses.is_dataclass, self._members)):
            _msgspec()

    def __str__(self) -> str:
        return " | ".join(member.__name__ for member in self._members) or "any value"

    def pack(self, value: ValueT | None) -> InstanceValue:
        """Write a value; None is none at all, and the server says whether it takes that.

        Raises:
            TypeError: It is of another type than the declared one, or of one that JSON does not have.
            ValueError: JSON has no such value.
        """
        if value is None:
            return InstanceValue()
        kind = type(value)
        if self._members and kind not in self._members and not (kind is int and float in self._members):
            raise TypeError(f"{self._what}: it must be {self}, not {kind.__qualname__}")
        if isinstance(value, Message):
            return InstanceValue(message=to_any(value))
        try:
            text = _to_json(value)
        except TypeError as error:
            raise TypeError(f"{self._what}: {error}") from None
        if len(self._classes) > 1 and _is_class(kind):
            text = json.dumps({_TYPE: kind.__name__, **json.loads(text)}, ensure_ascii=False)
        return InstanceValue(json=text)

    def unpack(self, wire: InstanceValue) -> ValueT | None:
        """Read a value; None: there is none.

        Raises:
            UnexpectedMessage: It is of another type than the declared one.
        """
        found: Any = None
        if wire.HasField("message"):
            found = self._message(wire.message)
        elif wire.HasField("json"):
            found = self._json(json.loads(wire.json))
        return cast("ValueT | None", found)

    def _message(self, packed: AnyMessage) -> Message:
        name = packed.type_url.rpartition("/")[2]
        if not self._members:
            try:
                descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
            except KeyError:
                return packed
            return message_factory.GetMessageClass(descriptor).FromString(packed.value)
        for member in self._members:
            if issubclass(member, Message) and member.DESCRIPTOR.full_name == name:
                return member.FromString(packed.value)
        raise self._unexpected(name)

    def _json(self, plain: Any) -> Any:
        if plain is None or not self._members or type(plain) in self._members:
            return plain
        if type(plain) is int and float in self._members:
            return plain
        if not isinstance(plain, dict):
            raise self._unexpected(type(plain).__name__)
        name = plain.pop(_TYPE, None)
        kind = self._classes.get(name) if name is not None else None
        if name is None and len(self._classes) == 1:
            (kind,) = self._classes.values()
        if kind is None:
            raise self._unexpected(str(name or "an object that does not say its class"))
        try:
            return _from_json(kind, plain)
        except Exception as error:  # each kind of class has errors of its own
            raise self._unexpected(f"what {kind.__name__} cannot read: {error}") from error

    def _unexpected(self, found: str) -> UnexpectedMessage:
        return UnexpectedMessage(
            f"{self._what}: it must be {self}, and the server sent {found}",
            reason="UNEXPECTED_MESSAGE",
            code=Code.INTERNAL,
            domain="longshore",
        )


def _members(declared: Any) -> list[type[Any]]:
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(declared) for member in _members(part)]
    return [typing.get_origin(declared) or declared]


def _is_class(kind: type[Any]) -> bool:
    """Whether its values are objects of JSON that are read as instances of it."""
    return issubclass(kind, Message) or dataclasses.is_dataclass(kind) or hasattr(kind, "model_validate_json")


def _to_json(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        text: str = _msgspec().json.encode(value).decode()
        return text
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json(by_alias=True, round_trip=True, warnings=False))
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _from_json(kind: type[Any], plain: dict[str, Any]) -> Any:
    if issubclass(kind, Message):
        return json_format.ParseDict(plain, kind())
    text = json.dumps(plain)
    if dataclasses.is_dataclass(kind):
        return _msgspec().json.decode(text, type=kind)
    return kind.model_validate_json(text)


def _msgspec() -> Any:
    try:
        import msgspec
    except ModuleNotFoundError:
        raise ImportError("dataclasses as states and events need msgspec: pip install msgspec") from None
    return msgspec
