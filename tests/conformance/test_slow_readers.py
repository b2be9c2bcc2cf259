"""Callers who read one message a second over real sockets, with little room for what they have not read.

What comes of it: they are held by flow control alone. The server keeps the same little for each of them, whatever there
is to read; nobody else waits for them; and they miss nothing, however long it takes them.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import grpc.aio
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import transfers_service_pb2 as bytes_pb2
from tests.conftest import Lab
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import offering

MIB = 1 << 20
SLOW = 10
SMALL = [
    ("grpc.http2.lookahead_bytes", 1 << 16), ("grpc.http2.bdp_probe", 0), ("grpc.tcp_receive_buffer_size", 1 << 14),
    ("grpc.use_local_subchannel_pool", 1),
]  # fmt: skip
REPORTS, REPORT = 3000, 10_000
OBJECT = 64 * MIB


@pytest.fixture
async def bytes_lab(tmp_path: Path) -> AsyncIterator[BytesLab]:
    lab = BytesLab(tmp_path / "data")
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()


def resident() -> int:
    """Bytes of this process, server and callers, that are in memory now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


async def connections(stack: AsyncExitStack, lab: Lab) -> list[grpc.aio.Channel]:
    """One for each slow reader."""
    return [
        await stack.enter_async_context(grpc.aio.insecure_channel(lab.harness.address, options=SMALL))
        for _ in range(SLOW)
    ]


async def read(lab: Lab, call: Any) -> Any:
    """The next message of a call, a second later."""
    lab.clock.advance(1)
    return await call.read()


async def test_slow_watchers_take_little_room_hold_up_nobody_and_miss_nothing(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def play(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        await go.wait()
        for number in range(REPORTS):
            await op.progress(lab_pb2.PlayProgress(text=f"{number:0{REPORT}}"))
        return lab_pb2.PlayResult(text="played")

    name = (await lab.begin()).operation.name
    request = pb.WatchRequest(name=name, after_sequence=0)
    async with AsyncExitStack() as stack:
        stubs = map(operations_service_pb2_grpc.OperationsServiceStub, await connections(stack, lab))
        slow = [stub.Watch(request) for stub in stubs]
        for watch in slow:
            assert (await read(lab, watch)).event.sequence == 1
        before = resident()
        go.set()
        quick = [message.event.sequence async for message in lab.operations.Watch(request)]
        assert quick == list(range(1, REPORTS + 4)), "accepted, started, the reports, the end"
        # By then each of the others could have had all of it.
        assert resident() - before < 3 * REPORTS * REPORT < SLOW * REPORTS * REPORT
        left, *others = slow
        for watch in others:
            watch.cancel()
        seen = [1]
        while (message := await read(lab, left)) is not grpc.aio.EOF:
            if message.HasField("event"):
                seen.append(message.event.sequence)
        assert (seen, await left.code()) == (quick, grpc.StatusCode.OK)


async def test_slow_downloaders_take_little_room_hold_up_nobody_and_miss_nothing(bytes_lab: BytesLab) -> None:
    lab = bytes_lab
    content = b"".join(number.to_bytes(8, "big") for number in range(OBJECT // 8))
    await lab.server.stores["exports"].put("key", content)
    request = bytes_pb2.DownloadRequest(name=await offering(lab))
    whole = bytes_pb2.DownloadEnd(length=OBJECT, crc32c=google_crc32c.value(content))
    del content
    async with AsyncExitStack() as stack:
        stubs = map(transfers_service_pb2_grpc.TransfersServiceStub, await connections(stack, lab))
        before = resident()
        slow = [stub.Download(request) for stub in stubs]
        for call in slow:
            assert (await read(lab, call)).HasField("header")
        quick: Any = lab.transfers.Download(request)
        assert (await quick.read()).HasField("header")
        assert await rest(quick.read) == whole
        # By then each of the others could have had all of it.
        assert resident() - before < OBJECT < SLOW * OBJECT
        left, *others = slow
        for call in others:
            call.cancel()
        assert await rest(lambda: read(lab, left)) == whole


async def rest(next: Callable[[], Awaitable[Any]]) -> bytes_pb2.DownloadEnd:
    """What the end of a download must say after the chunks that came; it says the same."""
    found = bytes_pb2.DownloadEnd()
    while (message := await next()).HasField("chunk"):
        assert message.chunk.offset == found.length
        found.crc32c = google_crc32c.extend(found.crc32c, message.chunk.data)
        found.length += len(message.chunk.data)
    assert message.end == found
    return found
