"""The orders service of seeds 1 and 2 behind tokens: the contract of `examples/orders`, a handler that tests write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeAlias

import grpc
from acme.orders.v1.orders_longshore import OrdersClient, OrdersService, ProcessHandle, ProcessOperation
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from seeds.v1.variants_longshore import VariantsClient, VariantsService
from seeds.v1.variants_pb2 import VariantResult

import longshore_client as lc
from longshore_server import Server
from longshore_server.testing import Harness
from tests.conftest import LabClock
from tests.server.auth.identities import bearer

CALLERS = {
    "shop": ("orders.read", "orders.write"),
    "reader": ("orders.read",),
    "writer": ("orders.write",),
    "stranger": (),
    "provider": ("longshore.provider",),
}
"""Who calls, and with which capabilities."""
ORDER = ProcessOrderRequest(order_id="ord_123")
QUEUED = ProcessOrderProgress(step="queued", message="Fulfillment started")
READY = ProcessOrderResult(order_id="ord_123", status="ready_to_ship")

Handler: TypeAlias = Callable[[ProcessOrderRequest, ProcessOperation], Awaitable[ProcessOrderResult]]


class Orders(OrdersService):
    """By default an order is queued, and fulfilled once the test sets `ship`."""

    def __init__(self) -> None:
        self.ship, self.interrupted = asyncio.Event(), asyncio.Event()
        self.handler: Handler = self._fulfil
        self.seen: list[str] = []
        """The ids of the operations whose handler was begun."""

    async def process(self, request: ProcessOrderRequest, op: ProcessOperation, /) -> ProcessOrderResult:
        self.seen.append(op.id)
        return await self.handler(request, op)

    async def _fulfil(self, request: ProcessOrderRequest, op: ProcessOperation) -> ProcessOrderResult:
        await op.started()
        await op.progress(QUEUED)
        await self.shipped()
        return ProcessOrderResult(order_id=request.order_id, status="ready_to_ship")

    async def shipped(self) -> None:
        try:
            await self.ship.wait()
        except asyncio.CancelledError:
            self.interrupted.set()
            raise


class Variants(VariantsService):
    """Its operations wait to be cancelled."""

    async def explicit(self, request: Any, op: Any, /) -> VariantResult:
        await op.cancelled.wait()
        raise asyncio.CancelledError

    async def short(self, request: Any, op: Any, /) -> VariantResult:
        return await self.explicit(request, op)

    async def public(self, request: Any, op: Any, /) -> VariantResult:
        return await self.explicit(request, op)

    async def fixed(self, request: Any, op: Any, /) -> VariantResult:
        return await self.explicit(request, op)


class Shop:
    """The service, served, and its callers. An async context manager."""

    def __init__(self, folder: Path) -> None:
        tokens = folder / "tokens.toml"
        self._tokens = {name: bearer(tokens, name, *held) for name, held in CALLERS.items()}
        self.service = Orders()
        self.server = Server(self.service, Variants())
        self.clock = LabClock()
        self.harness = Harness(self.server, folder / "data", clock=self.clock, tokens=tokens)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.harness.serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def handles(self, handler: Handler) -> Handler:
        """Decorator: the handler of every order from here on."""
        self.service.handler = handler
        return handler

    async def channel(self, caller: str = "shop") -> lc.Channel:
        """A connection of one of `CALLERS`; closed with the shop. Any other name is somebody without a token."""
        channel = lc.connect(self.harness.address, token=self._tokens.get(caller))
        return await self._stack.enter_async_context(channel)

    async def orders(self, caller: str = "shop") -> OrdersClient:
        """The typed client of one of `CALLERS`."""
        return OrdersClient(await self.channel(caller))

    async def variants(self, caller: str = "shop") -> VariantsClient:
        """The typed client of one of `CALLERS` for the other ways to declare gates."""
        return VariantsClient(await self.channel(caller))

    async def stub(self, make: Callable[[grpc.aio.Channel], Any]) -> Any:
        """Generated stubs to the server, and nothing of Longshore's client."""
        channel = grpc.aio.insecure_channel(self.harness.address)
        return make(await self._stack.enter_async_context(channel))

    def metadata(self, caller: str) -> tuple[tuple[str, str], ...]:
        """What such a caller sends along."""
        return (("authorization", f"Bearer {self._tokens[caller]}"),)

    async def begin(self) -> ProcessHandle:
        """An order that is queued, of a caller who may do everything."""
        handle = await (await self.orders()).process(ORDER)
        await queued(handle)
        return handle


async def queued(handle: ProcessHandle) -> list[type[lc.EventBase]]:
    """Watch until the first progress is there. Returns the kinds of events until then."""
    kinds: list[type[lc.EventBase]] = []
    async for event in handle.watch():
        kinds.append(type(event))
        if isinstance(event, lc.Progress):
            return kinds
    raise AssertionError("it ended without progress")
