"""When and how long to wait before a call is made again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from longshore_client.arguments import check_seconds


@dataclass(frozen=True, slots=True)
class Timing:
    """Where time and chance come from. Tests put their own in."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class Retry:
    """How the client goes on when the server cannot be reached, or asks to come again because it is too busy.

    The delay is drawn evenly between zero and a bound that doubles with every failure (full jitter), so that many
    clients that lost the same server do not come back at the same moment. A `RetryInfo` from the server is the least
    delay. Any answer starts the count anew.
    """

    initial_delay: float = 0.1
    """Bound of the first delay, in seconds."""
    max_delay: float = 5.0
    """No bound is larger than this, in seconds."""
    give_up_after: float | None = 120.0
    """Seconds without any answer after which `Unavailable` is raised; None: never."""
    first_contact: float | None = 10.0
    """The same for a server that has never answered on this channel, since the address may be wrong: the shorter of
    the two counts. None: `give_up_after` alone, for a program that may start long before its server."""
    busy_for: float | None = 30.0
    """Seconds for which a server that is too busy, and says when to come again, is asked again before
    `ResourceExhausted` is raised; None: for ever; 0: never."""
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        """Raises TypeError for what is no number of seconds: else the first outage would."""
        check_seconds("initial_delay", self.initial_delay)
        check_seconds("max_delay", self.max_delay)
        for what in ("give_up_after", "first_contact", "busy_for"):
            if (value := getattr(self, what)) is not None:
                check_seconds(what, value)

    def attempts(self) -> Backoff:
        """Begin to count failures."""
        return Backoff(self)


class Backoff:
    """The failures in a row of one call or watch."""

    __slots__ = ("_busy", "_failures", "_retry", "_since")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._failures = 0
        self._since = 0.0
        self._busy = False

    def reset(self) -> None:
        """Something came through."""
        self._failures = 0

    async def pause(
        self,
        retry_after: float | None,
        deadline: float | None = None,
        *,
        contacted: bool = True,
        busy: bool = False,
        before: Callable[[], None] | None = None,
    ) -> bool:
        """Wait before the next try.

        Args:
            retry_after: Seconds that the server asked to wait at least, if it did.
            deadline: Monotonic time after which the caller has no use for another try.
            contacted: Whether the server has ever answered.
            busy: Whether it has answered now, that it is too busy.
            before: Called before the wait, if there is going to be one.

        Returns:
            False if it is time to give up instead.
        """
        timing = self._retry.timing
        now = timing.monotonic()
        if busy is not self._busy:
            # An answer after none, or none after an answer.
            self._busy, self._failures = busy, 0
        if self._failures == 0:
            self._since = now
        # The exponent is bounded because a watch may fail for days.
        bound = min(self._retry.max_delay, self._retry.initial_delay * 2 ** min(self._failures, 30))
        delay = timing.random() * bound + (retry_after or 0.0)
        self._failures += 1
        limit = self._retry.busy_for if busy else self._retry.give_up_after
        first = self._retry.first_contact
        if not contacted and not busy and first is not None:
            limit = first if limit is None else min(limit, first)
        if limit is not None and now + delay - self._since > limit:
            return False
        if deadline is not None and now + delay > deadline:
            return False
        if before is not None:
            before()
        await timing.sleep(delay)
        return True
