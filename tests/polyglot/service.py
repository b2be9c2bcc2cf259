"""The server that callers of all languages meet: the contracts of the examples, with handlers that the test paces."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from acme.documents.v1.documents_longshore import DocumentsService, UploadOperation
from acme.documents.v1.documents_pb2 import FilesUploadProgress, FilesUploadResult, UploadRequest
from acme.orders.v1.orders_longshore import OrdersService, ProcessOperation
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult

from longshore_server import LocalStore, OperationError, Server
from longshore_server.testing import Harness
from tests.conftest import LabClock

CARD_LIMIT = 500_000
"""Cents that a card is good for."""


class Orders(OrdersService):
    """Orders that are not shipped before `shipping` is set."""

    def __init__(self) -> None:
        self.shipping = asyncio.Event()

    async def process(self, request: ProcessOrderRequest, op: ProcessOperation) -> ProcessOrderResult:
        await op.progress(ProcessOrderProgress(step="reserve", message=f"Reserving {request.order_id}"))
        status = "ready_to_ship"
        if any(item.sku.startswith("restricted-") for item in request.items):
            approval = await op.next_signal("approve")
            status = f"approved by {approval.payload.by}"
        if request.amount > CARD_LIMIT:
            raise OperationError("CARD_DECLINED", "the card's limit is exceeded", metadata={"limit": str(CARD_LIMIT)})
        await op.progress(ProcessOrderProgress(step="charge", message="Charging the card"))
        waits = [asyncio.ensure_future(each) for each in (self.shipping.wait(), op.cancelled.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if op.cancelled:
            raise asyncio.CancelledError
        await op.progress(ProcessOrderProgress(step="ship", message="On its way"))
        return ProcessOrderResult(order_id=request.order_id, status=status)


class Documents(DocumentsService):
    """Documents that are kept, and offered as they are."""

    async def upload(self, request: UploadRequest, op: UploadOperation) -> FilesUploadResult:
        stored = await op.transfer.completed()
        await op.progress(FilesUploadProgress(stage="stored", message=request.key))
        offer = await op.transfer.offer(stored.key, store="uploads")
        return FilesUploadResult(key=stored.key, size=stored.size, sha256=stored.sha256, download=offer.name)


class Dock:
    """A server of both contracts, on a clock that the test moves."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data = data
        self.orders = Orders()
        server = Server(self.orders, Documents(), stores={"uploads": LocalStore()})
        self.clock = LabClock()
        self.harness = Harness(server, data, clock=self.clock, **settings)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.harness.address
