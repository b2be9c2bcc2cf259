"""The memory of a caller that sends or fetches much, with a server in a process of its own."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bytes.v1.bytes_longshore import BytesClient

from longshore_client import connect
from tests.client.carrying import MB, REQUEST
from tests.faults.process import ServerProcess

SIZE = 200 * MB
PIECE = bytes(range(256)) * 4096
STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(STATM.read_text("ascii").split()[1]) * resource.getpagesize()


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    contracts = {"PYTHONPATH": str(Path(__file__).parents[1] / "contracts")}
    service = Path(__file__).with_name("bytes_server.py")
    server = ServerProcess(tmp_path / "data", service=service, environment=contracts)
    try:
        await server.start()
        yield server.address
    finally:
        await server.close()


async def test_memory_does_not_grow_with_what_passes_once(address: str) -> None:
    digest, most = hashlib.sha256(), 0

    async def pieces() -> AsyncIterator[bytes]:
        left = SIZE
        while left:
            piece = PIECE[:left]
            digest.update(piece)
            yield piece
            left -= len(piece)

    def look(_: object) -> None:
        nonlocal most
        most = max(most, resident())

    async with connect(address) as channel:
        files = BytesClient(channel)
        # What the first one loads counts for nobody.
        await (await files.upload(REQUEST).transfer(PIECE).start()).wait()
        before = resident()
        upload = await files.upload(REQUEST).transfer(pieces()).on_transfer(look).start()
        result = await upload.wait()
        assert (result.number, result.text) == (SIZE, digest.hexdigest())
        size = 0
        async for chunk in upload.operation.open():
            size += len(chunk)
            look(chunk)
        assert size == SIZE
    assert most - before < 60 * MB, f"{(most - before) // MB} MB more than before"
