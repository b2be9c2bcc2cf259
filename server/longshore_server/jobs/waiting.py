"""Jobs whose functions wait for other jobs: they lend their slots meanwhile, and never wait in a circle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from longshore_server.errors import Reason, ServiceError
from longshore_server.ids import uid_text
from longshore_server.jobs.scheduler import Scheduler, Slot
from longshore_server.store import job_waits

if TYPE_CHECKING:
    from longshore_server.jobs.runner import Run
    from longshore_server.store.store import Store


class Waiting:
    """Which jobs wait for which others, in the functions that run here."""

    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self._store = store
        self._scheduler = scheduler
        self._numbers = itertools.count()
        self._edges: dict[int, tuple[bytes, bytes]] = {}
        """Who waits, and for whom, in the order in which they began."""

    @asynccontextmanager
    async def of(self, run: Run, other: bytes, *, timed: bool) -> AsyncIterator[None]:
        """Within it the function of `run` waits for the job `other`, and lends its slot.

        `timed`: not for longer than it has said. Raises `ServiceError` (ILLEGAL_MOVE) where `other` cannot end before
        `run` has: it waits for a key that the job of `run` has, for example.
        """
        number = next(self._numbers)
        self._scheduler.lend(run)
        interrupted = False
        try:
            if not timed and run.slot is not Slot.GONE:
                self._edges[number] = (run.record.uid, other)
                await self._check(number, hands_over=False)
            yield
        except asyncio.CancelledError:
            interrupted = True
            raise
        finally:
            self._edges.pop(number, None)
            back = self._scheduler.take_back(run)
            if not interrupted:  # who is to stop need not wait for that
                await back

    async def before(self, run: Run, other: bytes) -> Callable[[object], object]:
        """The job of `run` is about to be handed over to `other`. Returns what to call once that is settled, whoever
        still waits for it: until then nobody may close a circle with it. Raises as `of`."""
        number = next(self._numbers)
        self._edges[number] = (run.record.uid, other)
        try:
            await self._check(number, hands_over=True)
        except BaseException:
            del self._edges[number]
            raise
        return lambda _: self._edges.pop(number, None)

    async def _check(self, number: int, *, hands_over: bool) -> None:
        own, other = self._edges[number]
        # In the step in which it began: of two that close a circle at once, the later one is refused.
        waiting: dict[bytes, list[bytes]] = {}
        for waiter, target in self._edges.values():
            waiting.setdefault(waiter, []).append(target)
        why = await self._store.read(
            lambda connection: job_waits.obstacle(connection, own, other, waiting, hands_over=hands_over)
        )
        if why:
            asked = f"jobs/{uid_text(other)}"
            told = _told(f"jobs/{uid_text(own)}", asked, why, hands_over=hands_over)
            raise ServiceError(Reason.ILLEGAL_MOVE, told, resource=asked)


def _told(name: str, asked: str, why: str, *, hands_over: bool) -> str:
    """What is wrong with a wait, or with a job that is handed over, and what to do instead."""
    verb = "end with" if hands_over else "wait for"
    if name == asked:
        return f"{name} cannot {verb} itself: its end would never come. Return its result instead."
    told = f"{name} cannot {verb} {asked}, which cannot end before it does: {why}. "
    if hands_over:
        return told + "Attach another one, or return a result."
    if job_waits.NEEDS_KEY in why:
        return told + (
            "Give the two keys that differ, wait with a timeout, or `return await job.attach(...)`, which gives the"
            " key away."
        )
    return told + "Let one of them not wait for the other, or wait with a timeout."
