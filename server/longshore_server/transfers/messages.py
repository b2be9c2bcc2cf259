"""The messages of a download. Bytes are read to where they stand in their message: a copy of them would cost as much as
the read, and push others out of the cache of the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import NamedTuple

from longshore_server.transfers.checksums import CHUNK, Checksums
from longshore_server.transfers.stores.reader import Reader

TOGETHER = 2
"""The most messages of one batch: before each it is looked at who calls."""


class Framing(NamedTuple):
    """What a message has around its data."""

    before: Callable[[int, int], bytes]
    """By the offset of the data, and how many bytes that is."""
    after: Callable[[int], bytes]
    """By the CRC32C of the data; always as many bytes."""


class Messages:
    """The bytes of an object from `offset` on, `length` of them, in messages of `CHUNK`; fewer if it ends before.

    `checksums` are those of what the messages had that were given. Nothing waits for the next message while one is
    made: what is in memory costs less than a task.
    """

    def __init__(self, reader: Reader, framing: Framing, offset: int, length: int, checksums: Checksums) -> None:
        self._reader = reader
        self._framing = framing
        self._offset = offset
        self._end = offset + length
        self._checksums = checksums
        self._tail = len(framing.after(0))
        self.taken = 0
        """How many bytes the messages had that were taken; one counts when another is asked for."""
        self._filled = 0  # bytes of the next message's data that are in its frame already
        # Two pieces of memory, for one message after the other: who sends one still has it while the next is made. A
        # message that somebody has for longer stays as it is: `BytesIO` then goes on with a copy.
        self._last = self._next = BytesIO()

    async def next(self) -> bytes:
        """The next message; empty: there is none. Raises `ObjectError`."""
        self.taken = self._checksums.size
        while not (message := self._made()):
            if self._offset == self._end or not await self._reader.more():
                return b""
        return message

    def at_hand(self) -> Iterator[bytes]:
        """The next ones whose bytes are in memory, `TOGETHER` at most; the first that is not is left to `next`."""
        for _ in range(TOGETHER):
            message = self._made()
            if not message:
                return
            yield message
            self.taken = self._checksums.size

    def _made(self) -> bytes:
        """The next message, of bytes that are in memory; empty: these are not enough, or there is none."""
        size = min(CHUNK, self._end - self._offset)
        if not size:
            return b""
        before = self._framing.before(self._offset, size)
        start = len(before)
        frame = self._frame(start + size + self._tail)
        # Given back in any case: nothing else keeps what was sent from being written to.
        with frame.getbuffer() as whole, whole[start : start + size] as data:
            while self._filled < size:
                more = self._reader.at_once(data[self._filled :])
                if not more:
                    return b""
                self._filled += more
            whole[:start] = before
            whole[start + size :] = self._framing.after(self._checksums.add(data))
        self._filled = 0
        self._offset += size
        self._last, self._next = frame, self._last
        return frame.getvalue()

    def _frame(self, size: int) -> BytesIO:
        """Memory of so many bytes, whatever they are; the same until its message is made."""
        frame = self._next
        if frame.getbuffer().nbytes != size:
            self._next = frame = BytesIO(bytes(size))
        return frame
