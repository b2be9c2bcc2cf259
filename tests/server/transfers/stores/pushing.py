"""What tests of remote stores share: staged files and their adoption."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import google_crc32c

from longshore_server import ObjectInfo
from longshore_server.transfers.stores.remote import RemoteStore

Make = Callable[..., Awaitable[RemoteStore]]
LARGE = bytes(range(256)) * 4096 * 20 + b"end"
"""Three parts."""


async def adopt(store: RemoteStore, staged: Path, key: str = "a/b", **options: Any) -> ObjectInfo:
    data = LARGE if not staged.exists() else staged.read_bytes()  # noqa: ASYNC240
    return await store.adopt(
        staged, key, size=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data),
        content_type="text/plain", metadata={"By": "caf\u00e9"}, **options,
    )  # fmt: skip


def stage(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 99_999):
        yield data[start : start + 99_999]
