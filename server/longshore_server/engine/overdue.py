"""Ends operations whose time is over: at their deadline, and after a grace in which their controller said nothing."""

from __future__ import annotations

import logging

from longshore_server.clock import SECOND, Clock
from longshore_server.engine.live import Live
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Settle
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store

log = logging.getLogger(__name__)

AGAIN = 60 * SECOND
"""How long after an end that could not be stored the next try comes."""


class Overdue:
    """What the timers of operations call that are to end now, whatever they are at."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def deadline(self, live: Live) -> None:
        """It fails: its deadline has come."""
        self._end(live, Move.FAIL, failure(Reason.DEADLINE_EXCEEDED))

    def grace(self, live: Live) -> None:
        """It is cancelled: whoever drives it had the time to say what becomes of it."""
        self._end(live, Move.CANCEL, failure(Reason.CANCELLED, live.record.cancel_reason))

    def _end(self, live: Live, move: Move, error: bytes) -> None:
        def settled(outcome: OperationRecord | Exception) -> None:
            if isinstance(outcome, ServiceError) and outcome.reason is Reason.INTERNAL:
                # Nothing else would end it before the next start.
                self._clock.call_at(self._clock.now() + AGAIN, lambda: self._end(live, move, error))
            elif isinstance(outcome, Exception):
                log.info("an operation that was due had ended already: %s", outcome)

        if not live.record.terminal:
            self._store.writer.submit(Settle(live.record.uid, None, move, error), settled)
