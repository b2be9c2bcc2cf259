"""A server of its own for the tests of memory: takes bytes, and says how many there were."""

from __future__ import annotations

from typing import Any

from bytes.v1.bytes_longshore import BytesService
from lab.v1.lab_pb2 import PlayResult

from longshore_server import Server
from longshore_server.transfers.stores import LocalStore


class Bytes(BytesService):
    """Every operation does the same."""

    async def upload(self, request: Any, op: Any, /) -> PlayResult:
        stored = await op.transfer.completed()
        await op.transfer.offer(stored.key, store="uploads")
        return PlayResult(number=stored.size, text=stored.sha256)

    plain = strict = owned = small = again = export = offer = ticket = upload


server = Server(Bytes(), stores={"uploads": LocalStore(), "exports": LocalStore()})
