"""What the tests of downloads share: a caller who believes nothing, and operations that offer what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import google_crc32c

from longshore.v1 import operation_pb2
from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.clock import SECOND
from longshore_server.ids import uid_text
from longshore_server.store.mutations import OfferDownload
from longshore_server.store.transfers import DownloadRecord
from tests.server.transfers.bytes_service import BytesLab

CHUNK = 512 << 10
BLOCK = 1 << 20


class Fetched(NamedTuple):
    """What a call has sent, to its end."""

    header: pb.DownloadHeader
    data: bytes
    chunks: list[int]
    """How many bytes each has."""


class Fetch:
    """A call that is under way; reads only what the test asks for."""

    def __init__(self, lab: BytesLab, name: str, **fields: Any) -> None:
        self.call = lab.transfers.Download(pb.DownloadRequest(name=name, **fields))
        self.position = fields.get("offset", 0)
        self.chunks: list[int] = []
        self.data = bytearray()

    async def header(self) -> pb.DownloadHeader:
        """The first message."""
        message = await self._read()
        assert message.WhichOneof("message") == "header"
        return message.header

    async def rest(self) -> bytes:
        """Everything after the header, checked."""
        while (message := await self._read()).WhichOneof("message") == "chunk":
            chunk = message.chunk
            assert chunk.offset == self.position
            assert chunk.crc32c == google_crc32c.value(chunk.data)
            self.position += len(chunk.data)
            self.chunks.append(len(chunk.data))
            self.data += chunk.data
        data = bytes(self.data)
        assert message.end == pb.DownloadEnd(length=len(data), crc32c=google_crc32c.value(data))
        async for more in self.call:
            raise AssertionError(f"{more} after the end")
        return data

    async def _read(self) -> pb.DownloadResponse:
        # A generator: a call that is read on after its end would raise something else.
        self._messages: AsyncIterator[pb.DownloadResponse] = getattr(self, "_messages", None) or aiter(self.call)
        async for message in self._messages:
            return message
        raise AssertionError("the stream ended without an end")


async def fetch(lab: BytesLab, name: str, **fields: Any) -> Fetched:
    """All that a download sends."""
    call = Fetch(lab, name, **fields)
    header = await call.header()
    data = await call.rest()
    assert header.length == len(data)
    return Fetched(header, data, call.chunks)


def pattern(size: int) -> bytes:
    """Bytes of which no two chunks are the same."""
    return b"".join(number.to_bytes(8, "big") for number in range((size + 7) // 8))[:size]


async def offering(lab: BytesLab, **fields: Any) -> str:
    """Start an operation that goes on until it is cancelled, and offers one download; the name of that."""
    uid = await start(lab)
    return await offer(lab.engine, uid, **fields)


async def start(lab: BytesLab) -> bytes:
    """Start an operation that goes on until it is cancelled; its uid."""

    @lab.plays
    async def handler(request: Any, op: Any) -> None:
        await asyncio.Event().wait()

    operation = (await lab.begin("Offer")).operation
    return uid_of(operation)


def uid_of(operation: operation_pb2.OperationSnapshot) -> bytes:
    """As the engine knows it."""
    return bytes.fromhex(operation.uid.replace("-", ""))


async def offer(engine: Any, uid: bytes, **fields: Any) -> str:
    """Let an operation offer the object `key`, for a minute by default; the name of that download."""
    known: dict[str, Any] = {
        "number": 0, "store": "exports", "key": "key", "filename": "", "content_type": "", "size": None, "sha256": b"",
        "crc32c": None, "url": "", "expires": engine.clock.now() + 60 * SECOND, "max_uses": 0,
    }  # fmt: skip
    record = await engine.store.writer.submit(OfferDownload(uid, DownloadRecord(**{**known, **fields}), None))
    return f"downloads/{uid_text(uid)}.{len(record.downloads)}"
