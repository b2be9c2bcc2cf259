"""Just enough of HTTP/2 (RFC 9113) to be a client that no gRPC library would be: it sends what the test says, frame by
frame, and reads only when it is told to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


class Kind(IntEnum):
    """The type of a frame."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Connection:
    """A client's side of one connection. `async with Connection(address) as raw: ...`

    Args:
        address: `host:port`.
        settings: (identifier, value) of its SETTINGS; (4, 0): it can take no byte of any stream.
    """

    def __init__(self, address: str, settings: Iterable[tuple[int, int]] = ()) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._settings = b"".join(struct.pack("!HI", *setting) for setting in settings)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        self._writer.write(PREFACE)
        await self.send(Kind.SETTINGS, 0, 0, self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def send(self, kind: Kind, flags: int, stream: int, payload: bytes) -> None:
        """One frame."""
        self._writer.write(struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload)
        await self._writer.drain()

    async def call(self, stream: int, path: str, message: bytes, *, content_type: str = "application/grpc") -> None:
        """Call a method with one message and nothing after it."""
        headers = (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"),
            ("content-type", content_type), ("te", "trailers"),
        )  # fmt: skip
        await self.send(Kind.HEADERS, END_HEADERS, stream, b"".join(_literal(*header) for header in headers))
        await self.send(Kind.DATA, END_STREAM, stream, struct.pack("!BI", 0, len(message)) + message)

    async def frame(self) -> Frame | None:
        """The next frame; None: the server has closed the connection."""
        try:
            head = await self._reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def frame_of(self, *kinds: Kind) -> Frame:
        """The next frame of these kinds. Raises `EOFError` where the connection is closed before."""
        while (found := await self.frame()) is not None:
            if found.kind in kinds:
                return found
        raise EOFError


def _literal(name: str, value: str) -> bytes:
    """A header field of HPACK, literal and without indexing (RFC 7541, 6.2.2); neither part is over 126 bytes."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in (name, value))
