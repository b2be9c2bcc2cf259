"""Handing an operation over: no attempt follows; a control call ends it, its deadline or a cancel request."""

from __future__ import annotations

import abc
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from longshore_server.handler import planned
from longshore_server.handler.planned import Planned
from longshore_server.store.mutations import Author, Defer
from longshore_server.store.mutations.job_end import AttachJob

if TYPE_CHECKING:
    from longshore_server.handler.waits import HandlerWaits
    from longshore_server.store.writer import Writer

T = TypeVar("T")


class Work:
    """Code of the service that works on one operation: its handler, or what is attached to it."""

    __slots__ = ("ending", "uid")

    def __init__(self, uid: bytes) -> None:
        self.uid = uid
        self.ending = False
        """Whether it ends the operation itself, by a control call: it is then not interrupted because of that end."""


working: contextvars.ContextVar[Work | None] = contextvars.ContextVar("longshore_work", default=None)
"""The work that is done here, if any."""


class Attachable(abc.ABC):
    """Durable work, a job, with whose end an operation or another job may end."""

    @abc.abstractmethod
    def attachment(
        self, author: Author, result: type[Any], progress: type[Any] | None, shared: bool,
        mapping: Callable[[Any], Any] | None,
    ) -> AttachJob:  # fmt: skip
        """What hands over to it what `author` works on.

        `result`: what that must end with. `progress`: what it reports; None: nothing. `mapping`: makes that of the
        progress of the work. Raises `TypeError` or `ValueError` where they do not fit.
        """


def check_work(work: object, taken: str) -> None:
    """Raises `TypeError`, which says what is `taken`, for what nobody can wait for."""
    if not inspect.isawaitable(work):
        raise TypeError(f"attach takes {taken}, not {work!r}{': call it' if inspect.iscoroutinefunction(work) else ''}")


class HandOver:
    """What one attempt has given away of its operation."""

    __slots__ = ("_author", "_waits", "_writer", "attached", "durable")

    def __init__(self, author: Author, writer: Writer, waits: HandlerWaits) -> None:
        self._author = author
        self._waits = waits
        self._writer = writer
        self.durable = False
        """Whether the operation is deferred."""
        self.attached = False
        """Whether the handler's outcome is the operation's all the same: it waits for what it has attached."""

    @property
    def complete(self) -> bool:
        """Whether what the handler still returns or raises means nothing any more."""
        return self.durable and not self.attached

    async def defer(self, jobs: Sequence[Planned] = ()) -> None:
        """Returns once it is durable, and what is planned too. Raises `ServiceError` when the attempt may not do it."""
        await planned.submit(self._writer, Defer(self._author), jobs, self._author.uid, self._settled)

    async def attach(self, work: Awaitable[T]) -> T:
        """Hand the operation over, except for its outcome, and return what `work` gives."""
        check_work(work, "a job, or what can be awaited")
        self.attached = True
        try:
            await self.defer()
        except BaseException:
            if inspect.iscoroutine(work):
                work.close()  # never begun: Python would warn that nobody awaited it
            raise
        return await work

    async def give(self, attach: AttachJob) -> None:
        """Hand it over to a job, with its outcome. Raises `ServiceError` as the mutation does, and where neither would
        ever end."""
        settled = await self._waits.before(self._author.uid, attach.uid)

        def done(outcome: object) -> None:
            self._settled(outcome)
            settled()

        await self._writer.submit(attach, done)

    def _settled(self, outcome: object) -> None:
        # Not where the future is awaited: a handler that is interrupted there has handed it over all the same.
        if not isinstance(outcome, Exception):
            self.durable = True
