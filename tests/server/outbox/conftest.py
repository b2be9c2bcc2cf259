"""What tests of lifecycle events share: a sink that listens, and a server on which a test declares what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from longshore_server import (
    EventSink,
    LifecycleEvent,
    Server,
    Task,
    TaskContext,
)
from longshore_server.testing import Harness


class Ear(EventSink):
    """Keeps what it gets, unless a test has it fail or hang."""

    def __init__(self, *, payloads: bool = False, batch_size: int = 100) -> None:
        self.payloads, self.batch_size = payloads, batch_size
        self.heard: list[LifecycleEvent] = []
        self.problem: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0

    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        self.calls += 1
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        self.heard.extend(events)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.heard]

    def one(self, type: str) -> dict[str, Any]:
        """The data of the only event of a type."""
        (found,) = [event for event in self.heard if event.type == type]
        return dict(found.data)


class Place:
    """A server with sinks, on which a test declares what it needs, and the file below."""

    def __init__(self, data: Path, **sinks: EventSink) -> None:
        self.data = data
        self.server = Server(sinks=sinks)
        self.harness = Harness(self.server, data)

    def rows(self, sql: str) -> list[Any]:
        path = f"file:{self.data / 'longshore.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
            return database.execute(sql).fetchall()

    @property
    def settle(self) -> Callable[[], Any]:
        return self.harness.settle


@pytest.fixture
async def make_place(tmp_path: Path) -> AsyncIterator[Callable[..., Place]]:
    """Makes servers with sinks; stops them after the test."""
    made: list[Place] = []

    def make(**sinks: EventSink) -> Place:
        made.append(Place(tmp_path / f"data{len(made)}", **sinks))
        return made[-1]

    yield make
    for place in made:
        await place.harness.stop()


class Order(Task[dict, dict]):  # type: ignore[type-arg]
    """Sets a timer with each of its handlers."""

    async def on_event(self, event: dict[str, Any], ctx: TaskContext[Any]) -> None:
        ctx.state = event
        ctx.schedule(60, name="chase")
        if event.get("bad"):
            raise ValueError("no such order")

    async def execute(self, ctx: TaskContext[Any]) -> None:
        if ctx.state and ctx.state.get("again"):
            ctx.state = {}
            ctx.schedule(5)

    async def on_idle(self, ctx: TaskContext[Any]) -> None:
        if ctx.state == {}:
            ctx.state = {"done": True}
            ctx.schedule(7, name="idle")

    async def on_error(self, error: BaseException, ctx: TaskContext[Any]) -> None:
        ctx.schedule(9, name="later")
