"""The engine: every way in and out of operations, whatever the protocol in front of it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from google.protobuf.message import Message

from longshore_server.clock import Clock, resolve
from longshore_server.contract.template import MAX_ID
from longshore_server.contract.types import OperationType
from longshore_server.engine import deploys, recovery
from longshore_server.engine.attempt import Ending
from longshore_server.engine.deadlines import Deadlines
from longshore_server.engine.executor import Executor
from longshore_server.engine.live import Live, Table
from longshore_server.engine.overdue import Overdue
from longshore_server.engine.quotas import Quota
from longshore_server.engine.requests import Requests, Started, not_found
from longshore_server.engine.retries import Chance
from longshore_server.engine.starts import DEFAULT, Starts, Terms
from longshore_server.engine.sweeper import Sweeper
from longshore_server.engine.transfers import Transfers
from longshore_server.engine.waits import Waits
from longshore_server.engine.watch import Item, Watches, WatchOptions
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.handler.durable import Durable, wait_on
from longshore_server.handler.waits import HandlerWaits
from longshore_server.ids import Uids, parse_uid, uid_text
from longshore_server.instances.definition import Definition
from longshore_server.instances.host import Instances
from longshore_server.jobs.host import Host
from longshore_server.jobs.queue import JobQueue
from longshore_server.lifecycle import State
from longshore_server.store.database import StoreError
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instance_leftovers import Leftovers
from longshore_server.store.job_sequels import Sequels
from longshore_server.store.jobs import Jobs
from longshore_server.store.ledger import Commit
from longshore_server.store.logs import Logs
from longshore_server.store.mutations import (
    Accepted,
    Boot,
    Interrupt,
    Nothing,
    Shutdown,
    StoreContracts,
)
from longshore_server.store.mutations.outbox import DeclareSinks
from longshore_server.store.outbox import SILENCE, Emission, Outbox
from longshore_server.store.pages import Count, Scope
from longshore_server.store.record import OperationRecord
from longshore_server.store.search import Condition
from longshore_server.store.store import Store
from longshore_server.tracer import Tracer
from longshore_server.transfers import stores as objects

log = logging.getLogger(__name__)

NO_STORES: Mapping[str, objects.Store] = MappingProxyType({})


class Limits(NamedTuple):
    """The bounds of one engine; see `longshore_server.config.Config`, whose fields they are."""

    concurrency: int
    concurrency_per_owner: int
    queue: int
    queue_per_owner: int
    max_live: int
    max_live_per_owner: int
    max_events: int
    max_input: int
    max_payload: int
    max_watches: int
    max_watches_per_owner: int
    max_transfers: int
    max_transfers_per_owner: int
    retention: int
    """Microseconds that what has ended is kept where its contract or definition says nothing; 0: for ever."""
    log_retention: int
    """Microseconds that a line of a log is kept; 0: as long as its operation or job."""


class Engine:
    """Operations of a set of types on one data directory."""

    def __init__(
        self, types: Sequence[OperationType], directory: Path, clock: Clock, limits: Limits,
        chance: Chance = random.random, tracer: Tracer | None = None, stores: Mapping[str, objects.Store] = NO_STORES,
        definitions: Iterable[Definition[Any]] = (), queues: Iterable[JobQueue[Any, Any]] = (),
        emission: Emission = SILENCE,
    ) -> None:  # fmt: skip
        self.tracer = tracer or Tracer()
        self.types = {type.name: type for type in types}
        self.clock = clock
        self._limits = limits
        self.table = Table(self._on_new, self._on_end)
        kept = {type.name: limits.retention if type.retention is None else type.retention for type in types}
        self.store = Store(
            directory, clock, max_events=limits.max_events, publish=self._on_commit,
            retention={name: retention for name, retention in kept.items() if retention}, emission=emission,
        )  # fmt: skip
        transfers = Quota(
            Reason.TOO_MANY_TRANSFERS, "transfers are under way", total=limits.max_transfers,
            share=limits.max_transfers_per_owner, retry_after=5.0,
        )  # fmt: skip
        self.handler_waits = HandlerWaits(self.store)
        self.transfers = Transfers(self.store, clock, stores, directory / "staging", self._record, transfers)
        self.executor = Executor(
            types, self.store, clock,
            concurrency=limits.concurrency, concurrency_per_owner=limits.concurrency_per_owner, queue=limits.queue,
            queue_per_owner=limits.queue_per_owner, max_payload=limits.max_payload, chance=chance,
            tracer=self.tracer, objects=self.transfers.objects, waits=self.handler_waits,
        )  # fmt: skip
        watches = Quota(
            Reason.TOO_MANY_WATCHES, "watches are open", total=limits.max_watches, share=limits.max_watches_per_owner,
            retry_after=5.0,
        )  # fmt: skip
        self.watches = Watches(self.store, clock, watches)
        self._live = Quota(
            Reason.TOO_MANY_OPERATIONS, "operations have not ended", total=limits.max_live,
            share=limits.max_live_per_owner, retry_after=5.0,
        )  # fmt: skip
        overdue = Overdue(self.store, clock)
        self.deadlines = Deadlines(clock, overdue.deadline)
        self.waits = Waits(clock, lambda live: self.types[live.record.type].cancel_grace, self._again, overdue.grace)
        self.max_input = limits.max_input
        """The largest input in bytes."""
        self.requests = Requests(self.types, self.store, self.start, max_payload=limits.max_payload)
        self.instances = Instances(
            definitions, self.store, clock, chance, limits.max_payload,
            lambda: self.not_accepting() if self.draining else None, self.handler_waits,
        )  # fmt: skip
        self.sweeper = Sweeper(clock, limits.log_retention, self.instances.retention(limits.retention))
        self.jobs = Host(
            queues, self.store, clock, chance=chance, tracer=self.tracer, max_input=limits.max_input,
            max_payload=limits.max_payload, retention=limits.retention,
            closed=lambda: self.not_accepting() if self.draining else None, waits=self.handler_waits,
        )  # fmt: skip
        self._emission = emission
        self.on_events: Callable[[], object] = lambda: None
        """Told of each commit that holds events for sinks."""
        self.accepting = False
        """Whether new operations may begin."""
        self.draining = False
        self.ended: dict[tuple[str, State], int] = {}
        """How many operations have ended since the start, by type and state."""
        # Kept, because asyncio.get_running_loop() makes a system call every time.
        self._loop = asyncio.get_running_loop()
        self._starts: Starts
        self._isolation: recovery.Isolation
        self._epoch = 0
        self._recovered = False

    # Life.

    async def open(self) -> None:
        """Open the store and check that what lives in it can go on. Raises `StoreError`."""
        records, highest = await self.store.open()
        self._past = await self.store.past(recovery.QUICK)
        contracts = await deploys.check(self.store, self.types, records)
        await deploys.check_stores(self.store, self.transfers.stores, records)
        try:
            self._epoch = await self.store.writer.submit(Boot())
            numbers = await self.store.writer.submit(StoreContracts(contracts))
            await self.store.writer.submit(DeclareSinks(self._emission.sinks))
        except ServiceError as error:
            raise StoreError(f"{self.store.path}: {error.message}") from None
        uids = Uids(self.clock, highest)
        await self.jobs.open(uids)
        self._innocent = await recovery.innocent(records, self.jobs, self._past)
        self._starts = Starts(
            self.executor, self.clock, uids, self.store.writer,
            max_input=self._limits.max_input, closed=self._closed, contracts=numbers, live=self._live,
            tracer=self.tracer,
        )  # fmt: skip
        self._isolation = recovery.Isolation(self.executor, self.jobs, self.store.writer, self.clock, self._epoch)
        for record in records:
            self.deadlines.add(self.table.add(record))
            self._live.take(record.owner)
        await self.instances.open()

    async def recover(self, services: Any) -> int:
        """Let what the last server left behind go on, then accept new work. Returns how many operations go on."""
        self.executor.services = services
        self.executor.context = contextvars.copy_context()
        self.jobs.services, self.jobs.context = services, self.executor.context
        count = await recovery.recover(
            list(self.table.live.values()), self.executor, self.waits, self.store.writer, self.clock, self._past,
            self._innocent, self._isolation, self.jobs,
        )  # fmt: skip
        self._recovered = True
        await self.transfers.start()
        await self.sweeper.start(self.store)
        # From here on nothing waits: whoever started the server says that it serves before any handler says something.
        self.accepting = True
        self.executor.start()
        self.jobs.start()
        self.instances.start(services)
        return count

    def drain(self) -> None:
        """Accept nothing new and end watches and downloads: their callers resume at the next server."""
        self.accepting = False
        self.draining = True
        self.sweeper.stop()
        self.watches.end(self.not_accepting())
        self.transfers.drain(self.not_accepting())
        self.jobs.drain()
        self.instances.drain(self.not_accepting())
        for live in self.table.live.values():
            live.release()

    async def stop(self, until: int) -> int:
        """Give running attempts until `until`, then leave the rest to the next server. Returns how many those are."""
        self.drain()
        await self.transfers.close()
        await asyncio.gather(self.executor.drain(until), self.instances.stop(until), self.jobs.stop(until))
        # From here on nothing waits for room on a full disk: the stop has to come to its end.
        self.store.writer.hurry()
        await asyncio.gather(self.jobs.release(), self.instances.release())
        # Starts whose commit was under way count too: in the store they run, though nothing was launched for them.
        await asyncio.gather(self.store.writer.submit(Nothing()), return_exceptions=True)
        left = [live.record for live in self.table.live.values() if live.record.under_way]
        changes = [
            self.store.writer.submit(Interrupt(record.uid, False, False, type.rerun, type.max_crashes))
            for record in left
            for type in [self.types[record.type]]
        ]
        await asyncio.gather(*changes, return_exceptions=True)
        self.deadlines.stop()
        self.waits.stop()
        return len(left)

    async def close(self) -> None:
        """Write what is queued and close the store. Repeatable."""
        if self._epoch:
            shutdown = self.store.writer.submit(Shutdown(self._epoch, self._recovered))
            await asyncio.gather(shutdown, return_exceptions=True)
            self._epoch = 0
        self.instances.close()
        self.jobs.unbind()
        self.transfers.end()
        await self.store.close()

    def abandon(self) -> None:
        """For tests: from here on nothing is written and no handler runs, as if the process had been killed."""
        self._epoch = 0
        self.accepting = False
        self.sweeper.stop()
        self.store.writer.abandon()
        self.executor.abandon()
        self.jobs.abandon()
        self.instances.abandon()
        self.transfers.abandon()
        self.deadlines.stop()
        self.waits.stop()

    # Callers.

    def type_named(self, name: str) -> OperationType:
        """The type. Raises `ServiceError` (UNKNOWN_TYPE)."""
        found = self.types.get(name)
        if found is None:
            known = f"the types are {', '.join(sorted(self.types))}" if self.types else "this server has no operations"
            raise invalid("type", f"{name[:200]!r} is not served here; {known}", reason=Reason.UNKNOWN_TYPE)
        return found

    async def start(self, type: OperationType, input: Message, terms: Terms = DEFAULT) -> Started:
        """Start an operation, or find the one that the same request started. Returns once it is durable.

        Raises `ServiceError`: INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED or UNAVAILABLE.
        """
        accepted = await self._starts.submit(type, input, terms)
        return Started(await self._live_of(accepted.record), accepted.created)

    async def start_and_wait(
        self, type: OperationType, input: Message, terms: Terms, until: int | None
    ) -> tuple[Started, OperationRecord]:
        """`start` and then `wait` without a stop in between: the commit of the start wakes nobody."""
        end = self._loop.create_future()
        joined: Live | None = None

        def begun(outcome: Accepted | Exception) -> None:
            nonlocal joined
            joined = live = self.table.live.get(outcome.record.uid) if isinstance(outcome, Accepted) else None
            if live is None or self.draining:
                resolve(end)  # refused, or it had ended before, or the server no longer waits for ends
            else:
                live.join(end)

        accepting = self._starts.submit(type, input, terms, begun)
        timer = None if until is None else self.clock.call_at(until, partial(resolve, end))
        try:
            await end
        finally:
            if timer is not None:
                timer.cancel()
            if joined is not None:
                joined.forget(end)
        accepted = await accepting
        live = await self._live_of(accepted.record)
        return Started(live, accepted.created), await self.wait(live, until)

    async def _live_of(self, record: OperationRecord) -> Live:
        """The operation that a start made or found."""
        live = self.table.get(record.uid)
        if live is None and record.terminal:
            # Not read once more: it may have been deleted since, and a start is never answered by "not found".
            return Live(record, self._loop)
        return live or await self.load(record.uid)

    async def find(self, name: str) -> Live:
        """The operation that `name` means: `operations/{id}` or `operations/{uid}`. Raises `ServiceError`."""
        prefix, _, id = name.partition("/")
        if prefix != "operations" or not id or "/" in id or len(id) > MAX_ID:
            raise invalid("name", f"{name[:200]!r} is not of the form operations/{{id}}", reason=Reason.INVALID_NAME)
        uid = parse_uid(id)
        if uid is None:
            live = self.table.named(id)
            if live is not None:
                return live
            uid = await self.store.find(id)
        if uid is None:
            raise not_found(name)
        return await self.load(uid, name)

    async def load(self, uid: bytes, name: str = "") -> Live:
        """The operation with this uid, from memory or from the store. Raises `ServiceError` (OPERATION_NOT_FOUND)."""
        while True:
            live = self.table.get(uid)
            if live is not None:
                return live
            outdated = self.table.outdated
            record = await self.store.load(uid)
            if record is None:
                raise not_found(name or f"operations/{uid_text(uid)}")
            # It may have been taken in, deleted or renamed while the store was read: then look again.
            if outdated == self.table.outdated and self.table.get(uid) is None:
                return self.table.add(record)

    async def _record(self, uid: bytes) -> OperationRecord:
        return (await self.load(uid)).record

    async def input_of(self, record: OperationRecord) -> bytes:
        """The operation's input, serialized."""
        return await self.store.input(record.uid) or b""

    async def wait(self, live: Live, until: int | None, inside: Durable | None = None) -> OperationRecord:
        """The snapshot once it has ended, or at `until` if that comes first. `inside`: the handler that waits.

        When the server drains, see `wait_on`.
        """
        while not live.record.terminal:
            if self.draining:
                wait_on(inside, self.not_accepting(), goes_on=self.executor.works_on(live))
            future = live.ended()
            timer = None if until is None else self.clock.call_at(until, partial(resolve, future))
            try:
                await future
            finally:
                if timer is not None:
                    timer.cancel()
                live.forget(future)
            if until is not None and self.clock.now() >= until:
                break
        return live.record

    def watch(self, live: Live, options: WatchOptions) -> AsyncIterator[Sequence[Item]]:
        """Follow an operation. Raises `ServiceError` from the iterator."""
        return self.watches.watch(live, options)

    async def list(
        self, conditions: Sequence[Condition], after: bytes | None, size: int, *, ascending: bool = False,
        scope: Scope | None = None,
    ) -> tuple[Iterable[OperationRecord], bytes | None]:  # fmt: skip
        """One page of operations, and the uid to go on after. `ascending`: the oldest first. `scope`: only these."""
        return await self.store.page(conditions, after, size, ascending=ascending, scope=scope)

    async def count(self, conditions: Sequence[Condition], *, scope: Scope | None = None) -> Count:
        """How many operations there are, by type and state."""
        return await self.store.count(conditions, scope=scope)

    # What commits bring.

    def _on_commit(self, commit: Commit) -> None:
        operations = commit.operations
        instances = commit.others.get(InstanceLedger)
        if instances is not None:
            self.instances.publish(instances)
            for instance, _ in instances.values():
                self.sweeper.changed(instance)
        self.table.publish(operations)
        if self.transfers.stores:
            self.transfers.publish(operations)
        if commit.others.get(Leftovers):
            self.sweeper.left()
        if commit.others.get(Logs):
            self.sweeper.logged()
        if commit.others.get(Outbox):
            self.on_events()
        jobs = commit.others.get(Jobs)
        if jobs is not None:
            self.jobs.publish(jobs)
        if commit.others.get(Sequels):
            self.jobs.scheduler.note(self.clock.now())
        for uid, (record, _) in operations.items():
            if record is None or (
                record.cancel_requested is None and record.stop_requested is None and not record.failures
                and not record.deferred
            ):  # fmt: skip
                continue
            live = self.table.live.get(uid)
            if live is not None:
                self.waits.follow(live)
                if record.deferred:
                    self.executor.forget(live)
                if self.draining and not record.under_way:
                    live.release()  # handlers that wait for it see that it does not run
                if live.attempt is not None:
                    live.attempt.request(record)

    def _on_new(self, live: Live) -> None:
        live.input = self._starts.inputs.get(live.record.uid)
        self.deadlines.add(live)
        self.executor.admit(live)

    def _on_end(self, live: Live) -> None:
        key = (live.record.type, live.record.state)
        self.ended[key] = self.ended.get(key, 0) + 1
        self._live.give(live.record.owner)
        self.deadlines.remove(live)
        self.waits.forget(live)
        self.executor.forget(live)
        self.sweeper.note(live.record.expires)
        if live.attempt is not None:
            live.attempt.end(Ending.SETTLED)

    def _again(self, live: Live) -> None:
        if not self._isolation.take(live):
            self.executor.rerun(live)

    def _closed(self) -> ServiceError | None:
        return None if self.accepting else self.not_accepting()

    def not_accepting(self) -> ServiceError:
        """Why it takes no new work, and no longer waits for old."""
        if self.draining:
            return ServiceError(Reason.SERVER_DRAINING, Reason.SERVER_DRAINING.meaning, retry_after=1.0)
        return ServiceError(Reason.SERVER_STARTING, Reason.SERVER_STARTING.meaning, retry_after=0.5)
