"""The instances of one server: what the engine runs, and what definitions do their verbs with."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from longshore_server.clock import Clock
from longshore_server.errors import ServiceError
from longshore_server.handler.durable import handling
from longshore_server.handler.texts import counted
from longshore_server.handler.waits import CircleError, HandlerWaits
from longshore_server.ids import Uids
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.answers import Answer
from longshore_server.instances.definition import Chance, Definition
from longshore_server.instances.runner import Runner
from longshore_server.instances.waiters import Waiter, Waiters
from longshore_server.store import instances as rows
from longshore_server.store.circles import Circle
from longshore_server.store.instance_retention import Retention
from longshore_server.store.instances import InstanceRecord, Value
from longshore_server.store.ledger import Published
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import Address, Newcomer, Taken, Verb
from longshore_server.store.mutations.instance_run import Park
from longshore_server.store.store import Store

T = TypeVar("T")
log = logging.getLogger(__name__)

in_lifespan: contextvars.ContextVar[bool] = contextvars.ContextVar("longshore_lifespan", default=False)
"""Whether this is what a lifespan begins with, and what that has started: no handler runs before it has begun."""


class Instances:
    """All instances of the definitions of one server.

    Args:
        definitions: what is served.
        store: where they are.
        clock: by which everything is due.
        chance: draws the jitter of retries.
        max_payload: the largest state or event, in bytes.
        closed: why nothing is accepted now, if so.
        waits: of handlers.
    """

    def __init__(
        self, definitions: Iterable[Definition[Any]], store: Store, clock: Clock, chance: Chance, max_payload: int,
        closed: Callable[[], ServiceError | None], waits: HandlerWaits,
    ) -> None:  # fmt: skip
        self.definitions: Mapping[tuple[Kind, str], Definition[Any]] = {(d.kind, d.name): d for d in definitions}
        self.max_payload = max_payload
        self._store = store
        self._clock = clock
        self._closed = closed
        self._waits = waits
        self._uids: Uids
        self._runner = Runner(self.definitions, store, clock, chance, max_payload)
        self._waiters = Waiters()

    def retention(self, default: int) -> Retention:
        """How long instances are kept; `default`: microseconds where the definition says nothing, 0: for ever."""
        kept = {key: default if found.retention is None else found.retention for key, found in self.definitions.items()}
        return {key: micros for key, micros in kept.items() if micros}

    # Life.

    async def open(self) -> None:
        """Look at what the last server left behind."""
        self._uids = Uids(self._clock, await self._store.read(rows.marks))
        for definition in self.definitions.values():
            definition.attach(self)
        # First: what runs again may be of a definition that is not there, and waits with the others for that.
        await self._runner.recover()
        stored = await self._store.read(rows.definitions)
        parked = {key: count for key, count in stored.items() if key not in self.definitions}
        for (kind, name), count in parked.items():
            log.warning(
                "nothing defines the %s %r any more: %s of it will go on once something does",
                kind.name.lower(), name, counted(count, "instance"),
            )  # fmt: skip
        if stored:
            await self._store.writer.submit(Park(parked, self.definitions))

    def start(self, services: Any) -> None:
        """Run handlers from now on."""
        self._runner.start(services)

    def drain(self, refusal: ServiceError) -> None:
        """Tell callers who wait for handlers that they ask the next server. Handlers that do are not told by an error,
        which would become their operation's end: they are interrupted if it takes too long."""
        self._waiters.drain(refusal)

    def close(self) -> None:
        """The server has ended: verbs work no more."""
        for definition in self.definitions.values():
            definition.attach(None)

    async def stop(self, until: int) -> None:
        """Give handlers until `until` to end, then leave the rest to the next server."""
        await self._runner.stop(until)

    async def release(self) -> None:
        """Say of what was interrupted that no crash has done it."""
        await self._runner.release()

    def abandon(self) -> None:
        """For tests: from here on no handler runs, as if the process had been killed."""
        self._runner.abandon()

    def publish(self, changes: Mapping[bytes, Published]) -> None:
        """What a commit has brought."""
        for uid, (record, _) in changes.items():
            self._runner.publish(uid, record)
        self._waiters.publish(changes)

    # For definitions.

    def now(self) -> int:
        """The time, in microseconds."""
        return self._clock.now()

    def newcomer(self, owner: str) -> Newcomer:
        """What an instance needs that begins now."""
        return Newcomer(self._uids.next(), owner)

    def _admit(self) -> None:
        """Raises `ServiceError` where no new work is accepted now. A handler's is its operation's."""
        if handling.get() is None and (refusal := self._closed()) is not None:
            raise refusal

    async def submit(self, mutation: Mutation[T]) -> T:
        """Change the store. Raises `ServiceError`: the mutation's own refusal, or UNAVAILABLE."""
        self._admit()
        return await self._store.writer.submit(mutation)

    async def take(self, verb: Verb, *, wait: bool) -> tuple[Taken | None, Answer | None]:
        """Change the store, and wait until the handler has run for what that accepts; None: there is nothing to wait
        for, or nothing runs now.

        Raises `ServiceError`: the verb's own refusal, or UNAVAILABLE; `RuntimeError` in a handler that would wait for
        itself.
        """
        try:
            waiter = await self.waiter(verb.address, wait=wait)
        except CircleError as error:
            raise RuntimeError(_told(error.circle)) from None
        return await self.hand(verb, waiter).answer()

    async def waiter(self, address: Address, *, wait: bool) -> Waiter:
        """Who waits for what `hand` is about to bring an instance. Not `wait`: for nothing.

        Raises `ServiceError` (UNAVAILABLE), and `CircleError` in a handler that would wait for itself.
        """
        self._admit()
        # A caller who comes while the lifespan begins waits like any other: there may have been a server before.
        wait = wait and (self._runner.started or not in_lifespan.get())
        begun = await self._waits.begin(address) if wait else None
        settle, end = partial(self._waits.settle, begun), partial(self._waits.end, begun)
        return Waiter(self._waiters, wait, settle, end, inside=handling.get() is not None)

    def hand(self, verb: Verb, waiter: Waiter) -> Waiter:
        """Change the store: as `take`, in two. What is handed over first comes first."""
        waiter.outcome = self._store.writer.submit(verb, waiter.accepted if waiter.waits else None)
        return waiter

    async def find(self, address: Address) -> tuple[InstanceRecord, Value | None] | None:
        """An instance and its state."""
        return await self._store.read(lambda c: rows.find(c, *address))

    async def page(
        self, kind: Kind, definition: str, status: Status | None, after: bytes, limit: int
    ) -> Sequence[InstanceRecord]:
        """Instances of one definition in the order in which they first began."""
        return await self._store.read(lambda c: rows.page(c, kind, definition, status, after, limit))


def _told(found: Circle) -> str:
    """What is wrong with a wait for an instance, and what to do instead."""
    how = f"{found.other}, and {found.way}: neither would end"
    if not found.way:
        how = "itself: what it asks for begins only when it has ended"
    elif found.way == f"{found.other} waits for {found.own}":
        how = f"{found.other}, whose handler waits for {found.own}: neither would end"
    return f"a handler of {found.own} waits for {how}. Give no_wait=True: it is done after this handler"
