"""What the clients of recurrings, debounces and tasks share: how an instance stands, and the verbs that all have."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from longshore.v1 import instances_pb2 as pb
from longshore_client.arguments import check_seconds, check_text, request_of
from longshore_client.channel import check_channel
from longshore_client.codec import to_datetime
from longshore_client.errors import DeadlineExceeded, LongshoreError, StillRunning, operation_failed
from longshore_client.instance_values import Declared, Values, ValueT
from longshore_client.wire_enum import WireEnum

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from longshore_client.channel import Channel

SnapshotT = TypeVar("SnapshotT", bound="InstanceSnapshot")
ResponseT = TypeVar("ResponseT", bound="Message")

WAIT = 60.0
"""Seconds for which a verb waits for the handler unless it is told otherwise."""
_PAGE = 200


class InstanceStatus(WireEnum):
    """Where an instance stands; the numbers are those of `longshore.v1.InstanceStatus`."""

    UNSPECIFIED = 0
    ACTIVE = 1
    """Its handlers run when they are due."""
    PAUSED = 2
    """No handler begins before it is resumed; what is sent to it waits."""
    FAILED = 3
    """A handler has failed for good. It goes on where it was once it is resumed."""
    TERMINATED = 4
    """It has ended; its last state is kept. A start, or an event, begins it anew."""
    NOT_FOUND = 5
    """There is no instance of this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSnapshot:
    """Where an instance stands. Times are in UTC; of what is NOT_FOUND only the name and the status are set."""

    name: str
    """`recurrings/{definition}/instances/{id}`, `debounces/...` or `tasks/...`."""
    status: InstanceStatus
    generation: int = 0
    """Counts its lives, from 1: another one begins when something is sent to a terminated instance."""
    version: int = 0
    """Counts the changes of its state."""
    attempt: int = 0
    """Of the run that is under way, or is to be made again; 0: none is."""
    retry_time: datetime | None = None
    """When the run that has failed is made again."""
    create_time: datetime | None = None
    """When this generation began."""
    update_time: datetime | None = None
    stop_reason: str = ""
    """Why it was terminated."""
    last_error: LongshoreError | None = None
    """What failed last, until a run succeeds."""

    @property
    def id(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class InstanceState(Generic[ValueT]):
    """What `get_state` answers."""

    state: ValueT | None
    """None: it has none, or there is no such instance."""
    status: InstanceStatus
    version: int
    """Counts the changes of the state."""


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """What `pause`, `resume` and `terminate` answer."""

    changed: bool
    """Whether this has changed it; else it was so before, or its status says why it could not be."""
    status: InstanceStatus
    reason: str = ""
    """Why it was terminated."""


class InstanceClient(abc.ABC, Generic[SnapshotT, ValueT]):
    """The instances of one definition at one server. See `RecurringClient`, `DebounceClient` and `TaskClient`.

    Every verb raises `NotFound` (reason DEFINITION_NOT_FOUND), `InvalidArgument` (INVALID_NAME) for an id that cannot
    be one, `PermissionDenied` (CAPABILITY_MISSING), and `TypeError` for an argument of another type, such as an id that
    is no text; an instance that there is not is told by its status.
    """

    _kind: ClassVar[str]
    """As in the names of the RPCs, for example `Recurring`."""
    _messages: ClassVar[Any]
    """The module of the kind's messages."""

    def __init__(self, channel: Channel, definition: str, state: Declared[ValueT]) -> None:
        self._channel = check_channel(channel)
        self._parent = f"{self._kind.lower()}s/{check_text('definition', definition)}"
        self._states: Values[ValueT] = Values(state, "state")

    def name(self, id: str) -> str:
        """The full name of an instance."""
        return f"{self._parent}/instances/{check_text('id', id)}"

    async def status(self, id: str) -> SnapshotT:
        """Tell how an instance stands."""
        return self._snapshot(await self._ask(f"Get{self._kind}", f"{self._kind}Snapshot", name=self.name(id)))

    async def get_state(self, id: str) -> InstanceState[ValueT]:
        """Return the state of an instance.

        Raises:
            FailedPrecondition: The definition of today cannot read it (reason STATE_UNREADABLE).
            UnexpectedMessage: It is of another type than this client's.
        """
        answer = await self._ask(f"Get{self._kind}State", pb.InstanceState, name=self.name(id))
        return InstanceState(self._states.unpack(answer.state), InstanceStatus(answer.status), answer.version)

    async def list(self, status: InstanceStatus | None = None) -> AsyncGenerator[SnapshotT, None]:
        """Yield how each instance of the definition stands, the oldest first. Needs `longshore.provider`.

        Args:
            status: Only those that stand so. Default: all.
        """
        token = ""
        while True:
            page = await self._ask(
                f"List{self._kind}s", f"List{self._kind}sResponse", parent=self._parent, page_size=_PAGE,
                page_token=token, status=status,
            )  # fmt: skip
            for snapshot in page.instances:
                yield self._snapshot(snapshot)
            token = page.next_page_token
            if not token:
                return

    async def pause(self, id: str) -> InstanceChange:
        """Let no handler of an instance begin until it is resumed; one that runs comes to its end.

        Repeatable, as `resume` and `terminate` are, and like them for callers with `longshore.provider`.
        """
        return _change(await self._ask(f"Pause{self._kind}", pb.InstanceChange, name=self.name(id)))

    async def resume(self, id: str) -> InstanceChange:
        """Let an instance go on that is paused or has failed: what has failed is done again at once, from attempt 1."""
        return _change(await self._ask(f"Resume{self._kind}", pb.InstanceChange, name=self.name(id)))

    async def terminate(self, id: str, reason: str = "", *, purge: bool = False) -> InstanceChange:
        """End an instance: its handler, its timers, and what waits.

        Args:
            id: Which.
            reason: Why, for those who ask later. At most 1024 bytes.
            purge: Leave nothing of it; else a tombstone answers, with the last state.
        """
        return _change(
            await self._ask(f"Terminate{self._kind}", pb.InstanceChange, name=self.name(id), reason=reason, purge=purge)
        )

    @abc.abstractmethod
    def _snapshot(self, wire: Any) -> SnapshotT:
        """Read a snapshot of the kind."""

    async def _ask(self, method: str, response: Any, **fields: Any) -> Any:
        """Make a call that does not wait for a handler. `response`: its class, or the name that it has in `_messages`.

        It is made again while the server cannot be reached.
        """
        rpc, request = self._rpc(method, response, fields)
        return await self._channel.invoke(rpc, request)

    async def _wait(self, method: str, response: type[ResponseT], timeout: float, **fields: Any) -> ResponseT:
        """Make a call that the server answers once the handler has run, unless its field `no_wait` is set.

        Raises:
            StillRunning: The time is up.
        """
        check_seconds("timeout", timeout)
        rpc, request = self._rpc(method, response, fields)
        if request.no_wait:
            return cast("ResponseT", await self._channel.invoke(rpc, request))
        deadline = self._channel.monotonic() + timeout
        # Without the wait it would be another call, whose answer tells less.
        get, named = self._rpc(f"Get{self._kind}", f"{self._kind}Snapshot", {"name": request.name})
        call = self._channel.invoke(rpc, request, wait=timeout, probe=partial(get, named), deadline=deadline)
        try:
            return cast("ResponseT", await call)
        except DeadlineExceeded:
            raise StillRunning(request.name, timeout) from None

    def _rpc(self, method: str, response: Any, fields: dict[str, Any]) -> tuple[Any, Any]:
        request = getattr(self._messages, f"{method}Request")
        path = f"/longshore.v1.{self._kind}Service/{method}"
        kind = getattr(self._messages, response) if isinstance(response, str) else response
        return self._channel.calls.unary(path, request, kind), request_of(request, **fields)


def facts(wire: pb.InstanceFacts) -> dict[str, Any]:
    """The fields of an `InstanceSnapshot`."""
    return {
        "name": wire.name,
        "status": InstanceStatus(wire.status),
        "generation": wire.generation,
        "version": wire.version,
        "attempt": wire.attempt,
        "retry_time": moment(wire, "retry_time"),
        "create_time": moment(wire, "create_time"),
        "update_time": moment(wire, "update_time"),
        "stop_reason": wire.stop_reason,
        "last_error": operation_failed(wire.last_error, wire.name) if wire.HasField("last_error") else None,
    }


def moment(wire: Message, field: str) -> datetime | None:
    """A time that need not be set."""
    stamp: Timestamp = getattr(wire, field)
    return to_datetime(stamp) if wire.HasField(field) else None


def _change(wire: pb.InstanceChange) -> InstanceChange:
    return InstanceChange(wire.changed, InstanceStatus(wire.status), wire.reason)
