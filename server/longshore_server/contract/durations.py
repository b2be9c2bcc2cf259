"""The durations that a contract's options and code say, in microseconds."""

from __future__ import annotations

import re
from datetime import timedelta

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


_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def span(value: str | float | timedelta, *, zero: bool = False) -> int:
    """Microseconds of a time span as code says it: `"30m"`, `"1h30m"`, `"250ms"`, seconds, or a timedelta.

    Raises `ValueError` with one sentence when it is none, is negative, too long or, without `zero`, nothing;
    `TypeError` for another type.
    """
    if isinstance(value, str):
        if _SPAN.fullmatch(value) is None:
            raise ValueError(f'{value!r} is no time span: write "30m", "1h30m" or "250ms" (ms, s, m, h, d)')
        found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    elif isinstance(value, timedelta):
        found = value / timedelta(microseconds=1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = value * 1_000_000
    else:
        raise TypeError(f'{value!r} is no time span: give seconds, a timedelta, or a text such as "30m"')
    if not found <= LONGEST * 1_000_000:
        raise ValueError(f"it must not be longer than {LONGEST:,} seconds")
    whole = round(found)
    if whole < 0 or (whole == 0 and not zero):
        raise ValueError("it must not be negative" if zero else "it must be longer than zero")
    return whole
