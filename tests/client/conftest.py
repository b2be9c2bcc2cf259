"""What the client's tests share: a scripted server and a channel to it whose waiting costs no time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

# At the end: the source roots come first, so nothing is imported by the name of its folder.
sys.path.append(str(Path(__file__).parents[2]))

from acme.orders.v1.orders_longshore import OrdersClient

from longshore_client import Channel, Retry, connect
from longshore_client.retry import Timing
from tests.client.fake import FakeServer


class Pauses(list[float]):
    """The pauses that the client makes. They last until its connection stands, instead of the time that they should."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self._more = asyncio.Condition()

    async def __call__(self, seconds: float) -> None:
        async with self._more:
            self.append(seconds)
            self._more.notify_all()
        assert self.channel is not None
        await self.channel.calls.channel.channel_ready()

    async def made(self, count: int) -> None:
        """Return once there have been `count` of them."""
        async with self._more:
            await self._more.wait_for(lambda: len(self) >= count)

    def connect(self, address: str, **options: Any) -> Channel:
        """A channel that makes them."""
        retry = Retry(timing=Timing(sleep=self, random=lambda: 0.5))
        self.channel = connect(address, retry=retry, **options)
        return self.channel


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def channel(server: FakeServer, pauses: Pauses) -> AsyncIterator[Channel]:
    async with pauses.connect(server.address) as opened:
        yield opened


@pytest.fixture
def orders(channel: Channel) -> OrdersClient:
    return OrdersClient(channel)
