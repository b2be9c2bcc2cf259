"""One run of a handler: what it was given, what it has changed, and the part of its context that all kinds share."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, NoReturn

from typing_extensions import TypeVar

from longshore_server.clock import SECOND, Clock
from longshore_server.contract.validation import check_flag, check_reason
from longshore_server.handler.codec import Encoded
from longshore_server.ids import uid_text
from longshore_server.instances.log import InstanceLog
from longshore_server.instances.values import Shape
from longshore_server.store.instances import Entry, InstanceRecord, Value
from longshore_server.store.mutations.instance import End
from longshore_server.store.mutations.instance_run import Work
from longshore_server.store.writer import Writer

StateT = TypeVar("StateT", default=Any)

running_fields: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "longshore_instance_fields", default=MappingProxyType({})
)
"""What every line of the log carries of the instance whose handler runs here, if any."""


class Terminating(BaseException):
    """Ends a handler at `ctx.terminate()`. No `Exception`, so that no `except Exception` of a handler swallows it."""


class Surroundings(NamedTuple):
    """What a run has of the server."""

    clock: Clock
    since: int
    """When this server began: what was due before, nobody was there for."""
    services: Any
    max_payload: int
    writer: Writer

    def now(self) -> int:
        """The time, in microseconds."""
        return self.clock.now()


class Run:
    """One run. Nothing of it is durable before it has come to its end."""

    def __init__(self, work: Work, shape: Shape, level: int, around: Surroundings) -> None:
        """`level`: of the least line of the log that is written."""
        self.record: InstanceRecord = work.record
        self.entry: Entry | None = work.entry
        self.around = around
        self.started = around.now()
        self.log = InstanceLog(
            work.record, self.name, level, fields(work.record), self.around.writer, self.around.clock
        )
        self.stage: Any = ""
        """Which of a task's handlers is at work."""
        self._shape = shape
        self._stored = work.entry.value if work.entry is not None and work.entry.events else work.state
        self.reset()

    def anew(self) -> Run:
        """The same run, as if its handler had changed nothing. What that may change yet, left to itself, is not its."""
        again = copy.copy(self)
        again.reset()
        return again

    def reset(self) -> None:
        """As if the handler had changed nothing."""
        self.state: Any = None if self._stored is None else self._shape.load(self._stored)
        self.timers: dict[str, int] = dict(self.record.timers)
        self.end: End | None = None
        self.triggers: dict[str, str] = {}
        """Of the timers that this run has set: by which handler."""

    def changed_state(self) -> Encoded | None:
        """The state to store, if it is another one than before, also where it was changed in place.

        Raises `TypeError` or `TooLargeError` for one that cannot be stored.
        """
        if self.state is None and self._stored is None:
            return None
        found = self._shape.store(self.state, self.around.max_payload)
        return None if tuple(found) == self._stored else found

    @property
    def stored(self) -> Value | None:
        """The state as it was when the run began."""
        return self._stored

    @property
    def name(self) -> str:
        """Tells this run from all others of the instance, in all of its attempts."""
        record = self.record
        work = f"timer-{record.events + record.runs + 1}" if record.work_entry is None else str(record.work_entry)
        return f"{record.generation}/{work}"

    @property
    def key(self) -> str:
        """Tells this run from all others."""
        return f"{uid_text(self.record.uid)}/{self.name}"


def fields(record: InstanceRecord) -> Mapping[str, Any]:
    """What every line of the log about a run carries."""
    return {"instance": record.name, "definition": record.definition, "attempt": record.attempt}


class Context(Generic[StateT]):
    """What every handler of an instance may know and do."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def id(self) -> str:
        """The instance's id, as whoever began it said."""
        return self._run.record.id

    @property
    def definition(self) -> str:
        """The name of the definition."""
        return self._run.record.definition

    @property
    def instance(self) -> str:
        """The instance's full name, for example `tasks/order/instances/ord_123`."""
        return self._run.record.name

    @property
    def key(self) -> str:
        """The same in all attempts at this run, and no other's: pass it on as an idempotency key.

        What a handler changes here is done once; what it does elsewhere at least once, for a crash runs it again.
        """
        return self._run.key

    @property
    def attempt(self) -> int:
        """The attempt at this run, from 1; crashes count too."""
        return self._run.record.attempt

    @property
    def is_retry(self) -> bool:
        """Whether an attempt went before this one."""
        return self._run.record.attempt > 1

    @property
    def created_at(self) -> datetime:
        """When the instance began, or began anew."""
        return moment(self._run.record.created)

    @property
    def execution_started_at(self) -> datetime:
        """When this handler began."""
        return moment(self._run.started)

    @property
    def services(self) -> Any:
        """What the server's lifespan yielded."""
        return self._run.around.services

    @property
    def log(self) -> InstanceLog:
        """Structured lines for the operators of the service; durable, also where this handler fails."""
        return self._run.log


class Stateful(Context[StateT]):
    """The context of a handler that may change the state, or end the instance."""

    @property
    def state(self) -> StateT:
        """The state. What is assigned, or changed in place, becomes durable once the handler has come to its end."""
        state: StateT = self._run.state
        return state

    @state.setter
    def state(self, value: StateT) -> None:
        self._run.state = value

    def set_state(self, value: StateT) -> None:
        """Replace the state."""
        self._run.state = value

    def update_state(self, change: Callable[[StateT], StateT]) -> None:
        """Replace the state by what `change` makes of it."""
        self._run.state = change(self._run.state)

    def terminate(self, reason: str = "", *, purge: bool = False) -> NoReturn:
        """End the instance, and the handler at this line. The state as it is now is kept with its tombstone.

        Args:
            reason: why, for those who ask later.
            purge: leave nothing of it instead.

        Raises `TypeError` or `ServiceError` (INVALID_ARGUMENT) for a reason that is no text, or too long.
        """
        self._run.end = End(check_reason(reason), check_flag("purge", purge))
        raise Terminating


def moment(micros: int) -> datetime:
    """A time of the clock as code reads it."""
    return datetime.fromtimestamp(micros / SECOND, UTC)
