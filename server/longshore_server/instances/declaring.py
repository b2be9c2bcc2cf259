"""`server.recurring`, `server.debounce`, `server.task`: where a service declares its durable instances."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, Unpack

from longshore_server.handler.steps import StepRetry
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances import recurring
from longshore_server.instances.definition import Definition, LogLevel
from longshore_server.instances.recurring import Misfire, Overlap, Recurring
from longshore_server.instances.schedule import Rate

StateT = TypeVar("StateT")


class _Unset:
    """What says that a type is to be read from annotations."""


UNSET: Any = _Unset()


class Common(typing.TypedDict, total=False):
    """The options that all kinds have."""

    retry: StepRetry | None
    """How often a run that fails is made again, and after what delay; default: it is not, and the instance FAILED."""
    log_level: LogLevel
    """The least of `ctx.log` that is written: debug, info, warning, error (the default) or off."""
    call: str | None
    """The capability with which callers may start, add, send and trigger; default: the provider and the admin alone."""
    max_crashes: int
    """After how many servers that died while a run was under way it is given up; default 5."""


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

        def declare(handler: recurring.Handler[StateT]) -> Recurring[StateT]:
            _check_handler(handler, name)
            declared = _state_of(handler, state, name)
            found = Recurring(
                name, handler, every=every, cron=cron, zone=zone, state=declared, rate=rate,
                start_immediately=start_immediately, overlap=overlap, misfire=misfire, on_error=on_error, **common,
            )  # fmt: skip
            self._add(found)
            return found

        return declare

    def _add(self, definition: Definition[Any]) -> None:
        key = (definition.kind, definition.name)
        if key in self.definitions:
            raise ValueError(f"name: there is a {definition.kind.name.lower()} {definition.name!r} already")
        self.definitions[key] = definition


def _check_handler(handler: Any, name: str) -> None:
    if not inspect.iscoroutinefunction(handler):
        raise TypeError(f"{name}: the handler must be an `async def` function that takes the context")


def _state_of(handler: Any, state: Any, name: str) -> Any:
    """The type of the state: as given, or what the annotation of the handler's context says."""
    if state is not UNSET:
        return state
    try:
        hints = typing.get_type_hints(handler)
    except NameError as error:
        raise TypeError(f"{name}: {error}: give state= the type of the state") from None
    first = next(iter(inspect.signature(handler).parameters), "")
    arguments = typing.get_args(hints.get(first))
    if not arguments:
        raise TypeError(f"{name}: give state= the type of the state, or annotate the handler's context with it")
    return arguments[0]
