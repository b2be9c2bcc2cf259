"""The caller's end of a call inside a process: the objects of `grpc.aio`, which clients and generated stubs hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any

import grpc
import grpc.aio

from longshore_server.testing.exchange import Ended, Exchange

_BY_CALLER = Ended(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", by_caller=True)


class Call:
    """A call under way.

    Args:
        exchange: what it shares with the server's end.
        encode: makes bytes of a request.
        decode: makes an answer of bytes.
        requests: what is sent, for a method that takes a stream; None: one request, or those of `write`.
    """

    def __init__(
        self, exchange: Exchange, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any],
        requests: AsyncIterable[Any] | Iterable[Any] | None = None,
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._encode = encode
        self._decode = decode
        # Kept, because the event loop itself keeps no reference to a task.
        self._feeding = None if requests is None else asyncio.ensure_future(_feed(exchange, encode, requests))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server says before its answer."""
        return grpc.aio.Metadata(*await asyncio.shield(self._exchange.initial))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server says with the end."""
        return grpc.aio.Metadata(*(await self._ended()).trailing)

    async def code(self) -> grpc.StatusCode:
        """How it has ended."""
        return (await self._ended()).code

    async def details(self) -> str:
        """Why it has ended like that."""
        return (await self._ended()).details

    async def wait_for_connection(self) -> None:
        """Returns at once: there is nothing in between."""

    def time_remaining(self) -> float | None:
        """Seconds until its time is over; None: never."""
        return self._exchange.time_remaining()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._exchange.ended.done()

    def cancelled(self) -> bool:
        """Whether it has been cancelled."""
        return self.done() and self._exchange.ended.result().code is grpc.StatusCode.CANCELLED

    def cancel(self) -> bool:
        """End it; False: it had ended."""
        return self._exchange.end(_BY_CALLER)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with this call at its end."""
        if self.done():
            callback(self)
        else:
            self._exchange.ended.add_done_callback(lambda _: callback(self))

    async def write(self, request: Any) -> None:
        """Send one of many requests. Raises `asyncio.InvalidStateError` after the end."""
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        with self._cancelling():
            await self._exchange.requests.put(self._encode(request))

    async def done_writing(self) -> None:
        """Say that there are no more requests."""
        self._exchange.requests.close()

    async def _ended(self) -> Ended:
        # Shielded: who asks may be cancelled, and the next who asks is to be told.
        return await asyncio.shield(self._exchange.ended)

    async def _check(self) -> None:
        """Raises `AioRpcError` unless it has ended well, and `CancelledError` where its caller has cancelled it."""
        ended = await self._ended()
        if ended.by_caller:
            raise asyncio.CancelledError
        if ended.code is not grpc.StatusCode.OK:
            initial = grpc.aio.Metadata(*self._exchange.initial.result())
            raise grpc.aio.AioRpcError(ended.code, initial, grpc.aio.Metadata(*ended.trailing), ended.details)

    @contextlib.contextmanager
    def _cancelling(self) -> Generator[None, None, None]:
        """Whoever is cancelled while it waits for the other end cancels the call."""
        try:
            yield
        except asyncio.CancelledError:
            self.cancel()
            raise


class UnaryCall(Call):
    """A call that is answered once."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        with self._cancelling():
            await self._check()
        if not hasattr(self, "_message"):
            self._message = self._decode(await self._exchange.responses.get() or b"")
        return self._message


class StreamCall(Call):
    """A call that is answered by a stream."""

    _messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._iterate()
        return self._messages

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` after the last."""
        with self._cancelling():
            message = await self._exchange.responses.get()
        if message is not None:
            return self._decode(message)
        await self._check()
        return grpc.aio.EOF

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


async def _feed(
    exchange: Exchange, encode: Callable[[Any], bytes], requests: AsyncIterable[Any] | Iterable[Any]
) -> None:
    """Send what an iterator gives; one that breaks cancels the call."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                if exchange.ended.done():
                    return
                await exchange.requests.put(encode(request))
        else:
            for request in requests:
                await exchange.requests.put(encode(request))
    except BaseException:
        exchange.end(_BY_CALLER)
        raise
    exchange.requests.close()
