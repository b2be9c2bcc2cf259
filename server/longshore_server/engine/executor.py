"""Runs attempts: slots per type, a bounded line of those that wait for one, and the end of each."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from longshore_server.clock import Clock
from longshore_server.contract.types import OperationType
from longshore_server.engine.attempt import Attempt, Ending
from longshore_server.engine.live import Live
from longshore_server.engine.quotas import Quota, Shares
from longshore_server.engine.retries import Chance, Retries
from longshore_server.engine.waiting import Waiting
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.handler.offers import Objects
from longshore_server.handler.waits import HandlerWaits
from longshore_server.lifecycle import Move, State
from longshore_server.store.mutations import Begin, Settle
from longshore_server.store.store import Store
from longshore_server.tracer import Tracer

log = logging.getLogger(__name__)


class Executor:
    """All attempts of this server."""

    def __init__(
        self,
        types: Iterable[OperationType],
        store: Store,
        clock: Clock,
        *,
        concurrency: int,
        concurrency_per_owner: int,
        queue: int,
        queue_per_owner: int,
        max_payload: int,
        chance: Chance,
        tracer: Tracer,
        objects: Objects,
        waits: HandlerWaits,
    ) -> None:
        self.types = {type.name: type for type in types}
        self.store = store
        self.clock = clock
        self.max_payload = max_payload
        self.retries = Retries(clock, chance)
        self.tracer = tracer
        self.objects = objects
        self.waits = waits
        self.services: Any = None
        self.open = False
        """While false, operations wait: the server does not serve yet, and says so before a handler says anything."""
        self.stopping = False
        self.held = False
        """While true, new operations wait: recovery runs suspects apart (see `engine/recovery.py`)."""
        self._waiting = {
            name: Waiting(
                Shares(total=concurrency, share=concurrency_per_owner),
                Quota(
                    Reason.TOO_MANY_OPERATIONS, f"operations of type {name} wait", total=queue, share=queue_per_owner,
                    retry_after=1.0, metadata={"type": name},
                ),
            )
            for name in self.types
        }  # fmt: skip
        # Kept, because asyncio.create_task() makes a system call every time to find it.
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.Context()
        """What every attempt's own context is copied from: the lifespan's, never that of whoever caused the start."""
        self._attempts: set[Attempt] = set()
        self._left: set[Live] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many attempts run."""
        return len(self._attempts)

    def running_of(self, type: str) -> int:
        """How many attempts of one type run."""
        return self._waiting[type].slots.count

    def waiting_of(self, type: str) -> int:
        """How many operations of one type wait for a slot."""
        return len(self._waiting[type])

    def reserve(self, type: OperationType, owner: str) -> bool:
        """Take a slot for a start, if one is free and nobody waits for it, else a place among those that wait."""
        waiting = self._waiting[type.name]
        if self.held or self.stopping or not waiting.free(owner):
            waiting.places.take(owner)
            return False
        waiting.slots.take(owner)
        return True

    def settled(self, type: OperationType, owner: str, reserved: bool, created: bool) -> None:
        """The start for which `reserve` was called is through; a slot that it does not use is free again."""
        waiting = self._waiting[type.name]
        if not reserved:
            waiting.places.give(owner)
        elif not created:
            self._give(waiting, owner)

    def refusal(self, type: OperationType, owner: str) -> ServiceError | None:
        """Why no further operation of this type may begin now for this owner, if so."""
        waiting = self._waiting[type.name]
        return waiting.places.refusal(owner) if self.held or not waiting.slots.free(owner) else None

    def admit(self, live: Live) -> None:
        """A new operation is published: run it if it has its slot, else let it wait."""
        record = live.record
        if record.state is State.RUNNING:
            self._launch(live)
        elif record.type in self._waiting and not record.deferred:
            self.rerun(live)

    def forget(self, live: Live) -> None:
        """No handler is to begin: if the operation waited for a slot, its place in the line is free."""
        waiting = self._waiting.get(live.record.type)
        if waiting is not None:
            waiting.remove(live)

    def rerun(self, live: Live) -> None:
        """Let an operation wait for a slot: a new one, or one whose attempt was lost or has failed; never refused."""
        waiting = self._waiting[live.record.type]
        waiting.add(live)
        self._next(waiting)

    def start(self) -> None:
        """Begin with what waits."""
        self.open = True
        self._next_of_all()

    def release(self) -> None:
        """Stop holding new operations back."""
        self.held = False
        self._next_of_all()

    async def isolate(self, live: Live) -> None:
        """Begin one operation apart from those that wait. Returns once its attempt has begun."""
        waiting = self._waiting[live.record.type]
        waiting.slots.take(live.record.owner)
        await self._begin(waiting, live)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else. The event loop itself keeps no reference to a task."""
        task = self.loop.create_task(work, context=self.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finished(self, type: OperationType, live: Live, attempt: Attempt) -> None:
        """An attempt is over: its slot goes to whoever waits."""
        self._attempts.discard(attempt)
        if live.attempt is attempt:
            live.attempt = None
        self.free(type, attempt)
        if attempt.left:
            self._left.add(live)
            live.release()

    def works_on(self, live: Live) -> bool:
        """Whether an attempt runs, or its outcome is being stored: not where it is left to the next server."""
        return live.record.under_way and live not in self._left

    def free(self, type: OperationType, attempt: Attempt) -> None:
        """An attempt needs its slot no more: it goes to whoever waits. Repeatable."""
        if attempt.holds_slot:
            attempt.holds_slot = False
            self._give(self._waiting[type.name], attempt.live.record.owner)

    async def drain(self, until: int) -> None:
        """Give running attempts until `until` to end, then interrupt them. Nothing begins any more."""
        self.stopping = True
        for attempt in self._attempts:
            attempt.server_stops()
        tasks = [attempt.task for attempt in self._attempts]
        if tasks:
            done = asyncio.ensure_future(asyncio.wait(tasks))
            timer = self.clock.call_at(until, done.cancel)
            try:
                await done
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            finally:
                timer.cancel()
        left = list(self._attempts)
        for attempt in left:
            attempt.end(Ending.DRAIN)
        if left:
            # A handler that swallows its cancellation is left behind: the process is about to end.
            await asyncio.wait([attempt.task for attempt in left], timeout=5)

    def abandon(self) -> None:
        """For tests: end every attempt without a word."""
        self.stopping = True
        for attempt in list(self._attempts):
            attempt.end(Ending.DRAIN)
        for task in list(self._tasks):
            task.cancel()

    def _give(self, waiting: Waiting, owner: str) -> None:
        """A slot of this owner is free again: it goes to whoever waits."""
        waiting.give(owner)
        self._next(waiting)

    def _next_of_all(self) -> None:
        for waiting in self._waiting.values():
            self._next(waiting)

    def _next(self, waiting: Waiting) -> None:
        while self.open and not self.held and not self.stopping and (live := waiting.next()) is not None:
            if live.record.terminal:
                waiting.give(live.record.owner)
            else:
                self.spawn(self._begin(waiting, live))

    async def _begin(self, waiting: Waiting, live: Live) -> None:
        if self.stopping:
            return
        try:
            await self.store.writer.submit(Begin(live.record.uid))
        except ServiceError as error:
            # Ended or taken over by its provider while it waited: its slot goes to the next.
            if not live.record.terminal and not live.record.deferred:
                log.error(
                    "%s could not begin: %s",
                    live.record.name,
                    error.message,
                    extra={"operation": live.record.name, "type": live.record.type},
                )
                # Nobody will try again, and it would wait for ever. A store that has stopped refuses this, too.
                self.store.writer.submit(Settle(live.record.uid, None, Move.FAIL, failure(Reason.INTERNAL)))
            self._give(waiting, live.record.owner)
        else:
            if live.record.under_way:
                self._launch(live)
            else:
                self._give(waiting, live.record.owner)  # ended, or taken over, in the very commit that began it

    def _launch(self, live: Live) -> None:
        if self.stopping:
            return
        type = self.types[live.record.type]
        attempt = Attempt(self, type, live)
        live.attempt = attempt
        self._attempts.add(attempt)
