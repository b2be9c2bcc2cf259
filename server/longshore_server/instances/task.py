"""`Task`: an event-driven state machine, which decides by itself when it goes on."""

from __future__ import annotations

import abc
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, get_args, get_origin

from typing_extensions import TypeVar

from longshore_server.clock import SECOND
from longshore_server.contract.durations import LONGEST, span
from longshore_server.contract.validation import check_flag
from longshore_server.handler.log import LogLevel
from longshore_server.handler.steps import StepRetry
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.answers import Failed, failed, optional_moment, standing
from longshore_server.instances.definition import TIMEOUT, Definition, check_key
from longshore_server.instances.run import Run, Stateful, moment
from longshore_server.instances.values import Shape, digest_of
from longshore_server.store.instances import EntryType, InstanceRecord
from longshore_server.store.mutations.instance_accept import SendEvent, Trigger
from longshore_server.store.mutations.instance_run import FinishRun

StateT = TypeVar("StateT", default=Any)
EventT = TypeVar("EventT", default=Any)
Source = Literal["on_event", "execute", "on_idle"]
MAX_TIMERS = 100
"""How many timers one instance may have at once."""
MAX_NAME = 128


class TaskContext(Stateful[StateT | None], Generic[StateT]):
    """What every handler of a task may know and do. The state is None until one is set."""

    _trigger = ""

    def update_state(self, change: Callable[[Any], Any]) -> None:
        """Replace the state by what `change` makes of it; nothing, while there is none."""
        if self.state is not None:
            super().update_state(change)

    def schedule(self, when: float | str | timedelta | datetime, *, name: str = "") -> None:
        """Let `execute` run later; a timer of the same name is replaced. Durable with the end of the handler.

        Args:
            when: a delay (seconds, a timedelta, or a text such as "30m"), or a time (a datetime with a time zone); a
                time that has passed means at once.
            name: tells several timers of one instance apart.

        Raises `ValueError` for a negative delay, a time without a zone or more than 1,000,000,000 seconds from now, a
        name that is too long or not printable, or one timer too many; `TypeError` for a name that is no text.
        """
        if not isinstance(name, str):
            raise TypeError(f"name: {name!r} is no text")
        if not name.isprintable() or len(name.encode()) > MAX_NAME:
            raise ValueError(f"name: it must have printable characters, and not more than {MAX_NAME} bytes")
        due = self._due(when)
        timers = self._run.timers
        if name not in timers and len(timers) >= MAX_TIMERS:
            raise ValueError(f"{MAX_TIMERS} timers of {self.instance} wait already: cancel some, or use their names")
        timers[name] = due
        self._run.triggers[name] = self._trigger

    def cancel_schedule(self, *, name: str = "") -> bool:
        """Let `execute` not run by this timer. Whether there was one."""
        return self._run.timers.pop(name, None) is not None

    def get_schedule(self, *, name: str = "") -> datetime | None:
        """When this timer fires; None: there is none. The one that has set off this very run is gone."""
        return optional_moment(self._run.timers.get(name))

    @property
    def timers(self) -> dict[str, datetime]:
        """All timers, by name."""
        return {name: moment(due) for name, due in self._run.timers.items()}

    @property
    def version(self) -> int:
        """The version of the state that this run began with."""
        return self._run.record.version

    @property
    def event_count(self) -> int:
        """How many events were handled, with the one that is."""
        entry = self._run.entry
        return self._run.record.events + (entry is not None and entry.type is EntryType.EVENT)

    def _due(self, when: float | str | timedelta | datetime) -> int:
        if isinstance(when, datetime):
            if when.tzinfo is None:
                raise ValueError(f"when: {when} has no time zone: write datetime.now(UTC), for example")
            # What is past is due at once, however long it is past.
            due = max(round(when.timestamp() * SECOND), self._run.started)
            if due > self._run.around.now() + LONGEST * SECOND:
                raise ValueError(f"when: {when} is more than {LONGEST:,} seconds from now")
            return due
        try:
            return self._run.around.now() + span(when, zero=True)
        except ValueError as error:
            raise ValueError(f"when: {error}") from None


class TaskEventContext(TaskContext[StateT]):
    """The context of `on_event`."""

    _trigger = "event"

    @property
    def is_first_event(self) -> bool:
        """Whether there was no state when this handler began."""
        return self._run.stored is None


class ExecuteContext(TaskContext[StateT]):
    """The context of `execute`."""

    _trigger = "execute"

    @property
    def execute_count(self) -> int:
        """The number of this execution, from 1; its retries have the same."""
        return self._run.record.runs + 1

    @property
    def timer(self) -> str | None:
        """The name of the timer that has fired; None: a caller triggered it."""
        return self._run.record.work_timer


