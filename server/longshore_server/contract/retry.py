"""A retry policy, of a contract or of a step: how often, and after what delay, a failed attempt is made again."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from longshore.v1 import annotations_pb2
from longshore_server.contract.durations import micros

INITIAL_DELAY = 1_000_000
MAX_DELAY = 3600 * 1_000_000
MOST_ATTEMPTS = 1_000_000
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]")  # AIP-193

Refuse = Callable[[str, str], Exception]
"""Makes the error that names an option and what is wrong with it."""


class Exhausted(enum.Enum):
    """Which bound of a policy leaves no further attempt."""

    MAX_ATTEMPTS = "max_attempts"
    MAX_DURATION = "max_duration"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is made again. Durations in microseconds."""

    max_attempts: int
    """In all, the first included. Attempts that a crash or a stop of the server interrupted do not count."""
    backoff: annotations_pb2.Backoff.ValueType = annotations_pb2.BACKOFF_EXPONENTIAL
    initial_delay: int = INITIAL_DELAY
    max_delay: int = MAX_DELAY
    jitter: float = 0.0
    """The share of the delay by which it is made shorter or longer at random, at most."""
    max_duration: int | None = None
    """No attempt is due later than this after the first one began; None: only `max_attempts` counts."""
    non_retryable: frozenset[str] = frozenset()
    """Reasons of errors after which no further attempt is made."""

    def next(self, failures: int, reason: str, chance: float, now: int, begun: int, deadline: int | None) -> int | None:
        """How long to wait for the next attempt after one that failed with `reason`; None: there is none.

        There is none that would be due after `max_duration`, counted from `begun`, or after the deadline of it all:
        nobody is helped by waiting for an attempt that cannot be made, and the error of the last one says more.
        `failures` and `chance`: as for `delay`.
        """
        found = self.judge(failures, reason, chance, now, begun, deadline)
        return found if isinstance(found, int) else None

    def judge(
        self, failures: int, reason: str, chance: float, now: int, begun: int, deadline: int | None
    ) -> int | Exhausted | None:
        """As `next`, with what it is that leaves no attempt; None: the error is one that ends it at once."""
        if reason in self.non_retryable:
            return None
        if failures >= self.max_attempts:
            return Exhausted.MAX_ATTEMPTS
        delay = self.delay(failures, chance)
        if deadline is not None and now + delay >= deadline:
            return Exhausted.DEADLINE
        if self.max_duration is not None and now + delay > begun + self.max_duration:
            return Exhausted.MAX_DURATION
        return delay

    def delay(self, failures: int, chance: float) -> int:
        """How long to wait after so many failures, the latest included. `chance`: 0 to 1, drawn for this delay."""
        if self.backoff == annotations_pb2.BACKOFF_CONSTANT:
            delay = self.initial_delay
        elif self.backoff == annotations_pb2.BACKOFF_LINEAR:
            delay = self.initial_delay * failures
        else:
            # Bounded, because the number has as many digits as there were failures; the cap cuts it anyway.
            delay = self.initial_delay << min(failures - 1, 64)
        # In this order: jitter after the cap would let the delay exceed it.
        jittered = delay + int(delay * self.jitter * (2 * chance - 1))
        return min(jittered, self.max_delay)


def read(contract: annotations_pb2.OperationContract, refuse: Refuse) -> RetryPolicy | None:
    """The policy that the contract declares; None: it declares none. Raises what `refuse` makes."""
    if not contract.HasField("retry"):
        return None
    policy = check(contract.retry, lambda option, problem: refuse(f"retry.{option}", problem))
    if contract.HasField("timeout") and policy.delay(1, 0) > micros(contract.timeout):
        raise refuse(
            "retry.initial_delay",
            "it is longer than timeout, and no attempt would follow: make one fit the other",
        )
    return policy


def check(policy: annotations_pb2.RetryPolicy, refuse: Refuse) -> RetryPolicy:
    """What a policy says, with its defaults. Raises what `refuse` makes of the first field that means nothing."""
    if not 1 <= policy.max_attempts <= MOST_ATTEMPTS:
        raise refuse("max_attempts", f"it must be between 1 and {MOST_ATTEMPTS:,} attempts in all, the first included")
    if policy.backoff not in annotations_pb2.Backoff.values():
        raise refuse("backoff", f"{policy.backoff} is not a value that this version knows")
    if not 0 <= policy.jitter <= 1:
        raise refuse("jitter", f"it is {policy.jitter:g}, and must be a share between 0 and 1")

    def duration(field: str, value: Duration, *, zero: bool = False) -> int:
        try:
            return micros(value, zero=zero)
        except ValueError as error:
            raise refuse(field, str(error)) from None

    initial = INITIAL_DELAY
    if policy.HasField("initial_delay"):
        initial = duration("initial_delay", policy.initial_delay, zero=True)
    longest = max(initial, MAX_DELAY)
    if policy.HasField("max_delay"):
        longest = duration("max_delay", policy.max_delay)
        if longest < initial:
            raise refuse("max_delay", "it is shorter than initial_delay, which it would cut: make one fit the other")
    for position, reason in enumerate(policy.non_retryable_reasons):
        option = f"non_retryable_reasons[{position}]"
        if not _REASON.fullmatch(reason):
            raise refuse(option, f"{reason!r} is no reason such as CARD_DECLINED")
        if reason in policy.non_retryable_reasons[:position]:
            raise refuse(option, f"{reason!r} is named twice")
    found = RetryPolicy(
        max_attempts=policy.max_attempts,
        backoff=policy.backoff or annotations_pb2.BACKOFF_EXPONENTIAL,
        initial_delay=initial,
        max_delay=longest,
        jitter=policy.jitter,
        max_duration=duration("max_duration", policy.max_duration) if policy.HasField("max_duration") else None,
        non_retryable=frozenset(policy.non_retryable_reasons),
    )
    if found.max_duration is not None and found.delay(1, 0) > found.max_duration:
        raise refuse(
            "max_duration", "it is shorter than initial_delay, and no attempt would follow: make one fit the other"
        )
    return found
