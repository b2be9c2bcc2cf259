"""A stock client that sends bytes, chunk by chunk, as a test wants it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import google_crc32c

from longshore.v1 import transfers_service_pb2 as pb
from tests.answers import answered


def header(upload: str, part: int = 0, total: int | None = None) -> pb.UploadRequest:
    return pb.UploadRequest(header=pb.UploadHeader(upload=upload, part=part, total_size=total))


def chunk(offset: int, data: bytes, *, crc: int | bool = True) -> pb.UploadRequest:
    """A chunk with its CRC32C, with another one, or (False) without."""
    message = pb.UploadChunk(offset=offset, data=data)
    if crc is not False:
        message.crc32c = google_crc32c.value(data) if crc is True else crc
    return pb.UploadRequest(chunk=message)


def chunks(data: bytes, size: int = 1000, offset: int = 0) -> list[pb.UploadRequest]:
    """`data` from `offset` on, in chunks."""
    return [chunk(at, data[at : at + size]) for at in range(offset, len(data), size)]


def commit(data: bytes, *, sha256: bytes | bool = True) -> pb.UploadRequest:
    """The commit of `data`, with its digest, with another one, or (False) without."""
    digest = hashlib.sha256(data).digest() if sha256 is True else sha256 or b""
    return pb.UploadRequest(commit=pb.UploadCommit(total_size=len(data), sha256=digest))


async def send(transfers: Any, *requests: pb.UploadRequest | Iterable[pb.UploadRequest]) -> Any:
    """One Upload call; the upload in its answer."""

    async def stream() -> AsyncIterator[pb.UploadRequest]:
        for request in requests:
            if isinstance(request, pb.UploadRequest):
                yield request
            else:
                for each in request:
                    yield each

    return (await answered(transfers.Upload(stream()))).upload


async def upload(transfers: Any, name: str, data: bytes, size: int = 1000) -> Any:
    """All of it in one call."""
    return await send(transfers, header(name), chunks(data, size), commit(data))
