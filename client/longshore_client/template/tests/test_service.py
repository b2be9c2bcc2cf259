"""The service from outside: its real server on a real file, its real client, and a crash."""

from __future__ import annotations

import asyncio

import pytest
from longshore_client import Progress
from longshore_server import Server
from longshore_server.testing import Harness

from widgets.service import Workshop, server
from widgets.v1.widgets_longshore import WidgetsClient
from widgets.v1.widgets_pb2 import MakeRequest, MakeResult

pytest_plugins = ["longshore_server.testing.plugin"]


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
def bench() -> Bench:
    return Bench()


@pytest.fixture
def longshore_server() -> Server:
    return server


@pytest.fixture
def longshore_services(bench: Bench) -> Bench:
    """In the place of what the lifespan opens."""
    return bench


async def test_it_tells_how_far_it_is(longshore: Harness) -> None:
    operation = await longshore.client(WidgetsClient).make(MakeRequest(item="tea", parts=1))
    steps = [event.value.label async for event in operation.watch() if isinstance(event, Progress)]
    assert steps == ["part 1"]
    assert await operation.wait() == MakeResult(parts=["tea 1"])


async def test_a_crash_costs_no_part_that_was_made(longshore: Harness, bench: Bench) -> None:
    operation = await longshore.client(WidgetsClient).make(MakeRequest(item="tea", parts=3))
    await bench.stuck.wait()
    await longshore.crash_and_restart()
    assert await operation.wait() == MakeResult(parts=["tea 1", "tea 2", "tea 3"])
    assert bench.made == [1, 2, 2, 3]
