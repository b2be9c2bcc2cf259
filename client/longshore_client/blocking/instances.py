"""The asyncio client's clients of recurrings, debounces and tasks, for callers that block.

Written by client/write_blocking.py. Do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from longshore_client import debounce, recurring, task
from longshore_client.blocking.channel import Channel
from longshore_client.blocking.portal import Blocking
from longshore_client.instance_values import ValueT
from longshore_client.instances import WAIT

if TYPE_CHECKING:
    from collections.abc import Generator

    from longshore_client.debounce import DebounceCleared, DebounceFlushed, DebounceSnapshot, EventAdded
    from longshore_client.instance_values import Declared
    from longshore_client.instances import InstanceChange, InstanceState, InstanceStatus
    from longshore_client.recurring import RecurringSnapshot, RecurringStarted, RecurringTriggered
    from longshore_client.task import EventSent, TaskSnapshot, TaskTriggered

EventT = TypeVar("EventT", default=Any)


class RecurringClient(Blocking[recurring.RecurringClient[ValueT]], Generic[ValueT]):
    """The instances of one recurring.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        state: The type of its state, a class or a union of classes. Default: JSON values, as they come.

    Example:
        refresher = RecurringClient(channel, "token-refresher", state=Token)
        refresher.start("user-123", Token(refresh="abc"))
    """

    def __init__(self, channel: Channel, definition: str, *, state: Declared[ValueT] = None) -> None:
        channel = Channel.check(channel)
        super().__init__(channel.portal, recurring.RecurringClient(channel.inner, definition=definition, state=state))

    def name(self, id: str) -> str:
        """The full name of an instance."""
        return self._inner.name(id=id)

    def status(self, id: str) -> RecurringSnapshot:
        """Tell how an instance stands."""
        return self._portal.run(self._inner.status, id=id)

    def get_state(self, id: str) -> InstanceState[ValueT]:
        """Return the state of an instance.

        Raises:
            FailedPrecondition: The definition of today cannot read it (reason STATE_UNREADABLE).
            UnexpectedMessage: It is of another type than this client's.
        """
        return self._portal.run(self._inner.get_state, id=id)

    def list(self, status: InstanceStatus | None = None) -> Generator[RecurringSnapshot, None, None]:
        """Yield how each instance of the definition stands, the oldest first. Needs `longshore.provider`.

        Args:
            status: Only those that stand so. Default: all.
        """
        return self._portal.iterate(self._inner.list(status=status))

    def pause(self, id: str) -> InstanceChange:
        """Let no handler of an instance begin until it is resumed; one that runs comes to its end.

        Repeatable, as `resume` and `terminate` are, and like them for callers with `longshore.provider`.
        """
        return self._portal.run(self._inner.pause, id=id)

    def resume(self, id: str) -> InstanceChange:
        """Let an instance go on that is paused or has failed: what has failed is done again at once, from attempt 1."""
        return self._portal.run(self._inner.resume, id=id)

    def terminate(self, id: str, reason: str = "", *, purge: bool = False) -> InstanceChange:
        """End an instance: its handler, its timers, and what waits.

        Args:
            id: Which.
            reason: Why, for those who ask later. At most 1024 bytes.
            purge: Leave nothing of it; else a tombstone answers, with the last state.
        """
        return self._portal.run(self._inner.terminate, id=id, reason=reason, purge=purge)

    def start(
        self, id: str, state: ValueT | None = None, *, no_wait: bool = False, timeout: float = WAIT
    ) -> RecurringStarted:
        """Begin an instance with a first state, unless it is there; then nothing changes. A terminated one begins anew.

        It is durable when this returns, and its first run has come to its end, unless `no_wait`.

        Args:
            id: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            state: The first state. Default: none, where the definition allows that.
            no_wait: Do not wait for the first run.
            timeout: Seconds to wait for it.

        Raises:
            TypeError: The state is of another type than this client's.
            InvalidArgument: The same, as the definition sees it; nothing was started.
            StillRunning: The first run had not ended when the time was up. It goes on.
        """
        return self._portal.run(self._inner.start, id=id, state=state, no_wait=no_wait, timeout=timeout)

    def trigger(
        self, id: str, *, request_id: str | None = None, no_wait: bool = False, timeout: float = WAIT
    ) -> RecurringTriggered:
        """Run an instance now, whatever its schedule says. A run that waits for its retry gives way.

        Args:
            id: Which.
            request_id: The same id is the same request, and is done once. Default: a new one, which makes the retries
                of this call safe.
            no_wait: Do not wait for the run.
            timeout: Seconds to wait for it.

        Raises:
            StillRunning: The run had not ended when the time was up. It goes on.
        """
        return self._portal.run(self._inner.trigger, id=id, request_id=request_id, no_wait=no_wait, timeout=timeout)


class DebounceClient(Blocking[debounce.DebounceClient[EventT, ValueT]], Generic[EventT, ValueT]):
    """The instances of one debounce.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        event: The type of an event, a class or a union of classes. Default: JSON values, as they are.
        state: The type of what events are reduced to. Default: JSON values, as they come.

    Example:
        webhooks = DebounceClient(channel, "webhooks", event=Changed, state=Changed)
        webhooks.add("contact-456", Changed(field="email"), event_id="evt_1")
    """

    def __init__(
        self, channel: Channel, definition: str, *, event: Declared[EventT] = None, state: Declared[ValueT] = None
    ) -> None:
        channel = Channel.check(channel)
        super().__init__(
            channel.portal, debounce.DebounceClient(channel.inner, definition=definition, event=event, state=state)
        )

    def name(self, id: str) -> str:
        """The full name of an instance."""
        return self._inner.name(id=id)

    def status(self, id: str) -> DebounceSnapshot:
        """Tell how an instance stands."""
        return self._portal.run(self._inner.status, id=id)

    def get_state(self, id: str) -> InstanceState[ValueT]:
        """Return the state of an instance.

        Raises:
            FailedPrecondition: The definition of today cannot read it (reason STATE_UNREADABLE).
            UnexpectedMessage: It is of another type than this client's.
        """
        return self._portal.run(self._inner.get_state, id=id)

    def list(self, status: InstanceStatus | None = None) -> Generator[DebounceSnapshot, None, None]:
        """Yield how each instance of the definition stands, the oldest first. Needs `longshore.provider`.

        Args:
            status: Only those that stand so. Default: all.
        """
        return self._portal.iterate(self._inner.list(status=status))

    def pause(self, id: str) -> InstanceChange:
        """Let no handler of an instance begin until it is resumed; one that runs comes to its end.

        Repeatable, as `resume` and `terminate` are, and like them for callers with `longshore.provider`.
        """
        return self._portal.run(self._inner.pause, id=id)

    def resume(self, id: str) -> InstanceChange:
        """Let an instance go on that is paused or has failed: what has failed is done again at once, from attempt 1."""
        return self._portal.run(self._inner.resume, id=id)

    def terminate(self, id: str, reason: str = "", *, purge: bool = False) -> InstanceChange:
        """End an instance: its handler, its timers, and what waits.

        Args:
            id: Which.
            reason: Why, for those who ask later. At most 1024 bytes.
            purge: Leave nothing of it; else a tombstone answers, with the last state.
        """
        return self._portal.run(self._inner.terminate, id=id, reason=reason, purge=purge)

    def add(
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
        return self._portal.run(
            self._inner.add, id=id, event=event, event_id=event_id, no_wait=no_wait, timeout=timeout
        )

    def flush(
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
        return self._portal.run(self._inner.flush, id=id, request_id=request_id, no_wait=no_wait, timeout=timeout)

    def clear(self, id: str) -> DebounceCleared:
        """Discard all that was collected and not handled, dead letters too; a batch whose handler runs goes on.

        Needs `longshore.provider`.
        """
        return self._portal.run(self._inner.clear, id=id)


class TaskClient(Blocking[task.TaskClient[ValueT, EventT]], Generic[ValueT, EventT]):
    """The instances of one task.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        state: The type of its state, a class or a union of classes. Default: JSON values, as they come.
        event: The type of an event. Default: JSON values, as they are.

    A type checker does not read a union that is given as an argument: write the types in brackets, too.

    Example:
        orders = TaskClient[Order, Placed | Paid](channel, "order", state=Order, event=Placed | Paid)
        orders.send("order-789", Paid(amount=12), event_id="payment-7")
    """

    def __init__(
        self, channel: Channel, definition: str, *, state: Declared[ValueT] = None, event: Declared[EventT] = None
    ) -> None:
        channel = Channel.check(channel)
        super().__init__(
            channel.portal, task.TaskClient(channel.inner, definition=definition, state=state, event=event)
        )

    def name(self, id: str) -> str:
        """The full name of an instance."""
        return self._inner.name(id=id)

    def status(self, id: str) -> TaskSnapshot:
        """Tell how an instance stands."""
        return self._portal.run(self._inner.status, id=id)

    def get_state(self, id: str) -> InstanceState[ValueT]:
        """Return the state of an instance.

        Raises:
            FailedPrecondition: The definition of today cannot read it (reason STATE_UNREADABLE).
            UnexpectedMessage: It is of another type than this client's.
        """
        return self._portal.run(self._inner.get_state, id=id)

    def list(self, status: InstanceStatus | None = None) -> Generator[TaskSnapshot, None, None]:
        """Yield how each instance of the definition stands, the oldest first. Needs `longshore.provider`.

        Args:
            status: Only those that stand so. Default: all.
        """
        return self._portal.iterate(self._inner.list(status=status))

    def pause(self, id: str) -> InstanceChange:
        """Let no handler of an instance begin until it is resumed; one that runs comes to its end.

        Repeatable, as `resume` and `terminate` are, and like them for callers with `longshore.provider`.
        """
        return self._portal.run(self._inner.pause, id=id)

    def resume(self, id: str) -> InstanceChange:
        """Let an instance go on that is paused or has failed: what has failed is done again at once, from attempt 1."""
        return self._portal.run(self._inner.resume, id=id)

    def terminate(self, id: str, reason: str = "", *, purge: bool = False) -> InstanceChange:
        """End an instance: its handler, its timers, and what waits.

        Args:
            id: Which.
            reason: Why, for those who ask later. At most 1024 bytes.
            purge: Leave nothing of it; else a tombstone answers, with the last state.
        """
        return self._portal.run(self._inner.terminate, id=id, reason=reason, purge=purge)

    def send(
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
        return self._portal.run(
            self._inner.send,
            id=id,
            event=event,
            event_id=event_id,
            expected_version=expected_version,
            no_wait=no_wait,
            timeout=timeout,
        )

    def trigger(
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
        return self._portal.run(self._inner.trigger, id=id, request_id=request_id, no_wait=no_wait, timeout=timeout)
