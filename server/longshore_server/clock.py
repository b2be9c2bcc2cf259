"""The one clock: every time that the server reads and every timer that it sets, so that tests move time, not sleep.

Times are whole microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import threading
import time
from collections.abc import Callable
from typing import Protocol

SECOND = 1_000_000
"""One second in the clock's unit."""
LOOK = 10 * SECOND
"""A timer is at most so late after the machine has slept or its time was put forward: the event loop counts neither."""


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
    """The machine's clock. After a step back of the machine's time it goes on by the monotonic one.

    All timers share one timer of the event loop, for the earliest: most are cancelled long before they are due, and a
    place in a heap costs a tenth of what the loop takes for a timer of its own.
    """

    def __init__(self) -> None:
        # How far the machine's time is ahead of its monotonic one, in nanoseconds: the most that it ever was.
        self._ahead = time.time_ns() - time.monotonic_ns()
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, _SystemTimer]] = []
        self._order = 0
        self._cancelled = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # Callbacks run in nobody's context: the timer of one operation may be armed by another.
        self._context = contextvars.Context()
        self._armed: asyncio.TimerHandle | None = None
        self._armed_for = 0

    def now(self) -> int:
        """As of the protocol; any thread may ask."""
        # In this order: a thread that is held up between the two finds less, not more.
        wall = time.time_ns()
        steady = time.monotonic_ns()
        if wall - steady > self._ahead:
            self._raise(wall - steady)
        return (steady + self._ahead) // 1000

    def never_before(self, floor: int) -> None:
        self._raise(floor * 1000 - time.monotonic_ns())

    def _raise(self, ahead: int) -> None:
        with self._lock:
            self._ahead = max(self._ahead, ahead)

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        timer = _SystemTimer(self, callback)
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, timer))
        if self._armed is None or when < self._armed_for:
            self._arm()
        return timer

    def _arm(self) -> None:
        """Set the loop's timer for the earliest of ours, or to look again: the loop counts monotonic time."""
        if self._loop is None:
            # Kept, because asyncio.get_running_loop() makes a system call every time.
            self._loop = asyncio.get_running_loop()
        if self._armed is not None:
            self._armed.cancel()
        self._armed_for = self._heap[0][0]
        delay = min(max(0, self._armed_for - self.now()), LOOK)
        self._armed = self._loop.call_later(delay / SECOND, self._fire, context=self._context)

    def _fire(self) -> None:
        self._armed = None
        try:
            while self._heap and (self._heap[0][2].callback is None or self._heap[0][0] <= self.now()):
                timer = heapq.heappop(self._heap)[2]
                callback, timer.callback = timer.callback, None
                if callback is None:
                    self._cancelled -= 1
                else:
                    callback()
        finally:
            # Even after a callback that raised; one that set a timer may have armed it already.
            if self._heap and self._armed is None:
                self._arm()

    def note_cancelled(self) -> None:
        """For its timers: one of them will never fire. Once most of the heap is such, it is made anew."""
        self._cancelled += 1
        if self._cancelled > 1000 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0


class _SystemTimer:
    __slots__ = ("_clock", "callback")

    def __init__(self, clock: SystemClock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._clock.note_cancelled()
