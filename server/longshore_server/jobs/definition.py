"""What `@server.job(...)` says of a queue, checked where it is written."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from google.protobuf.message import Message

from longshore_server.clock import SECOND
from longshore_server.contract.durations import span
from longshore_server.contract.retry import RetryPolicy
from longshore_server.handler.log import LogLevel, level_of
from longshore_server.handler.steps import StepRetry
from longshore_server.job_lifecycle import JobMove
from longshore_server.jobs.key import KeyTemplate
from longshore_server.store.job_record import QueueRow
from longshore_server.store.mutations.job_creation import WhenFull

Span = float | timedelta | str
"""Seconds, a timedelta, or a text such as `"30m"`."""
Handler = Callable[[Any, Any], Awaitable[Any]]
MOST = 1_000_000
"""The most that a count of an option may be."""
MAX_LIVE = 1_000_000
CANCEL_GRACE = 10 * SECOND


@dataclass(frozen=True)
class JobRetry(StepRetry):
    """How often a job whose handler fails is run, and after what delay: in the words of a contract's `retry`.

    Each failure is durable, with the time of the next attempt. A job that has used up its attempts is DEAD: kept with
    its last error until somebody replays or dismisses it. Attempts that a crash or a stop interrupted do not count.
    """


@dataclass(frozen=True)
class Rate:
    """How many attempts of a queue may begin in a time; as many may begin at once. Durable."""

    count: int
    per: Span = 1.0

    def __post_init__(self) -> None:
        _count("rate", self.count)
        if self.interval <= 0:
            raise ValueError(f"rate: {self.count} in {self.per} is more than one in a microsecond")

    @property
    def interval(self) -> int:
        """Microseconds between two of them at an even pace."""
        return span(self.per) // self.count


@dataclass(frozen=True)
class Options:
    """The options of a queue as they are written; see `Server.job`."""

    key: str | None = None
    max_active: int = 1
    max_queued: int | None = 0
    when_full: Literal["reject", "coalesce", "replace_oldest"] = "reject"
    on_stale: Literal["retry", "fail", "block"] = "retry"
    max_live: int = MAX_LIVE
    concurrency: int = 16
    rate: Rate | None = None
    retry: JobRetry | None = None
    timeout: Span | None = None
    deadline: Span | None = None
    heartbeat: Span | None = None
    max_claims: int = 5
    cancel_grace: Span | None = None
    retention: Span | None = None
    idempotency_ttl: Span | None = None
    on_step_change: Literal["report", "fail"] = "report"
    log_level: LogLevel = "error"


class Definition:
    """One queue: its name, its function with the types of that, and its options. Durations in microseconds.

    Raises `TypeError` or `ValueError` for what makes no sense, naming the queue and the option.
    """

    def __init__(self, name: str, function: Handler, options: Options) -> None:
        if not name or len(name) > 100 or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise ValueError(f"{name!r} cannot name a queue: use letters, digits, '.', '-' and '_', at most 100")
        self.name = name
        self.function = function
        self.place = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        try:
            self.payload, self.result = _annotations(function)
            self.key = None if options.key is None else KeyTemplate(options.key, self.payload)
            self._read(options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"job {name!r} ({self.place}): {error}") from None

    def _read(self, options: Options) -> None:
        self.max_active = _count("max_active", options.max_active)
        self.max_queued = None if options.max_queued is None else _count("max_queued", options.max_queued, least=0)
        self.when_full = _word("when_full", WhenFull, options.when_full)
        self.on_stale = _ON_STALE[_one_of("on_stale", options.on_stale, _ON_STALE)]
        self.max_live = _count("max_live", options.max_live, most=1000 * MOST)
        self.concurrency = _count("concurrency", options.concurrency)
        if not isinstance(options.rate, Rate | None):
            raise TypeError(f"rate: {options.rate!r} is no Rate: write rate=Rate(10, per='1s')")
        self.rate = options.rate
        if not isinstance(options.retry, StepRetry | None):
            raise TypeError(f"retry: {options.retry!r} is no JobRetry: write retry=JobRetry(max_attempts=3)")
        self.retry: RetryPolicy | None = None if options.retry is None else options.retry.policy
        self.timeout = _span("timeout", options.timeout)
        self.deadline = _span("deadline", options.deadline)
        self.heartbeat = _span("heartbeat", options.heartbeat)
        self.max_claims = _count("max_claims", options.max_claims)
        grace = _span("cancel_grace", options.cancel_grace, zero=True)
        self.cancel_grace = CANCEL_GRACE if grace is None else grace
        self.retention = _span("retention", options.retention)
        self.idempotency_ttl = _span("idempotency_ttl", options.idempotency_ttl)
        self.fixed_steps = _one_of("on_step_change", options.on_step_change, ("report", "fail")) == "fail"
        self.level = level_of(options.log_level)
        if options.key is None and (options.max_active, options.max_queued, options.when_full) != (1, 0, "reject"):
            raise ValueError("max_active, max_queued and when_full are of a key: say which, key='{field}'")

    def row(self, retention: int) -> QueueRow:
        """What the store has to know of it. `retention`: of jobs where the definition says nothing; 0: for ever."""
        kept = retention if self.retention is None else self.retention
        interval = 0 if self.rate is None else self.rate.interval
        burst = 0 if self.rate is None else interval * self.rate.count
        return QueueRow(self.name, self.max_active, kept or None, interval, burst)

    def check_payload(self, payload: object) -> None:
        """Raises `TypeError` for a payload of another type than the function takes."""
        if not fits(payload, self.payload):
            raise TypeError(f"job {self.name!r} takes {shown(self.payload)}, not {type(payload).__name__}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of the type that an annotation says, as far as can be told from outside."""
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return any(fits(value, part) for part in typing.get_args(hint))
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if kind is float:
        return type(value) in (int, float)
    # Exactly: what is stored comes back as what it was, and a subclass is another type.
    return type(value) is kind


def shown(hint: Any) -> str:
    """An annotation, for people."""
    if isinstance(hint, type) and issubclass(hint, Message):
        return str(hint.DESCRIPTOR.full_name)
    if hint is types.NoneType:
        return "None"
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def _annotations(function: Handler) -> tuple[Any, Any]:
    """The types of the payload and of the result."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError("it must be a function of asyncio: async def f(payload, job)")
    found = inspect.signature(function).parameters.values()
    parameters = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(parameters) != 2:
        raise TypeError("it must take two arguments: async def f(payload, job)")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise TypeError(f"its annotations cannot be read: {error}; import the name at the top of its module") from None
    if parameters[0].name not in hints:
        raise TypeError(f"annotate {parameters[0].name!r} with the type of the payload, or with Any")
    if "return" not in hints:
        raise TypeError("annotate what it returns, with None where that is nothing")
    return hints[parameters[0].name], hints["return"]


_ON_STALE = {"retry": JobMove.REQUEUE, "fail": JobMove.FAIL, "block": JobMove.LOSE}


def _count(option: str, value: Any, least: int = 1, most: int = MOST) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{option}: {value!r} is no whole number from {least} to {most:,}")
    return value


def _span(option: str, value: Span | None, *, zero: bool = False) -> int | None:
    try:
        return None if value is None else span(value, zero=zero)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{option}: {error}") from None


def _one_of(option: str, value: str, words: typing.Iterable[str]) -> str:
    if value not in words:
        raise ValueError(f"{option}: {value!r} is none of {', '.join(map(repr, words))}")
    return value


def _word(option: str, kind: type[WhenFull], value: str) -> WhenFull:
    return kind(_one_of(option, value, [word.value for word in kind]))
