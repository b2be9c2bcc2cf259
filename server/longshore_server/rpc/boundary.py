"""The one boundary between gRPC and the engine: bytes become requests, errors become statuses.

Handlers take and give bytes at the gRPC layer: a protobuf deserializer there would answer malformed bytes with UNKNOWN.
Every call is timed from its request to its end, also one that is refused or that the caller leaves. By the monotonic
clock of the machine and not by the server's: that one may jump, and costs a microsecond a call more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from longshore_server.auth.identity import Principal, expired
from longshore_server.clock import SECOND, Clock
from longshore_server.contract.validation import check_size
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.histogram import Histogram
from longshore_server.rpc.callers import Callers
from longshore_server.tracer import Metadata, Span

log = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=Message)
STATUS = {code.value[0]: code for code in grpc.StatusCode}
_telling: set[asyncio.Task[None]] = set()
"""Tasks that end calls: nobody else keeps them."""
_OK, _CANCELLED = grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name

Durations: TypeAlias = defaultdict[str, Histogram]
"""Seconds that the calls of one method took, by the name of the status code that they ended with."""
Traced: TypeAlias = Callable[[Metadata], Span]
"""Begins the span of a call of one method."""
Method: TypeAlias = "Callable[[Durations, Callers, Traced], grpc.RpcMethodHandler[bytes, bytes]]"
"""A method that is to be given a place for what it measures, what finds out who calls it, and what traces it."""


class Context:
    """One call: who makes it, and what it says besides its request."""

    __slots__ = ("_callers", "_inner", "_metadata", "_task", "_version", "caller", "ended")

    caller: Principal
    """Set by `identify`, before anything else is asked."""

    def __init__(self, inner: grpc.aio.ServicerContext[Any, Any], callers: Callers) -> None:
        self._inner = inner
        self._callers = callers
        self._metadata: Iterable[tuple[str, str | bytes]] | None = None
        self._task = asyncio.current_task()
        self.ended: ServiceError | None = None
        """What `end` has ended it with."""

    def end(self, error: ServiceError) -> None:
        """End the call from outside, wherever it is: also where it waits for a caller who takes nothing, and is told
        once it does. Repeatable: the first error counts."""
        if self.ended is None and self._task is not None:
            self.ended = error
            telling = asyncio.create_task(abort(self._inner, error))
            _telling.add(telling)
            telling.add_done_callback(_telling.discard)
            self._task.cancel()

    def recognise(self) -> bool:
        """Find out who calls, where that can be told at once; False: `identify` does. Raises as that does."""
        self._version = self._callers.version
        known = self._callers.known(self)
        if known is None:
            return False
        self.caller = known
        return True

    async def identify(self) -> None:
        """Find out who calls. Raises `ServiceError` (UNAUTHENTICATED)."""
        self._version = self._callers.version
        self.caller = await self._callers.of(self)

    @property
    def holds(self) -> bool:
        """Whether the caller is still who it was, as far as that can be told at once; False: ask `still`."""
        return self._callers.holds(self.caller, self._version)

    async def still(self) -> None:
        """Look again at who calls. Raises `ServiceError` (UNAUTHENTICATED) if it is not `caller` any more."""
        self._version = await self._callers.still(self, self.caller, self._version)

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What the caller sent beside the request."""
        if self._metadata is None:
            # Kept: gRPC makes it anew each time, and telemetry, authentication and the method all ask.
            self._metadata = self._inner.invocation_metadata() or ()
        return self._metadata

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS knows of the connection."""
        return self._inner.auth_context()

    @property
    def source(self) -> str:
        """Who a place is taken by: the caller's name or, where nobody asks for that, the machine that calls."""
        return machine(self._inner.peer()) if self.caller.unrestricted else self.caller.name

    def time_remaining(self) -> float | None:
        """Seconds to the call's own deadline; None: it has none."""
        return self._inner.time_remaining()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Send what belongs before the answer."""
        await _tell(self._inner.send_initial_metadata(tuple(metadata)))


def machine(peer: str) -> str:
    """The machine of one of gRPC's peers, `ipv4:10.0.0.1:50051` for example: without the port."""
    return peer.rpartition(":")[0] if peer.startswith("ip") else peer


