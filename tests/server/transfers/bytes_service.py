"""What the tests of bytes share: a laboratory that serves `bytes.v1.BytesService` too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from bytes.v1 import bytes_longshore, bytes_pb2_grpc
from bytes.v1.bytes_pb2 import BytesRequest, File, FileRequest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2_grpc
from longshore_server.transfers.stores import LocalStore
from tests.conftest import Lab, LabHandlers, turns

SERVICE = "bytes.v1.BytesService"


class BytesHandlers(bytes_longshore.BytesService):
    """Every operation runs what the test has written for the laboratory."""

    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def upload(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def plain(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def strict(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def owned(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def small(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def again(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def export(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def offer(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def ticket(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)


class BytesLab(Lab):
    """A laboratory with bytes. `bytes` are stubs of the contract, `transfers` of the bytes."""

    def __init__(self, data: Path, **settings: Any) -> None:
        stores = settings.pop("stores", {"uploads": LocalStore(), "exports": LocalStore()})
        super().__init__(data, services=[BytesHandlers], stores=stores, **settings)

    async def connect(self) -> None:
        await super().connect()
        self.bytes = bytes_pb2_grpc.BytesServiceStub(self.channel)
        self.transfers = transfers_service_pb2_grpc.TransfersServiceStub(self.channel)

    async def begin(self, type: str = "Upload", request: Message | None = None, **fields: Any) -> pb.StartResponse:
        """Start an operation of `BytesService` by the generic RPC, with the key `files/report.pdf` by default."""
        if request is None:
            key = fields.pop("key", "files/report.pdf")
            request = FileRequest(file=File(key=key)) if type == "Plain" else BytesRequest(key=key, **fields)
        packed = AnyMessage()
        packed.Pack(request)
        return await self.operations.Start(pb.StartRequest(type=f"{SERVICE}/{type}", input=packed))

    async def connection(self) -> tuple[grpc.aio.Channel, transfers_service_pb2_grpc.TransfersServiceStub]:
        """Another connection, as of another process: whoever asks for it closes it."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(self.harness.address, options=options)
        return channel, transfers_service_pb2_grpc.TransfersServiceStub(channel)

    async def begin_anew(self) -> None:
        """Start a server after the last one has died."""
        await self.harness.start()
        await self.connect()

    async def catch_up_beside(self) -> None:
        """As `catch_up`, for a test that holds up a thread of transfers: these are not waited for."""
        await turns()
        while not await self.engine.store.at_rest():
            await turns()

    async def settled(self) -> None:
        """Return once nothing of an ended upload remains to be removed."""
        await self.catch_up()
        while tasks := self.engine.transfers.uploads._tasks:
            await asyncio.wait(tasks)
