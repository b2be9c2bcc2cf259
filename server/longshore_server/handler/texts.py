"""What handlers say to operators, as texts that can always be kept: of bounded length, and whatever they are made of.

Nothing here raises: a line of a log must not fail the work that it tells of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

MAX_TEXT = 8192
"""How many characters of a message are kept."""
MAX_DATA = 16_384
"""How many characters of its data, as JSON."""


def counted(number: int, noun: str) -> str:
    """A number of things: `1 operation`, `2 operations`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text_of(value: object) -> str:
    """A text as it is, anything else as Python shows it; cut to its bound, which it says then."""
    return _cut(value if isinstance(value, str) else _shown(repr, value))


def error_text(error: BaseException) -> str:
    """The type of an error and what it says, cut like any text."""
    said = _shown(str, error)
    return _cut(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def data_of(data: Mapping[str, Any]) -> str:
    """A JSON object. A value that is no JSON is a text in it. What is too large becomes `{"cut": "...", "size": N}`:
    the first characters of what it would have been, and how many there were."""
    text = "{" + ",".join(f"{_json(name)}:{_value(value)}" for name, value in data.items()) + "}"
    if len(text) > MAX_DATA:
        text = json.dumps({"cut": text[:MAX_DATA], "size": len(text)}, ensure_ascii=False)
    return _storable(text)


def _value(value: Any) -> str:
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=lambda part: _shown(repr, part)
        )
    except Exception:  # noqa: BLE001 - a circle, a key that is no text, a number that is none, or too deep
        return _json(text_of(value))


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _shown(show: Callable[[Any], str], value: object) -> str:
    try:
        return show(value)
    except Exception as error:  # noqa: BLE001 - code of the user
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _cut(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}... (cut, it had {len(text)} characters)"
    return _storable(text)


def _storable(text: str) -> str:
    """Halves of characters, which neither UTF-8 nor protobuf can hold, as JSON writes them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
