"""What callers hold: an operation type that can be started, and a handle on one operation."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from typing_extensions import TypeVar

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operation_pb2 import EventType, OperationSnapshot
from longshore_client import events
from longshore_client.channel import MAX_WAIT, Channel
from longshore_client.codec import Codec, to_any
from longshore_client.errors import DeadlineExceeded, NotFound, StillRunning
from longshore_client.events import Event, EventBase
from longshore_client.listing import count_operations, list_operations, of_type
from longshore_client.run import run_following
from longshore_client.state import OutputT, ProgressT, ResultT, SignalT, State
from longshore_client.watch import Follower

if TYPE_CHECKING:
    import asyncio
    from collections import Counter
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from google.protobuf.message import Message

    from longshore_client.run import Callback
    from longshore_client.snapshot import Snapshot

InputT = TypeVar("InputT")

_EVENT_TYPES: dict[type[EventBase], EventType.ValueType] = {
    events.Accepted: EventType.EVENT_TYPE_ACCEPTED,
    events.Started: EventType.EVENT_TYPE_STARTED,
    events.Progress: EventType.EVENT_TYPE_PROGRESS,
    events.Output: EventType.EVENT_TYPE_OUTPUT,
    events.AttemptFailed: EventType.EVENT_TYPE_ATTEMPT_FAILED,
    events.Cancelling: EventType.EVENT_TYPE_CANCELLING,
    events.Stopping: EventType.EVENT_TYPE_STOPPING,
    events.Signalled: EventType.EVENT_TYPE_SIGNAL,
    events.Completed: EventType.EVENT_TYPE_COMPLETED,
    events.Failed: EventType.EVENT_TYPE_FAILED,
    events.Cancelled: EventType.EVENT_TYPE_CANCELLED,
    # Comes unasked, as the terminal event does: to ask for it alone is to ask for no more than that.
    events.Reset: EventType.EVENT_TYPE_COMPLETED,
}


@dataclass(frozen=True, slots=True)
class SentSignal:
    """What became of a signal."""

    number: int
    """Position among all signals of the operation, from 1."""
    signal_id: str
    duplicate: bool
    """It had been accepted before."""


class OperationHandle(Generic[ProgressT, OutputT, ResultT, SignalT]):
    """One operation. Holds no connection of its own and may be dropped at any time: the operation goes on."""

    def __init__(
        self,
        channel: Channel,
        codec: Codec[ProgressT, OutputT, ResultT],
        name: str,
        *,
        started: OperationSnapshot | None = None,
        created: bool = False,
    ) -> None:
        self._channel = channel
        self._codec = codec
        self._name = name
        self._uid = ""
        self._ended: OperationSnapshot | None = None
        self._created = created
        if started is not None:
            self._note(started)

    @property
    def name(self) -> str:
        """`operations/{id}`: all that another process needs to attach to it."""
        return self._name

    @property
    def uid(self) -> str:
        """The server-made unique id; empty on an attached handle before the first answer."""
        return self._uid

    @property
    def created(self) -> bool:
        """Whether the start that made this handle created the operation; False if it existed, or was attached to."""
        return self._created

    def __repr__(self) -> str:
        return f"<OperationHandle {self._name}>"

    async def get(self) -> Snapshot[ProgressT, ResultT]:
        """Return where the operation stands now.

        Raises:
            NotFound: There is no such operation, or no longer.
        """
        snapshot = await self._channel.invoke(self._channel.calls.get, pb.GetRequest(name=self._address))
        self._note(snapshot)
        return self._codec.snapshot(snapshot)

    async def wait(self, timeout: float | None = None) -> ResultT:
        """Return the result when the operation has completed.

        Args:
            timeout: The longest wait, in seconds. Default: as long as it takes.

        Raises:
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled.
            StillRunning: It had not ended when the time was up. It goes on.
        """
        deadline = None if timeout is None else self._channel.monotonic() + timeout
        while self._ended is None:
            span = MAX_WAIT if deadline is None else min(MAX_WAIT, deadline - self._channel.monotonic())
            if span <= 0:
                raise StillRunning(self._name, timeout or 0.0)
            request = pb.WaitRequest(name=self._address, timeout=_duration(span))
            try:
                self._note(await self._channel.invoke(self._channel.calls.wait, request, wait=span, deadline=deadline))
            except DeadlineExceeded:
                # Only our own: the server answers before it, unless it is in trouble, which changes nothing.
                raise StillRunning(self._name, timeout or 0.0) from None
        return self._codec.outcome(self._ended)

    async def watch(
        self, after: int = 0, *, conflate: bool = False, types: Iterable[type[EventBase]] = ()
    ) -> AsyncGenerator[Event[ProgressT, OutputT, ResultT, SignalT], None]:
        """Yield every event once and in order, the terminal one last, whatever happens to the connection.

        Where the server's log no longer reaches back far enough, one `Reset` stands for what is missing, and is the
        last if the terminal event is among it. After the last event of an operation that has ended nothing comes.

        Args:
            after: The sequence after which to begin. Default 0: from the first event.
            conflate: Skip progress that is no longer the latest when this caller is slow.
            types: Only these kinds of events, as classes, and always the terminal one and `Reset`. Default: all.

        Raises:
            CallError: The server refused, or could not be reached for as long as the channel's retry says.
        """
        follower = Follower(
            self._channel,
            self._address,
            uid=self._uid,
            after=after,
            types=[_EVENT_TYPES[kind] for kind in types],
            conflate=conflate,
        )
        async with aclosing(follower.events()) as stream:
            async for wire in stream:
                if isinstance(wire, OperationSnapshot):
                    self._note(wire)
                    yield self._codec.reset(wire)
                    continue
                if wire.HasField("accepted"):
                    # From here on a resumed watch cannot end up at another operation of the same name.
                    self._uid = follower.uid = wire.accepted.uid
                event = self._codec.event(wire, self._name)
                if event is not None:
                    yield event

    async def cancel(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to cancel, and return where the operation stands then. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.

        Raises:
            FailedPrecondition: The contract does not let callers cancel (reason NOT_CANCELLABLE).
        """
        request = pb.CancelRequest(name=self._address, reason=reason)
        snapshot = await self._channel.invoke(self._channel.calls.cancel, request)
        self._note(snapshot)
        return self._codec.snapshot(snapshot)

    async def stop(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to stop and to keep what there is, and return where the operation stands then.

        What the handler then returns is the result, with `stopped` set. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.
        """
        request = pb.StopRequest(name=self._address, reason=reason)
        snapshot = await self._channel.invoke(self._channel.calls.stop, request)
        self._note(snapshot)
        return self._codec.snapshot(snapshot)

    async def retry(self, *, request_id: str | None = None) -> Self:
        """Start an operation that has ended once more, and return a handle on the new one.

        Args:
            request_id: Idempotency key of the new one. Default: a new key, which makes the retries of this call safe.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING), or no handler ran it (NOT_RETRIABLE).
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        request = pb.RetryRequest(name=self._address, request_id=request_id or str(uuid.uuid4()))
        started = await self._channel.invoke(self._channel.calls.retry, request)
        created = started.disposition == pb.StartResponse.DISPOSITION_CREATED
        name = started.operation.name
        return type(self)(self._channel, self._codec, name, started=started.operation, created=created)

    async def delete(self) -> None:
        """Delete an operation that has ended. Repeating it does no harm.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING).
            NotFound: There is no such operation, and this handle has never seen it.
        """
        try:
            await self._channel.invoke(self._channel.calls.delete, pb.DeleteRequest(name=self._address))
        except NotFound:
            # It was there when its uid was learnt: gone is what was asked for, by this call or one before it.
            if not self._uid:
                raise

    async def signal(self, name: str, payload: SignalT | None = None, *, signal_id: str | None = None) -> SentSignal:
        """Send a signal. It is durable when this returns; the handler consumes it once, in the order of acceptance.

        Args:
            name: The signal, as the contract names it.
            payload: A message of the type that the contract declares for it. Default: an empty one.
            signal_id: The same id is the same signal, also after the end. Default: a new one, which makes the retries
                of this call safe.

        Raises:
            InvalidArgument: The contract declares no such signal, or another payload, or a rule of it is broken.
            FailedPrecondition: The operation has ended (reason OPERATION_ENDED).
            AlreadyExists: The id was used for another signal of this operation.
            ResourceExhausted: As many signals of this name wait as the contract allows; `retry_after` says when to try
                again.
        """
        request = pb.SignalRequest(
            name=self._address,
            signal=name,
            payload=None if payload is None else to_any(cast("Message", payload)),
            signal_id=signal_id or str(uuid.uuid4()),
        )
        response = await self._channel.invoke(self._channel.calls.signal, request)
        self._note(response.operation)
        return SentSignal(response.number, response.signal_id, response.duplicate)

    @property
    def _address(self) -> str:
        # A template name may come to mean another operation; the uid never does.
        return f"operations/{self._uid}" if self._uid else self._name

    def _note(self, snapshot: OperationSnapshot) -> None:
        self._uid = snapshot.uid
        if snapshot.state >= State.COMPLETED:
            self._ended = snapshot


