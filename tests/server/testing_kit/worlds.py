"""One server reached in two ways, over a connection and inside the process, with the same objects on top of both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from bytes.v1 import bytes_pb2_grpc
from lab.v1 import lab_longshore, lab_pb2_grpc

import longshore_client as lc
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore_server import Server
from longshore_server.testing import Harness
from longshore_server.transfers.stores import LocalStore
from tests.conftest import HandlerT, LabHandlers
from tests.server.transfers.bytes_service import BytesHandlers

WAYS = ("wire", "process")


class World:
    """A server, stock stubs and the client library, by one of the `WAYS`."""

    def __init__(self, way: str, data: Path) -> None:
        self.way = way
        self.handlers = LabHandlers()
        stores = {"uploads": LocalStore(), "exports": LocalStore()}
        server = Server(self.handlers, BytesHandlers(self.handlers), stores=stores)
        self.harness = Harness(server, data, max_payload=6_000_000)

    def plays(self, handler: HandlerT) -> HandlerT:
        """Decorator: the handler of every operation from here on."""
        self.handlers.handler = handler
        return handler

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[World]:
        async with self.harness.serve():
            options = [("grpc.use_local_subchannel_pool", 1)]
            address = self.harness.address
            local = self.way == "process"
            self.channel: grpc.aio.Channel = (
                self.harness.channel() if local else grpc.aio.insecure_channel(address, options=options)
            )
            self.operations: Any = operations_service_pb2_grpc.OperationsServiceStub(self.channel)
            self.transfers: Any = transfers_service_pb2_grpc.TransfersServiceStub(self.channel)
            self.lab: Any = lab_pb2_grpc.LabServiceStub(self.channel)
            self.bytes: Any = bytes_pb2_grpc.BytesServiceStub(self.channel)
            async with self.channel, self.harness.connect() if local else lc.connect(address) as connection:
                self.client = lab_longshore.LabClient(connection)
                yield self

    async def spend(self, seconds: float) -> None:
        """Let the time of calls pass: the clock's inside the process. Over a connection it does so by itself."""
        if self.way == "process":
            await self.harness.advance(seconds)
