"""What the client's tests share: a scripted server and a channel to it whose waiting costs no time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# At the end: the source roots come first, so nothing is imported by the name of its folder.
sys.path.append(str(Path(__file__).parents[2]))

from acme.orders.v1.orders_longshore import OrdersClient

from longshore_client import Channel, Retry, connect
from longshore_client.retry import Timing
from tests.client.fake import FakeServer


class Pauses(list[float]):
    """The pauses that the client made, none of which took any time to speak of."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        # A real moment, so that a server that restarts meanwhile can come up.
        await asyncio.sleep(min(seconds, 0.02))


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
    retry = Retry(timing=Timing(sleep=pauses, random=lambda: 0.5))
    async with connect(server.address, retry=retry) as opened:
        yield opened


@pytest.fixture
def orders(channel: Channel) -> OrdersClient:
    return OrdersClient(channel)
