"""A server for tests of instances: its definitions survive crashes and restarts, its clock stands still."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longshore_server import Server
from longshore_server.testing import Harness
from tests.conftest import LabClock, LabHandlers


@dataclass
class Token:
    """A state."""

    value: int = 0
    note: str = ""


@dataclass
class Ping:
    """An event."""

    number: int = 0


@dataclass
class Pong:
    """Another one."""

    text: str = ""


class World:
    """A server with definitions. Tests declare them on `server`, then `start` it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.server = Server(LabHandlers())
        self.clock = LabClock()
        self.settings: dict[str, Any] = {}
        self._harness: Harness | None = None

    @property
    def harness(self) -> Harness:
        assert self._harness is not None
        return self._harness

    @property
    def engine(self) -> Any:
        return self.harness.running.engine

    def now(self) -> float:
        """Seconds since the clock began to stand."""
        return (self.clock.now() - 1_767_225_600_000_000) / 1_000_000

    async def start(self) -> None:
        self._harness = Harness(self.server, self.data, clock=self.clock, **self.settings)
        await self._harness.start()

    async def stop(self) -> None:
        if self._harness is not None:
            await self._harness.stop()

    async def restart(self, server: Server | None = None, *, crash: bool = True) -> None:
        """Kill (or stop) the server, and start it again, or another one, on the same data."""
        await (self.harness.crash() if crash else self.harness.stop())
        if server is not None:
            self.server = server
        await self.start()

    async def settled(self) -> None:
        """Return once nothing is under way that needs neither a clock nor a gate."""
        await self.harness.settle()

    async def advance(self, seconds: float) -> None:
        """Move time, and let what is due run to its end."""
        self.clock.advance(seconds)
        await self.settled()

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is in the file."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'longshore.db'}?mode=ro", uri=True)) as database:
            return database.execute(sql, values).fetchall()


@dataclass
class Gate:
    """Await it in a handler to be held there until the test opens it."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self) -> None:
        self.reached.set()
        await self.opened.wait()


Handler = Callable[[Any], Awaitable[None]]
