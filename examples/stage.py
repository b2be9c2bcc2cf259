"""What the demos share: a server that can be killed, and a board on the terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live


class ServerProcess:
    """A server, in a process of its own.

    Args:
        service: The file with the `server` that it serves.
        data: Its data directory.
    """

    def __init__(self, service: Path, data: Path) -> None:
        self._service = service
        self._data = data
        self._process: asyncio.subprocess.Process | None = None
        self.address = f"unix:{data / 'demo.sock'}"

    async def open(self) -> None:
        """Start it, and return once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "longshore_server", f"{self._service}:server", "--listen", self.address,
            "--data", str(self._data), "--metrics", "", "--log-level", "warning",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        said = b""
        while b"serving" not in said:
            line = await self._process.stderr.readline()
            if not line:
                raise SystemExit(f"the server did not start:\n{said.decode()}")
            said += line
        self._reader = asyncio.create_task(self._process.stderr.read())

    async def close(self, number: signal.Signals) -> None:
        """End it by a signal."""
        assert self._process is not None
        self._process.send_signal(number)
        await self._process.wait()
        await self._reader


@contextmanager
def shown(board: RenderableType, console: Console) -> Iterator[None]:
    """The board, live on a terminal; elsewhere a line at the end says it all."""
    if not console.is_terminal:
        yield
        return
    with Live(board, console=console, refresh_per_second=12):
        yield
