"""The client of tasks: send events to state machines, let them go on, and watch over them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from longshore.v1 import task_service_pb2 as pb
from longshore_client.codec import to_datetime
from longshore_client.instance_values import Declared, Values, ValueT
from longshore_client.instances import WAIT, InstanceClient, InstanceSnapshot, InstanceStatus, facts, moment

if TYPE_CHECKING:
    from datetime import datetime

    from longshore_client.channel import Channel

EventT = TypeVar("EventT", default=Any)


@dataclass(frozen=True, slots=True)
class EventSent:
    """What `send` answers."""

    created: bool
    """Whether this event has begun the instance, or another generation of it."""
    duplicate: bool
    """Whether an event of this id had been taken before: then it is handled once. Also where the answer to the first
    try of this very call was lost."""
    name: str
    """`tasks/{definition}/instances/{id}`."""
    schedule_time: datetime | None
    """When its next timer fires; None: none waits."""
    status: InstanceStatus
    version: int
    """Of its state."""
    retry_time: datetime | None = None
    """When the event's handler runs again, because it has failed."""


@dataclass(frozen=True, slots=True)
class TaskTriggered:
    """What `trigger` answers."""

    triggered: bool
    """Whether this makes it run; else its status says why not."""
    status: InstanceStatus
    retry_time: datetime | None = None
    """When it runs again, because it has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot(InstanceSnapshot):
    """What `status` answers."""

    idle: bool = False
    """Whether nothing is scheduled, waits or runs."""
    timers: Mapping[str, datetime] = field(default_factory=dict)
    """When its timers fire, by their names, the next one first; the one that code did not name is the empty name."""
    event_count: int = 0
    """How many events were handled."""
    execute_count: int = 0
    """How many executions have come to their end."""
    waiting_events: int = 0
    """How many events and triggers were accepted and not handled."""

    @property
    def schedule_time(self) -> datetime | None:
        """When its next timer fires; None: none waits."""
        return min(self.timers.values(), default=None)


class TaskClient(InstanceClient[TaskSnapshot, ValueT], Generic[ValueT, EventT]):
    """The instances of one task.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        state: The type of its state, a class or a union of classes. Default: JSON values, as they come.
        event: The type of an event. Default: JSON values, as they are.

    A type checker does not read a union that is given as an argument: write the types in brackets, too.

    Example:
        orders = TaskClient[Order, Placed | Paid](channel, "order", state=Order, event=Placed | Paid)
        await orders.send("order-789", Paid(amount=12), event_id="payment-7")
    """

    _kind = "Task"
    _messages: ClassVar[Any] = pb

    def __init__(
        self, channel: Channel, definition: str, *, state: Declared[ValueT] = None, event: Declared[EventT] = None
    ) -> None:
        super().__init__(channel, definition, state)
        self._events: Values[EventT] = Values(event, "event")

    async def send(
        self,
        id: str,
        event: EventT,
        *,
        event_id: str | None = None,
        expected_version: int | None = None,
        no_wait: bool = False,
        timeout: float = WAIT,
    ) -> EventSent:
        """Send an event to an instance, which it begins where there is none.

        It is durable when this returns, and its handler has run, unless `no_wait`.

        Args:
            id: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            event: The event.
            event_id: The same id is the same event, and is handled once while it is among the latest 1000. Default: a
                new one, which makes the retries of this call safe.
            expected_version: Refuse the event unless the state is of this version, and nothing changes it; 0: unless
                there is no state. Default: take it in any case.
            no_wait: Do not wait for the event's handler.
            timeout: Seconds to wait for it.

        Raises:
            TypeError: The event is of another type than this client's.
            InvalidArgument: The same, as the definition sees it.
            AlreadyExists: The id was used with another event (reason EVENT_ID_REUSED).
            FailedPrecondition: The state is of another version (VERSION_MISMATCH).
            ResourceExhausted: Too many events wait (TOO_MANY_EVENTS).
            StillRunning: The handler had not ended when the time was up. It goes on.
        """
        name = self.name(id)
        answer = await self._wait(
            "SendEvent", pb.SendEventResponse, timeout, name=name, event=self._events.pack(event),
            event_id=event_id or str(uuid.uuid4()), expected_version=expected_version, no_wait=no_wait,
        )  # fmt: skip
        return EventSent(
            answer.created, answer.duplicate, name, moment(answer, "schedule_time"), InstanceStatus(answer.status),
            answer.version, moment(answer, "retry_time"),
        )  # fmt: skip

    async def trigger(
        self, id: str, *, request_id: str | None = None, no_wait: bool = False, timeout: float = WAIT
    ) -> TaskTriggered:
        """Let `execute` run, after what was accepted before.

        Args:
            id: Which.
            request_id: The same id is the same request, and is done once. Default: a new one, which makes the retries
                of this call safe.
            no_wait: Do not wait for the execution.
            timeout: Seconds to wait for it.

        Raises:
            StillRunning: The execution had not ended when the time was up. It goes on.
        """
        answer = await self._wait(
            "TriggerTask", pb.TriggerTaskResponse, timeout, name=self.name(id), no_wait=no_wait,
            request_id=request_id or str(uuid.uuid4()),
        )  # fmt: skip
        return TaskTriggered(answer.triggered, InstanceStatus(answer.status), moment(answer, "retry_time"))

    def _snapshot(self, wire: pb.TaskSnapshot) -> TaskSnapshot:
        timers = {name: to_datetime(stamp) for name, stamp in wire.timers.items()}
        return TaskSnapshot(
            **facts(wire.facts),
            idle=wire.idle,
            # A map of protobuf comes in any order.
            timers=dict(sorted(timers.items(), key=lambda timer: (timer[1], timer[0]))),
            event_count=wire.event_count,
            execute_count=wire.execute_count,
            waiting_events=wire.waiting_events,
        )
