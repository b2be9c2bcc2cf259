"""Runs the handlers of instances: one at a time of each, so many of them all as there are slots."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Mapping
from typing import Any

from longshore_server.clock import Clock
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.handler.lending import Acting, Slot, Slots, acting
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances.definition import Chance, Definition, InterruptedRunError
from longshore_server.instances.run import Surroundings, fields, running_fields
from longshore_server.instances.scheduler import Scheduler
from longshore_server.store import instances as rows
from longshore_server.store.instances import InstanceRecord
from longshore_server.store.mutations import Nothing
from longshore_server.store.mutations.instance import Address
from longshore_server.store.mutations.instance_run import BeginRun, FailRun, LoseRun, Work
from longshore_server.store.store import Store

log = logging.getLogger(__name__)

SLOTS = 256
"""How many handlers of instances run at once, without those that wait for something else of the server."""
IN_A_ROW = 16
"""How many handlers of one instance run before others get its slot."""


class Runner:
    """All runs of this server."""

    def __init__(
        self, definitions: Mapping[tuple[Kind, str], Definition[Any]], store: Store, clock: Clock, chance: Chance,
        max_payload: int,
    ) -> None:  # fmt: skip
        self._definitions = definitions
        self._store = store
        self._clock = clock
        self._chance = chance
        self._max_payload = max_payload
        self._around: Surroundings
        self._context = contextvars.Context()
        self._runs: dict[bytes, asyncio.Task[None]] = {}
        self._works: dict[bytes, Work] = {}
        self._slots = Slots(SLOTS, self._freed)
        self._scheduler = Scheduler(store, clock, self._begin, self._runs.keys, self._slots)
        self._stopping = False
        self.started = False
        """Whether handlers run."""

    def start(self, services: Any) -> None:
        """Run what is due from now on."""
        self._around = Surroundings(self._clock, self._clock.now(), services, self._max_payload, self._store.writer)
        self._context = contextvars.copy_context()
        self.started = True
        self._scheduler.start()

    async def recover(self) -> None:
        """What the last server was at runs again, and counts as a crash; there is a cap on that."""
        for record in await self._store.read(rows.left_behind):
            definition = self._definitions.get((record.kind, record.definition))
            lost = LoseRun(record.uid, definition is not None, 0 if definition is None else definition.max_crashes)
            await self._store.writer.submit(lost)

    def publish(self, uid: bytes, record: InstanceRecord | None) -> None:
        """An instance has changed: its handler may be due, or may have lost its right to run."""
        work = self._works.get(uid)
        if work is not None and (record is None or record.fence != work.record.fence or not record.under_way):
            # Once: another cancellation would interrupt its cleanup.
            del self._works[uid]
            self._runs[uid].cancel()
        if record is not None and record.due is not None:
            self._scheduler.note(uid, record.due)

    async def stop(self, until: int) -> None:
        """Begin nothing more, give what runs until `until`, and leave the rest to the next server."""
        self._stopping = True
        self._scheduler.stop()
        runs = list(self._runs.values())
        if runs:
            done = asyncio.ensure_future(asyncio.wait(runs))
            timer = self._clock.call_at(until, done.cancel)
            await asyncio.wait([done])
            timer.cancel()
        for run in list(self._runs.values()):
            run.cancel()
        if self._runs:
            # A handler that swallows its cancellation is left behind: the process is about to end.
            await asyncio.wait(list(self._runs.values()), timeout=5)

    async def release(self) -> None:
        """Say of what was interrupted that no crash has done it."""
        # A run whose begin was with the writer is under way only after it.
        await asyncio.gather(self._store.writer.submit(Nothing()), return_exceptions=True)
        for record in await self._store.read(rows.left_behind):
            await asyncio.gather(self._store.writer.submit(LoseRun(record.uid, False)), return_exceptions=True)

    def abandon(self) -> None:
        """For tests: end every run without a word."""
        self._stopping = True
        self._scheduler.stop()
        for run in self._runs.values():
            run.cancel()

    def _begin(self, uid: bytes) -> None:
        slot = self._slots.take()
        task = asyncio.get_running_loop().create_task(self._serve(uid, slot), context=self._context.copy())
        self._runs[uid] = task
        task.add_done_callback(lambda _: self._ended(uid, slot))

    def _ended(self, uid: bytes, slot: Slot) -> None:
        del self._runs[uid]
        slot.end()

    def _freed(self) -> None:
        self._scheduler.go_on()

    async def _serve(self, uid: bytes, slot: Slot) -> None:
        """Handlers of one instance, one after the other, while more are due."""
        for _ in range(IN_A_ROW):
            if self._stopping:
                return
            try:
                work = await self._store.writer.submit(BeginRun(uid))
            except ServiceError as error:
                log.error("a handler could not begin: %s", error.message)
                self._scheduler.set_aside(uid)
                return
            # A handler that was stopped while it waited may have left its slot lent: the next one is to have its own.
            if work is None or not await self._run(work, slot) or not slot.held:
                return

    async def _run(self, work: Work, slot: Slot) -> bool:
        """One handler, to its end. Whether there may be more to do."""
        record = work.record
        definition = self._definitions[record.kind, record.definition]
        self._works[record.uid] = work
        by = Acting(Address(record.kind, record.definition, record.id), slot)
        acting.set(by)
        running_fields.set(fields(record))
        try:
            change = await definition.handle(work, self._around, self._chance)
        except InterruptedRunError:
            return False
        except asyncio.CancelledError:
            # The server stops, or the instance has ended: there is nothing to say of it any more.
            task = asyncio.current_task()
            if self._stopping or task is None:
                raise
            while task.cancelling():
                task.uncancel()
            return True
        finally:
            by.over = True
            self._works.pop(record.uid, None)
        try:
            after: InstanceRecord = await self._store.writer.submit(change)
        except ServiceError as error:
            if error.reason is Reason.INTERNAL:
                # It cannot be stored. Left as it is it would be under way for ever.
                failed = FailRun(record.uid, record.fence, failure(Reason.INTERNAL), None)
                await asyncio.gather(self._store.writer.submit(failed), return_exceptions=True)
            else:
                log.info("%s: what its handler did is lost: %s", record.name, error.message)
            return True
        return after.due is not None and after.due <= self._clock.now()
