"""The one clock: every time that the server reads and every timer that it sets, so that tests move time, not sleep.

Times are whole microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

SECOND = 1_000_000
"""One second in the clock's unit."""


class Timer(Protocol):
    """A callback that has not fired yet."""

    def cancel(self) -> None:
        """Make sure that the callback never fires. Repeatable."""


class Clock(Protocol):
    """What the server knows of time."""

    def now(self) -> int:
        """Microseconds since the Unix epoch. Never goes back within one server."""

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the event loop once `now()` has reached `when`, at once if it already has."""

    def never_before(self, floor: int) -> None:
        """Keep `now()` at or above `floor`: times already in the store stay in the past across a restart."""


async def sleep_until(clock: Clock, when: int) -> None:
    """Return once `clock` has reached `when`."""
    if clock.now() >= when:
        return
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_at(when, lambda: resolve(done))
    try:
        await done
    finally:
        timer.cancel()


def resolve(future: asyncio.Future[None]) -> None:
    """Mark `future` as done, unless it is already: timers and publications race for it."""
    if not future.done():
        future.set_result(None)


class SystemClock:
    """The machine's clock. A step back of the machine's time holds `now()` still instead of turning it back."""

    def __init__(self) -> None:
        self._last = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> int:
        current = time.time_ns() // 1000
        if current < self._last:
            return self._last
        self._last = current
        return current

    def never_before(self, floor: int) -> None:
        self._last = max(self._last, floor)

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        # Kept, because asyncio.get_running_loop() makes a system call every time.
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return _SystemTimer(self, self._loop, when, callback)


class _SystemTimer:
    """A loop timer that checks the wall clock when it fires: the loop counts monotonic time, deadlines wall time."""

    __slots__ = ("_callback", "_clock", "_handle", "_loop", "_when")

    def __init__(
        self, clock: SystemClock, loop: asyncio.AbstractEventLoop, when: int, callback: Callable[[], object]
    ) -> None:
        self._clock, self._loop, self._when, self._callback = clock, loop, when, callback
        self._arm()

    def _arm(self) -> None:
        delay = max(0, self._when - self._clock.now()) / SECOND
        self._handle = self._loop.call_later(delay, self._fire)

    def _fire(self) -> None:
        if self._clock.now() < self._when:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()
