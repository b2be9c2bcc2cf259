"""The messages of downloads, which are made by hand: they say what protobuf's own would, and stay what they are."""

from __future__ import annotations

import itertools

import google_crc32c
import pytest
from google.bytestream import bytestream_pb2

from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.rpc import bytestream, downloads
from longshore_server.transfers.checksums import CHUNK, Checksums
from longshore_server.transfers.messages import messages
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


def pieces(data: bytes) -> list[bytes]:
    """What each message is to have."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


# Offsets and sizes take a byte more beyond these.
@pytest.mark.parametrize("offset", [0, 1, 127, 128, (1 << 14) - 1, (1 << 21) - CHUNK, 1 << 40])
@pytest.mark.parametrize("size", [0, 1, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 300])
async def test_a_message_is_what_protobuf_makes_of_it(offset: int, size: int) -> None:
    data, checksums = pattern(size), Checksums()
    found = [message async for message in messages(Bits(data), downloads.FRAMING, offset, size, checksums)]
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
    found = [message async for message in messages(Bits(data), bytestream.FRAMING, 5, size, Checksums())]
    assert found == [bytestream_pb2.ReadResponse(data=piece).SerializeToString() for piece in pieces(data)]


@pytest.mark.parametrize("there", [0, 1, CHUNK, 2 * CHUNK - 1])
async def test_an_object_that_ends_too_early_ends_with_what_there_is(there: int) -> None:
    """In whole messages: what is counted is what was given."""
    checksums = Checksums()
    reader = Bits(pattern(there))
    found = [message async for message in messages(reader, bytestream.FRAMING, 0, 3 * CHUNK, checksums)]
    assert len(found) == there // CHUNK
    assert checksums.size == len(found) * CHUNK


async def test_those_that_nobody_has_any_more_share_two_pieces_of_memory() -> None:
    size, places = 20 * CHUNK, set()
    async for message in messages(Bits(pattern(size)), bytestream.FRAMING, 0, size, Checksums()):
        places.add(id(message))
    assert len(places) == 2
