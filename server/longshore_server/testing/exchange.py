"""One call inside a process: what its two ends share, and how the server's method is run for it.

    the caller's end (call.py) -> requests -> the method, as gRPC would run it -> responses -> the caller's end

What goes between the ends is bytes, as over a connection: that is the copy which keeps caller and server from sharing
a message that one of them may change, and the same boundary judges it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc

from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.testing.pipe import Pipe

log = logging.getLogger(__name__)

Pairs: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

RECEIVED = 4 << 20
"""The largest message in bytes that a client of gRPC takes, unless it is told otherwise."""


class Ended(NamedTuple):
    """How a call has ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Pairs = ()
    by_caller: bool = False
    """The caller itself has cancelled it."""


class Exchange:
    """A call under way.

    Args:
        path: of the method, for example `/longshore.v1.OperationsService/Get`.
        metadata: what the caller sends beside its requests.
        clock: decides when the time of the call is over.
        timeout: seconds until then; None: for ever.
        limit: the largest request in bytes.
    """

    def __init__(self, path: str, metadata: Pairs, clock: Clock, timeout: float | None, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.path = path
        self.metadata = metadata
        self.requests = Pipe()
        self.responses = Pipe()
        self.initial: asyncio.Future[Pairs] = loop.create_future()
        """What the server says before its answer; empty if the call ends without."""
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self._clock = clock
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._deadline: int | None = None
        self._timer: Timer | None = None
        if timeout is not None:
            self._deadline = clock.now() + int(timeout * SECOND)
            late = Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            self._timer = clock.call_at(self._deadline, lambda: self.end(late))

    def begin(self, handler: Handler, request: bytes | None) -> None:
        """Let the server's method run. `request`: the only one; None: they come by `requests`."""
        if not self.ended.done():
            # In nobody's context: the variables of a caller, an operation's handler for example, are its own.
            self._task = self.loop.create_task(self._run(handler, request), context=contextvars.Context())

    def end(self, how: Ended) -> bool:
        """Settle how the call has ended; False: it had already. A method that still runs is cancelled."""
        if self.ended.done():
            return False
        self.ended.set_result(how)
        if not self.initial.done():
            self.initial.set_result(())
        # What a server has said before its own end arrives; where the call breaks, or nobody reads on, it does not.
        self.responses.close(drop=self._task is not asyncio.current_task(self.loop))
        self.requests.close(drop=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task(self.loop):
            self._task.cancel()
        return True

    def time_remaining(self) -> float | None:
        """Seconds until the time of the call is over; None: never."""
        return None if self._deadline is None else max(0.0, (self._deadline - self._clock.now()) / SECOND)

    async def _run(self, handler: Handler, request: bytes | None) -> None:
        context = _Context(self)
        try:
            if request is None:
                await self._answer(handler.stream_unary or handler.stream_stream, self._received(), context)
            else:
                self._check_length("SERVER", request, self._limit)
                await self._answer(handler.unary_unary or handler.unary_stream, request, context)
            self.end(context.ended)
        except asyncio.CancelledError:
            self.end(Ended(grpc.StatusCode.CANCELLED))
            raise
        except Exception as error:
            log.exception("the method %s broke", self.path)
            self.end(Ended(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"))

    async def _answer(self, method: Callable[..., Any] | None, request: object, context: _Context) -> None:
        assert method is not None
        answer = method(request, context)
        if not isinstance(answer, AsyncGenerator):
            message = await answer
            if context.ended.code is grpc.StatusCode.OK:
                await self._send(message)
            return
        async with aclosing(answer) as messages:
            async for message in messages:
                await self._send(message)

    async def _send(self, message: bytes) -> None:
        self._check_length("CLIENT", message, RECEIVED)
        if not self.initial.done():
            self.initial.set_result(())
        await self.responses.put(message)

    async def _received(self) -> AsyncIterator[bytes]:
        while (request := await self.requests.get()) is not None:
            self._check_length("SERVER", request, self._limit)
            yield request

    def _check_length(self, who: str, message: bytes, limit: int) -> None:
        """End the call over a message that is too large for its receiver, as gRPC does before anybody sees it."""
        if len(message) > limit:
            details = f"{who}: Received message larger than max ({len(message)} vs. {limit})"
            self.end(Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, details))
            raise asyncio.CancelledError


class _Context:
    """What the method of a call sees of it: the part of gRPC's context that our boundary asks."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.ended = Ended(grpc.StatusCode.OK)
        """How the call ends when the method returns."""
        self.invocation_metadata: Callable[[], Pairs] = lambda: exchange.metadata
        self.time_remaining = exchange.time_remaining

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    def peer(self) -> str:
        return "in-process"

    async def send_initial_metadata(self, metadata: Pairs) -> None:
        self._exchange.initial.set_result(tuple(metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()) -> NoReturn:
        self.ended = Ended(code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError
