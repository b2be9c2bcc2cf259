"""The messages of a download. Bytes are read to where they stand in their message: a copy of them would cost as much as
the read, and push others out of the cache of the processor."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from io import BytesIO
from typing import NamedTuple

from longshore_server.transfers.checksums import CHUNK, Checksums
from longshore_server.transfers.stores.reader import Reader


class Framing(NamedTuple):
    """What a message has around its data."""

    before: Callable[[int, int], bytes]
    """By the offset of the data, and how many bytes that is."""
    after: Callable[[int], bytes]
    """By the CRC32C of the data; always as many bytes."""


async def messages(
    reader: Reader, framing: Framing, offset: int, length: int, checksums: Checksums
) -> AsyncGenerator[bytes]:
    """The bytes of an object from `offset` on, `length` of them, in messages of `CHUNK`; fewer if it ends before.

    `checksums` are those of what has been read. Raises `ObjectError`.
    """
    frames, tail, end = _Frames(), len(framing.after(0)), offset + length
    while offset < end:
        size = min(CHUNK, end - offset)
        before = framing.before(offset, size)
        start = len(before)
        frame = frames.next(start + size + tail)
        # Given back in any case: nothing else keeps what was sent from being written to.
        with frame.getbuffer() as whole, whole[start : start + size] as data:
            if not await _fill(data, reader):
                return
            whole[:start] = before
            whole[start + size :] = framing.after(checksums.add(data))
        yield frame.getvalue()
        offset += size


async def _fill(room: memoryview, reader: Reader) -> bool:
    """Whether there were bytes enough."""
    filled = 0
    while filled < len(room):
        with room[filled:] as rest:
            size = await reader.into(rest)
        if not size:
            return False
        filled += size
    return True


class _Frames:
    """Two pieces of memory, for one message after the other: who sends one still has it while the next is made.

    A message that somebody has for longer stays as it is: `BytesIO` then goes on with a copy.
    """

    def __init__(self) -> None:
        self._last = self._next = BytesIO()

    def next(self, size: int) -> BytesIO:
        """One of so many bytes, whatever they are."""
        self._last, self._next = self._next, self._last
        if self._next.getbuffer().nbytes != size:
            self._next = BytesIO(bytes(size))
        return self._next
