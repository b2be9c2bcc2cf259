"""Objects: what stores hold, and why a store could not do what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore_server.reasons import Reason

MAX_CONTENT_TYPE = 255
"""Characters in a content type."""
MAX_METADATA = 1024
"""Bytes of an object's metadata, written as JSON in ASCII: what every kind of store has room for."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object.

    A store knows the digests, the content type and the metadata of what came in through it; of a file that somebody
    else has put there it knows the size and the time.
    """

    key: str
    size: int
    """Bytes."""
    sha256: str = ""
    """In hexadecimal; empty: unknown."""
    crc32c: int | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    updated: int = 0
    """Microseconds since 1970, by the clock of the store."""


class ObjectError(Exception):
    """A store could not do it.

    Args:
        reason: OBJECT_NOT_FOUND, OBJECT_EXISTS, KEY_CONFLICT (the key is a folder of another, or the other way
            round), STORE_FULL, STORE_UNAVAILABLE or NOT_SUPPORTED.
        message: one sentence for people.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_description(content_type: str, metadata: Mapping[str, str]) -> None:
    """Refuse what some stores have no room for. Raises `ValueError` with one sentence."""
    if len(content_type) > MAX_CONTENT_TYPE or not all(" " <= character <= "~" for character in content_type):
        raise ValueError(f"a content type has at most {MAX_CONTENT_TYPE} printable ASCII characters")
    size = len(json.dumps(dict(metadata)))
    if size > MAX_METADATA:
        raise ValueError(f"metadata has at most {MAX_METADATA} bytes when written as JSON, not {size}")
