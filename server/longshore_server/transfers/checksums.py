"""CRC32C of chunks, and of all that they make together without another look at their bytes."""

from __future__ import annotations

import ctypes
import functools

import google_crc32c

CHUNK = 512 << 10
"""Bytes of each chunk but the last."""
_Array = ctypes.c_ubyte * CHUNK
_extended = google_crc32c.extend


class Checksums:
    """Those of chunks that follow each other."""

    def __init__(self) -> None:
        self.whole = 0
        """Of all so far."""
        self.size = 0
        """How many bytes these are."""

    def add(self, chunk: memoryview) -> int:
        """The CRC32C of the next chunk, in memory that may be written."""
        self.size += len(chunk)
        crc32c: int
        if len(chunk) == CHUNK:
            # The library takes no view, but an array over the memory of one.
            crc32c = google_crc32c.value(_Array.from_buffer(chunk))
            self.whole = joined(self.whole, crc32c, CHUNK)
        else:
            data = bytes(chunk)
            crc32c = google_crc32c.value(data)
            self.whole = _extended(self.whole, data)
        return crc32c


def joined(before: int, after: int, size: int) -> int:
    """The CRC32C of bytes, from that of those before the last `size` and that of these."""
    lowest, low, high, highest = _moved(size)
    return after ^ lowest[before & 255] ^ low[before >> 8 & 255] ^ high[before >> 16 & 255] ^ highest[before >> 24]


@functools.lru_cache(16)
def _moved(size: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """What each value of each byte of a CRC32C, the lowest first, becomes when `size` bytes follow: it is linear in its
    bits. To find out takes as long as the CRC32C of 33 times as many bytes."""
    zeros = bytes(size)
    nothing = google_crc32c.value(zeros)

    def table(byte: int) -> list[int]:
        found = [0]
        for bit in range(8 * byte, 8 * byte + 8):
            moved = _extended(1 << bit, zeros) ^ nothing
            found += [moved ^ known for known in found]
        return found

    return table(0), table(1), table(2), table(3)