class IdleContext(TaskContext[StateT]):
    """The context of `on_idle`."""

    _trigger = "idle"

    @property
    def idle_reason(self) -> Literal["on_event", "execute"]:
        """After which handler nothing is scheduled."""
        return "on_event" if _is_event(self._run) else "execute"


class ErrorContext(TaskContext[StateT]):
    """The context of `on_error`. What the handler had changed that has failed is not in the state."""

    _trigger = "error"

    def __init__(self, run: Run, source: Source) -> None:
        super().__init__(run)
        self.error_source: Source = source
        """Which handler has failed."""


class Task(abc.ABC, Generic[StateT, EventT]):
    """Derive from it, with the types of the state and of the events; register the class by `server.task(name, cls)`.

    One object serves all instances: what belongs to an instance belongs into its state. All that one handler does, and
    `on_idle` after it, becomes true at once: state, timers, and that the event is dealt with.
    """

    @abc.abstractmethod
    async def on_event(self, event: EventT, ctx: TaskEventContext[StateT]) -> None:
        """An event has come."""

    @abc.abstractmethod
    async def execute(self, ctx: ExecuteContext[StateT]) -> None:
        """A timer has fired, or a caller triggers it."""

    async def on_idle(self, ctx: IdleContext[StateT]) -> None:
        """A handler has come to its end, and nothing is scheduled and no event waits. It may schedule."""

    async def on_error(self, error: BaseException, ctx: ErrorContext[StateT]) -> None:  # noqa: ARG002 - for others
        """A handler has failed, and is not tried again. If this returns, the event or the timer is dealt with; what it
        schedules and changes holds. Where a task has none, or it raises, the instance is FAILED until it is resumed."""
        raise error


class Sent(NamedTuple):
    """What `send` answers."""

    created: bool
    """Whether this event has begun the instance, or has begun it anew after a termination."""
    instance: str
    """Its full name, `tasks/{definition}/instances/{id}`."""
    scheduled_at: datetime | None
    """When its next timer fires."""
    status: Status
    version: int
    """Of the state."""
    duplicate: bool = False
    """Whether an event of this id had been taken: then it is handled once."""
    retry_at: datetime | None = None
    """When the handler runs again, because it has failed."""


class TaskTriggered(NamedTuple):
    """What `trigger` answers."""

    triggered: bool
    """Whether `execute` was made to run; else its status says why not."""
    status: Status
    """NOT_FOUND: there is no such instance."""
    retry_at: datetime | None = None
    """When it runs again, because it has failed."""


class TaskStatus(NamedTuple):
    """What `status` answers."""

    status: Status
    """NOT_FOUND: there is no such instance."""
    idle: bool = True
    """Whether nothing is scheduled, waits or runs."""
    scheduled_at: datetime | None = None
    """When its next timer fires."""
    timers: dict[str, datetime] = {}  # noqa: RUF012 - never changed
    event_count: int = 0
    """How many events were handled."""
    execute_count: int = 0
    waiting_events: int = 0
    """How many events and triggers are accepted and not handled."""
    attempt: int = 0
    retry_at: datetime | None = None
    created_at: datetime | None = None
    stop_reason: str = ""
    version: int = 0
    """Of the state: what `expected_version` is compared with."""
    generation: int = 0
    last_error: Failed | None = None


