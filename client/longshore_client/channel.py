"""The connection to a server: opened on first use, shared by every handle, with the retries that all calls want."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio

from longshore_client.advice import advice
from longshore_client.arguments import called, check_seconds, check_texts
from longshore_client.calls import Calls, Cancellable, Probe, UnaryRpc
from longshore_client.credentials import Token, is_local
from longshore_client.errors import (
    CallCancelled,
    CallError,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
    call_error,
    channel_closed,
)
from longshore_client.outage import CANNOT_WRITE, Outage
from longshore_client.retry import Backoff, Retry
from longshore_client.tracing import tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from opentelemetry.trace import TracerProvider

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_DETAILS = "grpc-status-details-bin"

_WAIT_MARGIN = 10.0
_DEADLINE_MARGIN = 1.0

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # We retry ourselves, with the request id that makes it safe; the core's own machinery only costs time.
    ("grpc.enable_retries", 0),
    # By default the core waits up to two minutes before it looks whether a restarted server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In truth this is how long an attempt to connect may take: of a busy server, a far one, or one behind TLS.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Two channels of one process do not share a connection, so neither inherits the other's backoff.
    ("grpc.use_local_subchannel_pool", 1),
)


class Channel:
    """A connection to one server. Made by `connect`; use it as an async context manager, or close it yourself."""

    max_wait = 60.0
    """Longest single Wait call in seconds; a longer wait is several, so that a dead connection is noticed."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        token: Token | None,
        metadata: Mapping[str, str] | None,
        retry: Retry,
        call_timeout: float,
        heartbeat_interval: float,
        options: Sequence[tuple[str, Any]],
        tracer_provider: TracerProvider | None,
    ) -> None:
        self.target = target
        self.retry = retry
        self.call_timeout = call_timeout
        self.heartbeat_interval = heartbeat_interval
        self.outage = Outage(target, self.monotonic)
        self._token = token
        self._metadata = tuple(metadata.items()) if metadata else ()
        self._credentials = credentials
        # Of two with one name the core would take the first.
        self._options = tuple({**dict(_OPTIONS), **dict(options)}.items())
        self._tracer_provider = tracer_provider
        self._calls: Calls | None = None
        self._loop: asyncio.AbstractEventLoop
        self._left: list[Calls] = []
        self._closed = False
        self.streams: set[Cancellable] = set()
        """The streams that are open. Not every version of grpc ends them when the connection is closed."""

    @property
    def calls(self) -> Calls:
        """The server's methods. The first use opens the connection and must be inside the event loop."""
        if self._calls is None:
            if self._closed:
                raise RuntimeError("the channel is closed")
            self._loop = asyncio.get_running_loop()
            self._calls = Calls(self.dial(), tracing(self._tracer_provider))
        elif self._loop.is_closed():
            raise RuntimeError(
                "the event loop in which the channel was opened has ended: connect anew in each asyncio.run()"
            )
        return self._calls

    def dial(self) -> grpc.aio.Channel:
        """Open a connection. Whoever has another way to the server derives a channel of its own."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, options=self._options)

    def leave(self, calls: Calls) -> None:
        """Make further calls over another connection: nothing comes through that of `calls`, which gRPC cannot know."""
        if self._calls is calls:
            self._left.append(calls)
            self._calls = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with the next call."""
        if self._token is None:
            return self._metadata
        token = self._token if isinstance(self._token, str) else self._token()
        if not isinstance(token, str):
            raise TypeError(f"token is a function that returns a text, not {called(token)}")
        return (*self._metadata, ("authorization", f"Bearer {token}"))

    async def close(self) -> None:
        """Close the connection. Calls under way are cancelled; operations are not."""
        self._closed = True
        calls, self._calls = self._calls, None
        for stream in self.streams:
            stream.cancel()
        for each in (*self._left, *([calls] if calls is not None else [])):
            await each.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def invoke(
        self,
        rpc: UnaryRpc[RequestT, ResponseT],
        request: RequestT,
        *,
        wait: float | None = None,
        again: Callable[[], RequestT] | None = None,
        probe: Probe | None = None,
        deadline: float | None = None,
    ) -> ResponseT:
        """Make a call that may be repeated, and repeat it while the server cannot be reached.

        Args:
            rpc: The method.
            request: The request; safe to send more than once.
            wait: Seconds that the server may take before it answers, for methods that wait.
            again: Makes what is asked instead after the server was out of reach: the same without the wait, so that it
                says at once that it is back. Default: the same.
            probe: Asked while the same call is made again, where it has no form without the wait: any answer says that
                the server is back, unless that has refused the call by then.
            deadline: Monotonic time after which no further try is made.

        Raises:
            CallError: The server refused, or could not be reached for as long as `retry` says.
        """
        backoff: Backoff | None = None
        waits = wait is not None
        try:
            while True:
                # The margin keeps the server's own answer ahead of our deadline.
                timeout = self.call_timeout if wait is None else wait + _WAIT_MARGIN
                if deadline is not None:
                    timeout = min(timeout, max(0.0, deadline - self.monotonic()) + _DEADLINE_MARGIN)
                try:
                    answer = rpc(request, timeout=timeout, metadata=self.metadata)
                    if probe is not None and backoff is not None:
                        answer = self._heard(answer, probe, backoff, min(timeout, self.call_timeout))
                    response = await answer
                except grpc.aio.AioRpcError as error:
                    self.check_open()
                    failure = error_of(error)
                except asyncio.CancelledError:
                    self.check_open()
                    raise
                else:
                    self.outage.answered(backoff)
                    return response
                if backoff is None:
                    backoff = self.retry.attempts()
                if not await self.pause(backoff, failure, deadline, waiting=waits):
                    raise failure
                if again is not None and not isinstance(failure, ResourceExhausted):
                    request, wait = again(), None
        finally:
            if backoff is not None:
                self.outage.left(backoff)

    async def pause(
        self,
        backoff: Backoff,
        failure: CallError,
        deadline: float | None = None,
        *,
        waiting: bool = False,
        resumable: bool = False,
    ) -> bool:
        """Wait before a call that failed is made again, and tell about the outage if it is new.

        A failure that is final gets its `advice`.

        Args:
            backoff: The failures of this call so far.
            failure: The latest.
            deadline: Monotonic time after which no further try is made.
            waiting: Whether the call was one that waits, so that our own deadline for it is no reason to stop.
            resumable: Whether trying again makes sense whatever `may_retry` says of the failure.

        Returns:
            False if the failure is final, or it is time to give up.
        """
        # What ends with a token goes on with the next, where there is somebody who has one.
        renewed = failure.reason == "CREDENTIALS_EXPIRED" and callable(self._token)
        if not (renewed or resumable or may_retry(failure, waiting=waiting)):
            # A refusal is an answer, too; our own deadline is none.
            if not isinstance(failure, DeadlineExceeded):
                self.outage.answered(backoff)
            self._advise(failure)
            return False
        busy = isinstance(failure, ResourceExhausted)
        told = not busy or failure.reason in CANNOT_WRITE
        if not told:
            self.outage.answered(backoff)
        # Only a Longshore server says so: it can be reached, although it asks to come again.
        if failure.domain == "longshore":
            self.outage.contacted = True
        try:
            again = await backoff.pause(
                failure.retry_after,
                deadline,
                contacted=self.outage.contacted,
                busy=busy,
                before=(lambda: self.outage.lost(backoff, failure)) if told else None,
            )
        except asyncio.CancelledError:
            self.outage.left(backoff)
            raise
        if not again:
            self._advise(failure)
        return again

    async def _heard(self, answer: Awaitable[ResponseT], probe: Probe, backoff: Backoff, timeout: float) -> ResponseT:
        """The answer of a call that waits. The outage ends as soon as anything is answered while it is under way: who
        drains answers, too, and refuses what waits. Raises what says that it lasts."""
        call = asyncio.ensure_future(answer)
        try:
            try:
                await probe(timeout=timeout, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                if may_retry(error_of(error), waiting=True):
                    raise
            if not call.done():
                backoff.reset()
                self.outage.answered(backoff)
            return await call
        finally:
            if not call.cancel() and not call.cancelled():
                call.exception()  # seen, whoever was told of it

    def _advise(self, failure: CallError) -> None:
        failure.advice = advice(
            failure,
            self.target,
            contacted=self.outage.contacted,
            credentials=self._credentials is not None,
            token=self._token is not None,
        )

    def check_open(self) -> None:
        """Tell the two causes of a cancelled await apart: the caller's task was cancelled, or this channel was closed.

        Raises:
            CallCancelled: The channel was closed under a call; nobody cancelled the task.
        """
        task = asyncio.current_task()
        if self._closed and not (task is not None and task.cancelling()):
            raise channel_closed() from None

    def monotonic(self) -> float:
        """The clock of deadlines, in seconds."""
        return self.retry.timing.monotonic()


def connect(
    target: str = "localhost:50051",
    *,
    credentials: grpc.ChannelCredentials | None = None,
    token: Token | None = None,
    metadata: Mapping[str, str] | None = None,
    retry: Retry | None = None,
    call_timeout: float = 30.0,
    heartbeat_interval: float = 15.0,
    options: Sequence[tuple[str, Any]] = (),
    tracer_provider: TracerProvider | None = None,
) -> Channel:
    """Name a server. Nothing is sent before the first call, so there is nothing to await.

    Args:
        target: `host:port`, or `unix:PATH` for a Unix socket.
        credentials: For TLS, see `tls`. Default: none, plain text.
        token: Sent with every call as `authorization: Bearer TOKEN`. A function is asked before every call, so that
            tokens may expire: what was cut off by the end of one goes on with the next. Without `credentials` it goes
            to loopback addresses and Unix sockets only.
        metadata: Sent with every call.
        retry: How to go on when the server cannot be reached.
        call_timeout: Seconds that the server has to answer a call that does not wait for an operation.
        heartbeat_interval: Seconds, 1 to 300: how often a watch asks for a sign of life. After three that did not come
            the connection counts as dead and the watch resumes on a new one.
        options: Further options of the gRPC channel, or others in place of ours.
        tracer_provider: Whose OpenTelemetry spans the calls make. Default: the program's, if it has set one by the
            first call.

    Raises:
        TypeError: An argument is of another type than it says above.
        ValueError: The token could be read on the way: there are no `credentials`, and the target is another machine.

    Example:
        async with connect("localhost:50051") as channel:
            orders = OrdersClient(channel)
    """
    if not isinstance(target, str):
        raise TypeError(f"target is host:port, or unix:PATH, as a text, not {called(target)}")
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise TypeError(f"credentials are what longshore_client.tls() returns, not {called(credentials)}")
    if token is not None and not isinstance(token, str) and not callable(token):
        raise TypeError(f"token is a text, or a function that returns one, not {called(token)}")
    if metadata is not None:
        check_texts("metadata", metadata)
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry is a Retry, not {called(retry)}")
    check_seconds("call_timeout", call_timeout)
    check_seconds("heartbeat_interval", heartbeat_interval)
    if token is not None and credentials is None and not is_local(target):
        raise ValueError(f"the token would go to {target} in plain text: pass credentials=tls(...) as well")
    return Channel(
        target,
        credentials=credentials,
        token=token,
        metadata=metadata,
        retry=retry or Retry(),
        call_timeout=call_timeout,
        heartbeat_interval=heartbeat_interval,
        options=options,
        tracer_provider=tracer_provider,
    )


def check_channel(value: object) -> Channel:
    """Return what clients are made of, if it is that.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, Channel):
        return value
    raise TypeError(f"a client takes the channel that longshore_client.connect() returns, not {called_channel(value)}")


def called_channel(value: object) -> str:
    """What was given in a channel's place, as messages name it: there are several classes of that name."""
    return f"one of {type(value).__module__}" if type(value).__name__ == "Channel" else called(value)


def error_of(error: grpc.aio.AioRpcError) -> CallError:
    """Turn gRPC's error into the typed one."""
    trailing = error.trailing_metadata()
    details = trailing.get(_DETAILS) if trailing is not None else None
    return call_error(error.code().value[0], error.details() or "", details if isinstance(details, bytes) else None)


def may_retry(error: CallError, *, waiting: bool = False) -> bool:
    """Whether trying again makes sense without being asked."""
    # CANCELLED reaches this place only when the other side said it: servers do under a burst, and when they stop.
    if isinstance(error, ResourceExhausted):
        # Too many of something; what is too large stays so, and comes without a time.
        return error.retry_after is not None
    return isinstance(error, (Unavailable, CallCancelled)) or (waiting and isinstance(error, DeadlineExceeded))
