"""How `examples/documents` reads texts and pictures: the same whatever the chunks are, and nothing that is too much."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc
import zlib

import pytest
from acme.documents.v1.documents_pb2 import TextStatistics, WordCount
from hypothesis import given
from hypothesis import strategies as st
from pictures import PngReader, UnreadableError
from texts import FIRST_CHARACTERS, FIRST_LINES, TextReader

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB = 2
CHANNELS = {0: 1, RGB: 3, 4: 2, 6: 4}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, colour: int = RGB, lace: int = 0) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, lace))


def paeth(left: int, above: int, corner: int) -> int:
    """As the specification of PNG writes it down."""
    guess = left + above - corner
    a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
    if a <= b and a <= c:
        return left
    return above if b <= c else corner


def png(rows: list[bytes], colour: int, filters: list[int]) -> bytes:
    """A picture, each of its rows packed by its own filter."""
    step = CHANNELS[colour]
    above, packed = bytes(len(rows[0])), bytearray()
    for row, kind in zip(rows, filters, strict=True):
        packed.append(kind)
        for index, value in enumerate(row):
            left = row[index - step] if index >= step else 0
            corner = above[index - step] if index >= step else 0
            up = above[index]
            packed.append((value - (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]) & 255)
        above = row
    data = zlib.compress(bytes(packed))
    size = header(len(rows[0]) // step, len(rows), colour=colour)
    middle = len(data) // 2
    return (
        size + chunk(b"tEXt", b"some words") + chunk(b"IDAT", data[:middle]) + chunk(b"IDAT", data[middle:])
        + chunk(b"IEND", b"")
    )  # fmt: skip


def read(data: bytes, piece: int = 100) -> PngReader:
    reader = PngReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader


def pixels(extract: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of a PNG that the reader has made."""
    width, height, _, colour = struct.unpack(">IIBB", extract[16:26])
    (size,) = struct.unpack(">I", extract[33:37])
    raw = zlib.decompress(extract[41 : 41 + size])
    stride = 1 + width * CHANNELS[colour]
    return width, height, [raw[start + 1 : start + stride] for start in range(0, len(raw), stride)]


@pytest.mark.parametrize("colour", CHANNELS)
@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_small_picture_stays_as_it_is(colour: int, piece: int) -> None:
    chance = random.Random(colour)
    rows = [chance.randbytes(17 * CHANNELS[colour]) for _ in range(25)]
    reader = read(png(rows, colour, [row % 5 for row in range(25)]), piece)
    assert (reader.width, reader.height) == (17, 25)
    assert pixels(reader.extract()) == (17, 25, rows)


def test_a_large_one_becomes_the_mean_of_its_squares() -> None:
    chance = random.Random(1)
    rows = [chance.randbytes(600) for _ in range(101)]

    def mean(index: int, line: int) -> int:
        column, channel = divmod(index, 3)
        across = [(column * 3 + step) * 3 + channel for step in range(3)]
        return sum(rows[line * 3 + step][at] for step in range(3) for at in across) // 9

    small = [bytes(mean(index, line) for index in range(66 * 3)) for line in range(33)]
    assert pixels(read(png(rows, RGB, [4] * 101)).extract()) == (66, 33, small), "200 by 101, by three"


@pytest.mark.parametrize(("width", "height", "wide", "tall"), [(1000, 2, 90, 1), (2, 1000, 1, 90), (1, 1, 1, 1)])
def test_a_long_one_keeps_a_side(width: int, height: int, wide: int, tall: int) -> None:
    rows = [bytes((7, 8, 9)) * width] * height
    assert pixels(read(png(rows, RGB, [1] * height)).extract()) == (wide, tall, [bytes((7, 8, 9)) * wide] * tall)


GOOD = png([bytes(30)] * 10, RGB, [0] * 10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(100),
        GOOD[:60],
        png([random.Random(row).randbytes(300) for row in range(100)], RGB, [0] * 100)[:-300],
        header(10, 10, depth=16) + bytes(10),
        header(10, 10, colour=3) + bytes(10),
        header(10, 10, lace=1) + bytes(10),
        header(0, 10) + bytes(10),
        header(1001, 1000) + bytes(10),
        header(10, 10) + chunk(b"IDAT", b"no zlib"),
        header(10, 10) + chunk(b"IEND", b""),
    ],
)
def test_what_cannot_be_read(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(data).extract()


def test_what_follows_the_end_is_not_kept() -> None:
    reader = read(GOOD)
    tracemalloc.start()
    try:
        for _ in range(100):
            reader.feed(bytes(1 << 20))
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()
    assert pixels(reader.extract())[:2] == (10, 10)


def told(pieces: list[bytes]) -> tuple[object, bytes]:
    reader = TextReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.statistics(), reader.extract()


@given(st.text(st.sampled_from("aBüß .\n7_⚓"), max_size=60), st.lists(st.integers(0, 80)))
def test_a_text_is_the_same_in_whatever_pieces_it_comes(text: str, cuts: list[int]) -> None:
    data = text.encode()
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert told([data[a:b] for a, b in itertools.pairwise(at)]) == told([data])


def test_what_is_counted() -> None:
    text = "Öl und ÖLE: tide, Tide\ntide_table 2031 "
    statistics, extract = told([text.encode() + b"\xff"])
    frequent = [WordCount(word="tide", count=3), WordCount(word="table", count=1)]
    assert statistics == TextStatistics(lines=2, words=7, characters=len(text) + 1, most_frequent=frequent)
    assert extract.decode() == text + "\ufffd"
    assert told([]) == (TextStatistics(), b"")


def test_an_extract_is_short_however_long_the_lines_are() -> None:
    assert told([b"line\n" * 100])[1] == b"line\n" * FIRST_LINES
    assert told([b"x" * 1000] * 10)[1] == b"x" * FIRST_CHARACTERS


def test_memory_is_flat() -> None:
    reader, chance = TextReader(), random.Random(1)
    tracemalloc.start()
    try:
        reader.feed(b"w" * (8 << 20))
        for _ in range(8):
            reader.feed(bytes(chance.choices(b"abcdefghijklmnopqrstuvwxy ", k=1 << 20)))
        assert tracemalloc.get_traced_memory()[0] < 12 << 20
    finally:
        tracemalloc.stop()