# What a method gives out: the generated handle of a contract with signals knows which payload each of them takes.
HandleT = TypeVar("HandleT", default=OperationHandle[ProgressT, OutputT, ResultT])


class OperationMethod(Generic[InputT, ProgressT, OutputT, ResultT, HandleT]):
    """One operation type at one server. Generated clients have one as attribute for each method of the contract."""

    def __init__(
        self,
        channel: Channel,
        type_name: str,
        *,
        input_type: type[InputT],
        progress_type: type[ProgressT] | None,
        output_type: type[OutputT] | None,
        result_type: type[ResultT] | None,
        signal_types: Mapping[str, type[Message]] | None = None,
    ) -> None:
        self._channel = channel
        self._type = type_name
        # AIP-155: an input may carry the idempotency key itself, and then that one counts.
        fields = cast("type[Message]", input_type).DESCRIPTOR.fields_by_name
        self._key_in_input = "request_id" in fields and fields["request_id"].type == FieldDescriptor.TYPE_STRING
        self._codec = Codec(progress_type, output_type, result_type, signal_types or {})

    @property
    def type(self) -> str:
        """The operation type, for example `acme.orders.v1.OrdersService/Process`."""
        return self._type

    async def __call__(
        self,
        request: InputT,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> HandleT:
        """Start an operation and return a handle as soon as it is durable.

        Args:
            request: The input.
            request_id: Idempotency key: the same key with the same input gives the same operation.
                Default: the input's own field `request_id`, or a new one, which makes the retries of this call safe.
            labels: Facts to find it by later.
            timeout: Seconds after which no further try is made when the server cannot be reached.

        Raises:
            InvalidArgument: The input breaks a rule; `field_violations` says which. Nothing was started.
            AlreadyExists: The request id or the operation's name was used with another input.
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        deadline = None if timeout is None else self._channel.monotonic() + timeout
        started = await self._start(request, self._key(request, request_id), labels, None, deadline)
        return cast("HandleT", self._handle(started))

    def attach(self, name: str) -> HandleT:
        """Return a handle on an operation that exists, by its name. Nothing is sent."""
        return cast("HandleT", self._attach(name))

    def list(
        self, filter: str = "", *, oldest_first: bool = False
    ) -> AsyncGenerator[Snapshot[ProgressT, ResultT], None]:
        """Yield where each operation of this type stands that the caller may see.

        Args:
            filter: Only these, for example `state=RUNNING AND labels.tenant="acme"`. Default: all.
            oldest_first: In the order of their acceptance. Default: the newest first.

        Raises:
            InvalidArgument: The filter is not one that the server understands (reason INVALID_FILTER).
        """
        return list_operations(self._channel, self._codec, of_type(self._type, filter), oldest_first=oldest_first)

    async def count(self, filter: str = "") -> Counter[State]:
        """Return how many operations of this type there are in each state; of very many only the newest count.

        Args:
            filter: Only these, as for `list`.
        """
        return await count_operations(self._channel, of_type(self._type, filter))

    async def run(
        self,
        request: InputT,
        *,
        on_progress: Callback[ProgressT] | None = None,
        on_output: Callback[OutputT] | None = None,
        abort: asyncio.Event | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        abort_timeout: float = 30.0,
    ) -> ResultT:
        """Start an operation and return its result.

        Args:
            request: The input.
            on_progress: Called with each progress, in order; a coroutine function is awaited before the next.
            on_output: The same for output.
            abort: When it is set, the operation is cancelled and this call ends.
            timeout: The longest wait, in seconds. Default: as long as it takes.
            request_id: As for a start.
            labels: As for a start.
            abort_timeout: Seconds that the operation has to end after `abort`, before this call ends without it.

        Raises:
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled; with reason ABORTED if it had not settled in time.
            StillRunning: It had not ended when the time was up. It goes on.
            FailedPrecondition: `abort` was set and the contract does not let callers cancel.
            Exception: Whatever a callback raises. The operation goes on.
        """
        request_id = self._key(request, request_id)
        if on_progress is None and on_output is None and abort is None:
            deadline = None if timeout is None else self._channel.monotonic() + timeout
            span = MAX_WAIT if timeout is None else min(MAX_WAIT, timeout)
            try:
                handle = self._handle(await self._start(request, request_id, labels, span, deadline))
            except DeadlineExceeded:
                raise StillRunning(f"{self._type} {request_id}", timeout or 0.0) from None
            return await handle.wait(None if deadline is None else deadline - self._channel.monotonic())
        start = pb.RunRequest(
            type=self._type, input=to_any(cast("Message", request)), request_id=request_id, labels=labels
        )
        return await run_following(
            self._channel,
            self._codec,
            start,
            self._attach,
            on_progress=on_progress,
            on_output=on_output,
            abort=abort,
            timeout=timeout,
            abort_timeout=abort_timeout,
        )

    def _key(self, request: InputT, given: str | None) -> str:
        """The idempotency key of a start: there is always one, so that the start can be repeated."""
        return given or (self._key_in_input and str(getattr(request, "request_id", ""))) or str(uuid.uuid4())

    async def _start(
        self,
        request: InputT,
        request_id: str,
        labels: Mapping[str, str] | None,
        wait: float | None,
        deadline: float | None,
    ) -> pb.StartResponse:
        message = pb.StartRequest(
            type=self._type,
            input=to_any(cast("Message", request)),
            request_id=request_id,
            labels=labels,
            wait=None if wait is None else _duration(wait),
        )
        return await self._channel.invoke(self._channel.calls.start, message, wait=wait, deadline=deadline)

    def _attach(self, name: str) -> OperationHandle[ProgressT, OutputT, ResultT]:
        return OperationHandle(self._channel, self._codec, name)

    def _handle(self, started: pb.StartResponse) -> OperationHandle[ProgressT, OutputT, ResultT]:
        return OperationHandle(
            self._channel,
            self._codec,
            started.operation.name,
            started=started.operation,
            created=started.disposition == pb.StartResponse.DISPOSITION_CREATED,
        )


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
