"""The one writer: drains a queue of mutations into one transaction, commits, and only then tells anyone.

    submit -> queue -> [take, apply, flush, COMMIT in the database's thread] -> publish -> resolve the callers

Nothing waits for a timer: a batch is whatever has come in while the last one was being committed. `publish` and the
callers' results happen in one step of the event loop, so that nobody sees half of a commit. One turn of the thread is
under way at a time: it takes what is queued when it begins, which is all that the last publication set off. A second
turn kept in readiness was measured: batches were smaller, and everything was slower.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from longshore_server.clock import SECOND, Clock, resolve
from longshore_server.errors import Reason, ServiceError
from longshore_server.histogram import Histogram
from longshore_server.store import queries
from longshore_server.store.batches import Batches, is_final, may_pass, nothing
from longshore_server.store.database import Database
from longshore_server.store.ledger import Commit
from longshore_server.store.mutations import Mutation
from longshore_server.store.outbox import Emitter
from longshore_server.store.record import OperationRecord

T = TypeVar("T")
log = logging.getLogger(__name__)

BATCH = 512
"""The most mutations in one transaction: bounds how long the first of them waits."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, BATCH)

Publish = Callable[[Commit], None]
Settled = Callable[[Any], None]


class _Item(NamedTuple):
    mutation: Mutation[Any]
    future: asyncio.Future[Any]
    settled: Settled | None


class _Batch(NamedTuple):
    """What one turn of the database's thread has done."""

    outcomes: list[Any]  # per item: what apply returned, or the exception that refused it
    published: Commit
    number: int  # of the latest commit that was begun; 0: none is new
    written: bool
    full: bool = False  # for want of room some of it is queued again


