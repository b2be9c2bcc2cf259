"""The line of those that wait for a slot of one operation type: callers take turns, first come first served in each."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from longshore_server.engine.live import Live
from longshore_server.engine.quotas import Quota, Shares

_Line: TypeAlias = OrderedDict[Live, None]


class Waiting:
    """The operations of one type that wait for a slot.

    The slots go round: one to each owner who waits, then again. An owner whose share of them is spent is passed over,
    and is the last in turn when one of these comes free.

    Args:
        slots: of those that run.
        places: of those that wait, and of starts whose commit is under way and that will have to.
    """

    __slots__ = ("_lines", "_over", "places", "slots")

    def __init__(self, slots: Shares, places: Quota) -> None:
        self.slots = slots
        self.places = places
        # By owner, whose line is in one of the two; none is empty.
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._over: dict[str, _Line] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, (*self._lines.values(), *self._over.values())))

    def free(self, owner: str) -> bool:
        """Whether a slot is free for this owner, and nobody waits whose turn it would be."""
        return not self._lines and self.slots.free(owner)

    def add(self, live: Live) -> None:
        """Let an operation wait. Repeatable."""
        owner = live.record.owner
        line = self._lines.get(owner) or self._over.get(owner)
        if line is None:
            line = self._lines[owner] = OrderedDict()
        if live not in line:
            line[live] = None
            self.places.take(owner)

    def remove(self, live: Live) -> None:
        """It waits no more. Repeatable."""
        owner = live.record.owner
        for lines in (self._lines, self._over):
            line = lines.get(owner)
            if line is not None and live in line:
                del line[live]
                self.places.give(owner)
                if not line:
                    del lines[owner]

    def next(self) -> Live | None:
        """Take a slot for the operation whose turn it is. None: no slot is free for any that waits."""
        while self._lines and not self.slots.full:
            owner, line = self._lines.popitem(last=False)
            if not self.slots.free(owner):
                self._over[owner] = line
                continue
            live, _ = line.popitem(last=False)
            if line:
                self._lines[owner] = line
            self.places.give(owner)
            self.slots.take(owner)
            return live
        return None

    def give(self, owner: str) -> None:
        """A slot of this owner is free again."""
        self.slots.give(owner)
        line = self._over.pop(owner, None)
        if line is not None:
            self._lines[owner] = line
