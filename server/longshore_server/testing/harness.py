"""A server for tests: real SQLite files, port 0, a manual clock; it can be stopped, crashed and started again."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from longshore_server.config import Config
from longshore_server.server import Running, Server
from longshore_server.testing.clock import ManualClock


class Harness:
    """One server on one data directory, through any number of starts.

    Args:
        server: what to serve.
        data: a directory of the test's own.
        clock: default a `ManualClock`.
        settings: further fields of `Config`.
    """

    def __init__(self, server: Server, data: Path, *, clock: Any = None, **settings: Any) -> None:
        self.clock = clock or ManualClock()
        # Seeded, so that a test meets the same delays between attempts every time.
        self._chance = random.Random(0).random  # noqa: S311
        self._server = server
        defaults: dict[str, Any] = {"listen": ("127.0.0.1:0",), "metrics": "", "drain": 0.0}
        self._config = dataclasses.replace(Config(data=data), **{**defaults, **settings})
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """The server that runs now. Raises `RuntimeError` when none does."""
        if self._running is None:
            raise RuntimeError("the server does not run")
        return self._running

    @property
    def address(self) -> str:
        """Where it listens. The same over all starts of one harness."""
        return self.running.addresses[0]

    async def start(self) -> None:
        """Start, or start again on the same address and the same data."""
        running = Running(self._server, self._config, self.clock, self._chance)
        await running.start()
        self._running = running
        self._config = dataclasses.replace(self._config, listen=tuple(running.addresses))

    async def stop(self) -> None:
        """Stop in good order. Repeatable."""
        if self._running is not None:
            running, self._running = self._running, None
            await running.stop()

    async def crash(self) -> None:
        """Stop as SIGKILL would, as far as one process can: nothing further is written, handlers just end.

        Calls under way see their connection break. What was being committed at this moment is on the disk or not.
        """
        running, self._running = self.running, None
        await running.abandon()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Harness]:
        """Started inside the block, stopped after it."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()
