"""What callers hold of a contract: the operation types that can be started."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Generic, cast

from google.protobuf.descriptor import FieldDescriptor
from typing_extensions import TypeVar

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.arguments import (
    called,
    check_function,
    check_message,
    check_seconds,
    check_text,
    check_texts,
)
from longshore_client.channel import Channel, check_channel
from longshore_client.codec import Codec, duration, to_any
from longshore_client.errors import DeadlineExceeded, StillRunning
from longshore_client.listing import count_operations, list_operations, of_type
from longshore_client.operation import OperationHandle
from longshore_client.run import run_following
from longshore_client.state import OutputT, ProgressT, ResultT, State
from longshore_client.upload import Begin, PreparedUpload

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncGenerator, Mapping

    from google.protobuf.message import Message

    from longshore.v1.operation_pb2 import OperationSnapshot
    from longshore_client.meter import Callback
    from longshore_client.snapshot import Snapshot

InputT = TypeVar("InputT")

# What a method gives out: the generated handle of a contract with signals knows which payload each of them takes.
HandleT = TypeVar(
    "HandleT", bound=OperationHandle[Any, Any, Any, Any], default=OperationHandle[ProgressT, OutputT, ResultT]
)


class Method(Generic[InputT, ProgressT, OutputT, ResultT, HandleT]):
    """One operation type at one server."""

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
        codec: Codec[ProgressT, OutputT, ResultT] | None = None,
    ) -> None:
        self._channel = check_channel(channel)
        self._type = type_name
        # AIP-155: an input may carry the idempotency key itself, and then that one counts.
        self._input_type = cast("type[Message]", input_type)
        fields = self._input_type.DESCRIPTOR.fields_by_name
        self._key_in_input = "request_id" in fields and fields["request_id"].type == FieldDescriptor.TYPE_STRING
        # The command line has one of its own, for types that it learns from the server.
        self._codec = codec or Codec(progress_type, output_type, result_type, signal_types or {})

    @property
    def type(self) -> str:
        """The operation type, for example `acme.orders.v1.OrdersService/Process`."""
        return self._type

    def attach(self, name: str) -> HandleT:
        """Return a handle on an operation that exists, by its name. Nothing is sent.

        Raises:
            TypeError: The name is no text.
        """
        if not isinstance(name, str):
            raise TypeError(f"attach takes the name of an operation, such as operations/order-17, not {called(name)}")
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
        wanted = of_type(self._type, check_text("filter", filter))
        return list_operations(self._channel, self._codec, wanted, oldest_first=oldest_first)

    async def count(self, filter: str = "") -> Counter[State]:
        """Return how many operations of this type there are in each state; of very many only the newest count.

        Args:
            filter: Only these, as for `list`.
        """
        return await count_operations(self._channel, of_type(self._type, check_text("filter", filter)))

    def _key(self, request: InputT, given: str | None, labels: Mapping[str, str] | None) -> str:
        """The idempotency key of a start of this input: there is always one, so that the start can be repeated."""
        check_message(request, self._input_type, self._type)
        # The constructors of messages say of neither which it was that they cannot take.
        if given is not None:
            check_text("request_id", given)
        if labels is not None:
            check_texts("labels", labels)
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
            wait=None if wait is None else duration(wait),
        )

        def at_once() -> pb.StartRequest:
            message.ClearField("wait")
            return message

        call = self._channel.calls.start
        return await self._channel.invoke(call, message, wait=wait, again=at_once, deadline=deadline)

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


class OperationMethod(Method[InputT, ProgressT, OutputT, ResultT, HandleT]):
    """One operation type at one server. Generated clients have one as attribute for each method of the contract."""

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
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
            InvalidArgument: The input breaks a rule; `field_violations` says which. Nothing was started.
            AlreadyExists: The request id or the operation's name was used with another input.
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        deadline = None if timeout is None else self._channel.monotonic() + check_seconds("timeout", timeout)
        started = await self._start(request, self._key(request, request_id, labels), labels, None, deadline)
        return cast("HandleT", self._handle(started))

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
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled; with reason ABORTED if it had not settled in time.
            StillRunning: It had not ended when the time was up. It goes on.
            FailedPrecondition: `abort` was set and the contract does not let callers cancel.
            Exception: Whatever a callback raises. The operation goes on.
        """
        request_id = self._key(request, request_id, labels)
        for what, function in (("on_progress", on_progress), ("on_output", on_output)):
            if function is not None:
                check_function(what, function)
        if abort is not None and not isinstance(abort, asyncio.Event):
            raise TypeError(f"abort is an asyncio.Event, not {called(abort)}")
        check_seconds("abort_timeout", abort_timeout)
        if timeout is not None:
            check_seconds("timeout", timeout)
        if on_progress is None and on_output is None and abort is None:
            deadline = None if timeout is None else self._channel.monotonic() + timeout
            span = self._channel.max_wait if timeout is None else min(self._channel.max_wait, timeout)
            try:
                handle = self._handle(await self._start(request, request_id, labels, span, deadline))
            except DeadlineExceeded:
                raise StillRunning(f"{self._type} {request_id}", timeout or 0.0) from None
            try:
                return await handle.wait(None if deadline is None else deadline - self._channel.monotonic())
            except StillRunning as error:
                # It knows of what was left of the time alone.
                raise StillRunning(error.operation, timeout or 0.0) from None
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


class UploadMethod(Method[InputT, ProgressT, OutputT, ResultT, HandleT]):
    """One operation type whose callers send bytes with it."""

    def __call__(
        self,
        request: InputT,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> PreparedUpload[ProgressT, OutputT, ResultT, HandleT]:
        """Prepare a start: it needs the bytes, by `transfer`, before anything is sent.

        Args:
            request: The input.
            request_id: As for any operation. With the same key a program that was restarted goes on where it was.
            labels: Facts to find it by later.
            timeout: Seconds after which no further try to start it is made when the server cannot be reached.

        Raises:
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
        """
        # Once: what prepares a start may start it more than once, and means the same operation.
        request_id = self._key(request, request_id, labels)
        if timeout is not None:
            check_seconds("timeout", timeout)

        async def start() -> tuple[HandleT, OperationSnapshot]:
            deadline = None if timeout is None else self._channel.monotonic() + timeout
            started = await self._start(request, request_id, labels, None, deadline)
            return cast("HandleT", self._handle(started)), started.operation

        return PreparedUpload(Begin(self._channel, self._codec, start))
