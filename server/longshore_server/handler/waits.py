"""Handlers that wait for other work of this server: they lend their slots meanwhile, and never wait in a circle.

Who waits is known here, of the handlers that run; what else work depends on is in the store. After a restart the
handlers that run again wait again, and so does all of this. What was refused stays so: who has gone another way goes it
again, whoever waits first then. An attempt that fails with the refusal has gone no other way: the next one asks anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from longshore_server.errors import Reason, ServiceError
from longshore_server.handler.codec import Encoded
from longshore_server.handler.durable import handling
from longshore_server.handler.journal import Asked, Key
from longshore_server.handler.lending import Acting, acting, lent
from longshore_server.handler.running import apart
from longshore_server.ids import uid_text
from longshore_server.store.circles import Circle, Node, circle
from longshore_server.store.mutations.instance import Address

if TYPE_CHECKING:
    from longshore_server.store.store import Store

REFUSED = "refused"
"""The kind of journal entries: that a wait or a hand-over would have closed a circle."""


class Wait:
    """One handler that waits for as long as it takes, or may be about to."""

    __slots__ = ("by", "ended", "number", "settled", "target")

    def __init__(self, by: Acting, target: Node, number: int) -> None:
        self.by = by
        self.target = target
        self.number = number
        """In the order in which they, and looks, begin and end."""
        self.settled = asyncio.Event()
        """Set once it is known that it waits, or that it does not."""
        self.ended: int | None = None
        """When it did, as `number`."""


class CircleError(Exception):
    """A wait that would never end."""

    def __init__(self, found: Circle) -> None:
        super().__init__(f"{found.own} waits for {found.other}: {found.way}")
        self.circle = found


class RefusedWaitError(ServiceError):
    """A handler's wait, or hand-over, is refused because it would never end. `key`: where its journal has that; None:
    it has none."""

    def __init__(self, key: Key | None, message: str, resource: str) -> None:
        super().__init__(Reason.ILLEGAL_MOVE, message, resource=resource)
        self.key = key


def asked_anew(error: BaseException) -> Key | None:
    """Which refusal the next attempt forgets after one that has failed with `error`; None: none."""
    return error.key if isinstance(error, RefusedWaitError) else None


class HandlerWaits:
    """All such waits of one server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers = itertools.count()
        self._waits: dict[Node, dict[Wait, None]] = {}
        """By who waits; those that have ended, too, for as long as a look is under way that has begun before that."""
        self._ended: deque[tuple[int, Wait]] = deque()
        self._looks: dict[int, None] = {}
        """By when they began."""

    @asynccontextmanager
    async def of(self, target: bytes, *, timed: bool, key: Key | None = None) -> AsyncIterator[None]:
        """Within it the handler that runs here, if any, waits for an operation or a job, and lends its slot.

        `timed`: not for longer than it has said. `key`: of the wait in the journal, where it has one. Raises
        `ServiceError` (ILLEGAL_MOVE) where that cannot end before what the handler works on has: it waits for that
        itself, or for a key that it has, for example.
        """
        key = _refusal_key(uid_text(target)) if key is None else (REFUSED, *key[1:])
        _check(key)
        async with lent():
            try:
                wait = None if timed else await self.begin(target)
                self.settle(wait)
            except CircleError as error:
                raise await _refused(key, error.circle, hands_over=False) from None
            try:
                yield
            finally:
                self.end(wait)

    async def begin(self, target: Node) -> Wait | None:
        """The handler that runs here may be about to wait for `target`, until `end`; None: no handler is.

        Call `settle`, or `end`, once that is known: others that it would keep from waiting are held up until then.
        Raises `CircleError`.
        """
        by = acting.get()
        if by is None or by.over:
            return None
        return await self._begin(by, target, hands_over=False)

    def settle(self, wait: Wait | None) -> None:
        """There is something to wait for."""
        if wait is not None:
            wait.settled.set()

    def end(self, wait: Wait | None) -> None:
        """It waits no more, or there is nothing to wait for. Repeatable."""
        if wait is None or wait.ended is not None:
            return
        wait.ended = next(self._numbers)
        wait.settled.set()
        self._ended.append((wait.ended, wait))
        self._forget()

    async def before(self, own: bytes, other: bytes) -> Callable[[], object]:
        """An operation or a job is about to be handed over to the job `other`. Returns what to call once that is
        settled, whoever still waits for it: until then nobody may close a circle with it. Raises `ServiceError`
        (ILLEGAL_MOVE)."""
        key = _refusal_key(f"attach {uid_text(other)}")
        _check(key)
        try:
            wait = await self._begin(Acting(own), other, hands_over=True)
        except CircleError as error:
            raise await _refused(key, error.circle, hands_over=True) from None
        self.settle(wait)
        return lambda: self.end(wait)

    async def _begin(self, by: Acting, target: Node, *, hands_over: bool) -> Wait:
        wait = Wait(by, target, next(self._numbers))
        self._waits.setdefault(by.node, {})[wait] = None
        if isinstance(target, Address) and target != by.node and target not in self._waits:
            return wait  # its handler waits for nobody, and the store knows of nothing else
        try:
            while doubtful := await self._look(wait, hands_over=hands_over):
                for other in doubtful:
                    # It came before this one, and is held up by none but still earlier ones.
                    await other.settled.wait()
        except BaseException:
            self.end(wait)
            raise
        return wait

    async def _look(self, wait: Wait, *, hands_over: bool) -> Sequence[Wait]:
        """Look for a circle that a wait closes. Returns by whom there may be one, until they are settled; none: there
        is none. Raises `CircleError`."""
        # As of before the store is read: a hand-over that is settled meanwhile would be neither here nor there.
        began = next(self._numbers)

        def earlier(node: Node) -> list[Wait]:
            # Of two that close a circle at once, the later one is refused. In the reader's thread: a list is made of
            # the dict in one step.
            return [
                other
                for other in list(self._waits.get(node, ()))
                if other.number < wait.number and (other.ended is None or other.ended > began)
            ]

        def waiting(node: Node) -> list[Node]:
            return [other.target for other in earlier(node) if not other.by.over]

        self._looks[began] = None
        try:
            found = await self._store.read(
                lambda connection: circle(connection, wait.by.node, wait.target, waiting, hands_over=hands_over)
            )
            if found is None:
                return ()
            between = itertools.chain.from_iterable(map(earlier, found.between))
            # A verb for an instance may find that there is nothing to wait for, and who is over counts no more.
            doubtful = [other for other in between if other.ended is not None or not other.settled.is_set()]
        finally:
            del self._looks[began]
            self._forget()
        if not doubtful:
            raise CircleError(found)
        return doubtful

    def _forget(self) -> None:
        """Let go of those that ended before the oldest look began."""
        oldest = next(iter(self._looks), None)
        while self._ended and (oldest is None or self._ended[0][0] < oldest):
            _, wait = self._ended.popleft()
            of_node = self._waits[wait.by.node]
            del of_node[wait]
            if not of_node:
                del self._waits[wait.by.node]


def _refusal_key(name: str) -> Key | None:
    """Where the journal of the handler that runs here has it if this is refused; None: it has no journal."""
    inside = handling.get()
    return None if inside is None else inside.journal.count(REFUSED, apart(name))


def _check(key: Key | None) -> None:
    """Refuse what was refused before."""
    inside = handling.get()
    if inside is None or key is None or (entry := inside.journal.found(key)) is None:
        return
    raise RefusedWaitError(key, entry.outcome.decode(), entry.codec)


async def _refused(key: Key | None, found: Circle, *, hands_over: bool) -> RefusedWaitError:
    """What is refused, once that is durable."""
    inside, told = handling.get(), _told(found, hands_over=hands_over)
    if inside is not None and key is not None:
        await inside.record(key, Asked(), Encoded(found.other, told.encode()))
    return RefusedWaitError(key, told, found.other)


def _told(found: Circle, *, hands_over: bool) -> str:
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
    return told
