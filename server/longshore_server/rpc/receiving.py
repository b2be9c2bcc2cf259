"""Client-streaming methods: many requests, one answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any, TypeAlias

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
        async def handle(requests: Any, inner: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            begin, code, context = perf_counter(), grpc.StatusCode.CANCELLED.name, Context(inner, callers)
            span = traced(context.invocation_metadata)
            try:
                try:
                    async with reading(requests) as received:
                        await _identify(context, received)
                        answer = await function(received, context)
                    code = grpc.StatusCode.OK.name
                    return answer
                except Exception as caught:  # noqa: BLE001 - the boundary: everything becomes a status
                    refused = refusal(caught)
                code = refused.reason.code.name
                await abort(inner, refused)
                return b""
            finally:
                durations[code].observe(perf_counter() - begin)
                span.end(code)

        return grpc.stream_unary_rpc_method_handler(handle)

    return measured


def reading(requests: Any) -> AbstractAsyncContextManager[Requests]:
    """What the caller sends, until the block is left.

    gRPC's generator holds the last request, and is part of a cycle until it is closed.
    """
    return contextlib.aclosing(aiter(requests))


async def _identify(context: Context, requests: Requests) -> None:
    """Find out who calls. Raises `ServiceError` (UNAUTHENTICATED)."""
    try:
        await context.identify()
    except ServiceError:
        # Not before there is a request: a client of grpc.aio that still sends takes a refusal for a broken call.
        await anext(requests, None)
        raise
