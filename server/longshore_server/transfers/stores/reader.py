"""Reading an object: its bytes go where whoever reads wants to have them."""

from __future__ import annotations

import abc


class Reader(abc.ABC):
    """The bytes of one object in their order, even if another takes its place meanwhile."""

    def __init__(self) -> None:
        self._held = memoryview(b"")

    async def into(self, room: memoryview) -> int:
        """Put the next bytes into `room`, as many as are there, and say how many; 0: the object ends here.

        Raises `ObjectError`.
        """
        if not self._held:
            if size := self._at_once(room):
                return size
            self._held = await self._fetch()
        size = min(len(room), len(self._held))
        room[:size] = self._held[:size]
        self._held = self._held[size:]
        return size

    def _at_once(self, room: memoryview) -> int:  # noqa: ARG002 - most can nothing
        """As `into`, of what is in memory already; 0: nothing, or nobody knows."""
        return 0

    @abc.abstractmethod
    async def _fetch(self) -> memoryview:
        """The next bytes, as many as are worth a wait; empty: there are no more."""
