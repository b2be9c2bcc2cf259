"""`@server.debounce`: collects events, and hands them to its handler as one batch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from longshore_server.contract.validation import check_flag
from longshore_server.errors import Reason, ServiceError
from longshore_server.handler.codec import NotStorableError
from longshore_server.handler.log import LogLevel
from longshore_server.handler.steps import StepRetry
from longshore_server.handler.waits import CircleError
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.answers import Answer, Failed, failed, optional_moment, standing
from longshore_server.instances.definition import TIMEOUT, Definition, Host, check_key, check_span
from longshore_server.instances.reducing import Line, Lines, OwnThread
from longshore_server.instances.run import Context, Run, StateT, moment
from longshore_server.instances.values import Shape, TooLargeError, UnreadableError, digest_of
from longshore_server.instances.waiters import Waiter
from longshore_server.store.instances import FlushReason as Cause
from longshore_server.store.instances import InstanceRecord, Value
from longshore_server.store.mutations.instance import Taken
from longshore_server.store.mutations.instance_batch import AddEvent, Batch, Clear, Flush, Window, batch_of
from longshore_server.store.mutations.instance_run import FinishRun

log = logging.getLogger(__name__)

EventT = TypeVar("EventT", default=Any)
Mode = Literal["window", "trailing"]
MAX_EVENTS = 1_000_000
"""The most events of a batch that a definition may ask for."""


class FlushReason(enum.Enum):
    """Why a batch is handled."""

    FLUSH_AFTER = "flush_after"
    MAX_EVENTS = "max_events"
    MANUAL = "manual"


class DebounceContext(Context[StateT]):
    """What the handler of a batch may know. The batch is sealed: what comes now belongs to the next one."""

    @property
    def state(self) -> StateT:
        """What the events of the batch were reduced to."""
        state: StateT = self._run.state
        return state

    @property
    def event_count(self) -> int:
        """How many events the batch has."""
        return 0 if self._run.entry is None else self._run.entry.events

    @property
    def started_at(self) -> datetime:
        """When the first of them came."""
        return moment(0 if self._run.entry is None else self._run.entry.started)

    @property
    def flush_reason(self) -> FlushReason:
        """Why the batch was sealed; the same in all attempts."""
        return FlushReason[Cause.NONE.name if self._run.entry is None else self._run.entry.cause.name]


class EventContext(Generic[EventT, StateT]):
    """What `on_event` gets: one event, and what the batch is so far."""

    __slots__ = ("event", "event_count", "id", "state")

    def __init__(self, event: EventT, state: StateT, event_count: int, id: str) -> None:
        self.event = event
        """The event."""
        self.state = state
        """What the events before it were reduced to; `initial` at the first of a batch."""
        self.event_count = event_count
        """How many events the batch has, with this one."""
        self.id = id
        """The instance's id."""


Handler = Callable[[DebounceContext[StateT]], Awaitable[None]]
OnError = Callable[[BaseException, DebounceContext[StateT]], Awaitable[None]]
OnEvent = Callable[[EventContext[EventT, StateT]], StateT]


class Added(NamedTuple):
    """What `add` answers."""

    created: bool
    """Whether this event has begun the instance, or has begun it anew after a termination."""
    event_count: int
    """How many events the open batch has; 0: this one has filled it, and it is sealed."""
    will_flush_at: datetime | None
    """When the open batch is handled; None: none is open, or the instance is paused or has failed."""
    status: Status
    duplicate: bool = False
    """Whether an event of this id had been taken: then it counts once."""
    retry_at: datetime | None = None
    """When the batch that this event has filled is tried again, because its handler has failed."""


class Flushed(NamedTuple):
    """What `flush` answers."""

    flushed: bool
    """Whether a batch was handed to its handler."""
    event_count: int
    """How many events it has."""
    status: Status
    """NOT_FOUND: there is no such instance."""
    retry_at: datetime | None = None
    """When it is tried again, because its handler has failed."""


