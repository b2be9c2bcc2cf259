"""The keys of objects: what a caller may call bytes, and say of them. One rule for every store, so that a key means the
same in each, and an object can go from each to each."""

from __future__ import annotations

import json
from collections.abc import Mapping

MAX_KEY = 1024
"""The longest key, in bytes."""
MAX_SEGMENT = 255
"""The longest part of a key between two slashes, in bytes: what file systems allow."""
RESERVED = ".longshore"
"""The folder of a local store that holds what is no object."""
MAX_CONTENT_TYPE = 255
"""Characters in a content type."""
MAX_METADATA = 1024
"""Bytes of an object's metadata, written as JSON in ASCII: what S3 has room for, the digests beside it."""


def check(key: str) -> None:
    """Raises `ValueError` with what is wrong with a key, `TypeError` for no text."""
    if not isinstance(key, str):
        raise TypeError(f"the key of an object is a text, not {key!r}")
    if not key:
        raise ValueError("must not be empty: it is the object's key")
    if len(key.encode("utf-8", "replace")) > MAX_KEY:
        raise ValueError(f"must not be longer than {MAX_KEY} bytes: it is the object's key")
    if "\\" in key or not key.isprintable():
        raise ValueError("must not hold backslashes or characters that cannot be printed: it is the object's key")
    segments = key.split("/")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"must not hold the segment {segment!r} between slashes: it is the object's key")
        if len(segment.encode()) > MAX_SEGMENT:
            raise ValueError(f"must not hold a segment of more than {MAX_SEGMENT} bytes: it is the object's key")
    if segments[0] == RESERVED:
        raise ValueError(f"must not begin with {RESERVED!r}, which the store keeps for itself")


def is_key(text: str) -> bool:
    """Whether `check` finds nothing wrong."""
    try:
        check(text)
    except ValueError:
        return False
    return True


def check_content_type(text: str) -> None:
    """Raises `ValueError` with what is wrong with a content type, `TypeError` for no text."""
    if not isinstance(text, str):
        raise TypeError(f"content_type: {text!r} is no text")
    if len(text) > MAX_CONTENT_TYPE or not text.isascii() or not text.isprintable():
        raise ValueError(f"must have at most {MAX_CONTENT_TYPE} printable ASCII characters")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises `ValueError` with what is wrong with an object's metadata, `TypeError` for what maps no texts to texts."""
    if not hasattr(metadata, "items") or not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError(f"metadata: {metadata!r} is no dict of texts")
    if len(json.dumps(dict(metadata))) > MAX_METADATA:
        raise ValueError(f"must have at most {MAX_METADATA} bytes, written as JSON in ASCII")
    for key in metadata:
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(f"has the key {key[:40]!r}: keys are printable ASCII and not empty")
