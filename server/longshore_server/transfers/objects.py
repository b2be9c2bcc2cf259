"""Objects: what stores hold, and why a store could not do what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore_server.reasons import Reason


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
            round), OBJECT_CORRUPT (what was staged is lost), STORE_FULL, STORE_UNAVAILABLE or NOT_SUPPORTED.
        message: one sentence for who runs the service: it names what callers do not see.
        lasting: whether it stays so until somebody mends it: a bucket that is not there, rights that are missing.
    """

    def __init__(self, reason: Reason, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.lasting = lasting
