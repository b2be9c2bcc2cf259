"""`server.recurring`, `server.debounce`, `server.task`: where a service declares its durable instances."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, Unpack

from longshore_server.handler.log import LogLevel
from longshore_server.handler.steps import StepRetry
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances import debounce, recurring
from longshore_server.instances.debounce import Debounce, Mode
from longshore_server.instances.definition import Definition
from longshore_server.instances.recurring import Misfire, Overlap, Recurring
from longshore_server.instances.schedule import Rate
from longshore_server.instances.task import Task, TaskDefinition, types_of

StateT = TypeVar("StateT")
EventT = TypeVar("EventT")


class _Unset:
    """What says that a type is to be read from annotations."""


UNSET: Any = _Unset()


class Common(typing.TypedDict, total=False):
    """The options that all kinds have."""

    retry: StepRetry | None
    """How often a run that fails is made again, and after what delay; default: it is not, and the instance FAILED."""
    log_level: LogLevel
    """The least of `ctx.log` that the log of the process gets, and of the lifecycle events a sink `log:`: debug, info,
    warning, error (the default) or off. The store keeps what is info or more, unless it is off."""
    call: str | None
    """The capability with which callers may start, add, send and trigger; default: the provider and the admin alone."""
    timeout: str | float | timedelta
    """The longest that one attempt at a run may take; default: an hour. Then the handler is cancelled, and has failed
    with ATTEMPT_TIMEOUT. One that has not stopped 10 seconds later is left to itself: nothing counts that it does."""
    max_crashes: int
    """After how many servers that died while a run was under way it is given up; default 5."""
    retention: str | float | timedelta | None
    """How long an instance is kept that is terminated; of a debounce also one that has collected nothing and has no
    dead letter, and each dead letter. 0: for ever. Default: as the server keeps operations, which is 30 days."""


class Declaring:
    """The definitions of a server."""

    def __init__(self) -> None:
        self.definitions: dict[tuple[Kind, str], Definition[Any]] = {}

    def recurring(
        self, name: str, *, every: str | float | timedelta | None = None, cron: str | None = None,
        zone: str | None = None, state: Any = UNSET, rate: Rate = "fixed_delay", start_immediately: bool = True,
        overlap: Overlap = "skip", misfire: Misfire = "once", on_error: recurring.OnError[Any] | None = None,
        **common: Unpack[Common],
    ) -> Callable[[recurring.Handler[StateT]], Recurring[StateT]]:  # fmt: skip
        """Decorator: a handler that runs by a schedule, for any number of instances.

        Args:
            name: in the instances' names, `recurrings/{name}/instances/{id}`.
            every: a time span between runs: seconds, a timedelta, or a text such as "30m".
            cron: instead: an expression of 5 fields, or of 6 with the seconds first.
            zone: in which time zone to read it, by its IANA name; default UTC.
            state: the type of the state; default: what the handler's annotation says, `RecurringContext[Token]`.
            rate: from the end of one run to the begin of the next (fixed_delay), or from begin to begin (fixed_rate).
            start_immediately: whether `start` makes the first run, too.
            overlap: what becomes of times that come while a run is under way: nothing (skip), or one run after it
                (queue).
            misfire: what becomes of times that passed while the server was down or the instance paused: one run for
                all of them (once), none (skip), or one for each (all).
            on_error: called with the error and a context once a run is given up; if it returns, the schedule goes on,
                else the instance is FAILED.

        Raises `ValueError` or `TypeError` for what makes no sense.
        """

        _check_name(name, "recurring")

        def declare(handler: recurring.Handler[StateT]) -> Recurring[StateT]:
            _check_handlers(name, handler, on_error)
            declared = _given(_annotated(handler, name) if state is UNSET else state, name, "state")
            with _naming(name):
                found = Recurring(
                    name, handler, every=every, cron=cron, zone=zone, state=declared, rate=rate,
                    start_immediately=start_immediately, overlap=overlap, misfire=misfire, on_error=on_error, **common,
                )  # fmt: skip
            self._add(found)
            return found

        return declare

    def debounce(
        self, name: str, *, flush_after: str | float | timedelta, event: Any = UNSET, state: Any = UNSET,
        initial: Any = None, mode: Mode = "window", max_wait: str | float | timedelta | None = None,
        max_events: int | None = None, on_event: debounce.OnEvent[Any, Any] | None = None,
        on_error: debounce.OnError[Any] | None = None, **common: Unpack[Common],
    ) -> Callable[[debounce.Handler[StateT]], Debounce[Any, StateT]]:  # fmt: skip
        """Decorator: a handler of batches of events, for any number of instances.

        Args:
            name: in the instances' names, `debounces/{name}/instances/{id}`.
            flush_after: how long after its first event (mode window) or its latest one (trailing) a batch is handled.
            event: the type of an event; default: that of the state.
            state: the type of what events are reduced to; default: what the handler's annotation says,
                `DebounceContext[Contact]`, else that of an event.
            initial: the state before the first event of a batch, or a function that makes it; default None.
            mode: see `flush_after`.
            max_wait: in mode trailing: how long after its first event a batch is handled at the latest.
            max_events: a batch of so many is handled at once; default: no bound.
            on_event: a plain function that makes the next state of a state and an event, without effects: it may be
                called several times for one event. It runs in a thread of this definition's own: a slow one delays
                the events of this definition alone. What it raises refuses the event. Default: the latest event is
                the state.
            on_error: called with the error and a context once a batch is given up; if it returns, the next batch is
                handled, else the instance is FAILED. The batch is kept as a dead letter either way.

        Raises `ValueError` or `TypeError` for what makes no sense.
        """

        _check_name(name, "debounce")

        def declare(handler: debounce.Handler[StateT]) -> Debounce[Any, StateT]:
            _check_handlers(name, handler, on_error)
            declared = _annotated(handler, name) if state is UNSET else state
            if declared is UNSET:
                declared = _given(event, name, "event")
            with _naming(name):
                if on_event is not None and (inspect.iscoroutinefunction(on_event) or not _takes(on_event, "ctx")):
                    raise TypeError("on_event: it must be a plain function of (ctx): in its thread it cannot wait")
                found: Debounce[Any, StateT] = Debounce(
                    name, handler, event=declared if event is UNSET else event, state=declared, flush_after=flush_after,
                    initial=initial, mode=mode, max_wait=max_wait, max_events=max_events, on_event=on_event,
                    on_error=on_error, **common,
                )  # fmt: skip
            self._add(found)
            return found

        return declare

    def task(
        self, name: str, task: type[Task[StateT, EventT]], **common: Unpack[Common]
    ) -> TaskDefinition[StateT, EventT]:
        """Declare a task: an event-driven state machine, of any number of instances.

        Args:
            name: in the instances' names, `tasks/{name}/instances/{id}`.
            task: a class derived from `Task[State, Event]`. It is made once, without arguments.

        Raises `ValueError` or `TypeError` for what makes no sense.
        """
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise TypeError(f"{name}: {task!r} is no class derived from Task[State, Event]")
        for method in ("on_event", "execute", "on_idle", "on_error"):
            if not inspect.iscoroutinefunction(getattr(task, method)):
                raise TypeError(f"{name}: {task.__qualname__}.{method} must be an `async def` method")
        state, event = types_of(task)
        made = task()
        with _naming(name):
            found = TaskDefinition(name, made, state=state, event=event, **common)
        self._add(found)
        return found

    def _add(self, definition: Definition[Any]) -> None:
        key = (definition.kind, definition.name)
        if key in self.definitions:
            raise ValueError(f"name: there is a {definition.kind.name.lower()} {definition.name!r} already")
        self.definitions[key] = definition


def _check_name(name: Any, kind: str) -> None:
    """Before there is a handler: a decorator that was written without its arguments takes that for them."""
    if not isinstance(name, str):
        raise TypeError(f"a {kind} has a name: write @server.{kind}('...', ...) above {name!r}")


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which definition an option is wrong."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.args = (f"{name}: {error}",)
        raise


def _check_handlers(name: str, handler: Any, on_error: Any) -> None:
    _check_handler(name, "the handler", handler, "ctx")
    if on_error is not None:
        _check_handler(name, "on_error", on_error, "error", "ctx")


def _check_handler(name: str, what: str, function: Any, *arguments: str) -> None:
    if not (inspect.iscoroutinefunction(function) and _takes(function, *arguments)):
        raise TypeError(f"{name}: {what} must be an `async def` function of ({', '.join(arguments)})")


def _takes(function: Any, *arguments: str) -> bool:
    """Whether it can be called with so many arguments, as far as it says."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # not every callable says what it takes
        return callable(function)
    return True


def _annotated(handler: Any, name: str) -> Any:
    """The type of the state that the annotation of the handler's context says; UNSET: none does."""
    try:
        hints = typing.get_type_hints(handler)
    except NameError as error:
        raise TypeError(f"{name}: {error}: give state= the type of the state") from None
    first = next(iter(inspect.signature(handler).parameters), "")
    return next(iter(typing.get_args(hints.get(first))), UNSET)


def _given(declared: Any, name: str, what: str) -> Any:
    if declared is UNSET:
        raise TypeError(f"{name}: give {what}= its type, or annotate the handler's context with the type of the state")
    return declared
