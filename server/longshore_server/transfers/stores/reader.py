"""Reading an object: its bytes go where whoever reads wants to have them."""

from __future__ import annotations

import abc


class Reader(abc.ABC):
    """The bytes of one object in their order, even if another takes its place meanwhile."""

    def __init__(self) -> None:
        self._held = memoryview(b"")

    def at_once(self, room: memoryview) -> int:
        """Put the next bytes that are in memory into `room`, and say how many; 0: none are, `more` gets some."""
        if not self._held:
            return self._cached(room)
        size = min(len(room), len(self._held))
        room[:size] = self._held[:size]
        self._held = self._held[size:]
        return size

    async def more(self) -> bool:
        """Wait until `at_once` has bytes again; False: the object ends here. Raises `ObjectError`."""
        self._held = await self._fetch()
        return bool(self._held)

    def _cached(self, room: memoryview) -> int:  # noqa: ARG002 - most can nothing
        """As `at_once`, of what the system has in memory."""
        return 0

    @abc.abstractmethod
    async def _fetch(self) -> memoryview:
        """The next bytes, as many as are worth a wait; empty: there are no more."""
