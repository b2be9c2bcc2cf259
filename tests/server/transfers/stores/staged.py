"""What tests of stores share: objects that are read and refused, and of local ones what is staged and what there is."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import LocalStore, Store


def stage(store: LocalStore, name: str, data: bytes) -> Path:
    """A staged file, as an upload leaves it."""
    path = store.staging / name
    path.write_bytes(data)
    return path


async def adopt(store: LocalStore, staged: Path, data: bytes, key: str = "a/b", **options: Any) -> ObjectInfo:
    return await store.adopt(
        staged, key, size=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data),
        content_type="text/plain", metadata={"By": "caf\u00e9"}, **options,
    )  # fmt: skip


async def read(store: Store, key: str, *range: int) -> bytes:
    return b"".join([chunk async for chunk in store.open(key, *range)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def own(root: Path, folder: str) -> list[str]:
    """The names of what the store keeps for itself."""
    return names(root / ".longshore" / folder)


@contextlib.contextmanager
def refused(reason: Reason) -> Iterator[pytest.ExceptionInfo[ObjectError]]:
    with pytest.raises(ObjectError) as caught:
        yield caught
    assert caught.value.reason is reason


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
