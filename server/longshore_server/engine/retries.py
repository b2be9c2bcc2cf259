"""Whether a failed attempt is made again, and when: the contract's retry policy applied to one operation.

The decision becomes durable with the failure itself, as the time of the next attempt; a restart finds it there.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from longshore_server.clock import Clock
from longshore_server.contract.types import OperationType
from longshore_server.store.record import OperationRecord

Chance = Callable[[], float]
"""Draws a number between 0 and 1."""


class Retries:
    """Decides by the policies of contracts. `chance` draws the jitter."""

    def __init__(self, clock: Clock, chance: Chance = random.random) -> None:
        self._clock = clock
        self._chance = chance

    def delay(self, type: OperationType, record: OperationRecord, reason: str) -> int | None:
        """Microseconds until the next attempt after one that failed with `reason`; None: there is none."""
        if type.retry is None:
            return None
        return type.retry.next(
            record.failures + 1, reason, self._chance(), self._clock.now(), record.started or 0, record.deadline
        )
