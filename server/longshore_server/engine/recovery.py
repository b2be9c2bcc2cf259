"""After a crash: every operation that had not ended goes on, and the one that kills the process is found.

Interruptions count apart from failures. When the server has died twice in a row soon after its start, one of the
operations and jobs that ran may be the cause: they are then run in small groups, one after the other. A server that
dies while it does that died of the group that began last: only its members count another crash. Groups shrink with the
count, until the culprit dies alone and reaches its cap. A culprit that kills the process later than its probation is
not told from its neighbours; they then count together. A suspect that waits for the time of a retry, or in a queue
that is paused, is run apart when that has come, or the queue is resumed: nothing else begins for the time of probation,
and what began before it is not accused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.engine.executor import Executor
from longshore_server.engine.live import Live
from longshore_server.engine.waits import Waits
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.handler.texts import counted
from longshore_server.jobs.host import Host
from longshore_server.lifecycle import Move, State
from longshore_server.store.mutations import Interrupt, RunApart, Settle
from longshore_server.store.queries import Past
from longshore_server.store.record import OperationRecord
from longshore_server.store.writer import Writer

log = logging.getLogger(__name__)

QUICK = 60 * SECOND
"""A server that dies within this time of its start has crashed quickly."""
SUSPICIOUS = 2
"""After so many quick crashes in a row, recovered operations are run apart."""
PROBATION = SECOND
"""How long a group must run without a crash before the next may begin."""


async def recover(
    lives: Sequence[Live], executor: Executor, waits: Waits, writer: Writer, clock: Clock, past: Past, innocent: int,
    isolation: Isolation, jobs: Host,
) -> int:  # fmt: skip
    """Settle or queue every operation that the last server left behind, and every job. `innocent`: what the function of
    that name gave. Returns how many operations are under way again."""
    now = clock.now()
    changes = []
    await jobs.recover(innocent)
    for live in lives:
        record, type = live.record, executor.types[live.record.type]
        if record.deadline is not None and record.deadline <= now:
            # Overdue deadlines come before handlers: what is too late is not begun again.
            changes.append(writer.submit(Settle(record.uid, None, Move.FAIL, failure(Reason.DEADLINE_EXCEEDED))))
        elif record.deferred:
            continue
        elif record.under_way or record.state is State.CANCELLING or (
            record.state is State.RUNNING and record.cancel_requested is not None
        ):  # fmt: skip
            accused = record.under_way and (record.begun or 0) > innocent
            changes.append(writer.submit(Interrupt(record.uid, True, accused, type.rerun, type.max_crashes)))
    for result in await asyncio.gather(*changes, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    left = [live for live in lives if not live.record.terminal]
    suspects: list[Live] = []
    if past.quick_crashes >= SUSPICIOUS:
        suspects = [live for live in left if live.record.crashes >= SUSPICIOUS and _runs_again(live.record)]
        others = await jobs.suspects(SUSPICIOUS)
        if suspects or others:
            log.warning(
                "the server died %d times soon after its start: %s and %s are run apart",
                past.quick_crashes, counted(len(suspects), "operation"), counted(len(others), "job"),
            )  # fmt: skip
            for live in suspects:
                # A caller has asked something of it while the server starts: its time came before it was suspected.
                waits.forget(live)
                executor.forget(live)
            isolation.begin(suspects, others)
    apart = set(suspects)
    for live in left:
        if live.record.deferred or live.record.next_attempt is not None:
            waits.follow(live)
        elif live not in apart:
            executor.rerun(live)
    return len(left)


def _runs_again(record: OperationRecord) -> bool:
    return record.state is State.RUNNING and not record.deferred


async def innocent(records: Iterable[OperationRecord], jobs: Host, past: Past) -> int:
    """The crash of the last server does not count against what began at this time or before; -1: it counts for all.

    Of what that server left behind, before a deadline or a caller ends the last that began.
    """
    if not past.apart:
        return -1
    # Groups begin at least a probation apart; what began before the last of them had passed its own.
    begun = [record.begun or 0 for record in records if record.under_way]
    return max(await jobs.latest(), *begun, 0) - PROBATION


class Suspect(Protocol):
    """What may have killed the server."""

    @property
    def crashes(self) -> int:
        """In how many crashes it was under way."""

    async def begin(self) -> None:
        """Run it apart. Returns once its attempt has begun."""

    def rejoin(self) -> None:
        """Let it wait for its turn as any other."""

    def ended(self) -> asyncio.Future[Any]:
        """A future that is done once it has ended."""

    def forget(self, ended: asyncio.Future[Any]) -> None:
        """Let go of that."""


@dataclass(frozen=True)
class _Operation:
    """A suspect: an operation."""

    live: Live
    executor: Executor

    @property
    def crashes(self) -> int:
        return self.live.record.crashes

    async def begin(self) -> None:
        await self.executor.isolate(self.live)

    def rejoin(self) -> None:
        self.executor.rerun(self.live)

    def ended(self) -> asyncio.Future[Any]:
        return self.live.ended()

    def forget(self, ended: asyncio.Future[Any]) -> None:
        self.live.forget(ended)


class Isolation:
    """Runs suspects apart, in groups; nothing else begins meanwhile."""

    def __init__(self, executor: Executor, jobs: Host, writer: Writer, clock: Clock, epoch: int) -> None:
        self._executor = executor
        self._jobs = jobs
        self._writer = writer
        self._clock = clock
        self._epoch = epoch
        self._waiting: dict[Suspect, None] = {}
        self._under_way = False
        self._due: set[Live] = set()
        """Operations that are run apart once their time has come."""
        jobs.scheduler.apart = self._take

    def begin(self, suspects: Sequence[Live], jobs: Sequence[Suspect]) -> None:
        """Run these apart: each now, or once it is due."""
        self._due.update(suspects)
        for job in jobs:
            self._take(job)
        for live in suspects:
            if live.record.next_attempt is None:
                self.take(live)

    def take(self, live: Live) -> bool:
        """Whether an operation that is due is run apart."""
        if live not in self._due:
            return False
        self._due.discard(live)
        self._take(_Operation(live, self._executor))
        return True

    def _take(self, suspect: Suspect) -> None:
        self._waiting[suspect] = None
        if not self._under_way:
            self._under_way = self._executor.held = self._jobs.scheduler.held = True
            self._executor.spawn(self._run())

    async def _run(self) -> None:
        try:
            await self._writer.submit(RunApart(self._epoch, True))
            if self._executor.running or self._jobs.runs:
                # What began a moment ago must not be taken for a part of the first group.
                await sleep_until(self._clock, self._clock.now() + PROBATION)
            while self._waiting:
                group = self._next_group()
                await asyncio.gather(*(suspect.begin() for suspect in group))
                await _probation(group, self._clock)
        finally:
            self._under_way = False
            for suspect in self._waiting:
                suspect.rejoin()  # the store has refused the mark: nobody else would begin them
            self._waiting.clear()
            # However it ends, and before whatever begins now: the next crash is no more that of the last group alone.
            self._writer.submit(RunApart(self._epoch, False))
            self._executor.release()
            self._jobs.scheduler.release()

    def _next_group(self) -> list[Suspect]:
        waiting = sorted(self._waiting, key=lambda suspect: suspect.crashes)
        size = _group_size(waiting[0].crashes)
        # Members with different counts are never mixed: the smaller groups are the more suspect ones.
        group = [suspect for suspect in waiting[:size] if _group_size(suspect.crashes) == size]
        for suspect in group:
            del self._waiting[suspect]
        return group


async def _probation(group: list[Suspect], clock: Clock) -> None:
    """Return once every member has ended, or the time of probation is over."""
    over = asyncio.create_task(sleep_until(clock, clock.now() + PROBATION))
    ends = {suspect.ended(): suspect for suspect in group}
    for future in ends:
        # Enough have ended when the last one has; each then looks whether it was that.
        future.add_done_callback(lambda _: over.cancel() if all(f.done() for f in ends) else None)
    await asyncio.wait([over])
    for future, suspect in ends.items():
        suspect.forget(future)


def _group_size(crashes: int) -> int:
    return 64 if crashes <= SUSPICIOUS else 8 if crashes == SUSPICIOUS + 1 else 1
