"""Slots of handlers: so many run at once, and one that waits for something else of the server lends its slot meanwhile.

What it waits for may need that slot: were it kept, as many handlers as there are slots could stop each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from longshore_server.clock import resolve

if TYPE_CHECKING:
    from longshore_server.store.circles import Node

T = TypeVar("T")


class _State(enum.Enum):
    HELD = "held"
    LENT = "lent"
    GONE = "gone"


class Slots:
    """So many as there are.

    Args:
        count: how many may be held at once.
        freed: called when one may be free, and when a run is over that had lent its own.
    """

    def __init__(self, count: int, freed: Callable[[], object]) -> None:
        self.count = count
        self.freed = freed
        self._held = 0
        self._returning: deque[tuple[Slot, asyncio.Future[None]]] = deque()
        """Who has lent a slot and wants it back. As long as there is one, none is free."""

    @property
    def held(self) -> int:
        """How many are taken. More than there are where somebody took one though none was free."""
        return self._held

    @property
    def free(self) -> int:
        """How many may be taken."""
        return max(0, self.count - self._held)

    def take(self) -> Slot:
        """One that is free, for a run."""
        self._held += 1
        return Slot(self)

    def vacate(self) -> None:
        """For `Slot`: one that was held is not any more."""
        self._held -= 1
        self._give_back()

    def want(self, slot: Slot) -> asyncio.Future[None]:
        """For `Slot`: one that was lent is to be held again."""
        back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append((slot, back))
        self._give_back()
        return back

    def _give_back(self) -> None:
        """Slots that are free go to those who have lent theirs, before anything begins."""
        while self._returning and (self.free or not self._returning[0][0].wanted):
            slot, back = self._returning.popleft()
            if slot.wanted:
                self._held += 1
                slot.hold()
            resolve(back)


class Slot:
    """What a run has of the slots: it holds one, unless its handler waits."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._state = _State.HELD
        self._waits = 0

    @property
    def held(self) -> bool:
        """Whether it is neither lent nor gone."""
        return self._state is _State.HELD

    @property
    def wanted(self) -> bool:
        """Whether it is lent, and nobody waits any more."""
        return self._state is _State.LENT and not self._waits

    def lend(self) -> None:
        """The handler waits, until `take_back` of as many."""
        self._waits += 1
        if self._state is _State.HELD:
            self._state = _State.LENT
            self._slots.vacate()
            self._slots.freed()

    def take_back(self) -> asyncio.Future[None] | None:
        """One wait is over. The future is done once the run holds a slot again, or needs none; None: it needs none."""
        self._waits -= 1
        return self._slots.want(self) if self.wanted else None

    def hold(self) -> None:
        """For `Slots`: it is held again."""
        self._state = _State.HELD

    def end(self) -> None:
        """The run is over. What its handler has left behind neither lends nor takes back."""
        held, self._state = self.held, _State.GONE
        if held:
            self._slots.vacate()
        self._slots.freed()


class Acting:
    """A handler that runs here.

    Args:
        node: what it works on.
        slot: which it lends where it waits; None: it keeps its own.
    """

    __slots__ = ("node", "over", "slot")

    def __init__(self, node: Node, slot: Slot | None = None) -> None:
        self.node = node
        self.slot = slot
        self.over = False
        """Whether what it works on ends without it: it has returned, or has given that away."""

    def end(self) -> None:
        """It is over, and so is its hold of its slot. Repeatable."""
        self.over = True
        if self.slot is not None:
            self.slot.end()


acting: contextvars.ContextVar[Acting | None] = contextvars.ContextVar("longshore_acting", default=None)
"""The handler that runs here, if any: of an operation, a job or an instance."""


@asynccontextmanager
async def lent() -> AsyncIterator[None]:
    """Within it the handler that runs here, if any, waits for something else of the server, and lends its slot."""
    by = acting.get()
    slot = None if by is None else by.slot
    if slot is None:
        yield
        return
    slot.lend()
    interrupted = False
    try:
        yield
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        back = slot.take_back()
        if back is not None and not interrupted:  # who is to stop need not wait for that
            await back


async def lent_between(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The items, for each of which the handler that runs here waits as in `lent`."""
    while True:
        async with lent():
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item
