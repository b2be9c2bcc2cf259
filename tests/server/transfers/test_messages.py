"""The messages of downloads, which are made by hand: they say what protobuf's own would, and stay what they are."""

from __future__ import annotations

import itertools

import google_crc32c
import pytest
from google.bytestream import bytestream_pb2

from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.rpc import bytestream, downloads
from longshore_server.transfers.checksums import CHUNK, Checksums
from longshore_server.transfers.messages import TOGETHER, Messages
from longshore_server.transfers.stores.reader import Reader
from tests.server.transfers.fetching import pattern


class Bits(Reader):
    """Gives its bytes in pieces of other sizes than anybody asks for."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = memoryview(data)
        self._sizes = itertools.cycle((1, 70_000, CHUNK + 5))

    async def _fetch(self) -> memoryview:
        size = next(self._sizes)
        given, self._data = self._data[:size], self._data[size:]
        return given


class Part(Reader):
    """Has in memory what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self._there = b""

    def have(self, data: bytes) -> None:
        self._there += data

    def _cached(self, room: memoryview) -> int:
        size = min(len(room), len(self._there))
        room[:size] = self._there[:size]
        self._there = self._there[size:]
        return size

    async def _fetch(self) -> memoryview:
        return memoryview(b"")


async def given(made: Messages) -> list[bytes]:
    """All of them, taken as a call takes them."""
    found = []
    while message := await made.next():
        found += [message, *made.at_hand()]
    return found


def pieces(data: bytes) -> list[bytes]:
    """What each message is to have."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


# Offsets and sizes take a byte more beyond these.
@pytest.mark.parametrize("offset", [0, 1, 127, 128, (1 << 14) - 1, (1 << 21) - CHUNK, 1 << 40])
@pytest.mark.parametrize("size", [0, 1, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 300])
async def test_a_message_is_what_protobuf_makes_of_it(offset: int, size: int) -> None:
    data, checksums = pattern(size), Checksums()
    found = await given(Messages(Bits(data), downloads.FRAMING, offset, size, checksums))
    # All of them were kept until here: none was written to again.
    for at, message, piece in zip(itertools.count(offset, CHUNK), found, pieces(data), strict=False):
        chunk = pb.DownloadChunk(offset=at, data=piece, crc32c=google_crc32c.value(piece))
        expected = pb.DownloadResponse(chunk=chunk)
        assert pb.DownloadResponse.FromString(message) == expected
        assert message == expected.SerializeToString() or at == 0, "protobuf says nothing of a 0"
    assert len(found) == len(pieces(data))
    assert (checksums.whole, checksums.size) == (google_crc32c.value(data), size)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 300])
async def test_so_is_one_of_the_other_face(size: int) -> None:
    data = pattern(size)
    found = await given(Messages(Bits(data), bytestream.FRAMING, 5, size, Checksums()))
    assert found == [bytestream_pb2.ReadResponse(data=piece).SerializeToString() for piece in pieces(data)]


@pytest.mark.parametrize("there", [0, 1, CHUNK, 2 * CHUNK - 1])
async def test_an_object_that_ends_too_early_ends_with_what_there_is(there: int) -> None:
    """In whole messages: what is counted is what was given."""
    checksums = Checksums()
    reader = Bits(pattern(there))
    found = await given(Messages(reader, bytestream.FRAMING, 0, 3 * CHUNK, checksums))
    assert len(found) == there // CHUNK
    assert checksums.size == len(found) * CHUNK


async def test_those_that_nobody_has_any_more_share_two_pieces_of_memory() -> None:
    size, places = 20 * CHUNK, set()
    made = Messages(Bits(pattern(size)), bytestream.FRAMING, 0, size, Checksums())
    while message := await made.next():
        places.add(id(message))
    assert len(places) == 2


async def test_those_at_hand_come_without_a_wait_and_the_first_that_is_not_comes_whole() -> None:
    reader, data, checksums = Part(), pattern(6 * CHUNK), Checksums()
    made = Messages(reader, bytestream.FRAMING, 0, len(data), checksums)
    assert not list(made.at_hand()), "nothing is in memory"
    reader.have(data[: CHUNK * 2 + 7])
    found = list(made.at_hand())
    assert len(found) == 2 == TOGETHER
    assert checksums.size == 2 * CHUNK, "what is not in a message yet is not counted"
    assert not list(made.at_hand())
    reader.have(data[CHUNK * 2 + 7 :])
    assert len(found := [*found, *made.at_hand(), *made.at_hand()]) == 6
    assert found == [bytestream_pb2.ReadResponse(data=piece).SerializeToString() for piece in pieces(data)]
    assert not list(made.at_hand())
    assert not await made.next()
    assert (checksums.whole, checksums.size) == (google_crc32c.value(data), len(data))


async def test_no_more_than_so_many_come_together() -> None:
    size = 3 * TOGETHER * CHUNK
    reader = Part()
    reader.have(bytes(size))
    assert len(list(Messages(reader, bytestream.FRAMING, 0, size, Checksums()).at_hand())) == TOGETHER
