"""Where the bytes of an upload come from: a file, memory, or something that yields them once.

What can be read again is read from wherever the server says that bytes are missing. What comes only once is kept until
the server has said that it is durable, `WINDOW` bytes at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeAlias, cast

import google_crc32c

CHUNK = 256 << 10
"""Bytes of one message."""
BLOCK = 1 << 20
"""Bytes that are read from a file at a time."""
WINDOW = 8 << 20
"""The most bytes that are kept of what comes only once."""
_CALL = WINDOW // 2  # of those, what is sent before the server is asked whether it is durable

Data: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = os.PathLike[str] | Data | IO[bytes] | AsyncIterable[Data] | Iterable[Data]
"""What can be sent: the path of a file, bytes, a binary file from where it stands, or something that yields bytes."""


class Chunk(NamedTuple):
    """The bytes of one message, and where in their part they begin."""

    offset: int
    data: bytes
    crc32c: int


class Digest:
    """SHA-256 and CRC32C of what has been seen: the beginning of the object, without gaps."""

    def __init__(self) -> None:
        self.size = 0
        self.crc32c = 0
        self._sha256 = hashlib.sha256()

    def update(self, data: Data) -> None:
        """The next bytes."""
        self._sha256.update(data)
        self.crc32c = google_crc32c.extend(self.crc32c, bytes(data))
        self.size += len(data)

    @property
    def sha256(self) -> bytes:
        """32 bytes."""
        return self._sha256.digest()


class Readable(Protocol):
    """Bytes that can be read again, from any place, by any thread."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these. Raises `OSError`, also where there are fewer by now."""

    def close(self) -> None:
        """They are read no more."""


class Body(Protocol):
    """The bytes of one part of an upload."""

    ended: bool
    """Whether the last `chunks` has yielded up to the last byte."""

    def chunks(self, offset: int, over: Callable[[], bool]) -> AsyncGenerator[Chunk, None]:
        """Yield what follows `offset`, of which everything before is durable; nothing more once the call is over."""

    def wake(self) -> None:
        """The call is over: whoever waits for bytes need not."""

    async def digested(self) -> Digest:
        """The digest of all bytes of the object."""


class Stored:
    """A part of what can be read again.

    Args:
        source: The bytes of the whole object.
        start: Where in it the part begins.
        end: Where it ends.
        digest: What to add to while they are read; None: somebody else does it.
    """

    ended = True

    def __init__(self, source: Readable, start: int, end: int, digest: Digest | None) -> None:
        self.start = start
        self.size = end - start
        self._source = source
        self._digest = digest

    async def chunks(self, offset: int, over: Callable[[], bool]) -> AsyncGenerator[Chunk, None]:  # noqa: ARG002
        # While one block is sent the next is read.
        ahead: asyncio.Task[list[Chunk]] | None = None
        try:
            while offset < self.size:
                chunks = await (ahead or self._begin(offset))
                offset = min(offset + BLOCK, self.size)
                ahead = self._begin(offset) if offset < self.size else None
                for chunk in chunks:
                    yield chunk
        finally:
            if ahead is not None:
                # The thread cannot be stopped, and the digest must not be added to by two.
                await asyncio.wait([ahead])
                with suppress(OSError):
                    ahead.result()

    def wake(self) -> None:
        pass

    async def digested(self) -> Digest:
        assert self._digest is not None
        await digest_all(self._source, self._digest)
        return self._digest

    def _begin(self, offset: int) -> asyncio.Task[list[Chunk]]:
        return asyncio.create_task(asyncio.to_thread(self._read, offset))

    def _read(self, offset: int) -> list[Chunk]:
        at = self.start + offset
        digest = self._digest
        while digest is not None and digest.size < at:
            # What another process has sent is part of the digest, too.
            digest.update(self._source.read(digest.size, min(BLOCK, at - digest.size)))
        data = self._source.read(at, min(BLOCK, self.size - offset))
        if digest is not None:
            # Of what is read once more it has some already, or all.
            digest.update(memoryview(data)[digest.size - at :])
        return [
            Chunk(offset + begin, piece, google_crc32c.value(piece))
            for begin in range(0, len(data), CHUNK)
            if (piece := data[begin : begin + CHUNK])
        ]


class Passing:
    """Bytes that come once.

    Args:
        pieces: The bytes, in pieces of any size.
    """

    def __init__(self, pieces: AsyncIterable[Data]) -> None:
        self.ended = False
        self._pieces = pieces
        self._digest = Digest()
        self._kept = bytearray()
        self._base = 0  # where in the object the kept bytes begin
        self._over = False
        self._room = asyncio.Event()
        self._more = asyncio.Event()

    async def receive(self) -> None:
        """Take the bytes, as fast as there is room for them. Ends with them; raises what their source raises."""
        try:
            async for piece in self._pieces:
                view = memoryview(piece).cast("B")
                for begin in range(0, len(view), CHUNK):
                    while len(self._kept) >= WINDOW:
                        self._room.clear()
                        await self._room.wait()
                    data = view[begin : begin + CHUNK]
                    self._kept += data
                    self._digest.update(data)
                    self._more.set()
        finally:
            if isinstance(self._pieces, AsyncGenerator):
                await self._pieces.aclose()
        self._over = True
        self._more.set()

    async def chunks(self, offset: int, over: Callable[[], bool]) -> AsyncGenerator[Chunk, None]:
        self.ended = False
        del self._kept[: offset - self._base]
        self._base = offset
        self._room.set()
        end = offset + _CALL
        while not over():
            at = offset - self._base
            data = bytes(self._kept[at : at + min(CHUNK, end - offset)])
            if data:
                yield Chunk(offset, data, google_crc32c.value(data))
                offset += len(data)
            elif self._over and offset == self._base + len(self._kept):
                self.ended = True
                return
            elif offset == end:
                return
            else:
                self._more.clear()
                await self._more.wait()

    def wake(self) -> None:
        self._more.set()

    async def digested(self) -> Digest:
        return self._digest

    @property
    def base(self) -> int:
        """Bytes before this one are gone."""
        return self._base


