"""Handlers that wait for other work of this server: they lend their slots meanwhile, and never wait in a circle.

Who waits is known here, of the handlers that run; what else work depends on is in the store. After a restart the
handlers that run again wait again, and so does all of this.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from longshore_server.errors import Reason, ServiceError
from longshore_server.handler.lending import Acting, acting, lent
from longshore_server.store.circles import Circle, Node, circle
from longshore_server.store.mutations.instance import Address

if TYPE_CHECKING:
    from longshore_server.store.store import Store


class Wait:
    """One handler that waits, for as long as it takes."""

    __slots__ = ("by", "number", "target")

    def __init__(self, by: Acting, target: Node, number: int) -> None:
        self.by = by
        self.target = target
        self.number = number
        """In the order in which they began."""


class CircleError(Exception):
    """A wait that would never end."""

    def __init__(self, found: Circle) -> None:
        super().__init__(f"{found.own} waits for {found.other}: {found.way}")
        self.circle = found


class HandlerWaits:
    """All such waits of one server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers = itertools.count()
        self._waits: dict[Node, dict[Wait, None]] = {}
        """By who waits."""

    @asynccontextmanager
    async def of(self, target: bytes, *, timed: bool) -> AsyncIterator[None]:
        """Within it the handler that runs here, if any, waits for an operation or a job, and lends its slot.

        `timed`: not for longer than it has said. Raises `ServiceError` (ILLEGAL_MOVE) where that cannot end before what
        the handler works on has: it waits for that itself, or for a key that it has, for example.
        """
        async with lent():
            try:
                wait = None if timed else await self.begin(target)
            except CircleError as error:
                raise _refusal(error.circle, hands_over=False) from None
            try:
                yield
            finally:
                self.end(wait)

    async def begin(self, target: Node) -> Wait | None:
        """The handler that runs here is about to wait for `target`, until `end`; None: no handler does.

        Raises `CircleError`.
        """
        by = acting.get()
        if by is None or by.over:
            return None
        return await self._begin(by, target, hands_over=False)

    def end(self, wait: Wait | None) -> None:
        """It waits no more. Repeatable."""
        if wait is not None and (of_node := self._waits.get(wait.by.node)):
            of_node.pop(wait, None)
            if not of_node:
                del self._waits[wait.by.node]

    async def before(self, own: bytes, other: bytes) -> Callable[[], object]:
        """An operation or a job is about to be handed over to the job `other`. Returns what to call once that is
        settled, whoever still waits for it: until then nobody may close a circle with it. Raises `ServiceError`
        (ILLEGAL_MOVE)."""
        try:
            wait = await self._begin(Acting(own), other, hands_over=True)
        except CircleError as error:
            raise _refusal(error.circle, hands_over=True) from None
        return lambda: self.end(wait)

    async def _begin(self, by: Acting, target: Node, *, hands_over: bool) -> Wait:
        wait = Wait(by, target, next(self._numbers))
        self._waits.setdefault(by.node, {})[wait] = None

        def waiting(node: Node) -> list[Node]:
            # Of two that close a circle at once, the later one is refused. Copied in one go: a thread asks, too.
            known = tuple(self._waits.get(node, ()))
            return [other.target for other in known if other.number <= wait.number and not other.by.over]

        if isinstance(target, Address) and target != by.node and not waiting(target):
            return wait  # its handler waits for nobody, and the store knows of nothing else
        found, asked = None, False
        try:
            found = await self._store.read(
                lambda connection: circle(connection, by.node, target, waiting, hands_over=hands_over)
            )
            asked = True
        finally:
            if found is not None or not asked:
                self.end(wait)
        if found is not None:
            raise CircleError(found)
        return wait


def _refusal(found: Circle, *, hands_over: bool) -> ServiceError:
    """What is wrong with a wait for an operation or a job, or with what is handed over, and what to do instead."""
    verb = "end with" if hands_over else "wait for"
    told = f"{found.own} cannot {verb} {found.other}, which cannot end before it does: {found.way}. "
    if not found.way:
        told = f"{found.own} cannot {verb} itself: its end would never come. Return its result instead."
    elif hands_over:
        told += "Attach another one, or return a result."
    elif found.keyed:
        told += "Give the two keys that differ, wait with a timeout, or `return await job.attach(...)`, which gives the"
        told += " key away."
    else:
        told += "Let one of them not wait for the other, or wait with a timeout."
    return ServiceError(Reason.ILLEGAL_MOVE, told, resource=found.other)
