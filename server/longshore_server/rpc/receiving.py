"""Client-streaming methods: many requests, one answer. All of them send bytes, and take a place among the transfers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any, TypeAlias

import grpc

from longshore_server.clock import Clock
from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, ServiceError
from longshore_server.rpc.attending import attending
from longshore_server.rpc.boundary import Context, Durations, Method, Traced, abort, refusal
from longshore_server.rpc.callers import Callers

Requests: TypeAlias = AsyncIterator[bytes]
"""What the caller sends. It ends where the caller closes its side, and where the connection breaks: gRPC does not say
which, so that nothing final may follow from it."""

POLITE = 100
"""How many refused calls of a method may wait for their first request."""


def receiving(
    function: Callable[[Requests, Context], Awaitable[bytes]],
    sends: Callable[[bytes, Context], Awaitable[tuple[bytes, int]]],
    engine: Engine,
) -> Method:
    """A client-streaming method over `function`, which may answer before it has read everything.

    `sends` tells from the first request to which upload and part, or raises `ServiceError`.
    """

    waiting = 0

    async def admit(context: Context, requests: Requests, places: contextlib.ExitStack) -> Requests:
        """Find out who calls, and take its place; all that it sends.

        Raises `ServiceError` (UNAUTHENTICATED, TOO_MANY_TRANSFERS, or what `sends` does).
        """
        nonlocal waiting
        try:
            await context.identify()
            places.enter_context(engine.transfers.place(context.caller.name))
        except ServiceError as error:
            # Not before there is a request: a client of grpc.aio that still sends takes a refusal for a broken call.
            if waiting >= POLITE:
                raise
            waiting += 1
            try:
                first = await anext(requests, None)
            finally:
                waiting -= 1
            if first is None or error.reason is not Reason.TOO_MANY_TRANSFERS:
                raise
            uid, part = await sends(first, context)
            places.enter_context(engine.transfers.place_after(context.caller.name, uid, part))
            return _Begun(first, requests)
        return requests

    def measured(durations: Durations, callers: Callers, traced: Traced) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(requests: Any, inner: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            begin, code, context = perf_counter(), grpc.StatusCode.CANCELLED.name, Context(inner, callers)
            span = traced(context.invocation_metadata)
            try:
                try:
                    async with reading(requests) as received:
                        with contextlib.ExitStack() as places:
                            begun = await admit(context, received, places)
                            async with _attended(context, engine.clock):
                                answer = await function(begun, context)
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


class _Begun(AsyncIterator[bytes]):
    """Requests of which the first has been read already. Keeps none of them."""

    def __init__(self, first: bytes, rest: Requests) -> None:
        self._first = [first]
        self._rest = rest

    async def __anext__(self) -> bytes:
        return self._first.pop() if self._first else await anext(self._rest)


def reading(requests: Any) -> AbstractAsyncContextManager[Requests]:
    """What the caller sends, until the block is left.

    gRPC's generator holds the last request, and is part of a cycle until it is closed.
    """
    return contextlib.aclosing(aiter(requests))


@contextlib.asynccontextmanager
async def _attended(context: Context, clock: Clock) -> AsyncIterator[None]:
    """As `attending`. Raises `ServiceError` (UNAUTHENTICATED) into the block when the caller is not who it was."""
    task, refused = asyncio.current_task(), None
    assert task is not None

    def end(error: ServiceError) -> None:
        nonlocal refused
        refused = error
        task.cancel()

    try:
        async with attending(context, clock, end):
            yield
    except asyncio.CancelledError:
        if refused is None:
            raise
        # Not the caller has gone: it was ended from here, and is to be told why.
        task.uncancel()
        raise refused from None
