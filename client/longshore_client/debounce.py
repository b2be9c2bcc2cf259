"""The client of debounces: add events to batches, hand these over, and watch over them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from longshore.v1 import debounce_service_pb2 as pb
from longshore_client.instance_values import Declared, Values, ValueT
from longshore_client.instances import WAIT, InstanceClient, InstanceSnapshot, InstanceStatus, facts, moment

if TYPE_CHECKING:
    from datetime import datetime

    from longshore_client.channel import Channel

EventT = TypeVar("EventT", default=Any)


@dataclass(frozen=True, slots=True)
class EventAdded:
    """What `add` answers."""

    created: bool
    """Whether this event has begun the instance, or another generation of it."""
    duplicate: bool
    """Whether an event of this id had been taken before: then it counts once. Also where the answer to the first try
    of this very call was lost."""
    event_count: int
    """How many events the open batch has; 0: this one has filled it, and the batch is sealed."""
    flush_time: datetime | None
    """When the open batch is handled; None: none is open, or the instance is paused or has failed."""
    status: InstanceStatus
    retry_time: datetime | None = None
    """When the batch that this event has filled is tried again, because its handler has failed."""


@dataclass(frozen=True, slots=True)
class DebounceFlushed:
    """What `flush` answers."""

    flushed: bool
    """Whether a batch was handed over; else nothing was collected, or the status says why not."""
    event_count: int
    """How many events it has."""
    status: InstanceStatus
    retry_time: datetime | None = None
    """When the batch is tried again, because its handler has failed."""


@dataclass(frozen=True, slots=True)
class DebounceCleared:
    """What `clear` answers."""

    cleared: bool
    """Whether there was an instance to clear."""
    discarded_events: int
    status: InstanceStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DebounceSnapshot(InstanceSnapshot):
    """What `status` answers."""

    event_count: int = 0
    """How many events the open batch has."""
    batch_start_time: datetime | None = None
    """When its first event came."""
    flush_time: datetime | None = None
    """When it is handled."""
    waiting_batches: int = 0
    """How many sealed batches wait, with the one whose handler runs, or is to run again."""
    dead_letters: int = 0
    """How many batches were given up. They are kept until the instance is resumed or cleared."""
    run_count: int = 0
    """How many batches were handled."""


class DebounceClient(InstanceClient[DebounceSnapshot, ValueT], Generic[EventT, ValueT]):
    """The instances of one debounce.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        event: The type of an event, a class or a union of classes. Default: JSON values, as they are.
        state: The type of what events are reduced to. Default: JSON values, as they come.

    Example:
        webhooks = DebounceClient(channel, "webhooks", event=Changed, state=Changed)
        await webhooks.add("contact-456", Changed(field="email"), event_id="evt_1")
    """

    _kind = "Debounce"
    _messages: ClassVar[Any] = pb

    def __init__(
        self, channel: Channel, definition: str, *, event: Declared[EventT] = None, state: Declared[ValueT] = None
    ) -> None:
        super().__init__(channel, definition, state)
        self._events: Values[EventT] = Values(event, "event")

    async def add(
        self, id: str, event: EventT, *, event_id: str | None = None, no_wait: bool = False, timeout: float = WAIT
    ) -> EventAdded:
        """Add an event to the open batch of an instance, which it begins where there is none.

        It is durable when this returns; the batch has been handled, too, where this event fills it, unless `no_wait`.

        Args:
            id: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            event: The event.
            event_id: The same id is the same event, and counts once while its batch is not handled, and while it is
                among the latest 1000. Default: a new one, which makes the retries of this call safe.
            no_wait: Do not wait for a batch to be handled.
            timeout: Seconds to wait for it.

        Raises:
            TypeError: The event is of another type than this client's.
            InvalidArgument: The same, as the definition sees it.
            FailedPrecondition: The definition's `on_event` has raised (reason EVENT_NOT_TAKEN).
            AlreadyExists: The id was used with another event (EVENT_ID_REUSED).
            ResourceExhausted: Too much is collected (STATE_TOO_LARGE, TOO_MANY_EVENTS).
            StillRunning: The batch had not been handled when the time was up. Its handler goes on.
        """
        answer = await self._wait(
            "AddEvent", pb.AddEventResponse, timeout, name=self.name(id), event=self._events.pack(event),
            event_id=event_id or str(uuid.uuid4()), no_wait=no_wait,
        )  # fmt: skip
        return EventAdded(
            answer.created, answer.duplicate, answer.event_count, moment(answer, "flush_time"),
            InstanceStatus(answer.status), moment(answer, "retry_time"),
        )  # fmt: skip

    async def flush(
        self, id: str, *, request_id: str | None = None, no_wait: bool = False, timeout: float = WAIT
    ) -> DebounceFlushed:
        """Hand the open batch over now. A batch that waits for its retry is tried again at once.

        Args:
            id: Which.
            request_id: The same id is the same request, and flushes once. Default: a new one, which makes the retries
                of this call safe.
            no_wait: Do not wait for the handler.
            timeout: Seconds to wait for it.

        Raises:
            StillRunning: The handler had not ended when the time was up. It goes on.
        """
        answer = await self._wait(
            "FlushDebounce", pb.FlushDebounceResponse, timeout, name=self.name(id), no_wait=no_wait,
            request_id=request_id or str(uuid.uuid4()),
        )  # fmt: skip
        return DebounceFlushed(
            answer.flushed, answer.event_count, InstanceStatus(answer.status), moment(answer, "retry_time")
        )

    async def clear(self, id: str) -> DebounceCleared:
        """Discard all that was collected and not handled, dead letters too; a batch whose handler runs goes on.

        Needs `longshore.provider`.
        """
        answer = await self._ask("ClearDebounce", pb.ClearDebounceResponse, name=self.name(id))
        return DebounceCleared(answer.cleared, answer.discarded_events, InstanceStatus(answer.status))

    def _snapshot(self, wire: pb.DebounceSnapshot) -> DebounceSnapshot:
        return DebounceSnapshot(
            **facts(wire.facts),
            event_count=wire.event_count,
            batch_start_time=moment(wire, "batch_start_time"),
            flush_time=moment(wire, "flush_time"),
            waiting_batches=wire.waiting_batches,
            dead_letters=wire.dead_letters,
            run_count=wire.run_count,
        )
