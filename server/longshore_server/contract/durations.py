"""The durations that a contract's options say, in microseconds."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

LONGEST = 1_000_000_000
"""Seconds, some 31 years: a time so long from now is still one that every language can show."""


def micros(value: Duration, *, zero: bool = False) -> int:
    """Microseconds. Raises `ValueError` with one sentence when it is negative, too long or, without `zero`, nothing."""
    found = value.seconds * 1_000_000 + value.nanos // 1000
    # Of a whole that is negative the nanos are negative, too.
    if abs(value.nanos) > 999_999_999 or value.seconds > 0 > value.nanos:
        raise ValueError("it is no duration: its nanos must be between 0 and 999,999,999")
    if found == 0 and value.nanos > 0:
        raise ValueError(f"it must be at least a microsecond{', or zero' if zero else ''}")
    if found < 0 or (found == 0 and not zero):
        raise ValueError("it must not be negative" if zero else "it must be longer than zero")
    if found > LONGEST * 1_000_000:
        raise ValueError(f"it must not be longer than {LONGEST:,} seconds")
    return found
