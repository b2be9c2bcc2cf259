"""Deletes what has been kept for long enough: bounded batches, one after the other, behind everybody else's changes.

One timer, for the next operation, instance or line of a log whose time is over. Its batches are changes like any other:
between two of them the writer takes whatever has come in meanwhile, and while much waits the next one is held back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from types import MappingProxyType

from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.errors import ServiceError
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.store import instance_leftovers
from longshore_server.store.instance_retention import Retention, next_expiry
from longshore_server.store.instances import InstanceRecord
from longshore_server.store.mutations import Nothing, Sweep, SweepInstances, SweepLeftovers
from longshore_server.store.store import Store

log = logging.getLogger(__name__)

GAP = SECOND
"""The least time between two sweeps: operations that end one after the other also go together."""
SHORT = 64
"""The writer's queue is short when no more than so many changes wait."""
AGAIN = 60 * SECOND
"""How long after a sweep that failed the next one comes."""
PATIENCE = 16
"""After so many turns of a writer that is always busy a batch goes all the same, or the file would grow for ever."""


class Sweeper:
    """Deletes ended operations, quiet instances and lines of logs, each at the end of its retention.

    `log_retention`: microseconds that a line is kept; 0: as long as what has logged it. `instances`: their retention.
    """

    def __init__(self, clock: Clock, log_retention: int = 0, instances: Retention = MappingProxyType({})) -> None:
        self._clock = clock
        self._log_retention = log_retention
        self._instances = instances
        self._store: Store | None = None
        self._timer: Timer | None = None
        self._due: int | None = None
        self._swept = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self, store: Store) -> None:
        """Begin with what the store holds already."""
        self._store = store
        self.note(await self._next(store))

    def note(self, expires: int | None) -> None:
        """Something is to be deleted at `expires`, such as an operation that has ended; None: never."""
        if expires is None or self._store is None or (self._due is not None and self._due <= expires):
            return
        self._due = expires
        if self._task is None:
            self._arm(expires)

    def logged(self) -> None:
        """A line of a log has become durable."""
        if self._log_retention:
            self.note(self._clock.now() + self._log_retention)

    def changed(self, instance: InstanceRecord | None) -> None:
        """An instance is another one now, and may be kept for a time from now on; None: it was deleted."""
        if instance is not None and (instance.status is Status.TERMINATED or instance.kind is Kind.DEBOUNCE):
            kept = self._instances.get((instance.kind, instance.definition))
            self.note(None if kept is None else instance.updated + kept)

    def left(self) -> None:
        """Something is left to be deleted that belongs to nobody any more."""
        self.note(self._clock.now())

    def stop(self) -> None:
        """Delete nothing more. A batch that is with the writer is still written."""
        self._store = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _arm(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(max(due, self._swept + GAP), self._fire)

    def _fire(self) -> None:
        if self._store is not None:
            self._timer = None
            self._task = asyncio.get_running_loop().create_task(self._sweep(self._store))

    async def _sweep(self, store: Store) -> None:
        try:
            due = await self._delete(store)
        except Exception:
            log.exception("the sweep of old operations failed, the next one is in %d s", AGAIN // SECOND)
            # What was due before is still due, and what ended meanwhile is found with it.
            self._due, due = None, self._clock.now() + AGAIN
        self._task, self._swept = None, self._clock.now()
        self.note(due)
        if self._due is not None and self._timer is None:
            self._arm(self._due)

    async def _delete(self, store: Store) -> int | None:
        """Delete all that is due. Returns when the next is; None: nothing expires."""
        deleted = 0
        while True:
            await self._turn(store)
            before = self._clock.now() - self._log_retention if self._log_retention else None
            deleted += await store.writer.submit(Sweep(before))
            if self._instances:
                deleted += await store.writer.submit(SweepInstances(self._instances))
            await store.writer.submit(SweepLeftovers())
            # What ends while the store is read comes in by `note`.
            self._due = None
            due = await self._next(store)
            if due is None or due > self._clock.now():
                log.debug("%d operations and instances were deleted, their retention was over", deleted)
                return due

    async def _next(self, store: Store) -> int | None:
        """When the next retention is over; None: nothing expires."""
        due = [await store.next_expiry()]
        if self._log_retention and (oldest := await store.oldest_line()) is not None:
            due.append(oldest + self._log_retention)
        if self._instances:
            due.append(await store.read(partial(next_expiry, retention=self._instances)))
        if await store.read(instance_leftovers.pending):
            due.append(self._clock.now())
        return min((when for when in due if when is not None), default=None)

    async def _turn(self, store: Store) -> None:
        """Return once the writer has little to do, or never had for long."""
        for _ in range(PATIENCE):
            if store.writer.backlog <= SHORT:
                return
            # On a full disk it is refused, while the batch waits for room like all of the server's own work.
            with contextlib.suppress(ServiceError):
                await store.writer.submit(Nothing())
