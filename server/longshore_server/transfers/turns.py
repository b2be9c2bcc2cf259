"""Turns: how calls that send bytes share the machine, among themselves and with all other calls.

Hundreds of senders would take all that there is, and every other call waits for the writer several times. So only a few
calls hash and write at once, each in its turn, in threads that give way to all others; while the writer works, one
turn begins with every second of its own, and no more; and what goes on is recorded no more often than the writer and
the disk bear. Who waits for a turn is not read: the sender's window closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from longshore_server.clock import SECOND, Clock
from longshore_server.store.store import Store
from longshore_server.transfers.threads import in_one_of

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 2
"""How many calls hash and write at once."""
EVERY = 2
"""With each how manieth turn of a writer that works one of them begins: with every one, others waited twice as long."""
THREADS = 4
"""How many threads there are for what takes the processor or the disk long: to hash, to write and to sync."""
NICE = 10
"""How many steps, of 19, they stand behind all others in the system's scheduler."""
TELL = SECOND
"""The least time between two events of byte progress of one upload, and two records of a call that goes on."""
AHEAD = 64 << 20
"""The most bytes that wait to be written, of all calls; they share them."""
MOST, LEAST = 2 << 20, 512 << 10
"""Between these is what each may have of them. With less than the most the disk waits for the sender and the sender for
the disk by turns; below the least every chunk would go to a thread by itself."""
RECORDS = 50
"""How many records a second calls that go on make, all together: each costs a sync and a mutation."""


class Pace:
    """What happens no more often than once in an interval, in microseconds."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._last = 0

    def due(self, now: int) -> bool:
        """Whether it may happen again; if so, it does now."""
        if now - self._last < self._interval:
            return False
        self._last = now
        return True


class Turns:
    """Those of all calls of one server."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._next = asyncio.Lock()
        self.again = asyncio.Semaphore(AT_ONCE)
        """For who reads whole objects again: most threads are for bytes that come."""
        self._threads = ThreadPoolExecutor(THREADS, "longshore-bytes", _give_way)
        self._records = Pace(SECOND // RECORDS)
        self.calls = 0
        """How many there are."""

    @property
    def ahead(self) -> int:
        """How many bytes of one call may wait to be written."""
        return min(MOST, max(LEAST, AHEAD // (self.calls or 1)))

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn of the call whose task this is, for the length of the block. First come, first served."""
        async with self._places:
            async with self._next:
                for _ in range(EVERY):
                    await self._store.writer.turn()
            yield

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `in_thread`, in a thread that gives way."""
        return await in_one_of(self._threads, partial(function, *args, **kwargs))

    def may_record(self, last: int) -> bool:
        """Whether a call that has recorded something at `last` may again, although nobody waits for that; if so, it
        does now."""
        now = self._clock.now()
        return now - last >= TELL and self._records.due(now)

    def end(self) -> None:
        """Nothing runs any more: let go of the threads."""
        self._threads.shutdown(wait=False)


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere all threads of the process would
        os.nice(NICE)