async def digest_all(source: Readable, digest: Digest) -> None:
    """Add to `digest` what it lacks of all bytes of `source`."""

    def add() -> None:
        digest.update(source.read(digest.size, min(BLOCK, source.size - digest.size)))

    while digest.size < source.size:
        await asyncio.to_thread(add)


def check_source(source: object) -> None:
    """Raises TypeError for what is no `Source`."""
    if isinstance(source, str):
        raise TypeError("a str may be a path or a text: pass pathlib.Path(...) or its bytes")
    if not isinstance(source, (os.PathLike, bytes, bytearray, memoryview, AsyncIterable, Iterable)) and not hasattr(
        source, "read"
    ):
        raise TypeError(
            f"cannot send {type(source).__name__}: pass a path, bytes, a binary file, or an iterator of bytes"
        )


async def open_source(source: Source) -> Readable | AsyncIterator[Data]:
    """Find out whether a source can be read again; a file is opened.

    Raises:
        OSError: The file cannot be opened.
    """
    match source:
        case bytes() | bytearray() | memoryview():
            return _Memory(source)
        case os.PathLike():
            return await asyncio.to_thread(_open, Path(source))
        case AsyncIterable():
            return aiter(source)
        case _ if hasattr(source, "read"):
            return await asyncio.to_thread(_of_file, cast("IO[bytes]", source))
        case _:
            return _pieces(iter(source))


class _Memory:
    def __init__(self, data: Data) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def close(self) -> None:
        pass


class _File:
    """A file, from where it stands when it is given.

    Args:
        file: It.
        own: Whether it is closed with this.
    """

    def __init__(self, file: IO[bytes], *, own: bool) -> None:
        self._file = file
        self._own = own
        self._lock = threading.Lock()
        self._start = file.tell()
        self.size = file.seek(0, os.SEEK_END) - self._start

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(self._start + offset)
            data = self._file.read(size)
        if len(data) < size:
            raise OSError(f"the file had {self.size} bytes when it was opened, and has fewer now")
        return data

    def close(self) -> None:
        if self._own:
            self._file.close()


def _open(path: Path) -> Readable | AsyncIterator[Data]:
    # Without a buffer, whose lock a thread that reads a pipe would hold up to the end of the program and beyond.
    file = path.open("rb", buffering=0)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return _File(file, own=True)
    return _pieces(_reads(file, own=True))


def _of_file(file: IO[bytes]) -> Readable | AsyncIterator[Data]:
    return _File(file, own=False) if file.seekable() else _pieces(_reads(file, own=False))


def _reads(file: IO[bytes], *, own: bool) -> Iterator[bytes]:
    # What is there, rather than to wait for so much.
    read = getattr(file, "read1", file.read)
    try:
        while data := read(CHUNK):
            yield data
    finally:
        if own:
            file.close()


def _pieces(iterator: Iterator[Data]) -> AsyncIterator[Data]:
    """What a blocking iterator yields."""
    return _Aside(iterator).pieces()


class _Aside:
    """A blocking iterator, read by a thread of its own; what has come meanwhile is one piece.

    The end of the program does not wait for the thread, as a pipe may have nothing for ever.
    """

    def __init__(self, iterator: Iterator[Data]) -> None:
        self._iterator = iterator
        self._more = asyncio.Event()
        self._turn = threading.Condition()
        self._found = bytearray()
        self._over = self._left = False
        self._error: Exception | None = None

    async def pieces(self) -> AsyncGenerator[Data, None]:
        """Yield what the thread has read; raise what the iterator raises."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="longshore-source", daemon=True).start()
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                with self._turn:
                    data, self._found = self._found, bytearray()
                    over = self._over
                    self._turn.notify()
                if data:
                    yield data
                if over:
                    if self._error is not None:
                        raise self._error
                    return
        finally:
            with self._turn:
                self._left = True
                self._turn.notify()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for piece in self._iterator:
                with self._turn:
                    while len(self._found) >= CHUNK and not self._left:
                        self._turn.wait()
                    if self._left:
                        return
                    self._found += piece
                self._tell(loop)
        except Exception as error:  # noqa: BLE001 - raised to whoever reads the pieces
            self._error = error
        self._over = True
        self._tell(loop)

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._more.set)
