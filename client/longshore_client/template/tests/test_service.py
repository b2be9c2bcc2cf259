"""The service from outside: a real server on a free port, a real client, and a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from longshore_client import Progress, connect
from longshore_server import Server
from longshore_server.testing import Harness

from widgets.service import Widgets, Workshop
from widgets.v1.widgets_longshore import WidgetsClient
from widgets.v1.widgets_pb2 import MakeRequest, MakeResult


class Bench(Workshop):
    """Makes parts at once and remembers which; the first time that it comes to number 2, it gets stuck."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.stuck = asyncio.Event()

    async def make(self, item: str, number: int) -> str:
        self.made.append(number)
        if self.made == [1, 2]:
            self.stuck.set()
            await asyncio.Event().wait()
        return f"{item} {number}"


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
async def harness(bench: Bench, tmp_path: Path) -> AsyncIterator[Harness]:
    server = Server(Widgets(), lifespan=lambda _: nullcontext(bench))
    async with Harness(server, tmp_path).serve() as harness:
        yield harness


async def test_it_tells_how_far_it_is(harness: Harness) -> None:
    async with connect(harness.address) as channel:
        operation = await WidgetsClient(channel).make(MakeRequest(item="tea", parts=1))
        steps = [event.value.label async for event in operation.watch() if isinstance(event, Progress)]
        assert steps == ["part 1"]
        assert await operation.wait() == MakeResult(parts=["tea 1"])


async def test_a_crash_costs_no_part_that_was_made(harness: Harness, bench: Bench) -> None:
    async with connect(harness.address) as channel:
        operation = await WidgetsClient(channel).make(MakeRequest(item="tea", parts=3))
        await bench.stuck.wait()
        await harness.crash()
        await harness.start()
        assert await operation.wait() == MakeResult(parts=["tea 1", "tea 2", "tea 3"])
    assert bench.made == [1, 2, 2, 3]
