"""After a crash: every operation that had not ended goes on, and the one that kills the process is found.

Interruptions count apart from failures. When the server has died twice in a row soon after its start, one of the
operations that ran may be the cause: they are then run in small groups, one after the other. A server that dies while
it does that died of the group that began last: only its members count another crash. Groups shrink with the count,
until the culprit dies alone and reaches its cap. A culprit that kills the process later than the time of probation is
not told from its neighbours; they then count together. A suspect that waits for the time of a retry is run apart when
that has come: nothing else begins for the time of probation, and what began before it is not accused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.engine.executor import Executor
from longshore_server.engine.live import Live
from longshore_server.engine.waits import Waits
from longshore_server.errors import Reason, ServiceError, failure
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
    lives: Sequence[Live], executor: Executor, waits: Waits, writer: Writer, clock: Clock, past: Past,
    isolation: Isolation,
) -> int:  # fmt: skip
    """Settle or queue every operation that the last server left behind. Returns how many are under way again."""
    now = clock.now()
    changes = []
    accused = _accused(lives, past)
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
            changes.append(writer.submit(Interrupt(record.uid, live in accused, type.rerun, type.max_crashes)))
    for result in await asyncio.gather(*changes, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    left = [live for live in lives if not live.record.terminal]
    suspects: list[Live] = []
    if past.quick_crashes >= SUSPICIOUS:
        suspects = [live for live in left if live.record.crashes >= SUSPICIOUS and _runs_again(live.record)]
    if suspects:
        log.warning(
            "the server died %d times soon after its start: %d operations are run apart",
            past.quick_crashes,
            len(suspects),
        )
        isolation.begin(suspects)
    for live in left:
        if live.record.deferred or live.record.next_attempt is not None:
            waits.follow(live)
        elif live not in isolation.suspects:
            executor.rerun(live)
    return len(left)


def _runs_again(record: OperationRecord) -> bool:
    return record.state is State.RUNNING and not record.deferred


def _accused(lives: Sequence[Live], past: Past) -> set[Live]:
    """The operations that the crash of the last server counts against."""
    running = {live: live.record.begun or 0 for live in lives if live.record.under_way}
    if not past.apart or not running:
        return set(running)
    # Groups begin at least a probation apart; what began before the last of them had passed its own.
    last = max(running.values())
    return {live for live, begun in running.items() if begun > last - PROBATION}


class Isolation:
    """Runs suspects apart, in groups; nothing else begins meanwhile."""

    def __init__(self, executor: Executor, writer: Writer, clock: Clock, epoch: int) -> None:
        self._executor = executor
        self._writer = writer
        self._clock = clock
        self._epoch = epoch
        self._waiting: dict[Live, None] = {}
        self._under_way = False
        self.suspects: set[Live] = set()
        """Those that have not been run apart yet."""

    def begin(self, suspects: Sequence[Live]) -> None:
        """Run these apart: each now, or once it is due."""
        self.suspects.update(suspects)
        for live in suspects:
            if live.record.next_attempt is None:
                self.take(live)

    def take(self, live: Live) -> bool:
        """Whether an operation that is due is run apart."""
        if live not in self.suspects:
            return False
        self._waiting[live] = None
        if not self._under_way:
            self._under_way = self._executor.held = True
            self._executor.spawn(self._run())
        return True

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._writer.submit(RunApart(self._epoch, True))
                if self._executor.running:
                    # What began a moment ago must not be taken for a part of the first group.
                    await sleep_until(self._clock, self._clock.now() + PROBATION)
                while self._waiting:
                    group = self._next_group()
                    await asyncio.gather(*(self._executor.isolate(live) for live in group))
                    await _probation(group, self._clock)
                await self._writer.submit(RunApart(self._epoch, False))
        finally:
            self._under_way = False
            for live in self._waiting:
                self._executor.rerun(live)  # the store has refused the mark: nobody else would begin them
            self._waiting.clear()
            self._executor.release()

    def _next_group(self) -> list[Live]:
        waiting = sorted(self._waiting, key=lambda live: live.record.crashes)
        size = _group_size(waiting[0].record.crashes)
        # Members with different counts are never mixed: the smaller groups are the more suspect ones.
        group = [live for live in waiting[:size] if _group_size(live.record.crashes) == size]
        for live in group:
            del self._waiting[live]
        self.suspects.difference_update(group)
        return group


async def _probation(group: list[Live], clock: Clock) -> None:
    """Return once every member has ended, or the time of probation is over."""
    over = asyncio.create_task(sleep_until(clock, clock.now() + PROBATION))
    ends = {live.ended(): live for live in group}
    for future in ends:
        # Enough have ended when the last one has; each then looks whether it was that.
        future.add_done_callback(lambda _: over.cancel() if all(f.done() for f in ends) else None)
    await asyncio.wait([over])
    for future, live in ends.items():
        live.forget(future)


def _group_size(crashes: int) -> int:
    return 64 if crashes <= SUSPICIOUS else 8 if crashes == SUSPICIOUS + 1 else 1
