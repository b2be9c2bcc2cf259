"""Ids of operations: UUIDv7 (RFC 9562), time-ordered, strictly increasing within a data directory."""

from __future__ import annotations

import os
import re

from longshore_server.clock import Clock

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_ANY_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Uids:
    """Makes uids. Those of one millisecond differ by a counter: the storage order is the order of acceptance.

    `after` is the highest uid in the store: every new one is above it, even if the clock went back over a restart.
    """

    def __init__(self, clock: Clock, after: bytes | None) -> None:
        self._clock = clock
        self._pool, self._drawn = b"", 0
        value = 0 if after is None else int.from_bytes(after, "big")
        self._stamp = value >> 80
        self.time = 0
        """When the latest uid was made, in microseconds: its milliseconds are those of the uid."""
        self._counter = (((value >> 64) & 0xFFF) << 30) | ((value >> 32) & 0x3FFF_FFFF)

    def next(self) -> bytes:
        """A new uid, 16 bytes."""
        now = self._clock.now()
        stamp = now // 1000
        if stamp > self._stamp:
            self._stamp, self._counter = stamp, self._random(5) & 0x3F_FFFF_FFFF
        else:
            self._counter += 1 + self._random(1)
            if self._counter >= 1 << 42:
                self._stamp, self._counter = self._stamp + 1, self._random(5) & 0x3F_FFFF_FFFF
        self.time = max(now, self._stamp * 1000)
        high, low = self._counter >> 30, self._counter & 0x3FFF_FFFF
        value = (self._stamp << 80) | (0x7 << 76) | (high << 64) | (0x2 << 62) | (low << 32) | self._random(4)
        return value.to_bytes(16, "big")

    def _random(self, size: int) -> int:
        """That many random bytes, as a number. Drawn from the system in bulk: a call for each id shows in profiles."""
        end = self._drawn + size
        if end > len(self._pool):
            self._pool, end = os.urandom(4096), size
        self._drawn = end
        return int.from_bytes(self._pool[end - size : end], "big")


def parse_uid(text: str) -> bytes | None:
    """The 16 bytes of a uid's text, or None if it is not one."""
    return bytes.fromhex(text.replace("-", "")) if _UUID.fullmatch(text) else None


def parse_uuid(text: str) -> bytes | None:
    """The 16 bytes of a UUID's text, or None if it is not one. One of another version than ours names nothing."""
    return bytes.fromhex(text.replace("-", "")) if _ANY_UUID.fullmatch(text) else None


def uid_text(uid: bytes) -> str:
    """The usual text of a UUID: 8-4-4-4-12 hexadecimal digits."""
    text = uid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
