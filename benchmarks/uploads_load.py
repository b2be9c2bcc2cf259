"""Uploads that go on until this process is ended.

    python -m benchmarks.uploads_load ADDRESS COUNT PACE PREFIX        PACE: bytes a second of each; 0: as many as go

Prints a line once all of them are under way; ends when its input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import grpc.aio
import uvloop

from benchmarks import contract
from benchmarks.uploads import CHUNK, CRC32C, DATA
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import transfers_service_pb2 as bytes_pb2

CHANNELS = 8


async def upload(channel: grpc.aio.Channel, key: str, pace: int, delay: float, begun: asyncio.Event) -> None:
    """One upload, which never ends."""
    request = pb.StartRequest(type=contract.CARRIED)
    request.input.Pack(contract.request(key))
    operation = (await operations_service_pb2_grpc.OperationsServiceStub(channel).Start(request)).operation

    async def messages() -> AsyncIterator[bytes_pb2.UploadRequest]:
        yield bytes_pb2.UploadRequest(header=bytes_pb2.UploadHeader(upload=operation.upload.name))
        offset = 0
        # Spread, so that they do not all send at the same moment.
        await asyncio.sleep(delay)
        while True:
            yield bytes_pb2.UploadRequest(chunk=bytes_pb2.UploadChunk(offset=offset, data=DATA, crc32c=CRC32C))
            begun.set()
            offset += CHUNK
            if pace:
                await asyncio.sleep(CHUNK / pace)

    with contextlib.suppress(grpc.aio.AioRpcError):
        await transfers_service_pb2_grpc.TransfersServiceStub(channel).Upload(messages())
    print(f"{operation.upload.name} has ended", file=sys.stderr)


async def main() -> None:
    """All of them."""
    address, count, pace, prefix = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    begun = [asyncio.Event() for _ in range(count)]
    spread = CHUNK / pace if pace else 0.0
    tasks = [
        asyncio.create_task(upload(channels[n % CHANNELS], f"{prefix}/{pace}/{n}", pace, spread * n / count, begun[n]))
        for n in range(count)
    ]
    await asyncio.gather(*(each.wait() for each in begun))
    sys.stdout.write("under way\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    uvloop.run(main())
