"""A TCP proxy that breaks: it cuts connections, stalls them, halves what passes, and sends some of it twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple, Self

BLOCK = 64 << 10


class How(Enum):
    """What happens to a connection. After each of them it is closed: no byte that follows the damage gets through."""

    CUT = "cut"
    """It is closed."""
    STALL = "stall"
    """Nothing passes any more in that direction, until `Proxy.go_on`."""
    HALVE = "halve"
    """Of the next block only the first half passes."""
    DUPLICATE = "duplicate"
    """The next block passes twice."""


class Damage(NamedTuple):
    """What happens to one connection, once `after` bytes of its caller, or `down`: to its caller, have passed."""

    how: How
    after: int
    down: bool = False


class Proxy:
    """Between callers and a server. `async with` starts and stops it.

    Args:
        server: where the server listens: `host:port`, or `unix:path`. May change: for connections to come.
        plan: what happens to each connection, in the order in which they come. Afterwards nothing does.
    """

    def __init__(self, server: str, plan: Iterator[Damage | None] | None = None) -> None:
        self.server = server
        self._plan = plan
        self.counts: Counter[How] = Counter()
        """How often each has happened."""
        self.connections = 0
        self.opened = asyncio.Semaphore(0)
        """Released once for each connection."""
        self._go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.stalled = asyncio.Event()
        """Set once a connection has stalled."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._listener.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.go_on()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Close every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Let nothing more pass over the connections that there are, and tell nobody."""
        for writer in self._writers:
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()

    def go_on(self) -> None:
        """Connections that have stalled are closed."""
        go, self._go = self._go, asyncio.Event()
        go.set()

    def passed(self) -> None:
        """Called for each block that passes undamaged."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.opened.release()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        damage = next(self._plan, None) if self._plan is not None else None
        writers = [writer]
        try:
            if self.server.startswith("unix:"):
                up_reader, up_writer = await asyncio.open_unix_connection(self.server.removeprefix("unix:"))
            else:
                host, _, port = self.server.rpartition(":")
                up_reader, up_writer = await asyncio.open_connection(host, int(port))
            writers.append(up_writer)
            if not self._listener.is_serving():
                return  # it came while everything else was cut
            self._writers.update(writers)
            ways = [
                asyncio.ensure_future(self._pass(*way))
                for way in (
                    (reader, up_writer, None if damage is None or damage.down else damage),
                    (up_reader, writer, damage if damage is not None and damage.down else None),
                )
            ]
            try:
                # Whichever direction ends takes the other with it.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # there is no server now, or a side has gone
        finally:
            self._writers.difference_update(writers)
            for each in writers:
                each.close()
            for each in writers:
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, damage: Damage | None) -> None:
        """One direction, until either side closes it or the damage is done."""
        left = -1 if damage is None else damage.after
        while block := await reader.read(BLOCK if left < 0 else min(BLOCK, left or BLOCK)):
            if damage is not None and left == 0:
                await self._harm(block, writer, damage.how)
                return
            self.passed()
            writer.write(block)
            await writer.drain()
            left = max(left - len(block), 0) if damage is not None else left

    async def _harm(self, block: bytes, writer: asyncio.StreamWriter, how: How) -> None:
        self.counts[how] += 1
        match how:
            case How.CUT:
                writer.transport.abort()
            case How.STALL:
                go = self._go
                self.stalled.set()
                await go.wait()
            case How.HALVE:
                writer.write(block[: len(block) // 2])
                await writer.drain()
            case How.DUPLICATE:
                writer.write(block + block)
                await writer.drain()


def always(make: Callable[[], Damage | None]) -> Iterator[Damage | None]:
    """A plan without an end."""
    while True:
        yield make()
