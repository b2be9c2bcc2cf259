"""What the enums that come over the wire have in common."""

from __future__ import annotations

import enum
from typing import Self


class WireEnum(enum.IntEnum):
    """An enum of the protos: equal to its number there, and as text its name.

    A number that this version does not know, from a newer server, is the member that says so.
    """

    def __str__(self) -> str:
        return self.name

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls._unknown() if isinstance(value, int) else None

    @classmethod
    def _unknown(cls) -> Self:
        return cls(0)
