"""Which jobs run: slots by queue, claims of those that are ready, and one timer for whatever time brings next.

Nothing is polled. A queue is looked into when a commit has made one of its jobs ready or a slot is free; time is looked
after by one timer, for the earliest of all that is due, expires or was kept for long enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from longshore_server.clock import SECOND, Timer
from longshore_server.errors import Reason, ServiceError
from longshore_server.handler.lending import Slot, Slots
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import Stand
from longshore_server.jobs.definition import Definition
from longshore_server.store.job_record import JobRecord, QueueRow
from longshore_server.store.mutations.job import AdvanceJobs, Claimed, ClaimJobs
from longshore_server.store.mutations.job_end import BATCH

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host
    from longshore_server.jobs.suspect import SuspectJob

log = logging.getLogger(__name__)
AGAIN = 60 * SECOND
"""How long after a failure of the store it is asked again."""
CLAIMS = 256
"""The most jobs that one claim begins: callers' changes wait behind it."""


class Line:
    """One queue in this server."""

    __slots__ = (
        "backlog", "claiming", "coming", "definition", "paused", "pending", "slots", "suspects", "timer",
    )  # fmt: skip

    def __init__(self, definition: Definition, freed: Callable[[Line], object]) -> None:
        self.definition = definition
        self.slots = Slots(definition.concurrency, partial(freed, self))
        """Those of jobs whose commit is under way are taken, too."""
        self.coming = 0
        """Jobs whose commit is under way and that have no slot."""
        self.pending = 0
        """Jobs whose commit is under way."""
        self.backlog = True
        """Whether some may be ready. At the start nobody knows."""
        self.claiming = False
        self.paused = False
        self.timer: Timer | None = None
        """For when the queue's rate allows the next one."""
        self.suspects: list[SuspectJob] = []
        """Those that could not begin apart because the queue is paused."""


class Scheduler:
    """The queues of one server."""

    def __init__(self, host: Host, definitions: Iterable[Definition]) -> None:
        self._host = host
        self.lines = {definition.name: Line(definition, self.next) for definition in definitions}
        self.open = False
        """Whether attempts may begin."""
        self.held = False
        """While true, jobs wait: recovery runs suspects apart (see `engine/recovery.py`)."""
        self.apart: Callable[[SuspectJob], object] = lambda _: None
        """Runs a suspect apart."""
        self._timer: Timer | None = None
        self._timer_at = 0
        self._advancing = False
        self._meanwhile: int | None = None
        self._stuck: set[bytes | int] = set()
        """What time cannot change: it is left out, and tried again a little later."""
        self._careful: Timer | None = None
        """Set where something is stuck: one job is then looked after at a time, so that it is known which."""

    def start(self) -> None:
        """Begin with what the store holds."""
        self.open = True
        self._advance()
        for line in self.lines.values():
            self.next(line)

    def stop(self) -> None:
        """Begin nothing more."""
        self.open = False
        for timer in (self._timer, self._careful):
            if timer is not None:
                timer.cancel()
        for line in self.lines.values():
            if line.timer is not None:
                line.timer.cancel()

    def release(self) -> None:
        """Stop holding jobs back."""
        self.held = False
        for line in self.lines.values():
            self.next(line)

    # Slots.

    def reserve(self, line: Line) -> Slot | None:
        """Take a slot for a job that is being created, if one is free and nobody waits for it."""
        free = line.slots.free and not (line.backlog or line.coming)
        if free and self.open and not self.held and not line.paused and line.timer is None:
            return line.slots.take()
        line.coming += 1
        return None

    def created(self, line: Line, slot: Slot | None, begun: bool) -> None:
        """The job for which `reserve` was called is through; a slot that it does not use is free again."""
        if slot is None:
            line.coming -= 1
            self.next(line)
        elif not begun:
            slot.end()

    def paused(self, line: Line, outcome: QueueRow | Exception) -> None:
        """The queue was paused, or resumed."""
        if not isinstance(outcome, Exception):
            line.paused, line.backlog = outcome.paused, True
            if not line.paused:
                suspects, line.suspects = line.suspects, []
                for suspect in suspects:
                    self.apart(suspect)
            self.next(line)

    def next(self, line: Line) -> None:
        """Claim as many jobs as there are slots, where some may be ready."""
        count = min(line.slots.free, CLAIMS)
        free = count and self.open and not self.held and not line.paused
        if line.backlog and free and not line.claiming and line.timer is None:
            line.claiming, line.backlog = True, False
            slots = [line.slots.take() for _ in range(count)]
            claim = ClaimJobs(line.definition.name, count, line.definition.heartbeat)
            self._host.store.writer.submit(claim, partial(self._claimed, line, slots))

    def _claimed(self, line: Line, slots: Sequence[Slot], outcome: Claimed | Exception) -> None:
        if isinstance(outcome, Exception):
            log.error("queue %s: no job could be claimed: %s", line.definition.name, outcome)
            outcome = Claimed([], self._host.clock.now() + AGAIN)
        begun = len(outcome.jobs)
        for slot, (record, payload) in zip(slots, outcome.jobs, strict=False):
            self._host.launch(line, slot, record, payload)
        if begun == len(slots) or outcome.again is not None:
            line.backlog = True
        if outcome.again is not None and self.open:
            line.timer = self._host.clock.call_at(outcome.again, partial(self._allowed, line))
        for slot in slots[begun:]:
            slot.end()
        line.claiming = False  # not before they all are free
        self.next(line)

    def _allowed(self, line: Line) -> None:
        line.timer = None
        self.next(line)

    # Time.

    def publish(self, record: JobRecord) -> None:
        """A job has changed."""
        line = self.lines.get(record.queue)
        if line is not None and record.stand is Stand.READY:
            line.backlog = True
            self.next(line)
        if record.due is not None:
            self.note(record.due)
        if record.ended is None:
            if record.deadline is not None:
                self.note(record.deadline)
        elif record.expires is not None:
            self.note(record.expires)

    def note(self, when: int) -> None:
        """Something is due at `when`."""
        if self._advancing:
            # What the store answers may be older.
            self._meanwhile = when if self._meanwhile is None else min(when, self._meanwhile)
            return
        if not self.open or (self._timer is not None and self._timer_at <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._host.clock.call_at(when, self._advance)

    def _advance(self) -> None:
        self._timer, self._advancing = None, True
        advance = AdvanceJobs(BATCH if self._careful is None else 1, frozenset(self._stuck))
        self._host.store.writer.submit(advance, partial(self._advanced, advance))

    def _advanced(self, advance: AdvanceJobs, following: int | Exception | None) -> None:
        self._advancing = False
        if isinstance(following, Exception):
            following = self._failed(advance, following)
        meanwhile, self._meanwhile = self._meanwhile, None
        for when in (following, meanwhile):
            if when is not None:
                self.note(when)

    def _failed(self, advance: AdvanceJobs, error: Exception) -> int:
        """Time could not be looked after. Returns when to try again."""
        now = self._host.clock.now()
        if not isinstance(error, ServiceError) or error.reason is not Reason.INTERNAL or advance.at is None:
            log.error("jobs that are due wait for the store: %s", error)
            return now + AGAIN
        if self._careful is None:
            self._careful = self._host.clock.call_at(now + AGAIN, self._relieve)
        elif advance.limit == 1:
            stuck = advance.at if isinstance(advance.at, int) else f"jobs/{uid_text(advance.at)}"
            log.error("%s is due and cannot be changed: it is left for a minute", stuck)
            self._stuck.add(advance.at)
        return now

    def _relieve(self) -> None:
        self._careful = None
        self._stuck.clear()
        self.note(self._host.clock.now())