def unary(
    request_type: type[RequestT], function: Callable[[RequestT, Context], Awaitable[bytes]], *,
    max_input: int | None = None,
) -> Method:  # fmt: skip
    """A unary method over `function`.

    `max_input`: how many bytes the request may have, where it is an operation's input.
    """

    def measured(durations: Durations, callers: Callers, traced: Traced) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(data: bytes, inner: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            begin, code, context = perf_counter(), _CANCELLED, Context(inner, callers)
            span = traced(context.invocation_metadata)
            try:
                try:
                    if not context.recognise():
                        await context.identify()
                    answer = await function(decode(request_type, data, max_input), context)
                    code = _OK
                    return answer
                except Exception as caught:  # noqa: BLE001 - the boundary: everything becomes a status
                    refused = refusal(caught)
                code = refused.reason.code.name
                await abort(inner, refused)
                return b""
            finally:
                durations[code].observe(perf_counter() - begin)
                span.end(code)

        return grpc.unary_unary_rpc_method_handler(handle)

    return measured


def stream(
    request_type: type[RequestT], function: Callable[[RequestT, Context], AsyncIterator[Iterable[bytes]]], *,
    max_input: int | None = None,
) -> Method:  # fmt: skip
    """A server-streaming method over an async generator (interceptors of others break coroutine-style streams).

    `function` gives messages in batches: each generator that a message passes one by one costs its share of it. Before
    each batch, which may be empty for that, it is looked at again who calls. `max_input`: as of `unary`.
    """

    def measured(durations: Durations, callers: Callers, traced: Traced) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(data: bytes, inner: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
            begin, code, context = perf_counter(), _CANCELLED, Context(inner, callers)
            span = traced(context.invocation_metadata)
            try:
                try:
                    if not context.recognise():
                        await context.identify()
                    restricted = not context.caller.unrestricted
                    async for batch in function(decode(request_type, data, max_input), context):
                        if restricted and not context.holds:
                            await context.still()
                        for message in batch:
                            yield message
                    code = _OK
                    return
                except Exception as caught:  # noqa: BLE001 - the boundary: everything becomes a status
                    refused = refusal(caught)
                code = refused.reason.code.name
                await abort(inner, refused)
            finally:
                if context.ended is not None:
                    code = context.ended.reason.code.name
                durations[code].observe(perf_counter() - begin)
                span.end(code)

        return grpc.unary_stream_rpc_method_handler(handle)

    return measured


def decode(request_type: type[RequestT], data: bytes, max_input: int | None = None) -> RequestT:
    """Raises `ServiceError` (MALFORMED_REQUEST, INPUT_TOO_LARGE)."""
    if max_input is not None:
        check_size("input", len(data), max_input)
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        raise ServiceError(
            Reason.MALFORMED_REQUEST,
            f"The request is not a {name}: its bytes are malformed, or a string in it is not UTF-8.",
        ) from None


def duration(value: Duration, field: str) -> int:
    """Microseconds. Raises `ServiceError` when it is negative or no duration."""
    if value.seconds < 0 or value.nanos < 0:
        raise invalid(field, "must not be negative")
    if value.nanos > 999_999_999 or value.seconds > 315_576_000_000:
        raise invalid(field, "is out of the range of a google.protobuf.Duration")
    return value.seconds * SECOND + value.nanos // 1000


def check_expiry(context: Context, clock: Clock) -> None:
    """After a wait: raises `ServiceError` (CREDENTIALS_EXPIRED) if the time of the caller's credentials is over."""
    expires = context.caller.expires
    if expires is not None and clock.now() >= expires:
        raise expired()


def refusal(error: Exception) -> ServiceError:
    """What the caller is told of an error. To be asked while that is handled, and told once it is not any more.

    The error forgets where it comes from. Its traceback would keep every frame that it has passed, and so the request,
    for as long as somebody keeps the error: those frames themselves do, and nothing but a collection ends such a cycle.
    """
    if not isinstance(error, ServiceError):
        log.error("unexpected error", exc_info=error)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error if isinstance(error, ServiceError) else ServiceError(Reason.INTERNAL, Reason.INTERNAL.meaning)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> None:
    """End the call with an error and its details. The method then returns: whatever it gives is not sent any more."""
    status = error.status()
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    try:
        await _tell(context.abort(STATUS[status.code], status.message, trailers))
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call and raises it again by itself, without any frame of ours in its traceback.
        aborted.__traceback__ = None


async def _tell(sending: Awaitable[None]) -> None:
    """Send something. Where the caller has gone the call is cancelled: a moment later gRPC would have done so."""
    try:
        await sending
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