class TaskDefinition(Definition[StateT], Generic[StateT, EventT]):
    """One task definition, and the verbs for its instances. Made by `server.task`."""

    kind = Kind.TASK

    def __init__(
        self, name: str, task: Task[StateT, EventT], *, state: Any, event: Any, retry: StepRetry | None = None,
        log_level: LogLevel = "error", call: str | None = None, max_crashes: int = 5,
        timeout: str | float | timedelta = TIMEOUT, retention: str | float | timedelta | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            name, state, retry=retry, log_level=log_level, call=call, max_crashes=max_crashes, timeout=timeout,
            retention=retention,
        )  # fmt: skip
        self.task = task
        self.event_shape = Shape(event, "event")

    # Runs.

    async def act(self, run: Run) -> None:
        run.stage = "on_event" if _is_event(run) else "execute"
        if run.stage == "on_event":
            assert run.entry is not None
            assert run.entry.value is not None
            event = self.event_shape.load(run.entry.value)
            await self.task.on_event(event, TaskEventContext(run))
        else:
            await self.task.execute(ExecuteContext(run))
        await self._idle(run)

    async def _idle(self, run: Run) -> None:
        others = run.record.waiting - (run.entry is not None)
        if not run.timers and not others:
            run.stage = "on_idle"
            await self.task.on_idle(IdleContext(run))

    @property
    def rescues(self) -> bool:
        return type(self.task).on_error is not Task.on_error

    async def rescue(self, error: BaseException, run: Run) -> None:
        source: Source = run.stage
        await self.task.on_error(error, ErrorContext(run, source))
        if source != "on_idle":
            await self._idle(run)

    def finish(self, run: Run) -> FinishRun:
        return FinishRun(
            run.record.uid, run.record.fence, run.changed_state(), run.timers, run.end, triggers=run.triggers
        )

    # Verbs.

    async def send(
        self, id: str, event: EventT, *, event_id: str = "", expected_version: int | None = None,
        no_wait: bool = False, owner: str | None = None,
    ) -> Sent:  # fmt: skip
        """Send an event to an instance, which it begins where there is none. Durable when it answers.

        Args:
            id: of the instance: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            event: for `on_event`.
            event_id: the same id is the same event, and is handled once, as long as it is among the latest 1000.
            expected_version: refuse the event unless the state is of this version, and nothing changes it; 0: unless
                there is none.
            no_wait: answer at once; else after its own handler has run.
            owner: the principal on whose behalf; None: the service's own code.

        Raises `ServiceError`: EVENT_ID_REUSED, TOO_MANY_EVENTS, VERSION_MISMATCH; `TypeError` for an event of another
        type.
        """
        value = self.event_shape.store(event, self.host.max_payload)
        if expected_version is not None and type(expected_version) is not int:
            raise TypeError(f"expected_version: {expected_version!r} is no whole number")
        mutation = SendEvent(
            self.address(id), self.newcomer(owner), value, check_key("event_id", event_id), digest_of(value),
            expected_version,
        )  # fmt: skip
        taken, answer = await self.host.take(mutation, wait=not check_flag("no_wait", no_wait))
        assert taken is not None
        record = taken.record if answer is None or answer.record is None else answer.record
        status, retry_at = standing(taken.record, answer)
        return Sent(
            taken.created, record.name, _scheduled_at(record), status, record.version, taken.duplicate, retry_at
        )

    async def trigger(self, id: str, *, request_id: str = "", no_wait: bool = False) -> TaskTriggered:
        """Let `execute` run, after what was accepted before. Answers after that, unless `no_wait`.

        `request_id`: the same id is the same request, and is done once, as long as it is among the latest 1000.
        """
        trigger = Trigger(self.address(id), check_key("request_id", request_id))
        taken, answer = await self.host.take(trigger, wait=not check_flag("no_wait", no_wait))
        if taken is None:
            return TaskTriggered(False, Status.NOT_FOUND)
        return TaskTriggered(taken.entry is not None or taken.duplicate, *standing(taken.record, answer))

    async def status(self, id: str) -> TaskStatus:
        """How an instance stands."""
        found = await self.host.find(self.address(id))
        return TaskStatus(Status.NOT_FOUND) if found is None else self.describe(found[0])

    def describe(self, record: InstanceRecord) -> TaskStatus:
        """How an instance stands."""
        idle = not (record.timers or record.waiting or record.working)
        timers = {name: moment(due) for name, due in record.timers.items()}
        return TaskStatus(
            record.status, idle, _scheduled_at(record), timers, record.events, record.runs, record.waiting,
            record.attempt, optional_moment(record.retry_at), moment(record.created), record.reason, record.version,
            record.generation, failed(record),
        )  # fmt: skip


def types_of(task: type[Task[Any, Any]]) -> tuple[Any, Any]:
    """The types of the state and of the events that a class says in its bases: `class OrderTask(Task[State, Event])`.

    Raises `TypeError` where it says none.
    """
    for kind in task.__mro__:
        for base in getattr(kind, "__orig_bases__", ()):
            if get_origin(base) is Task:
                state, event = get_args(base)
                if not isinstance(state, TypeVar) and not isinstance(event, TypeVar):
                    return state, event
    raise TypeError(f"{task.__qualname__}: derive it from Task[State, Event], with the types of its state and events")


def _is_event(run: Run) -> bool:
    return run.entry is not None and run.entry.type is EntryType.EVENT


def _scheduled_at(record: InstanceRecord) -> datetime | None:
    return optional_moment(min(record.timers.values(), default=None)) if record.status is Status.ACTIVE else None
