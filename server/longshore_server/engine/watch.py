"""The watch: a cursor over one operation's log, not a queue.

A watcher holds its last sequence and nothing else. A commit wakes it; it reads what follows from the ring that all
watchers share or, when it lags behind that, from the log. However slow it is, it costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from longshore_server.auth.identity import expired
from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.engine.live import Live
from longshore_server.engine.quotas import Quota
from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import TERMINAL_EVENTS, EventType
from longshore_server.store.record import Event, OperationRecord
from longshore_server.store.store import Store

HEARTBEAT = 15 * SECOND
PAGE = 256
"""How many events a lagging watcher reads from the log at once."""


class Snapshot(NamedTuple):
    """The published snapshot. `reset`: it stands for events that the log no longer holds."""

    live: Live
    record: OperationRecord
    reset: bool


class Skip(NamedTuple):
    """One event, and the events after `covers_after` and before it that were left out on purpose."""

    event: Event
    covers_after: int


class Heartbeat(NamedTuple):
    """Nothing happened. Everything up to `sequence` was sent or left out on purpose."""

    sequence: int
    time: int


Item = Event | Skip | Snapshot | Heartbeat


@dataclass(frozen=True)
class WatchOptions:
    """What a watcher wants to see.

    `after`: resume after this sequence; None: the snapshot first. `types`: only these, and the terminal event; None:
    all. `conflate`: of the progress that waits only the latest. `heartbeat`: microseconds of silence before a sign of
    life. `until`: when the watcher's credentials end, and with them the watch. `inside`: a handler watches; a stop of
    the server does not end its watch with an error, which would become its operation's end.
    """

    after: int | None = None
    types: frozenset[EventType] | None = None
    conflate: bool = False
    heartbeat: int = HEARTBEAT
    until: int | None = None
    inside: bool = False


class Watches:
    """All watches of this server."""

    def __init__(self, store: Store, clock: Clock, places: Quota) -> None:
        self._store = store
        self._clock = clock
        self._places = places
        self._open: dict[_Pulse, Live] = {}
        self._draining: ServiceError | None = None

    @property
    def count(self) -> int:
        """How many are open."""
        return self._places.count

    def end(self, reason: ServiceError) -> None:
        """End every watch, and every later one, with `reason`."""
        self._draining = reason
        for live in set(self._open.values()):
            live.wake()

    def place(self, owner: str) -> AbstractContextManager[None]:
        """The place of one watch of `owner`. Who starts what it will watch takes it first: a refusal leaves nothing.

        Raises `ServiceError` (TOO_MANY_WATCHES).
        """
        return self._places.place(owner)

    def watch(self, live: Live, options: WatchOptions) -> AsyncIterator[Sequence[Item]]:
        """Follow `live` to its end, in batches of what is there, in a `place`. Raises `ServiceError`, even later."""
        if options.after is not None and options.after > live.record.sequence:
            raise ServiceError(
                Reason.SEQUENCE_OUT_OF_RANGE,
                f"{live.record.name} has {live.record.sequence} events so far: cannot resume after {options.after}.",
                resource=live.record.name,
                metadata={"sequence": str(live.record.sequence)},
            )
        # Not a generator around another: each costs its share of every message.
        return self._follow(live, options)

    async def _follow(self, live: Live, options: WatchOptions) -> AsyncIterator[Sequence[Item]]:
        cursor = options.after
        if cursor is None:
            # The snapshot and the cursor are taken in one step of the event loop: nothing fits in between.
            record = live.record
            cursor = record.sequence
            yield [Snapshot(live, record, False)]
        covered = cursor
        plain = options.types is None and not options.conflate
        pulse = _Pulse(self._clock, options.heartbeat, options.until)
        self._open[pulse] = live
        try:
            while True:
                if self._draining is not None and not options.inside:
                    raise self._draining
                if options.until is not None and self._clock.now() >= options.until:
                    raise expired()
                events = live.after(cursor)
                if events is None:
                    events = await self._from_log(live, cursor)
                    if events is None:
                        record = live.record
                        cursor = covered = record.sequence
                        yield [Snapshot(live, record, True)]
                        continue
                if events:
                    cursor = events[-1].sequence
                    if plain:
                        yield events
                        pulse.postpone()
                        continue
                    batch, covered = _select(events, covered, options)
                    if batch:
                        yield batch
                        # Events that the watcher does not want do not put it off: they keep no proxy from closing
                        # the stream.
                        pulse.postpone()
                    continue
                if live.record.terminal:
                    return
                if await pulse.silence(live) and (options.until is None or self._clock.now() < options.until):
                    yield [Heartbeat(cursor, self._clock.now())]
                    pulse.postpone()
        finally:
            del self._open[pulse]
            pulse.stop()

    async def _from_log(self, live: Live, cursor: int) -> list[Event] | None:
        """The published events after `cursor`; None when the log does not reach back to it any more."""
        if cursor + 1 < live.record.first_sequence:
            return None
        published = live.record.sequence
        rows = await self._store.log(live.record.uid, cursor, PAGE)
        # Up to the first gap: the log may have been trimmed meanwhile, and the latest progress is kept beyond that.
        found: list[Event] = []
        for row in rows:
            if row.sequence != cursor + 1 or row.sequence > published:
                break
            found.append(row)
            cursor = row.sequence
        return found or None


class _Pulse:
    """Tells one watcher when it has been silent for too long.

    Its timer is not moved when something is sent: it looks again when it fires. Most never have to.
    """

    __slots__ = ("_clock", "_due", "_interval", "_silent", "_timer", "_until", "_waiting")

    def __init__(self, clock: Clock, interval: int, until: int | None) -> None:
        self._clock = clock
        self._interval = interval
        self._until = until
        self._due = self._later()
        self._timer: Timer | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._silent = False

    def postpone(self) -> None:
        """Something was sent."""
        self._due = self._later()

    async def silence(self, live: Live) -> bool:
        """Wait for a publication; True when it is time for a sign of life instead."""
        if self._timer is None:
            self._timer = self._clock.call_at(self._due, self._fire)
        self._silent = False
        future = self._waiting = live.changed()
        try:
            await future
        finally:
            self._waiting = None
            live.forget(future)
        return self._silent

    def _later(self) -> int:
        due = self._clock.now() + self._interval
        return due if self._until is None else min(due, self._until)

    def stop(self) -> None:
        """The watch is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._clock.now() < self._due:
            self._timer = self._clock.call_at(self._due, self._fire)
        elif not self._waiting.done():
            self._silent = True
            self._waiting.set_result(None)


def _select(events: Sequence[Event], covered: int, options: WatchOptions) -> tuple[list[Item], int]:
    """What of `events` is sent, and the sequence up to which everything is sent or accounted for by a sent event."""
    latest = max((e.sequence for e in events if e.type is EventType.PROGRESS), default=0)
    batch: list[Item] = []
    for event in events:
        wanted = options.types is None or event.type in options.types or event.type in TERMINAL_EVENTS
        if options.conflate and event.type is EventType.PROGRESS and event.sequence < latest:
            wanted = False
        if wanted:
            batch.append(event if event.sequence == covered + 1 else Skip(event, covered))
            covered = event.sequence
    return batch, covered
