"""The client of recurrings: start, trigger and watch over handlers that run by a schedule."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from longshore.v1 import recurring_service_pb2 as pb
from longshore_client.instance_values import Declared, ValueT
from longshore_client.instances import WAIT, InstanceClient, InstanceSnapshot, InstanceStatus, facts, moment

if TYPE_CHECKING:
    from datetime import datetime

    from longshore_client.channel import Channel


@dataclass(frozen=True, slots=True)
class RecurringStarted:
    """What `start` answers."""

    created: bool
    """Whether this has begun it; else it was there, and the input is ignored."""
    name: str
    """`recurrings/{definition}/instances/{id}`."""
    status: InstanceStatus
    """TERMINATED: its first run has ended it."""
    retry_time: datetime | None = None
    """When the first run is made again, because it has failed."""


@dataclass(frozen=True, slots=True)
class RecurringTriggered:
    """What `trigger` answers."""

    triggered: bool
    """Whether this has made it run; else its status says why not."""
    status: InstanceStatus
    """TERMINATED: of old, or by this very run."""
    retry_time: datetime | None = None
    """When the run is made again, because it has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringSnapshot(InstanceSnapshot):
    """What `status` answers."""

    run_count: int = 0
    """How many runs have come to their end."""
    next_run_time: datetime | None = None
    """When the next run is due; None: it runs, is paused, has failed or is terminated."""


class RecurringClient(InstanceClient[RecurringSnapshot, ValueT]):
    """The instances of one recurring.

    Args:
        channel: The connection.
        definition: Its name in the service's code.
        state: The type of its state, a class or a union of classes. Default: JSON values, as they come.

    Example:
        refresher = RecurringClient(channel, "token-refresher", state=Token)
        await refresher.start("user-123", Token(refresh="abc"))
    """

    _kind = "Recurring"
    _messages: ClassVar[Any] = pb

    def __init__(self, channel: Channel, definition: str, *, state: Declared[ValueT] = None) -> None:
        super().__init__(channel, definition, state)

    async def start(
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
        value = self._states.pack(state)
        name = self.name(id)
        answer = await self._wait(
            "StartRecurring", pb.StartRecurringResponse, timeout, name=name, input=value, no_wait=no_wait
        )
        return RecurringStarted(answer.created, name, InstanceStatus(answer.status), moment(answer, "retry_time"))

    async def trigger(
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
        answer = await self._wait(
            "TriggerRecurring", pb.TriggerRecurringResponse, timeout, name=self.name(id), no_wait=no_wait,
            request_id=request_id or str(uuid.uuid4()),
        )  # fmt: skip
        return RecurringTriggered(answer.triggered, InstanceStatus(answer.status), moment(answer, "retry_time"))

    def _snapshot(self, wire: pb.RecurringSnapshot) -> RecurringSnapshot:
        return RecurringSnapshot(
            **facts(wire.facts), run_count=wire.run_count, next_run_time=moment(wire, "next_run_time")
        )
