"""The floor: what grpc.aio itself can do, with the event loop and channel arguments of `longshore serve`.

The loop is uvloop's, as there. The channel arguments are `rpc.listener.OPTIONS`, all of them. The collector has the
same thresholds, and what start-up has made is frozen. Plain text, no interceptor, bytes in and out, no serializer.

    python -m benchmarks.floor        prints its port

`/bench.Floor/Echo` gives back its request. `/bench.Floor/Watch` is a fan-out reduced to its bones: one log in memory,
and a handler per stream that is woken by an event. `/bench.Floor/Fan` takes `COUNT:SIZE` and writes that log.
`/bench.Floor/File` sends the file whose path its request is, in chunks of 512 KiB. `/bench.Floor/Keep` takes what an
Upload call sends, with a path for the upload's name: it checks each CRC32C, writes the file and syncs it at the end. It
does not hash, record or resume.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import grpc.aio
import uvloop

from longshore.v1.transfers_service_pb2 import UploadRequest
from longshore_server.rpc.listener import OPTIONS

Context = grpc.aio.ServicerContext[Any, Any]


class Floor:
    """The handlers."""

    def __init__(self) -> None:
        self._log: list[bytes] = []
        self._over = False
        self._changed = asyncio.Event()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, bytes]]:
        """The methods by name."""
        return {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "File": grpc.unary_stream_rpc_method_handler(self._file),
            "Keep": grpc.stream_unary_rpc_method_handler(self._keep, UploadRequest.FromString),
            "Fan": grpc.unary_unary_rpc_method_handler(self._fan),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _echo(self, request: bytes, _: Context) -> bytes:
        return request

    async def _keep(self, requests: AsyncIterator[UploadRequest], _: Context) -> bytes:
        header, size = (await anext(requests)).header, 0
        with Path(header.upload).open("wb", buffering=0) as file:  # noqa: ASYNC230 - the floor is simple
            async for request in requests:
                chunk = request.chunk
                if google_crc32c.value(chunk.data) != chunk.crc32c:
                    raise ValueError("a chunk was changed on its way")
                size += file.write(chunk.data)
            os.fsync(file.fileno())
        return str(size).encode()

    async def _watch(self, request: bytes, _: Context) -> AsyncIterator[bytes]:
        log = self._log
        yield request
        cursor = 0
        while True:
            while cursor < len(log):
                cursor += 1
                yield log[cursor - 1]
            if self._over or log is not self._log:
                return
            await self._changed.wait()

    async def _fan(self, request: bytes, _: Context) -> bytes:
        count, size = (int(number) for number in request.split(b":"))
        message = bytes(size)
        for number in range(count):
            self._log.append(message)
            self._over = number == count - 1
            self._wake()
            # The next message is ready one step of the loop later: no disk, no handler.
            await asyncio.sleep(0)
        self._log = []
        self._over = False
        return b""

    async def _file(self, request: bytes, _: Context) -> AsyncIterator[bytes]:
        # Read in the loop: a hop into a thread for each chunk costs a third of all.
        with Path(request.decode()).open("rb", buffering=0) as file:  # noqa: ASYNC230
            while chunk := file.read(512 << 10):
                yield chunk

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Router(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler[Any, bytes]]) -> None:
        self._methods = {f"/bench.Floor/{name}": handler for name, handler in methods.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, bytes] | None:
        return self._methods.get(details.method)


async def main() -> None:
    """Serve until the process is ended."""
    gc.set_threshold(50_000, 20, 50)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Router(Floor().handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    gc.freeze()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
