"""Small pictures of PNGs, made row by row while the bytes come: neither file nor picture is ever whole in memory.

A real service would hand this to an imaging library, in a process that may do nothing else: who sends a picture sends
input for a decoder.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator

LONGEST_SIDE = 96
MOST_PIXELS = 1_000_000
"""Pictures with more are refused: a few kilobytes can unpack to gigabytes."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Bytes of a pixel with 8 bits each: grey, RGB, grey with alpha, RGB with alpha."""


class UnreadableError(Exception):
    """It is no PNG, or one of a kind that is not read here: with a palette, interlaced, of 16 bits, too large."""


class PngReader:
    """Takes the bytes of a PNG, and makes a smaller one of it."""

    def __init__(self) -> None:
        self.width = self.height = 0
        self._rows: list[bytes] = []
        self._buffer = bytearray()
        self._reading = self._read()
        next(self._reading)

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises `UnreadableError`."""
        self._buffer += data
        try:
            if next(self._reading, self) is self:
                self._buffer.clear()  # what follows its end is none of it
        except zlib.error:
            raise UnreadableError("its data are not what PNG packs") from None

    def extract(self) -> bytes:
        """A PNG of at most 96 pixels a side, after the last byte. Raises `UnreadableError`."""
        if not self._rows or len(self._rows) < self._tall:
            raise UnreadableError("it ends in the middle")
        header = struct.pack(">IIBBBBB", self._wide, self._tall, 8, self._colour, 0, 0, 0)
        packed = zlib.compress(b"".join(b"\x00" + row for row in self._rows), 9)
        return _SIGNATURE + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
        )

    def _take(self, size: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < size:
            yield
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _read(self) -> Generator[None]:
        """Goes on with every `feed`."""
        if (yield from self._take(8)) != _SIGNATURE:
            raise UnreadableError("it does not begin as a PNG does")
        (_, _, *header, _) = struct.unpack(">I4sIIBBBBBI", (yield from self._take(25)))
        self._begin(*header)
        rows = self._shrink()
        next(rows)
        unpack = zlib.decompressobj()
        raw = bytearray()
        while True:
            left, kind = struct.unpack(">I4s", (yield from self._take(8)))
            if kind == b"IEND":
                return
            while left:
                piece = yield from self._take(min(left, 4096))
                left -= len(piece)
                if kind == b"IDAT":
                    raw += unpack.decompress(piece)
                    whole = len(raw) - len(raw) % self._stride
                    for start in range(0, whole, self._stride):
                        rows.send(raw[start : start + self._stride])
                    del raw[:whole]
            yield from self._take(4)

    def _begin(self, width: int, height: int, depth: int, colour: int, packing: int, filtering: int, lace: int) -> None:
        self.width, self.height, self._colour = width, height, colour
        if depth != 8 or colour not in _CHANNELS or (packing, filtering, lace) != (0, 0, 0):
            raise UnreadableError("it is of a kind that is not read here")
        if not 0 < width * height <= MOST_PIXELS:
            raise UnreadableError(f"{width} x {height} pixels are too many")
        self._channels = _CHANNELS[colour]
        self._stride = 1 + width * self._channels
        self._scale = -(-max(width, height) // LONGEST_SIDE)
        self._wide, self._tall = max(1, width // self._scale), max(1, height // self._scale)

    def _shrink(self) -> Generator[None, bytearray]:
        """Takes rows as they are packed. The mean of each square of pixels becomes one."""
        channels, across, down = self._channels, min(self._scale, self.width), min(self._scale, self.height)
        above = bytes(self._stride - 1)
        while len(self._rows) < self._tall:
            sums = [0] * (self._wide * channels)
            for _ in range(down):
                above = _unfilter((yield), above, channels)
                for channel in range(channels):
                    for column in range(across):
                        pixels = above[column * channels + channel :: across * channels]
                        mine = slice(channel, None, channels)
                        sums[mine] = map(int.__add__, sums[mine], pixels)
            self._rows.append(bytes(value // (across * down) for value in sums))
        while True:
            yield


def _unfilter(row: bytearray, above: bytes, step: int) -> bytes:
    """A row's own bytes: PNG packs how each differs from those beside and above it."""
    kind, row = row[0], row[1:]
    for index in range(len(row)):
        left = row[index - step] if index >= step else 0
        if kind == 1:
            row[index] = (row[index] + left) & 255
        elif kind == 2:
            row[index] = (row[index] + above[index]) & 255
        elif kind == 3:
            row[index] = (row[index] + (left + above[index]) // 2) & 255
        elif kind == 4:
            corner = above[index - step] if index >= step else 0
            guess = left + above[index] - corner
            near = min(left, above[index], corner, key=lambda value: abs(guess - value))
            row[index] = (row[index] + near) & 255
    return bytes(row)
