"""Client-streaming methods: many requests, one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import TypeAlias

import grpc

from longshore_server.errors import ServiceError
from longshore_server.rpc.boundary import Context, Durations, Method, Traced, abort, refusal
from longshore_server.rpc.callers import Callers

Requests: TypeAlias = AsyncIterator[bytes]
"""What the caller sends. It ends where the caller closes its side, and where the connection breaks: gRPC does not say
which, so that nothing final may follow from it."""


def receiving(function: Callable[[Requests, Context], Awaitable[bytes]]) -> Method:
    """A client-streaming method over `function`, which may answer before it has read everything."""

    def measured(durations: Durations, callers: Callers, traced: Traced) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(requests: Requests, inner: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            begin, code, context = perf_counter(), grpc.StatusCode.CANCELLED.name, Context(inner, callers)
            span = traced(context.invocation_metadata)
            try:
                await _identify(context, requests)
                answer = await function(requests, context)
                code = grpc.StatusCode.OK.name
                return answer
            except Exception as caught:
                error = refusal(caught)
                code = error.reason.code.name
                await abort(inner, error)
                raise AssertionError("abort always raises") from caught
            finally:
                durations[code].observe(perf_counter() - begin)
                span.end(code)

        return grpc.stream_unary_rpc_method_handler(handle)

    return measured


async def _identify(context: Context, requests: Requests) -> None:
    """Find out who calls. Raises `ServiceError` (UNAUTHENTICATED)."""
    try:
        await context.identify()
    except ServiceError:
        # Not before there is a request: a client of grpc.aio that still sends takes a refusal for a broken call.
        await anext(requests, None)
        raise
