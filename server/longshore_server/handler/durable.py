"""What the handlers of operations and of jobs have in common: an attempt with a journal, its steps and its sleep."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.contract.durations import span
from longshore_server.errors import ServiceError
from longshore_server.handler import codec, steps
from longshore_server.handler.facts import Flag
from longshore_server.handler.journal import Asked, Journal, Key, NonDeterministicError, place
from longshore_server.handler.log import AttemptLog
from longshore_server.handler.running import apart, running
from longshore_server.handler.steps import StepRetry, Steps
from longshore_server.ids import uid_text
from longshore_server.store.mutations import Author, Record
from longshore_server.store.record import JournalEntry
from longshore_server.tracer import Tracer

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

log = logging.getLogger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")

STEP = "step"
"""The kind of journal entries: what a step has returned."""


class Durable:
    """The context of one attempt.

    Everything that takes effect is durable before it is visible to anyone, and belongs to this attempt: once another
    attempt has begun, or it all has ended, further effects raise `ServiceError`.

    `deadline`: when it ends at the latest, in microseconds. `ends`: when this attempt does. `max_payload`: the most
    bytes of a step's result. `fields`: what every line of the log carries.
    """

    def __init__(
        self, author: Author, name: str, journal: Journal, writer: Writer, clock: Clock, tracer: Tracer, *,
        deadline: int | None, ends: int | None, max_payload: int, fields: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.author = author
        """For the engine: who writes into the journal."""
        self.journal = journal
        """For the engine: what earlier attempts have recorded, and what this one has asked for."""
        self._name = name
        self._writer = writer
        self._clock = clock
        self._tracer = tracer
        self._deadline = deadline
        self._ends = ends
        self._max_payload = max_payload
        self.fields = fields
        """For the engine: what every line of the log carries that belongs to this attempt."""
        self.cancelled = Flag()
        """Raised when somebody asks to cancel."""
        self.stopping = Flag()
        """Raised when a caller asks to stop: what the handler then returns completes the operation as stopped."""
        self.interrupt: Callable[[], object] = lambda: None
        """For the engine: ends this attempt without an outcome, where the next server makes it again."""
        self._task = asyncio.current_task()
        self._running_steps = 0
        self._outlasting = 0
        self._gives_way = False
        self._server_stops = False

    @property
    def name(self) -> str:
        """`operations/{id}` or `jobs/{id}`."""
        return self._name

    @property
    def uid(self) -> str:
        """The UUIDv7 that is this operation's, or this job's, alone."""
        return uid_text(self.author.uid)

    @property
    def run_id(self) -> str:
        """The same as `uid`: one run is one operation or job, over all of its attempts; `attempt` tells those apart."""
        return self.uid

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self.author.attempt

    @property
    def deadline(self) -> datetime | None:
        """When it fails if it has not ended (UTC); None: never."""
        return None if self._deadline is None else datetime.fromtimestamp(self._deadline / SECOND, UTC)

    @property
    def operation_uid(self) -> bytes | None:
        """For the engine: the operation that all this is about; None: there is none."""
        return self.author.uid

    @property
    def fatal(self) -> Exception | None:
        """Why this attempt cannot succeed any more, whatever the handler returns."""
        return self.journal.fatal

    def check_steps(self, *, fixed: bool) -> NonDeterministicError | None:
        """For the engine: why this attempt fails, which has completed without asking for all steps that are recorded.

        Where they are not `fixed` that is reported at most. One that was asked to stop or to cancel may leave out what
        it likes.
        """
        names = ", ".join(map(repr, self.journal.missed(STEP)))
        if not names or self.stopping or self.cancelled:
            return None
        problem = f"the handler completed without asking for what is recorded of the steps {names}"
        if fixed:
            return NonDeterministicError(f"{self.name}: {problem}", f"T{problem[1:]}.")
        log.warning("%s: %s: were they removed, or renamed?", self.name, problem, extra=dict(self.fields))
        return None

    @cached_property
    def log(self) -> AttemptLog:
        """A logger for the operators of the service: callers never see it.

        Every line goes to the log of the process and, by way of the store, to `longshore logs`: with the name, the
        attempt and the step whose function logs it. See `AttemptLog` for what becomes of what cannot be kept as it is.
        """
        return AttemptLog(self.author, self.fields, self._writer, self._clock)

    def give_way(self) -> None:
        """For the engine: the server stops, and this attempt waits for what only the next one brings. It goes on there:
        it is interrupted now, or once no step of it runs."""
        self._gives_way = True
        if self._running_steps == 0:
            self.interrupt()

    def server_stops(self) -> None:
        """For the engine: from here on this attempt gives way where its own task waits for what outlasts the server."""
        self._server_stops = True
        if self._outlasting:
            self._leave()

    @contextlib.contextmanager
    def outlasting(self) -> Iterator[None]:
        """For the engine: inside the block a handler waits for what the store keeps for it: a time, a signal, bytes.

        A server that stops does not wait with it, unless it was asked to cancel. A task that the handler has made says
        nothing of what others do.
        """
        own = asyncio.current_task() is self._task
        self._outlasting += own
        try:
            if own and self._server_stops:
                self._leave()
            yield
        finally:
            self._outlasting -= own

    def _leave(self) -> None:
        # What was asked to cancel is ended by the next server, not run again: what it still does it does here.
        if not self.cancelled:
            self.give_way()

    # Of plain functions that return coroutines mypy would make `Any` in a gather of both kinds.
    @overload
    async def step(
        self, name: str, function: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> T: ...  # fmt: skip

    @overload
    async def step(
        self, name: str, function: Callable[[Unpack[Args]], T], *args: *Args,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> T: ...  # fmt: skip

    # mypy 2.4 does not take `*args: Any` for an implementation of overloads that unpack a TypeVarTuple.
    def step(  # type: ignore[misc]
        self, name: str, function: Callable[..., Any], *args: Any,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]:  # fmt: skip
        """Run `function(*args)` once in the life of the operation or job, and return its recorded result ever after.

        The result is recorded when the function has returned: a crash in between runs it again, so pass `step.key` on
        to whatever must not happen twice. Results are protobuf messages, JSON values, dataclasses or pydantic models,
        always decoded from what was stored. Steps may run in parallel, not inside one another.

        Args:
            name: tells it from the other steps, in this attempt and in all later ones.
            retry: how often the function is tried before the step fails. Default: once.
            timeout: the longest that one try may take, in seconds or as a timedelta, before it is cancelled; only what
                awaits can be. Default: as long as it takes.

        Raises what the function raised last (nothing is recorded), `StepTimeoutError` where it took too long,
        `DuplicateNameError` for a name used before in this attempt, `NestedStepError` inside another step,
        `NonDeterministicError` when a re-run passes other arguments, `TypeError` for another kind of result or what is
        no function,
        `ValueError` for one that is larger than the server's `max_payload`.
        """
        # No coroutine itself: in a task of its own it would find only asyncio as its caller.
        return self._step(name, place(2), function, args, retry, timeout)

    async def _step(
        self, name: str, where: str, function: Callable[..., Any], args: tuple[Any, ...],
        retry: StepRetry | None, timeout: float | timedelta | None,
    ) -> Any:  # fmt: skip
        steps.check(name, function, retry)
        steps.refuse_nesting(name)
        asked = Asked(*args)
        key = await self.journal.claim(STEP, name, where)
        entry = self.journal.recorded(key, asked)
        if entry is None:
            with self._tracer.step(name):
                entry = await self._run_step(key, asked, function, args, retry, timeout)
        return self.journal.decode(key, entry, function)

    async def _run_step(
        self, key: Key, asked: Asked, function: Callable[..., Any], args: tuple[Any, ...],
        retry: StepRetry | None, timeout: float | timedelta | None,
    ) -> JournalEntry:  # fmt: skip
        name, started = key[1], self._clock.now()
        self._running_steps += 1
        try:
            try:
                result = await self._steps.run(name, f"{self.uid}/{name}", function, args, retry, timeout)
            except BaseException:
                self.journal.release(key)
                raise
            try:
                stored = self._stored(name, result)
            except (TypeError, ValueError) as error:
                await self._steps.failed(name, started, error)
                raise
            record = self.record(key, asked, stored, started)
            return await self.journal.write(key, record, lambda entry: entry)
        finally:
            self._running_steps -= 1
            if self._gives_way:
                self.give_way()

    def _stored(self, name: str, result: Any) -> codec.Encoded:
        """What a step has returned, as the journal keeps it."""
        try:
            stored = codec.encode(result)
        except codec.NotStorableError as error:
            raise TypeError(f"step {name!r}: {error}") from None
        if len(stored.data) > self._max_payload:
            raise ValueError(
                f"step {name!r}: its result has {len(stored.data)} bytes, more than the {self._max_payload} of "
                "max_payload: put it where it belongs, and return what finds it there"
            )
        return stored

    async def sleep(self, duration: float | timedelta) -> None:
        """Sleep durably: the end is recorded at the first call, and a re-run sleeps only what is left of it.

        Args:
            duration: seconds, or a timedelta. Raises `ValueError` when it is negative, or longer than 31 years.
        """
        try:
            seconds = span(duration, zero=True) / SECOND
        except (TypeError, ValueError) as error:
            raise type(error)(f"cannot sleep {duration}: {error}") from None
        until = await self.until(self.journal.count("sleep", apart("")), Asked(seconds), seconds)
        with self.outlasting():
            await sleep_until(self._clock, until)

    async def until(self, key: Key, asked: Asked, seconds: float) -> int:
        """For the engine: the time so many seconds from now, recorded at the first call; a re-run gets the same."""
        entry = self.journal.recorded(key, asked)
        if entry is None:
            entry = await self.record(key, asked, codec.encode(self._clock.now() + int(seconds * SECOND)))
        found: int = self.journal.decode(key, entry)
        return found

    def record(
        self, key: Key, asked: Asked, stored: codec.Encoded, started: int | None = None
    ) -> asyncio.Future[JournalEntry]:
        """For the engine: write the outcome of a durable await into the journal; durable when the future is done."""
        entry = self.journal.entry(key, self.attempt, asked, stored.codec, stored.data, started)
        return self._writer.submit(Record(self.author, entry))

    def signal_id(self, uid: str, name: str) -> str:
        """For the engine: the id of the next signal of this name that the handler sends to another operation."""
        step = running.get()
        # Another try of a step sends the same ones.
        turn = "" if step is None else f" in try {step.number}"
        _, _, occurrence = self.journal.count("send", f"{uid} {name}{turn}")
        # Names of steps may be longer than ids of signals.
        within = "" if step is None else f"{hashlib.sha256(step.name.encode()).hexdigest()[:12]}."
        return f"{self.uid}/{name}/{within}{occurrence}"

    @cached_property
    def _steps(self) -> Steps:
        return Steps(
            self.author, self._name, self.fields, self._ends, self._writer, self._clock, self.cancelled, self.stopping
        )


def wait_on(inside: Durable | None, stops: ServiceError, *, goes_on: bool) -> None:
    """For the engine: something waits for an operation or a job while the server stops.

    Who asks from outside is told so by `stops`, which is raised. A handler is not, since that would become the end of
    its own work: it has the time of the drain, like all that runs, for as long as what it waits for goes on here too;
    then it gives way.
    """
    if inside is None:
        raise stops
    if not goes_on:
        inside.give_way()


def outlasting() -> contextlib.AbstractContextManager[None]:
    """As `Durable.outlasting`, of the handler that is running here, if any."""
    inside = handling.get()
    return contextlib.nullcontext() if inside is None else inside.outlasting()


handling: contextvars.ContextVar[Durable | None] = contextvars.ContextVar("longshore_handling", default=None)
"""The context of the handler that is running here, if any."""