class Writer:
    """Owns the writing connection and the heads of all live operations."""

    def __init__(
        self, database: Database, clock: Clock, *, max_events: int, retention: Mapping[str, int], publish: Publish,
        emitter: Emitter | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._clock = clock
        self._transactions = Batches(database, clock, max_events=max_events, retention=retention, emitter=emitter)
        self._publish = publish
        # Kept, because asyncio.get_running_loop() makes a system call every time.
        self._loop = asyncio.get_running_loop()
        # Turns and what they publish run in nobody's context: a submitter's variables are its own.
        self._context = contextvars.Context()
        # Filled by the loop, emptied by the database's thread: a deque needs no lock for that.
        self._queue: deque[_Item] = deque()
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._failed: str | None = None
        self._closing = False
        self._abandoned = False
        self.published = 0
        """Number of the latest batch that is visible."""
        self.batches = Histogram(_SIZES)
        """How many mutations each transaction had."""
        self.batch = BATCH
        """The most mutations in one transaction; tests that stop between two of them allow one."""
        self.on_write: Callable[[Mutation[Any]], None] | None = None
        """For tests: told of each mutation that is durable, in the step that is about to publish it. Who abandons the
        writer here has it end as by a kill between the commit and the first who hears of it."""
        self.patient = True
        """Whether the server's own work waits for room on a full disk; until the server stops."""
        self._waiting = False
        self.on_failure: Callable[[str], None] = lambda _: None
        self._published_waiters: list[tuple[int, asyncio.Future[None]]] = []

    async def start(self) -> list[OperationRecord]:
        """Begin to write. Returns every live operation."""
        live = await self._database.run(lambda: queries.live(self._database.raw))
        self._transactions.open(live)
        return live

    def submit(self, mutation: Mutation[T], settled: Settled | None = None) -> asyncio.Future[T]:
        """Queue `mutation`; the future gives its outcome once that is durable and published.

        Cancelling the future changes nothing. Raises (through it) `ServiceError`: the mutation's own refusal, or
        STORE_UNAVAILABLE. `settled` gets the outcome or the exception in the step that publishes it, even when the
        future was cancelled before.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        item = _Item(mutation, future, settled)
        if self._failed is not None or self._closing:
            _resolve(item, _unavailable(self._failed or "The server is stopping."))
            return future
        self._queue.append(item)
        if not self._busy:
            self._go_on()
        return future

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `submit` may be called, and nowhere else."""
        return self._loop

    @property
    def committing(self) -> int:
        """Number of the latest batch whose COMMIT has begun."""
        return self._transactions.number

    @property
    def commits(self) -> Histogram:
        """How long each COMMIT took, in seconds."""
        return self._transactions.commits

    @property
    def backlog(self) -> int:
        """How many mutations wait for their transaction."""
        return len(self._queue)

    async def turn(self) -> None:
        """Return once the turn that is under way has ended; at once where there is none."""
        if self._busy and self._task is not None:
            await asyncio.wait([self._task])

    async def until_published(self, batch: int) -> None:
        """Return once batch number `batch` is visible, or known to have failed."""
        if self.published < batch:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._published_waiters.append((batch, waiter))
            await waiter

    async def close(self) -> None:
        """Write what is queued, then stop and close the database. Repeatable."""
        if self._closing and self._idle is not None:
            return
        self._closing = True
        self.hurry()
        self._idle = self._loop.create_future()
        if self._queue or self._busy:
            await self._idle
        await self._database.close()

    def abandon(self) -> None:
        """For tests: drop what is queued, write nothing more and tell nobody of what is being written, as if the
        process had been killed."""
        self._queue.clear()
        self._closing = self._abandoned = True

    def _go_on(self) -> None:
        """Begin the next turn, if there is anything to write and room for it."""
        if self._waiting:
            return
        if self._queue:
            self._busy = True
            # A task begins after everything that this step of the loop has woken, and so takes that along.
            self._task = self._loop.create_task(self._turn(), context=self._context)
        elif self._idle is not None:
            resolve(self._idle)

    async def _turn(self) -> None:
        items: deque[_Item] = deque()
        try:
            batch = await self._database.run(self._take, items)
            if self.on_write is not None and batch.written:
                for item, outcome in zip(items, batch.outcomes, strict=True):
                    if not isinstance(outcome, Exception):
                        self.on_write(item.mutation)
            if self._abandoned:
                items.clear()
                batch = _NO_BATCH
            if batch.number:
                # One step of the loop: nobody sees half of a commit.
                self._publish(batch.published)
                self._mark(batch.number)
            if batch.written:
                self.batches.observe(len(items))
            for outcome in batch.outcomes:
                _resolve(items.popleft(), outcome)
        except Exception as error:
            log.exception("the writer broke")
            self._failed = self._failed or f"The store has stopped: {error!r}."
            self._queue.extendleft(reversed(items))  # whoever was not told yet is refused with those that wait
            batch = _NO_BATCH
        self._busy = False
        if self._failed is not None:
            self._refuse_all(self._failed)
        if batch.full:
            self._waiting = True
            self._clock.call_at(self._clock.now() + SECOND, self._try_again)
        self._go_on()

    def _try_again(self) -> None:
        if self._waiting:
            self._waiting = False
            self._go_on()

    def hurry(self) -> None:
        """The server stops: what waits for room on a full disk is refused."""
        self.patient = False
        self._try_again()

    def _mark(self, number: int) -> None:
        self.published = number
        if self._published_waiters:
            for _, waiter in self._published_waiters:
                resolve(waiter)
            self._published_waiters.clear()

    def _refuse_all(self, reason: str) -> None:
        """The writer has stopped: whoever waits is told, and so is the server, once."""
        while self._queue:
            try:
                _resolve(self._queue.popleft(), _unavailable(reason))
            except Exception:
                log.exception("one of those who wait for a change could not be told that it is refused")
        self._mark(self.committing)
        tell, self.on_failure = self.on_failure, lambda _: None
        tell(reason)

    # From here on: in the database's thread.

    def _take(self, items: deque[_Item]) -> _Batch:
        """One turn: everything that is queued, in one transaction. What it takes, and does not put back, is in `items`
        whatever becomes of it."""
        while self._queue and len(items) < self.batch:
            items.append(self._queue.popleft())
        if not items:
            return _NO_BATCH
        if self._failed is None:
            try:
                outcomes, published = self._transactions.write([item.mutation for item in items])
                return _Batch(outcomes, published, self.committing, True)
            except Exception as error:  # noqa: BLE001 - the callers get it, the writer goes on
                if is_final(error):
                    self._failed = f"The store has stopped: {error}. Restart the server once the disk works."
                    log.critical("%s", self._failed)
                else:
                    # Disk full or I/O error: nothing of this batch is stored, the next one may succeed.
                    log.error("a batch of %d changes was not written: %s", len(items), error)
                    full = self.patient and may_pass(error) and self._put_back(items)
                    refusal = _unavailable(f"The store cannot write: {error}.")
                    return _Batch([refusal] * len(items), nothing(), self.committing, False, full)
        return _Batch([_unavailable(self._failed)] * len(items), nothing(), 0, False)

    def _put_back(self, items: deque[_Item]) -> bool:
        """Leave in the queue what waits for room, in its order. Whether there is any: then `items` has all others, also
        those that were queued behind, whom enough of it would keep from ever being tried."""
        if not any(item.mutation.patient for item in items):
            return False
        while self._queue:
            items.append(self._queue.popleft())
        patient = [item for item in items if item.mutation.patient]
        others = [item for item in items if not item.mutation.patient]
        items.clear()
        items.extend(others)
        # In front of what has come in meanwhile, which may build on them.
        self._queue.extendleft(reversed(patient))
        return True


_NO_BATCH = _Batch([], nothing(), 0, False)


def _resolve(item: _Item, outcome: Any) -> None:
    # The future first: whoever awaits it goes on in a later step, and is told even if `settled` breaks.
    if not item.future.done():
        if isinstance(outcome, Exception):
            item.future.set_exception(outcome)
            # Looked at once, so that asyncio does not report a refusal that nobody awaits.
            item.future.exception()
        else:
            item.future.set_result(outcome)
    if item.settled is not None:
        item.settled(outcome)


def _unavailable(reason: str) -> ServiceError:
    return ServiceError(Reason.STORE_UNAVAILABLE, reason, retry_after=5.0)
