"""Finds what is due: one timer for the earliest instance, one look into the index when it fires. It never polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.handler.lending import Slots
from longshore_server.store import instances as rows
from longshore_server.store.store import Store

log = logging.getLogger(__name__)

AGAIN = 60 * SECOND
"""How long after something has failed it is tried again."""


class Scheduler:
    """Calls `begin` for instances that are due while there are free slots.

    Args:
        store: where the instances are.
        clock: its one timer is for the earliest that is due.
        begin: begins the handler of one instance; it may find that nothing is due.
        busy: those that have begun and not come to their end.
        slots: of those that are busy; `begin` takes one.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        begin: Callable[[bytes], None],
        busy: Callable[[], Collection[bytes]],
        slots: Slots,
    ) -> None:
        self._store = store
        self._clock = clock
        self._begin = begin
        self._busy = busy
        self._slots = slots
        self._behind = False  # whether there may be due ones that only the store knows
        self._aside: set[bytes] = set()
        """Those that could not begin. Each look would find them again, at once."""
        self._relief: Timer | None = None
        self._looking: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._at = 0
        self._open = False

    def start(self) -> None:
        """Begin with what is overdue."""
        self._open = True
        self._behind = True
        self.go_on()

    def stop(self) -> None:
        """Begin nothing any more."""
        self._open = False
        for timer in (self._timer, self._relief):
            if timer is not None:
                timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def note(self, uid: bytes, due: int) -> None:
        """An instance is due then."""
        if not self._open:
            return
        self._aside.discard(uid)  # it is another one than it was when it could not begin
        if due > self._clock.now():
            self._arm(due)
        elif uid in self._busy():
            self._behind = True
        elif self._slots.free and not self._behind:
            self._begin(uid)
        else:
            self._behind = True
            self.go_on()

    def go_on(self) -> None:
        """Look whether something is due that waits for a slot."""
        if self._open and self._behind and self._looking is None and self._slots.free:
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._looking.add_done_callback(self._looked)

    async def _look(self) -> None:
        while self._behind and self._slots.free:
            self._behind = False
            # As many as there are slots: those that have just begun are still due in the store.
            limit = self._slots.count + len(self._aside)
            found, following = await self._store.read(partial(rows.due, now=self._clock.now(), limit=limit))
            self._behind = self._behind or len(found) == limit
            if following is not None:
                self._arm(following)
            for uid in found:
                if not self._slots.free:
                    # Others have taken the slots while the store was read.
                    self._behind = True
                    break
                if uid not in self._busy() and uid not in self._aside:
                    self._begin(uid)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            log.error("what is due could not be read", exc_info=task.exception())
            self._behind = True
            if self._open:
                self._arm(self._clock.now() + AGAIN)
        else:
            self.go_on()

    def set_aside(self, uid: bytes) -> None:
        """An instance could not begin: it is tried again a little later, or once it has changed."""
        if not self._open:
            return
        self._aside.add(uid)
        if self._relief is None:
            self._relief = self._clock.call_at(self._clock.now() + AGAIN, self._relieve)

    def _relieve(self) -> None:
        self._relief = None
        self._aside.clear()
        self._behind = True
        self.go_on()

    def _arm(self, due: int) -> None:
        if self._timer is not None:
            if self._at <= due:
                return
            self._timer.cancel()
        self._at = due
        self._timer = self._clock.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._behind = True
        self.go_on()
