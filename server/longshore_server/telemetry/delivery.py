"""Delivers lifecycle events to sinks: to each at its own pace, at least once, in order."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from longshore_server.clock import SECOND, Clock, resolve, sleep_until
from longshore_server.ids import uid_text
from longshore_server.store import outbox
from longshore_server.store.mutations.outbox import Delivered
from longshore_server.store.outbox import StoredEvent
from longshore_server.store.store import Store
from longshore_server.telemetry.sinks import EventSink, EventsRefusedError, LifecycleEvent, readable

log = logging.getLogger(__name__)

TIMEOUT = 30 * SECOND
"""How long a sink may take for one batch."""
FIRST_PAUSE = SECOND
LAST_PAUSE = 60 * SECOND
"""How long a sink that has failed is left alone: twice as long each time, up to that."""


class Delivery:
    """One sink, and how far it has got."""

    def __init__(self, name: str, sink: EventSink, store: Store, clock: Clock) -> None:
        self.name = name
        self.delivered = 0
        """How many events it has taken since the start."""
        self.failures = 0
        """How often it has failed since the start."""
        self.refused = 0
        """How many it has refused for ever since the start."""
        self.waiting = 0
        """How many events it had not taken when it was looked at last."""
        self.dropped = 0
        """How many it will never get, over all starts: it was too far behind."""
        self._sink = sink
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There are new events."""
        self._news.set()

    async def run(self) -> None:
        """Deliver for ever."""
        failed = 0
        while True:
            self._news.clear()
            try:
                more = await self._next()
                failed = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the events wait for the next try
                failed += 1
                self.failures += 1
                pause = min(LAST_PAUSE, FIRST_PAUSE << min(failed - 1, 16))
                log.warning(
                    "sink %r took no events, next try in %d s: %s: %s",
                    self.name, pause // SECOND, type(error).__name__, error,
                )  # fmt: skip
                await sleep_until(self._clock, self._clock.now() + pause)
                continue
            if not more:
                await self._news.wait()

    async def _next(self) -> bool:
        """One batch. Whether there may be more."""
        found = await self._store.read(partial(outbox.read, sink=self.name, limit=self._sink.batch_size))
        self.waiting, self.dropped = found.waiting, found.dropped
        if not found.events:
            return False
        await self._deliver(found.events)
        return True

    async def _deliver(self, events: Sequence[StoredEvent]) -> None:
        """Hand events over; those that are refused in halves, until it is clear which ones it will never take."""
        try:
            await self._hand_over([readable(event, payloads=self._sink.payloads) for event in events])
            self.delivered += len(events)
        except EventsRefusedError as refusal:
            if len(events) > 1:
                middle = len(events) // 2
                await self._deliver(events[:middle])
                await self._deliver(events[middle:])
                return
            (event,) = events
            self.refused += 1
            log.error(
                "sink %r never gets %s of %s, event %s: %s",
                self.name, event.type, event.subject, uid_text(event.id), refusal,
            )  # fmt: skip
        await self._store.writer.submit(Delivered(self.name, events[-1].number))
        self.waiting -= len(events)

    async def _hand_over(self, events: Sequence[LifecycleEvent]) -> None:
        task = asyncio.ensure_future(self._sink.deliver(events))
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(self._clock.now() + TIMEOUT, partial(resolve, late))
        try:
            await asyncio.wait([task, late], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            # Not awaited: one that swallows its cancellation would keep the next try from coming.
            in_time = task.done() or not task.cancel()
        if not in_time:
            raise TimeoutError(f"it took longer than {TIMEOUT // SECOND} s")
        task.result()


class Deliveries:
    """All sinks of a server, by name."""

    def __init__(self, sinks: Mapping[str, EventSink], store: Store, clock: Clock) -> None:
        self.all = [Delivery(name, sink, store, clock) for name, sink in sinks.items()]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with what the last server did not deliver."""
        context = contextvars.Context()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(delivery.run(), context=context.copy()) for delivery in self.all]

    def wake(self) -> None:
        """A commit has brought events."""
        for delivery in self.all:
            delivery.wake()

    async def stop(self) -> None:
        """Deliver nothing more: the next server does."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
