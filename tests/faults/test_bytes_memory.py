"""What a server has in memory while bytes pass, whatever their number: its peak, as the kernel has seen it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore.v1 import transfers_service_pb2 as bytes_pb2
from tests.faults.carrying import Body, Carrier, History, Told
from tests.faults.process import HERE, ServerProcess

MIB = 1 << 20
CHUNK = 256 << 10
ROOM = 80 * MIB
"""How much more it may have at its peak than before the first byte."""
SLOW = 50


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data", "--drain", "0.5", service=HERE / "carried.py")
    try:
        await server.start()
        yield server
    finally:
        await server.close()


def memory(server: ServerProcess, kind: str) -> int:
    """Resident bytes: now (VmRSS), or the most that it ever had (VmHWM)."""
    assert server.process is not None
    found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) << 10


async def test_memory_is_flat_whatever_the_size(server: ServerProcess) -> None:
    await passing(server, 300 * MIB)


@pytest.mark.torture
@pytest.mark.timeout(300)
async def test_memory_is_flat_for_a_gibibyte(server: ServerProcess) -> None:
    await passing(server, 1024 * MIB)


async def passing(server: ServerProcess, size: int) -> None:
    """Send an object and fetch it again."""
    told, history = Told("large", "large", Body("large", size)), History()
    before = memory(server, "VmRSS")
    async with Carrier(server.address, history) as caller:
        await caller.start(told)
        await caller.send(told, 0, size, commit=True)
        await caller.end(told)
        await caller.fetch(told)
    grown = memory(server, "VmHWM") - before
    print(f"{size // MIB} MiB: {grown // MIB} MiB more at the peak")
    assert history.wrong == []
    assert grown < ROOM < size


async def test_memory_is_bounded_with_many_uploads_under_way(server: ServerProcess) -> None:
    """Each has sent as much as it may before the disk takes it, and goes no further for now."""
    history, body = History(), Body("slow", 16 * MIB)
    before = memory(server, "VmRSS")
    arrived, over = [asyncio.Event() for _ in range(SLOW)], asyncio.Event()
    async with Carrier(server.address, history) as caller:

        async def slow(number: int) -> None:
            told = Told(f"slow {number}", f"slow/{number}", body)
            await caller.start(told)

            async def requests() -> AsyncIterator[bytes_pb2.UploadRequest]:
                yield bytes_pb2.UploadRequest(header=bytes_pb2.UploadHeader(upload=told.name))
                for at in range(0, body.size, CHUNK):
                    chunk = bytes_pb2.UploadChunk(offset=at, data=body.read(at, CHUNK))
                    yield bytes_pb2.UploadRequest(chunk=chunk)
                arrived[number].set()
                await over.wait()

            response = await caller.transfers.Upload(requests())
            assert response.upload.committed_size == body.size

        calls = [asyncio.create_task(slow(number)) for number in range(SLOW)]
        await asyncio.gather(*(each.wait() for each in arrived))
        over.set()
        await asyncio.gather(*calls)
    grown = memory(server, "VmHWM") - before
    print(f"{SLOW} uploads: {grown // MIB} MiB more at the peak")
    # Of each some chunks that wait, or are written or read, and what gRPC has read ahead.
    assert grown < SLOW * 5 * MIB < SLOW * body.size
