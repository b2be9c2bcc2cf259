"""Which jobs run: slots by queue, claims of those that are ready, and one timer for whatever time brings next.

Nothing is polled. A queue is looked into when a commit has made one of its jobs ready or a slot is free; time is looked
after by one timer, for the earliest of all that is due, expires or was kept for long enough.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from longshore_server.clock import SECOND, Timer
from longshore_server.job_lifecycle import Stand
from longshore_server.jobs.definition import Definition
from longshore_server.store.jobs import JobRecord, QueueRow
from longshore_server.store.mutations.job import AdvanceJobs, Claimed, ClaimJobs

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host
    from longshore_server.jobs.runner import Run

log = logging.getLogger(__name__)
AGAIN = 60 * SECOND
"""How long after a failure of the store it is asked again."""
CLAIMS = 256
"""The most jobs that one claim begins: callers' changes wait behind it."""


class Line:
    """One queue in this server."""

    __slots__ = ("backlog", "claiming", "coming", "definition", "paused", "pending", "running", "timer")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.running = 0
        """Slots that are taken, those of jobs whose commit is under way included."""
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


class Scheduler:
    """The queues of one server."""

    def __init__(self, host: Host, definitions: Iterable[Definition]) -> None:
        self._host = host
        self.lines = {definition.name: Line(definition) for definition in definitions}
        self.open = False
        """Whether attempts may begin."""
        self._timer: Timer | None = None
        self._timer_at = 0
        self._advancing = False
        self._meanwhile: int | None = None

    def start(self) -> None:
        """Begin with what the store holds."""
        self.open = True
        self._advance()
        for line in self.lines.values():
            self.next(line)

    def stop(self) -> None:
        """Begin nothing more."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
        for line in self.lines.values():
            if line.timer is not None:
                line.timer.cancel()

    # Slots.

    def reserve(self, line: Line) -> bool:
        """Take a slot for a job that is being created, if one is free and nobody waits for it."""
        free = line.running < line.definition.concurrency and not line.backlog and not line.coming
        if free and self.open and not line.paused and line.timer is None:
            line.running += 1
            return True
        line.coming += 1
        return False

    def created(self, line: Line, reserved: bool, begun: bool) -> None:
        """The job for which `reserve` was called is through; a slot that it does not use is free again."""
        if not reserved:
            line.coming -= 1
        elif not begun:
            line.running -= 1
        if not begun:
            self.next(line)

    def free(self, run: Run) -> None:
        """An attempt needs its slot no more. Repeatable."""
        if run.holds_slot:
            run.holds_slot = False
            run.line.running -= 1
            self.next(run.line)

    def paused(self, line: Line, outcome: QueueRow | Exception) -> None:
        """The queue was paused, or resumed."""
        if not isinstance(outcome, Exception):
            line.paused, line.backlog = outcome.paused, True
            self.next(line)

    def next(self, line: Line) -> None:
        """Claim as many jobs as there are slots, where some may be ready."""
        slots = min(line.definition.concurrency - line.running, CLAIMS)
        if line.backlog and slots > 0 and self.open and not line.paused and not line.claiming and line.timer is None:
            line.claiming, line.backlog = True, False
            line.running += slots
            claim = ClaimJobs(line.definition.name, slots, line.definition.heartbeat)
            self._host.store.writer.submit(claim, partial(self._claimed, line, slots))

    def _claimed(self, line: Line, slots: int, outcome: Claimed | Exception) -> None:
        line.claiming = False
        if isinstance(outcome, Exception):
            log.error("queue %s: no job could be claimed: %s", line.definition.name, outcome)
            outcome = Claimed([], self._host.clock.now() + AGAIN)
        line.running -= slots - len(outcome.jobs)
        for record, payload in outcome.jobs:
            self._host.launch(line, record, payload)
        if len(outcome.jobs) == slots or outcome.again is not None:
            line.backlog = True
        if outcome.again is not None and self.open:
            line.timer = self._host.clock.call_at(outcome.again, partial(self._allowed, line))
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
        self._host.store.writer.submit(AdvanceJobs(), self._advanced)

    def _advanced(self, following: int | Exception | None) -> None:
        self._advancing = False
        if isinstance(following, Exception):
            log.error("jobs that are due wait for the store: %s", following)
            following = self._host.clock.now() + AGAIN
        meanwhile, self._meanwhile = self._meanwhile, None
        for when in (following, meanwhile):
            if when is not None:
                self.note(when)
