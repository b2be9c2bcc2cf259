"""The one boundary between gRPC and the engine: bytes become requests, errors become statuses.

Handlers take and give bytes at the gRPC layer: a protobuf deserializer there would answer malformed bytes with UNKNOWN.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from longshore_server.clock import SECOND, Clock
from longshore_server.errors import Reason, ServiceError, invalid

log = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
STATUS = {code.value[0]: code for code in grpc.StatusCode}


def unary(
    request_type: type[RequestT], function: Callable[[RequestT, Context], Awaitable[bytes]]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A unary method over `function`."""

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            return await function(decode(request_type, data), context)
        except Exception as error:
            await _abort(context, error)
            raise AssertionError("abort always raises") from error

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(
    request_type: type[RequestT], function: Callable[[RequestT, Context], AsyncIterator[bytes]]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A server-streaming method over an async generator (interceptors of others break coroutine-style streams)."""

    async def handle(data: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            async for message in function(decode(request_type, data), context):
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


def decode(request_type: type[RequestT], data: bytes) -> RequestT:
    """Raises `ServiceError` (MALFORMED_REQUEST)."""
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


def wait_until(context: Context, clock: Clock, wait: int | None) -> int | None:
    """When a waiting call has to answer: after `wait` microseconds or a little before its own deadline."""
    remaining = context.time_remaining()
    if remaining is not None:
        # The answer needs time on its way back: without the margin the caller would see DEADLINE_EXCEEDED instead.
        own = int(max(0.0, remaining - min(0.5, remaining / 10)) * SECOND)
        wait = own if wait is None else min(wait, own)
    return None if wait is None else clock.now() + wait


async def _abort(context: Context, error: Exception) -> None:
    if not isinstance(error, ServiceError):
        if isinstance(error, grpc.aio.AbortError):
            raise error
        log.error("unexpected error", exc_info=error)
        error = ServiceError(Reason.INTERNAL, Reason.INTERNAL.meaning)
    status = error.status()
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(STATUS[status.code], status.message, trailers)
