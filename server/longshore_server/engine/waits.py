"""What follows from an operation's facts when time passes: its next attempt, and the end of a grace nobody used.

Few operations wait like this at once, so each has a timer of its own; deadlines, which all have, are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from longshore_server.clock import Clock, Timer
from longshore_server.engine.live import Live
from longshore_server.lifecycle import State


@dataclass(slots=True)
class _Wait:
    """What one operation waits for: in microseconds when it comes, and in which attempt."""

    due: int
    attempt: int
    then: Callable[[Live], None]
    timer: Timer | None = None
    fired: bool = False


class Waits:
    """Calls `again` when a failed attempt is due to be made again, and `grace_over` for a deferred operation whose
    controller has not answered a cancel request in time. `grace` gives an operation's grace in microseconds."""

    def __init__(
        self, clock: Clock, grace: Callable[[Live], int], again: Callable[[Live], None],
        grace_over: Callable[[Live], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._grace = grace
        self._again = again
        self._grace_over = grace_over
        # Kept after it has fired, until the operation goes on: what is due already must not be called twice.
        self._waiting: dict[Live, _Wait] = {}

    def follow(self, live: Live) -> None:
        """Set the timer that the operation's facts ask for. Repeatable; a commit may have changed them."""
        record = live.record
        due, then = None, self._again
        if record.deferred and record.state is State.CANCELLING and record.cancel_requested is not None:
            due, then = record.cancel_requested + self._grace(live), self._grace_over
        elif record.next_attempt is not None and not record.terminal:
            due = record.next_attempt
        waiting = self._waiting.get(live)
        if waiting is not None:
            same = waiting.then is then and waiting.attempt == record.attempt
            if due is not None and same and (waiting.due == due or waiting.fired):
                # A stop, asked for in the commit while which it became due, may have brought that forward.
                return
            self.forget(live)
        if due is not None:
            wait = self._waiting[live] = _Wait(due, record.attempt, then)
            wait.timer = self._clock.call_at(due, partial(self._fire, live, wait))

    def _fire(self, live: Live, wait: _Wait) -> None:
        wait.fired = True
        wait.then(live)

    def forget(self, live: Live) -> None:
        """The operation has ended, or goes on."""
        waiting = self._waiting.pop(live, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()

    def stop(self) -> None:
        """Call nobody any more."""
        for live in list(self._waiting):
            self.forget(live)
