"""CRC32C of chunks, and of all that they make together without another look at their bytes."""

from __future__ import annotations

import ctypes

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
            self.whole = _joined(self.whole, crc32c)
        else:
            data = bytes(chunk)
            crc32c = google_crc32c.value(data)
            self.whole = _extended(self.whole, data)
        return crc32c


def _moved(byte: int) -> list[int]:
    """What each value of one byte of a CRC32C, the lowest is 0, becomes when `CHUNK` bytes follow: it is linear in its
    bits."""
    zeros = bytes(CHUNK)
    bits = [_extended(1 << 8 * byte + bit, zeros) ^ google_crc32c.value(zeros) for bit in range(8)]
    table = [0]
    for bit in bits:
        table += [bit ^ known for known in table]
    return table


_LOWEST, _LOW, _HIGH, _HIGHEST = map(_moved, range(4))


def _joined(before: int, after: int) -> int:
    """The CRC32C of bytes, from that of those before the last `CHUNK` and that of these."""
    return after ^ _LOWEST[before & 255] ^ _LOW[before >> 8 & 255] ^ _HIGH[before >> 16 & 255] ^ _HIGHEST[before >> 24]
