"""What the enums that come over the wire have in common."""

from __future__ import annotations

import enum
from typing import Self

_NUMBERS = tuple("bcdeEfFgGnoxX%")
"""How specifications of a format end that are those of numbers."""


class WireEnum(enum.IntEnum):
    """An enum of the protos: equal to its number there, and as text its name.

    A number that this version does not know, from a newer server, is the member that says so.
    """

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        # Of an int a width alone would show the number.
        return format(int(self) if spec[-1:] in _NUMBERS else self.name, spec)

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls._unknown() if isinstance(value, int) else None

    @classmethod
    def _unknown(cls) -> Self:
        return cls(0)
