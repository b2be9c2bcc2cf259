"""The deadlines of live operations: kept by the minute, timed exactly once they are near.

Most operations end long before their deadline. A timer of the event loop for each would cost more than the whole
bookkeeping of an operation; a place in a dictionary costs next to nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.engine.live import Live

SPAN = 60 * SECOND
"""How much time one bucket stands for."""


class Deadlines:
    """Calls `overdue` for each operation at its deadline."""

    def __init__(self, clock: Clock, overdue: Callable[[Live], None]) -> None:
        self._clock = clock
        self._overdue = overdue
        self._buckets: dict[int, dict[Live, None]] = {}
        self._order: list[int] = []
        self._near: dict[Live, Timer] = {}
        self._next: Timer | None = None
        self._next_at = 0

    def add(self, live: Live) -> None:
        """Watch over an operation, if it has a deadline."""
        deadline = live.record.deadline
        if deadline is None:
            return
        number = deadline // SPAN
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket[live] = None
        elif number * SPAN <= self._clock.now():
            self._near[live] = self._clock.call_at(deadline, lambda: self._fire(live))
        else:
            self._buckets[number] = {live: None}
            heapq.heappush(self._order, number)
            self._arm()

    def remove(self, live: Live) -> None:
        """The operation has ended."""
        deadline = live.record.deadline
        if deadline is None:
            return
        bucket = self._buckets.get(deadline // SPAN)
        if bucket is not None:
            bucket.pop(live, None)
        elif self._near:
            timer = self._near.pop(live, None)
            if timer is not None:
                timer.cancel()

    def stop(self) -> None:
        """Call nobody any more."""
        if self._next is not None:
            self._next.cancel()
        for timer in self._near.values():
            timer.cancel()
        self._near.clear()
        self._buckets.clear()

    def _arm(self) -> None:
        """A timer for the beginning of the first bucket."""
        first = self._order[0] * SPAN
        if self._next is not None:
            if self._next_at <= first:
                return
            self._next.cancel()
        self._next_at = first
        self._next = self._clock.call_at(first, self._open)

    def _open(self) -> None:
        """A bucket's time has come: each of its operations gets a timer of its own."""
        self._next = None
        now = self._clock.now()
        while self._order and self._order[0] * SPAN <= now:
            for live in self._buckets.pop(heapq.heappop(self._order), {}):
                self.add(live)
        if self._order:
            self._arm()

    def _fire(self, live: Live) -> None:
        self._near.pop(live, None)
        self._overdue(live)
