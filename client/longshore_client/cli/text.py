"""Text made fit for a terminal: harmless, though somebody else wrote it, and as wide as there is room."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from datetime import UTC, datetime

# What moves the cursor, colours, ends a line or reverses the direction: C0, DEL, C1, bidirectional controls, separators
# of lines, and halves of characters, which no terminal can be given.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_DUMB = ("dumb", "unknown")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def shown(text: str, *, keep: str = "") -> str:
    r"""The text with control characters, but for those of `keep`, as JSON writes them: for example `\n` and `\u001b`.

    JSON stays the JSON that it was.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else json.dumps(found[0])[1:-1], text)


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fitted(text: str, width: int) -> str:
    """The text in exactly so many columns: cut short with an ellipsis, or filled with blanks."""
    if cells(text) > width:
        while cells(text) >= max(width, 1):
            text = text[:-1]
        text += "…" * min(width, 1)
    return text + " " * (width - cells(text))


def size(count: float) -> str:
    """Put a number of bytes into few characters: `12 B`, `1.2 kB`, `3.4 GB`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def movable() -> bool:
    """Whether stderr is a terminal that can write a line anew."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB


def color() -> bool | None:
    """What click is to do about colours: leave them out, or by itself, which is where there is a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") in _DUMB else None


def elapsed(seconds: float) -> str:
    """Put a span into few characters: `0.1 s`, `12.0 s`, `3 min 5 s`, `2 h 0 min`, `4 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 100:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def span(seconds: float) -> str:
    """Put a span that somebody has written down as it was written: `5 s`, `30 min`, `1 h 30 min`, `0.25 s`."""
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        count, seconds = divmod(seconds, length)
        parts += [f"{count:.0f} {unit}"] if count else []
    if seconds or not parts:
        parts.append(f"{seconds:g} s")
    return " ".join(parts)


def age(moment: datetime) -> str:
    """How long ago something was."""
    return elapsed(max(0.0, (datetime.now(UTC) - moment).total_seconds()))
