"""Counts how values are spread, at the price of a search among a few bounds."""

from __future__ import annotations

from bisect import bisect_left

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds for durations: what a commit takes at one end, a long wait at the other."""


class Histogram:
    """How many values were at most each bound, and their sum. One thread observes, any may read.

    Args:
        bounds: the upper bounds, ascending; beyond the last one there is one more bucket.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The values in each bucket, not cumulative."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
