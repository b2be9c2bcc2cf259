"""The types of states and events: declared once, checked before anything is stored, and when it is read again."""

from __future__ import annotations

import hashlib
from typing import Any

from longshore_server.handler.codec import Encoded, codec_of, decode, encode, members
from longshore_server.store.instances import Value

_JSON = (dict, list, str, int, float, bool, type(None))


class UnreadableError(Exception):
    """What is stored is nothing that the definition's type can read."""


class TooLargeError(ValueError):
    """A value has more bytes than the server keeps."""


class Shape:
    """A declared type: a protobuf message, a dataclass, a pydantic model, a JSON type, or a union of such.

    Args:
        declared: the type.
        what: what it is the type of, for messages: `state` or `event`.

    Raises `TypeError` for what cannot be stored.
    """

    def __init__(self, declared: Any, what: str) -> None:
        self.what = what
        self._declared = declared
        self.members = tuple(members(declared))
        for member in self.members:
            if not (member is Any or member in _JSON or codec_of(member)):
                raise TypeError(
                    f"{what}: {_name(member)} cannot be stored: use a protobuf message, a dataclass, a pydantic model"
                    " or a JSON type (dict, list, str, int, float, bool)"
                )

    def __str__(self) -> str:
        return " | ".join(map(_name, self.members))

    @property
    def optional(self) -> bool:
        """Whether None is one of its values."""
        return Any in self.members or type(None) in self.members

    def has(self, value: object) -> bool:
        """Whether a value is of the type."""
        if Any in self.members:
            return True
        kind = type(value)
        return kind in self.members or (kind is int and float in self.members)

    def accepts(self, member: Any) -> bool:
        """Whether every value of a type is one of this."""
        return Any in self.members or member in self.members

    def store(self, value: object, limit: int) -> Encoded:
        """The value as bytes. Raises `TypeError` for another type or what would come back changed, `TooLargeError`."""
        if not self.has(value):
            raise TypeError(f"{self.what}: it must be {self}, not {_name(type(value))}")
        stored = encode(value)
        self.check_size(len(stored.data), limit)
        return stored

    def check_size(self, size: int, limit: int) -> None:
        """Raises `TooLargeError`."""
        if size > limit:
            raise TooLargeError(f"{self.what}: it has {size} bytes, and the server keeps {limit} at most")

    def load(self, stored: Value) -> Any:
        """The value that `store` was given, though its class may have moved since. Raises `UnreadableError`."""
        codec, data = stored
        try:
            value = decode(Encoded(codec, data), self._declared)
        except Exception as error:
            raise UnreadableError(
                f"{self.what}: what is stored as {codec} cannot be read as {self}: {error}"
            ) from error
        if not self.has(value):
            raise UnreadableError(
                f"{self.what}: what is stored as {codec} is not {self}, which the definition says now"
            )
        return value


def digest_of(value: Value) -> bytes:
    """Tells one event from another that has the same id."""
    return hashlib.sha256(Encoded(*value).identity).digest()


def _name(member: Any) -> str:
    return "None" if member is type(None) else getattr(member, "__qualname__", None) or repr(member)
