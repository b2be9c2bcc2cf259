"""The step that runs here: what its function may know of it, how it is called, and how often it is tried."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf.duration_pb2 import Duration

from longshore.v1 import annotations_pb2
from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.contract import retry as policies
from longshore_server.contract.retry import RetryPolicy
from longshore_server.errors import OperationError, Reason, ServiceError
from longshore_server.handler.facts import Flag
from longshore_server.handler.journal import DuplicateNameError, NonDeterministicError
from longshore_server.handler.running import Running, running
from longshore_server.handler.texts import error_text
from longshore_server.store.logs import StepFailure
from longshore_server.store.mutations import Author, FailTry

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

log = logging.getLogger(__name__)


class NestedStepError(RuntimeError):
    """A step was asked for inside the function of another, or in a task that such a function began."""


class StepTimeoutError(TimeoutError):
    """A step took longer than it may, and its function was cancelled.

    A handler that does not catch it fails its attempt with reason STEP_TIMEOUT.

    Attributes:
        step: its name.
        seconds: how long it was allowed to take.
    """

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(f"step {step!r} took longer than {seconds:g} s")
        self.step = step
        self.seconds = seconds


@dataclass(frozen=True)
class StepRetry:
    """How often a step whose function fails is tried, and after what delay: in the words of a contract's `retry`.

    All tries are made within one attempt of the operation: another attempt, after a crash too, counts its tries from 1
    again. Those that fail are recorded for operators alone.

    Raises `ValueError` or `TypeError` for what makes no sense, as a contract would be refused.
    """

    max_attempts: int
    """How many tries in all, the first included."""
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    """The delay doubles, grows by the first one, or stays."""
    initial_delay: float | timedelta = 1.0
    """Before the second try, in seconds or as a timedelta; zero: at once."""
    max_delay: float | timedelta | None = None
    """No delay is longer, whatever the jitter. None: 1 h, or `initial_delay` where that is longer."""
    jitter: float = 0.0
    """By which share of itself a delay is made shorter or longer at random, at most."""
    max_duration: float | timedelta | None = None
    """No try is due later than this after the first one began."""
    non_retryable_reasons: Collection[str] = ()
    """Reasons after which there is no further try: of an OperationError, or HANDLER_ERROR, or STEP_TIMEOUT."""
    policy: RetryPolicy = field(init=False, repr=False, compare=False)
    """For the engine: all of this, checked."""

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int:
            raise TypeError(f"max_attempts: {self.max_attempts!r} is no whole number")
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise TypeError(f"jitter: {self.jitter!r} is no number")
        said = annotations_pb2.RetryPolicy(
            max_attempts=self.max_attempts, initial_delay=_duration("initial_delay", self.initial_delay),
            jitter=self.jitter, non_retryable_reasons=self.non_retryable_reasons,
        )  # fmt: skip
        if self.backoff not in _BACKOFFS:
            raise ValueError(f"backoff: {self.backoff!r} is none of {', '.join(map(repr, _BACKOFFS))}")
        said.backoff = _BACKOFFS[self.backoff]
        if self.max_delay is not None:
            said.max_delay.CopyFrom(_duration("max_delay", self.max_delay))
        if self.max_duration is not None:
            said.max_duration.CopyFrom(_duration("max_duration", self.max_duration))
        policy = policies.check(said, lambda option, problem: ValueError(f"{option}: {problem}"))
        object.__setattr__(self, "policy", policy)


class Steps:
    """Calls the functions of one attempt's steps."""

    def __init__(
        self, author: Author, name: str, fields: Mapping[str, Any], ends: int | None, writer: Writer, clock: Clock,
        cancelled: Flag, stopping: Flag,
    ) -> None:  # fmt: skip
        """`name`: whose attempt it is. `ends`: when that does, in microseconds. `fields`: for each line of the log."""
        self._author = author
        self._name = name
        self._writer = writer
        self._clock = clock
        self._cancelled = cancelled
        self._stopping = stopping
        self._fields = fields
        self._ends = ends
        self._tries = itertools.count(1)

    async def run(
        self, name: str, key: str, function: Callable[..., Any], args: tuple[Any, ...],
        retry: StepRetry | None, timeout: float | timedelta | None,
    ) -> Any:  # fmt: skip
        """What `function(*args)` returns, tried as `retry` says; inside it `step.key` is `key`.

        Raises what the last try raised.
        """
        limit = None if timeout is None else _micros("timeout", timeout)
        if limit is not None and limit <= 0:
            raise ValueError(f"step {name!r}: its timeout is {timeout}, and must be longer than zero")
        begun, failures = self._clock.now(), 0
        while True:
            try:
                return await self._once(Running(name, key, next(self._tries)), function, args, limit)
            except asyncio.CancelledError as error:
                self._note(name, begun, error)
                raise
            except Exception as error:
                failures += 1
                await self.failed(name, begun, error)
                delay = None if retry is None else self._delay(retry.policy, error, failures, begun)
                if retry is None or delay is None:
                    raise
                log.warning(
                    "step %r of %s failed, try %d of %d; the next one comes in %g s", name, self._name,
                    failures, retry.max_attempts, delay / SECOND, exc_info=error, extra=dict(self._fields),
                )  # fmt: skip
                await self._pause(self._clock.now() + delay)
                if self._cancelled:
                    raise

    async def failed(self, name: str, begun: int, error: Exception) -> None:
        """Tell operators that a try of a step has failed that began at `begun`. Durable when this returns."""
        with contextlib.suppress(ServiceError):  # the store has stopped: the error that counts is the step's
            await self._note(name, begun, error)

    def _note(self, name: str, begun: int, error: BaseException) -> asyncio.Future[None]:
        failure = StepFailure(name, self._author.attempt, begun, self._clock.now(), error_text(error))
        return self._writer.submit(FailTry(self._author, failure))

    async def _once(self, this: Running, function: Callable[..., Any], args: tuple[Any, ...], limit: int | None) -> Any:
        token = running.set(this)
        try:
            result = function(*args)
            if not inspect.isawaitable(result):
                return result
            if limit is None:
                return await result
            scope = asyncio.timeout(None)
            try:
                async with scope:
                    # What asyncio does when the time is up, and the clock that says when.
                    timer = self._clock.call_at(self._clock.now() + limit, lambda: scope.reschedule(0))
                    try:
                        return await result
                    finally:
                        timer.cancel()
            except TimeoutError as error:
                if scope.expired():
                    raise StepTimeoutError(this.name, limit / SECOND) from error
                raise
        finally:
            running.reset(token)

    def _delay(self, policy: RetryPolicy, error: Exception, failures: int, begun: int) -> int | None:
        """Microseconds until the next try; None: there is none."""
        if self._cancelled or self._stopping or isinstance(error, _MISTAKES):
            return None
        reason = Reason.HANDLER_ERROR.name
        if isinstance(error, OperationError):
            if error.final:
                return None
            reason = error.reason
        elif isinstance(error, StepTimeoutError):
            reason = Reason.STEP_TIMEOUT.name
        return policy.next(failures, reason, random.random(), self._clock.now(), begun, self._ends)  # noqa: S311

    async def _pause(self, until: int) -> None:
        """Return at `until`, or once a caller asks to cancel or to stop."""
        waits = {
            asyncio.ensure_future(wait)
            for wait in (sleep_until(self._clock, until), self._cancelled.wait(), self._stopping.wait())
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def check(name: str, function: object, retry: object) -> None:
    """Raises `TypeError` for what cannot be a step."""
    if not isinstance(name, str):
        raise TypeError(f"step: its name must be a text, and come before its function, not {name!r}")
    if not callable(function):
        what = "its result" if inspect.isawaitable(function) else repr(function)
        if inspect.iscoroutine(function):
            function.close()  # never begun: Python would warn that nobody awaited it
        raise TypeError(f"step {name!r}: pass the function itself, and its arguments after it, not {what}")
    if not isinstance(retry, StepRetry | None):
        raise TypeError(f"step {name!r}: retry: {retry!r} is no StepRetry: write retry=StepRetry(max_attempts=3)")


def refuse_nesting(name: str) -> None:
    """Raises `NestedStepError` where a step runs already."""
    outer = running.get()
    if outer is not None:
        raise NestedStepError(
            f"step {name!r} is inside step {outer.name!r}: steps cannot be nested; call its function itself, or make "
            "two steps of it, one after the other"
        )


_BACKOFFS = {
    "exponential": annotations_pb2.BACKOFF_EXPONENTIAL,
    "linear": annotations_pb2.BACKOFF_LINEAR,
    "constant": annotations_pb2.BACKOFF_CONSTANT,
}
_MISTAKES = (DuplicateNameError, NestedStepError, NonDeterministicError)
"""What is wrong with the code stays so, however often it is tried."""


def _micros(name: str, value: float | timedelta) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{name}: {value!r} is no duration: give seconds, or a timedelta")
    try:
        return round((value.total_seconds() if isinstance(value, timedelta) else value) * SECOND)
    except (OverflowError, ValueError):
        raise ValueError(f"{name}: {value} is no duration") from None


def _duration(name: str, value: float | timedelta) -> Duration:
    try:
        found = Duration()
        found.FromMicroseconds(_micros(name, value))
    except (OverflowError, ValueError):
        raise ValueError(f"{name}: {value} is no duration") from None
    return found
