"""Where the calls of a process reach the server in it, through any number of starts; and the channel to there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from longshore_server.auth.identity import Principal
from longshore_server.clock import SECOND, Clock, resolve
from longshore_server.rpc.callers import Call as Calling
from longshore_server.rpc.callers import Callers
from longshore_server.rpc.listener import Listener
from longshore_server.testing.call import Call, StreamCall, UnaryCall
from longshore_server.testing.exchange import Ended, Exchange, Handler, Pairs

_GONE = Ended(grpc.StatusCode.UNAVAILABLE, "the server does not run")
_CLOSED = Ended(grpc.StatusCode.CANCELLED, "Channel closed.", by_caller=True)
_UNKNOWN = Ended(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_KEY = re.compile(r"[0-9a-z_.-]+")


class Port:
    """The way to the server that runs now, if one does. `clock`: of the deadlines of calls, and of who waits here."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.running = asyncio.Event()
        """Set while a server runs."""
        self._listener: Listener | None = None
        self._methods: dict[Principal | None, dict[str, Handler]] = {}
        self._exchanges: set[Exchange] = set()
        self._waiting: set[asyncio.Future[None]] = set()

    def open(self, listener: Listener) -> None:
        """Calls reach what a listener serves. Who waits for that goes on."""
        self._listener = listener
        self.running.set()
        for waiting in self._waiting:
            resolve(waiting)

    def close(self) -> None:
        """Break every call, as a connection that is lost does. Repeatable."""
        self._listener = None
        self.running.clear()
        self._methods.clear()
        for exchange in list(self._exchanges):
            exchange.end(_GONE)

    async def pause(self, seconds: float) -> None:
        """Return once so much time has passed, or as soon as another server runs: for clients that try again."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.clock.call_at(self.clock.now() + int(seconds * SECOND), partial(resolve, waiting))
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
            timer.cancel()

    def exchange(
        self, path: str, caller: Principal | None, metadata: Pairs, timeout: float | None, request: bytes | None
    ) -> Exchange:
        """Begin a call. `caller`: who makes it; None: whoever the server takes them for."""
        listener = self._listener
        limit = 0 if listener is None else listener.lengths["grpc.max_receive_message_length"]
        exchange = Exchange(path, metadata, self.clock, timeout, limit)
        self._exchanges.add(exchange)
        exchange.ended.add_done_callback(lambda _: self._exchanges.discard(exchange))
        if listener is None:
            exchange.end(_GONE)
            return exchange
        if caller not in self._methods:
            self._methods[caller] = listener.handlers(None if caller is None else _Known(caller))
        handler = self._methods[caller].get(path)
        if handler is None:
            exchange.end(_UNKNOWN)
        else:
            exchange.begin(handler, request)
        return exchange


class _Known(Callers):
    """Takes every caller for one principal."""

    def __init__(self, principal: Principal) -> None:
        super().__init__(None, certificates=False)
        self._principal = principal

    def known(self, call: Calling) -> Principal:  # noqa: ARG002 - whatever it says
        return self._principal

    async def of(self, call: Calling) -> Principal:
        return self.known(call)


class LocalChannel(grpc.aio.Channel):
    """A channel of `grpc.aio` to the server of this process: what is made for one works on it as over a network.

    Args:
        port: where the server is.
        caller: who makes the calls; None: whoever the server takes them for.
    """

    def __init__(self, port: Port, caller: Principal | None = None) -> None:
        self._port = port
        self._caller = caller
        self._exchanges: set[Exchange] = set()
        self._closed = False

    def unary_unary(self, method: str, *coding: Any, **options: Any) -> Any:
        return self._method(UnaryCall, method, *coding, **options)

    def unary_stream(self, method: str, *coding: Any, **options: Any) -> Any:
        return self._method(StreamCall, method, *coding, **options)

    def stream_unary(self, method: str, *coding: Any, **options: Any) -> Any:
        return self._method(UnaryCall, method, *coding, streams=True, **options)

    def stream_stream(self, method: str, *coding: Any, **options: Any) -> Any:
        return self._method(StreamCall, method, *coding, streams=True, **options)

    def _method(
        self, kind: type[Call], path: str, request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None, *, streams: bool = False, **_: object,
    ) -> Callable[..., Call]:  # fmt: skip
        encode, decode = request_serializer or bytes, response_deserializer or bytes

        def call(
            request: Any = None, *, timeout: float | None = None,
            metadata: Iterable[tuple[str, str | bytes]] | None = None, **_: object,
        ) -> Call:  # fmt: skip
            if self._closed:
                raise grpc.aio.UsageError("Channel is closed.")
            only = None if streams else encode(request)
            exchange = self._port.exchange(path, self._caller, _checked(metadata), timeout, only)
            self._exchanges.add(exchange)
            exchange.ended.add_done_callback(lambda _: self._exchanges.discard(exchange))
            return kind(exchange, encode, decode, request if streams else None)

        return call

    async def close(self, grace: float | None = None) -> None:  # noqa: ARG002 - as gRPC has it; nothing is left to wait for
        self._closed = True
        for exchange in list(self._exchanges):
            exchange.end(_CLOSED)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: ARG002 - as gRPC has it
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        running = self._port.running.is_set()
        return grpc.ChannelConnectivity.READY if running else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        raise NotImplementedError("a channel inside the process does not tell when its state changes")

    async def channel_ready(self) -> None:
        await self._port.running.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _checked(metadata: Iterable[tuple[str, str | bytes]] | None) -> Pairs:
    """Raises `ValueError` for what no connection would carry."""
    pairs = tuple((key, value) for key, value in metadata or ())
    for key, value in pairs:
        if not _KEY.fullmatch(key) or isinstance(value, bytes) is not key.endswith("-bin"):
            raise ValueError(f"metadata was invalid: {pairs}")
    return pairs
