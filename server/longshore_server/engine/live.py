"""Operations in memory: the published snapshot, the latest events, and who waits for the next.

Only `Table.publish` changes them, in one step of the event loop per commit.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from longshore_server.clock import resolve
from longshore_server.store.ledger import Published
from longshore_server.store.record import Event, OperationRecord

if TYPE_CHECKING:
    from longshore_server.engine.attempt import Attempt

RING = 256
"""How many of an operation's latest events are kept in memory for its watchers."""
RING_BYTES = 1 << 20
"""How many bytes of them."""
ENDED = 4096
"""How many ended operations stay in memory, so that a caller who comes for the result finds it there."""
ENDED_BYTES = 64 << 20
"""How many bytes of them."""


class Live:
    """One operation: what is published of it, and who waits."""

    __slots__ = (
        "_enders", "_loop", "_waiters", "attempt", "input", "record", "ring", "ring_bytes",
        "weight",
    )  # fmt: skip

    def __init__(self, record: OperationRecord, loop: asyncio.AbstractEventLoop) -> None:
        self.record = record
        self._loop = loop
        self.ring: deque[Event] = deque()
        self.ring_bytes = 0
        self.weight = 0
        self.input: Message | None = None
        self.attempt: Attempt | None = None
        # Dicts for their order and for leaving in O(1): an idle watch leaves and comes back at every heartbeat.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._enders: dict[asyncio.Future[None], None] = {}

    def changed(self) -> asyncio.Future[None]:
        """A future that is done at the next publication. Each waiter has its own, so that cancelling one frees one."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters[future] = None
        return future

    def ended(self) -> asyncio.Future[None]:
        """A future that is done once the operation has ended."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.record.terminal:
            future.set_result(None)
        else:
            self._enders[future] = None
        return future

    def join(self, future: asyncio.Future[None]) -> None:
        """Let a future that somebody waits for already be done once the operation has ended."""
        self._enders[future] = None

    def forget(self, future: asyncio.Future[None]) -> None:
        """Let go of a future that nobody waits for any more."""
        self._waiters.pop(future, None)
        self._enders.pop(future, None)

    def after(self, sequence: int) -> list[Event] | None:
        """The published events after `sequence`, or None when the ring no longer reaches back that far."""
        count = self.record.sequence - sequence
        if count <= 0:
            return []
        ring = self.ring
        if count == 1 and ring:
            return [ring[-1]]
        if count > len(ring):
            return None
        if count == len(ring):
            return list(ring)
        return [ring[i] for i in range(len(ring) - count, len(ring))]

    def publish(self, record: OperationRecord, events: list[Event]) -> None:
        """A commit: the new snapshot, the new events, and everyone who waits."""
        self.record = record
        for event in events:
            self.ring.append(event)
            self.ring_bytes += len(event.body)
        while len(self.ring) > RING or (self.ring_bytes > RING_BYTES and len(self.ring) > 1):
            self.ring_bytes -= len(self.ring.popleft().body)
        self.wake()
        if record.terminal:
            self.release()

    def release(self) -> None:
        """Wake whoever waits for the end: it has come, or the server stops waiting for it."""
        enders, self._enders = self._enders, {}
        for future in enders:
            resolve(future)

    def wake(self) -> None:
        """Wake whoever waits for a change."""
        waiters, self._waiters = self._waiters, {}
        for future in waiters:
            resolve(future)


class Table:
    """All operations in memory: every live one, and the ones that ended last."""

    def __init__(self, on_new: Callable[[Live], None], on_end: Callable[[Live], None]) -> None:
        # Kept, because asyncio.get_running_loop() makes a system call every time.
        self._loop = asyncio.get_running_loop()
        self.live: dict[bytes, Live] = {}
        self._ended: OrderedDict[bytes, Live] = OrderedDict()
        self._ended_bytes = 0
        self.outdated = 0
        """Counts the changes of ended operations, deletions and lost names: what the store gave before may be old."""
        self._names: dict[str, bytes] = {}
        self._on_new = on_new
        self._on_end = on_end

    def get(self, uid: bytes) -> Live | None:
        """The operation, if it is in memory."""
        found = self.live.get(uid)
        if found is None:
            found = self._ended.get(uid)
            if found is not None:
                self._ended.move_to_end(uid)
        return found

    def named(self, id: str) -> Live | None:
        """The live operation with this public id, if it is in memory."""
        uid = self._names.get(id)
        return None if uid is None else self.live.get(uid)

    def add(self, record: OperationRecord) -> Live:
        """Take in an operation that the store already held."""
        live = Live(record, self._loop)
        if record.terminal:
            self._keep(live)
        else:
            self.live[record.uid] = live
            self._names[record.id] = record.uid
        return live

    def publish(self, commit: dict[bytes, Published]) -> None:
        """Make one commit visible, all of it in this step of the event loop."""
        for uid, (record, events) in commit.items():
            live = self.live.get(uid)
            if record is None:
                self.outdated += 1
                gone = self._ended.pop(uid, None)
                if gone is not None:
                    self._ended_bytes -= gone.weight
                    gone.wake()
                continue
            if live is None and not events:
                # It had ended, and its name goes over to another.
                self.outdated += 1
                if (ended := self._ended.get(uid)) is not None:
                    ended.record = record
                continue
            id = record.id if live is None else live.record.id
            if live is None:
                live = self.live[uid] = Live(record, self._loop)
                self._names[id] = uid
                live.publish(record, events)
                if not record.terminal:
                    self._on_new(live)
            else:
                live.publish(record, events)
            if record.terminal:
                self._on_end(live)
                del self.live[uid]
                if self._names.get(id) == uid:
                    del self._names[id]
                live.input = None
                self._keep(live)

    def _keep(self, live: Live) -> None:
        record = live.record
        live.weight = 1024 + live.ring_bytes + len(record.result or b"") + len(record.progress or b"")
        self._ended[record.uid] = live
        self._ended_bytes += live.weight
        while len(self._ended) > ENDED or self._ended_bytes > ENDED_BYTES:
            _, oldest = self._ended.popitem(last=False)
            self._ended_bytes -= oldest.weight
