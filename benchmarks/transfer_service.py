"""The service whose bytes are measured: `longshore serve benchmarks.transfer_service:server`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from benchmarks import contract
from benchmarks.service import Bench
from longshore.v1.channels_pb2 import CounterProgress
from longshore_server import Server
from longshore_server.transfers.stores import LocalStore


class Exports:
    """The handler of `bench.v1.ExportService/Work`: makes the object that the operation offers."""

    DESCRIPTOR: ClassVar[ServiceDescriptor] = contract.exporting()
    OPERATIONS: ClassVar[dict[str, str]] = {"Work": "work"}

    async def work(self, request: Any, _: Any) -> CounterProgress:
        """The key says how many MiB of random bytes it has."""
        await server.stores["files"].put(request.message, _random(int(request.message)))
        return CounterProgress(current=2, total=2, message="done")


async def _random(size: int) -> AsyncIterator[bytes]:
    for _ in range(size):
        yield os.urandom(1 << 20)


class Carried:
    """The handler of `bench.v1.CarriedService/Work`: waits for the object."""

    DESCRIPTOR: ClassVar[ServiceDescriptor] = contract.carried()
    OPERATIONS: ClassVar[dict[str, str]] = {"Work": "work"}

    async def work(self, _: Any, op: Any) -> CounterProgress:
        """To the end of the upload."""
        await op.transfer.completed()
        return CounterProgress(current=2, total=2, message="done")


server = Server(Bench(), Exports(), Carried(), stores={"files": LocalStore()})