class Cleared(NamedTuple):
    """What `clear` answers."""

    cleared: bool
    discarded_events: int
    status: Status


class DebounceStatus(NamedTuple):
    """What `status` answers."""

    status: Status
    """NOT_FOUND: there is no such instance."""
    event_count: int = 0
    """Of the open batch."""
    started_at: datetime | None = None
    """When its first event came; None: none is open."""
    will_flush_at: datetime | None = None
    waiting_batches: int = 0
    """Sealed ones, with the one whose handler runs or is to run again."""
    dead_letters: int = 0
    """Batches that were given up. They are kept, until `resume` or `clear`."""
    run_count: int = 0
    attempt: int = 0
    retry_at: datetime | None = None
    created_at: datetime | None = None
    stop_reason: str = ""
    version: int = 0
    generation: int = 0
    last_error: Failed | None = None


class Debounce(Definition[StateT], Generic[EventT, StateT]):
    """One debounce definition, and the verbs for its instances. Made by `@server.debounce`."""

    kind = Kind.DEBOUNCE
    buries = True

    def __init__(
        self, name: str, handler: Handler[StateT], *, event: Any, flush_after: str | float | timedelta,
        state: Any = None, initial: Any = None, mode: Mode = "window",
        max_wait: str | float | timedelta | None = None, max_events: int | None = None,
        on_event: OnEvent[EventT, StateT] | None = None, retry: StepRetry | None = None,
        on_error: OnError[StateT] | None = None, log_level: LogLevel = "error", call: str | None = None,
        max_crashes: int = 5, timeout: str | float | timedelta = TIMEOUT,
        retention: str | float | timedelta | None = None,
    ) -> None:  # fmt: skip
        """`state` None: the events' own type."""
        super().__init__(
            name, event if state is None else state, retry=retry, log_level=log_level, call=call,
            max_crashes=max_crashes, timeout=timeout, retention=retention,
        )  # fmt: skip
        self.handler = handler
        self.event_shape = Shape(event, "event")
        self.window = _window(mode, flush_after, max_wait, max_events)
        if on_event is None and any(not self.state_shape.accepts(member) for member in self.event_shape.members):
            raise TypeError(
                f"on_event: it is missing, and an event ({self.event_shape}) is no state ({self.state_shape}): give"
                " on_event=, which makes a state of a state and an event"
            )
        self.on_event = on_event
        self._lines = Lines()
        self._thread = OwnThread(f"on_event of {name}")
        self.initial = initial
        self.on_error = on_error
        if initial is not None and not callable(initial) and not self.state_shape.has(initial):
            raise TypeError(f"initial: it must be {self.state_shape}, or a function that makes one")

    async def __call__(self, ctx: DebounceContext[StateT]) -> None:
        """The handler itself, for tests of it alone."""
        await self.handler(ctx)

    # Runs.

    async def act(self, run: Run) -> None:
        await self.handler(DebounceContext(run))

    @property
    def rescues(self) -> bool:
        return self.on_error is not None

    async def rescue(self, error: BaseException, run: Run) -> None:
        assert self.on_error is not None
        await self.on_error(error, DebounceContext(run))

    def finish(self, run: Run) -> FinishRun:
        # The state and the timer that the instance has are those of the next batch.
        return FinishRun(run.record.uid, run.record.fence)

    def attach(self, host: Host | None) -> None:
        super().attach(host)
        # What callers of a server that was killed have begun does not hold up those of the next one.
        self._lines.clear()
        self._thread.close()

    def reduce(self, on_event: OnEvent[EventT, StateT], event: Value, id: str, batch: Batch, limit: int) -> Value:
        """What a batch becomes by an event. Runs in the definition's own thread, for one event perhaps several times.

        Raises `ServiceError`: EVENT_NOT_TAKEN, STATE_TOO_LARGE, STATE_UNREADABLE.
        """
        name = f"debounces/{self.name}/instances/{id}"
        try:
            # Copies of its own: what it changes in place, or keeps, nobody else sees.
            before: Any = self._first(limit) if batch.state is None else self.state_shape.load(batch.state)
            context = EventContext(self.event_shape.load(event), before, batch.events + 1, id)
            return self.state_shape.store(on_event(context), limit)
        except UnreadableError as error:
            raise ServiceError(Reason.STATE_UNREADABLE, f"{name}: {error}.", resource=name) from None
        except TooLargeError as error:
            raise ServiceError(Reason.STATE_TOO_LARGE, f"{name}: {error}.") from None
        except BaseException as error:
            log.error("on_event of %s raised", name, exc_info=error, extra={"definition": self.name})
            detail = str(error) if isinstance(error, NotStorableError) else "the server's log has the trace"
            message = f"on_event of {name} raised at the event: {detail}."
            raise ServiceError(Reason.EVENT_NOT_TAKEN, message, resource=name) from None

    def _first(self, limit: int) -> Any:
        """What `on_event` gets with the first event of a batch: its own, which it may change in place."""
        if callable(self.initial):
            return self.initial()
        return None if self.initial is None else self.state_shape.load(self.state_shape.store(self.initial, limit))

    # Verbs.

    async def add(
        self, id: str, event: EventT, *, event_id: str = "", no_wait: bool = False, owner: str | None = None
    ) -> Added:
        """Add an event to the open batch of an instance, which it begins where there is none. Durable when it answers.

        Args:
            id: of the instance: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            event: it is reduced by `on_event`.
            event_id: the same id is the same event, and counts once, as long as its batch is not handled, and as it is
                among the latest 1000.
            no_wait: answer at once, also when this event fills the batch; else after the batch's handler has run then,
                unless that waits for the handler that adds.
            owner: the principal on whose behalf; None: the service's own code.

        Raises `ServiceError`: EVENT_NOT_TAKEN, EVENT_ID_REUSED, STATE_TOO_LARGE, TOO_MANY_EVENTS; `TypeError` for an
        event of another type.
        """
        value = self.event_shape.store(event, self.host.max_payload)
        add = AddEvent(
            self.address(id), self.newcomer(owner), value, None, self.window, check_key("event_id", event_id),
            digest_of(value),
        )  # fmt: skip
        taken, answer = await self._take(add, value, wait=not check_flag("no_wait", no_wait))
        record = taken.record
        status, retry_at = standing(record, answer)
        return Added(taken.created, record.batch_events, _flush_at(record), status, taken.duplicate, retry_at)

    async def _take(self, add: AddEvent, event: Value, *, wait: bool) -> tuple[Taken, Answer | None]:
        """Hand an event to the writer with what the batch becomes by it, until it is that batch."""
        if self.on_event is None:
            taken, answer = await self.host.hand(add, await self._waiter(add, wait=wait)).answer()
            assert taken is not None
            return taken, answer
        with self._lines.of(add.address.id) as line:
            while True:
                async with line.turn:
                    waiter = await self._reduced(self.on_event, line, add, event, wait=wait)
                taken, answer = None, None
                try:
                    taken, answer = await waiter.answer()
                finally:
                    if taken is None or taken.duplicate:
                        # Refused, taken before, or made of another batch: those behind it have counted on it.
                        line.batch = None
                if taken is not None:
                    return taken, answer

    async def _reduced(
        self, on_event: OnEvent[EventT, StateT], line: Line, add: AddEvent, event: Value, *, wait: bool
    ) -> Waiter:
        host, id = self.host, add.address.id
        if line.batch is None:
            line.batch = batch_of(*(await host.find(add.address) or (None, None)))
        batch = line.batch
        work = self._thread.run(lambda: self.reduce(on_event, event, id, batch, host.max_payload))
        try:
            reduced: Value | ServiceError = await work
        except ServiceError as refusal:
            # To the writer all the same: it knows whether this event has been taken, and whether the batch is this one.
            reduced = refusal
        # Not before: while it was reduced a handler may have begun to wait for the one that adds.
        waiter = host.hand(dataclasses.replace(add, reduced=reduced, batch=batch), await self._waiter(add, wait=wait))
        if not isinstance(reduced, ServiceError):
            count = batch.events + 1
            line.batch = Batch() if count == self.window.max_events else Batch(count, reduced)
            try:
                await line.went(len(reduced[1]), waiter.outcome)
            except asyncio.CancelledError:
                waiter.leave()
                raise
        return waiter

    async def _waiter(self, add: AddEvent, *, wait: bool) -> Waiter:
        """Who waits for the batch that an event may fill, but for a handler that this would wait for."""
        if wait:
            with contextlib.suppress(CircleError):
                return await self.host.waiter(add.address, wait=True)
        return await self.host.waiter(add.address, wait=False)

    async def flush(self, id: str, *, request_id: str = "", no_wait: bool = False) -> Flushed:
        """Hand the open batch to the handler now; a batch that waits for its retry is tried again at once.

        Answers after the handler has run for all that was collected, unless `no_wait`. `request_id`: the same id is the
        same request, and flushes once, as long as it is among the latest 1000.
        """
        flush = Flush(self.address(id), check_key("request_id", request_id))
        taken, answer = await self.host.take(flush, wait=not check_flag("no_wait", no_wait))
        if taken is None:
            return Flushed(False, 0, Status.NOT_FOUND)
        status, retry_at = standing(taken.record, answer)
        # A batch that was cleared before its handler could run was not handed over.
        handed = taken.entry is not None or taken.duplicate
        flushed = handed and (answer is None or answer.handled is not None)
        return Flushed(flushed, taken.events, status, retry_at)

    async def clear(self, id: str) -> Cleared:
        """Discard all that was collected and not handled, dead letters too; a batch whose handler runs goes on."""
        record, discarded = await self.host.submit(Clear(self.address(id)))
        status = Status.NOT_FOUND if record is None else record.status
        return Cleared(status not in (Status.NOT_FOUND, Status.TERMINATED), discarded, status)

    async def status(self, id: str) -> DebounceStatus:
        """How an instance stands."""
        found = await self.host.find(self.address(id))
        return DebounceStatus(Status.NOT_FOUND) if found is None else self.describe(found[0])

    def describe(self, record: InstanceRecord) -> DebounceStatus:
        """How an instance stands."""
        started = moment(record.batch_started) if record.batch_events else None
        return DebounceStatus(
            record.status, record.batch_events, started, _flush_at(record), record.waiting, record.dead, record.runs,
            record.attempt, optional_moment(record.retry_at), moment(record.created), record.reason, record.version,
            record.generation, failed(record),
        )  # fmt: skip


def _flush_at(record: InstanceRecord) -> datetime | None:
    return optional_moment(record.timers.get("")) if record.status is Status.ACTIVE else None


def _window(
    mode: Mode, flush_after: str | float | timedelta, max_wait: str | float | timedelta | None, max_events: int | None
) -> Window:
    if mode not in ("window", "trailing"):
        raise ValueError(f"mode: {mode!r} is neither 'window' nor 'trailing'")
    found = Window(check_span("flush_after", flush_after), mode == "trailing", None, max_events)
    if max_wait is not None:
        if not found.trailing:
            raise ValueError("max_wait: it means something with mode='trailing' alone: leave it out")
        found = found._replace(max_wait=check_span("max_wait", max_wait))
        if max(found.flush_after, found.max_wait or 0) != found.max_wait:
            raise ValueError("max_wait: it is shorter than flush_after: make one fit the other")
    if max_events is not None and (type(max_events) is not int or not 1 <= max_events <= MAX_EVENTS):
        raise ValueError(f"max_events: {max_events!r} is not between 1 and {MAX_EVENTS:,}")
    return found
