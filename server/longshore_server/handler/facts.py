"""What a handler reads of its operation: who started it, what the last attempt left, what callers ask for meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

ProgressT = TypeVar("ProgressT")


class Flag:
    """Something that a caller asked for: false until then. `if op.cancelled: ...` or `await op.cancelled.wait()`."""

    __slots__ = ("_event", "_raised")

    def __init__(self) -> None:
        self._raised = False
        # Made when somebody waits: most handlers only look.
        self._event: asyncio.Event | None = None

    def __bool__(self) -> bool:
        return self._raised

    def set(self) -> None:
        """Raise the flag, for good."""
        self._raised = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once the flag is raised."""
        if not self._raised:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()


@dataclass(frozen=True)
class Recovery(Generic[ProgressT]):
    """What the last attempt left: it failed, or it died with its server."""

    attempt: int
    """Number of that attempt."""
    failures: int
    """How many attempts have failed."""
    crashes: int
    """How many crashes of the server the operation has been part of."""
    progress: ProgressT | None
    """The latest progress that became durable."""


@dataclass(frozen=True)
class Caller:
    """Who started the operation."""

    principal: str
    capabilities: frozenset[str]
    """What it might do when it started the operation."""
