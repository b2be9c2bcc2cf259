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
        """Microseconds until the next attempt after one that failed with `reason`; None: there is none.

        There is none that would be due after `max_duration` or after the operation's deadline: nobody is helped by
        waiting for an attempt that cannot be made, and the error of the last one says more.
        """
        policy = type.retry
        if policy is None or reason in policy.non_retryable or record.failures + 1 >= policy.max_attempts:
            return None
        delay = policy.delay(record.failures + 1, self._chance())
        due = self._clock.now() + delay
        if record.deadline is not None and due >= record.deadline:
            return None
        if policy.max_duration is not None and due > (record.started or 0) + policy.max_duration:
            return None
        return delay
