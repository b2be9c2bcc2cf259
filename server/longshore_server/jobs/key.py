"""The key of a job, made from its payload: `"{sku}"`, `"{order.region}/{sku}"`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from longshore_server.contract import fields
from longshore_server.errors import Reason, ServiceError, Violation

_PART = re.compile(r"\{([^{}]*)\}")
MAX_KEY = 512
"""The longest key, in bytes."""


class KeyTemplate:
    """A parsed template. Raises `ValueError` with one sentence when it is not a good one for payloads of a type."""

    def __init__(self, text: str, payload: Any) -> None:
        if not isinstance(text, str):
            raise TypeError(f"key: {text!r} is no text such as '{{sku}}'")
        self.text = text
        self._literals = _PART.split(text)[::2]
        self._paths = [path.split(".") for path in _PART.findall(text)]
        if not self._paths or any("{" in literal or "}" in literal for literal in self._literals):
            raise ValueError(f"key: {text!r} is made of no field: write one in braces, such as '{{sku}}'")
        for path in self._paths:
            if not all(part.isidentifier() for part in path):
                raise ValueError(f"key: {'.'.join(path)!r} is no path of fields")
            _check(path, payload)

    def render(self, payload: Any) -> str:
        """The key. Raises `ServiceError` (INVALID_ARGUMENT) naming the field that makes none."""
        several = len(self._paths) > 1
        made = [self._literals[0]]
        for path, literal in zip(self._paths, self._literals[1:], strict=True):
            value = _value(payload, path)
            # Escaped where another field follows: two payloads with different fields never share a key.
            made += [quote(value, safe="") if several else value, literal]
        key = "".join(made)
        if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY or not key.isprintable():
            raise _refusal(self._paths[0], f"must make a printable key of at most {MAX_KEY} bytes")
        return key


def _check(path: list[str], payload: Any) -> None:
    """Raises `ValueError` where a payload of that type certainly has no such field."""
    if isinstance(payload, type) and issubclass(payload, Message):
        try:
            fields.follow(".".join(path), cast("Descriptor", payload.DESCRIPTOR))
        except ValueError as error:
            raise ValueError(f"key: {error}") from None
        return
    known: set[str] | None = None
    if isinstance(payload, type) and dataclasses.is_dataclass(payload):
        known = {field.name for field in dataclasses.fields(payload)}
    elif isinstance(payload, type) and hasattr(payload, "model_fields"):
        known = set(payload.model_fields)
    elif payload not in (Any, dict) and typing.get_origin(payload) is not dict:
        known = set()
    if known is not None and path[0] not in known:
        raise ValueError(f"key: {path[0]!r} is no field of the payload")


def _value(payload: Any, path: list[str]) -> str:
    found = payload
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise _refusal(path, f"is {type(found).__name__}: a key is made of texts and whole numbers")
    if found == "":
        raise _refusal(path, "must not be empty: the job's key is made from it")
    return str(found)


def _refusal(path: list[str], problem: str) -> ServiceError:
    field = ".".join(path)
    return ServiceError(Reason.INVALID_ARGUMENT, f"{field} {problem}.", violations=[Violation(field, problem)])
