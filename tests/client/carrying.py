"""What the client's tests of bytes share: a laboratory that takes and offers them, and bytes to send."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayProgress, PlayResult

from longshore_client import Channel
from tests.client.conftest import Pauses
from tests.proxy import Proxy
from tests.server.transfers.bytes_service import BytesLab

MB = 1_000_000
CHUNK = 256 << 10
REQUEST = BytesRequest(key="incoming/report.pdf", content_type="application/pdf")


def some(size: int) -> bytes:
    """Bytes without a pattern, the same ones every time."""
    return random.Random(size).randbytes(size)


async def pieces(data: bytes, size: int = 100_003) -> AsyncIterator[bytes]:
    """They come once, in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def store(request: Any, op: Any) -> PlayResult:
    """A handler: says what it has got."""
    stored = await op.transfer.completed()
    await op.progress(PlayProgress(text=f"stored {stored.size}"))
    return PlayResult(text=stored.sha256, number=stored.size)


async def stored(lab: BytesLab, key: str = REQUEST.key, store: str = "uploads") -> bytes:
    """The object of a key, as it is in its store."""
    return b"".join([chunk async for chunk in lab.server.stores[store].open(key)])


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BytesLab]:
    """A laboratory that has started; its operations end when they have their bytes."""
    found = BytesLab(tmp_path / "data")
    found.plays(store)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def near(lab: BytesLab, pauses: Pauses) -> AsyncIterator[Channel]:
    """A channel to it, whose back-off costs no time."""
    async with pauses.connect(lab.harness.address) as channel:
        yield channel


class Broken:
    """A channel through a proxy. `async with` opens both."""

    def __init__(self, lab: BytesLab, plan: Iterator[Any], **options: Any) -> None:
        self.pauses = Pauses()
        self.proxy = Proxy(lab.harness.address, plan)
        self._options = options

    async def __aenter__(self) -> Channel:
        await self.proxy.__aenter__()
        # One connection for each that was lost, at once.
        quick = [("grpc.initial_reconnect_backoff_ms", 10), ("grpc.max_reconnect_backoff_ms", 10)]
        self.channel = self.pauses.connect(self.proxy.address, options=quick, **self._options)
        return self.channel

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.proxy.__aexit__()
