"""How far bytes have come, told to a callback: not for every chunk, in order, and never less than before."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from longshore_client.grants import SendProgress

ValueT = TypeVar("ValueT")
Callback: TypeAlias = Callable[[ValueT], Awaitable[object] | object]
"""A function of one report, or a coroutine function of it."""

INTERVAL = 0.1
"""The least seconds between two reports of bytes, except for the last."""


async def tell(callback: Callback[ValueT], value: ValueT) -> None:
    """Call a callback, and wait for it if it is a coroutine function."""
    answer = callback(value)
    if inspect.isawaitable(answer):
        await answer


class Throttle:
    """Says when it is time for another report.

    Args:
        monotonic: The clock, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last: float | None = None

    def ready(self) -> bool:
        """Whether a report is due; it is then taken as made."""
        now = self._monotonic()
        if self._last is not None and now - self._last < INTERVAL:
            return False
        self._last = now
        return True


class Meter:
    """The progress of one upload, over all of its parts.

    Args:
        callback: Whom to tell; None: nobody.
        monotonic: The clock, in seconds.
        total: How many bytes there are; None: not known before the end.
    """

    def __init__(
        self, callback: Callback[SendProgress] | None, monotonic: Callable[[], float], total: int | None
    ) -> None:
        self._callback = callback
        self._throttle = Throttle(monotonic)
        self._total = total
        self._parts: dict[int, int] = {}
        self._committed = 0
        self._told: SendProgress | None = None
        self._turn = asyncio.Lock()

    async def sent(self, part: int, size: int) -> None:
        """So much of a part has been sent, or was durable before."""
        self._parts[part] = max(size, self._parts.get(part, 0))
        await self._tell()

    async def committed(self, size: int) -> None:
        """So much is durable, over all parts."""
        self._committed = max(size, self._committed)
        await self._tell()

    async def done(self, size: int) -> None:
        """All of it is."""
        self._committed = self._total = size
        await self._tell(last=True)

    async def _tell(self, *, last: bool = False) -> None:
        if self._callback is None:
            return
        async with self._turn:
            sent = max(self._committed, sum(self._parts.values()))
            progress = SendProgress(sent, self._committed, self._total)
            if progress != self._told and (last or self._throttle.ready()):
                self._told = progress
                await tell(self._callback, progress)
