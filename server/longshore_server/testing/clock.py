"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from longshore_server.clock import SECOND

START = 1_767_225_600 * SECOND
"""Where it stands first: 2026-01-01T00:00:00Z."""


class ManualClock:
    """Time that passes only by `advance`."""

    def __init__(self, now: int = START) -> None:
        self._now = now
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return self._now

    def never_before(self, floor: int) -> None:
        """Keep `now()` at or above `floor`."""
        self._now = max(self._now, floor)

    def call_at(self, when: int, callback: Callable[[], object]) -> _ManualTimer:
        """Call `callback` when the clock is moved to `when`, or in the next step of the loop if that is past."""
        timer = _ManualTimer(callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.fire)
        else:
            heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move time forward and fire, in order, every timer that is due on the way."""
        self.advance_to(self._now + int(seconds * SECOND))

    def advance_to(self, when: int) -> None:
        """`advance` to a time, in microseconds since the Unix epoch; one that is past changes nothing."""
        while self._timers and self._timers[0][0] <= when:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            timer.fire()
        self._now = max(self._now, when)

    @property
    def next_timer(self) -> int | None:
        """When the next timer fires, in microseconds since the Unix epoch; None: none waits."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def pending(self) -> int:
        """How many timers wait."""
        return sum(1 for _, _, timer in self._timers if timer.callback is not None)


class _ManualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def fire(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        self.callback = None
