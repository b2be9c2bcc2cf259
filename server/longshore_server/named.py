"""What the enums have in common whose numbers are stored, or are those of the protos."""

from __future__ import annotations

import enum


class Named(enum.IntEnum):
    """An enum that is its number for programs, and its name for people: in texts, and so in the log of a service."""

    def __str__(self) -> str:
        return self.name
