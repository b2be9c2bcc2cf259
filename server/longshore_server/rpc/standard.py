"""The services that tools expect: health per service, and reflection v1 and v1alpha over the same descriptors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from longshore_server.auth.identity import Principal
from longshore_server.clock import SECOND, Clock, resolve
from longshore_server.engine.quotas import Quota
from longshore_server.engine.watch import HEARTBEAT
from longshore_server.errors import Reason, ServiceError
from longshore_server.rpc.boundary import Context, Method, abort, check_expiry, decode, machine, refusal, stream, unary
from longshore_server.rpc.callers import Callers
from longshore_server.rpc.descriptors import DescriptorPool
from longshore_server.rpc.receiving import Requests, reading

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
HEALTH = health.SERVICE_NAME
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

OPEN = 1000
"""How many watches of health may be open, and how many streams of reflection. Most are nobody's; apart from the watches
of operations, which nobody shall crowd out."""
SHARE = 250
"""How many of these may come from one machine."""
SILENCE = 60 * SECOND
"""A stream of reflection on which nothing is asked for so long is ended: its caller opens another one."""


def _places(what: str) -> Quota:
    return Quota(Reason.TOO_MANY_WATCHES, what, total=OPEN, share=SHARE, retry_after=5.0)


class Health:
    """NOT_SERVING while the server starts and drains, SERVING in between; "" stands for the whole server."""

    def __init__(self, services: Sequence[str], clock: Clock) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()
        self._places = _places("watches of health are open")

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "Check": unary(health_pb2.HealthCheckRequest, self._check),
            "Watch": stream(health_pb2.HealthCheckRequest, self._watch),
        }

    async def set(self, *, serving: bool) -> None:
        """Tell every watcher."""
        self._serving = serving
        for woken in self._waiting:
            resolve(woken)

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Context) -> bytes:
        if request.service not in self._services:
            service = request.service[:200]
            raise ServiceError(Reason.SERVICE_NOT_FOUND, f"{service!r} is not served here.", resource=service)
        return self._answer(request.service)

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[Iterable[bytes]]:
        said = None
        with self._places.place(context.source):
            while True:
                # Before the answer: a change while that is sent is not missed.
                with self._woken(context.caller) as woken:
                    answer = self._answer(request.service)
                    yield [] if answer == said else [answer]
                    said = answer
                    await woken
                check_expiry(context, self._clock)

    @contextlib.contextmanager
    def _woken(self, caller: Principal) -> Iterator[asyncio.Future[None]]:
        """Done at the next change, and in time to look again at a caller who may not be known for ever."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        timer = None
        if not caller.unrestricted:
            due = self._clock.now() + HEARTBEAT
            due = due if caller.expires is None else min(due, caller.expires)
            timer = self._clock.call_at(due, lambda: resolve(woken))
        try:
            yield woken
        finally:
            self._waiting.discard(woken)
            if timer is not None:
                timer.cancel()

    def _answer(self, service: str) -> bytes:
        status = _SERVING if self._serving else _NOT_SERVING
        known = service in self._services
        return health_pb2.HealthCheckResponse(status=status if known else _SERVICE_UNKNOWN).SerializeToString()


async def _asked(requests: Requests, clock: Clock) -> bytes | None:
    """The next request. None: the caller has closed its side, or been silent for too long."""
    reading = asyncio.ensure_future(anext(requests, None))
    timer = clock.call_at(clock.now() + SILENCE, reading.cancel)
    try:
        await asyncio.wait([reading])
    finally:
        timer.cancel()
        if reading.cancel():
            await asyncio.wait([reading])
    return None if reading.cancelled() else reading.result()


def add_reflection(services: Sequence[str], server: grpc.aio.Server, callers: Callers | None, clock: Clock) -> None:
    """Serve reflection, to anyone or only to callers who are known.

    grpcio-reflection knows v1alpha only; v1 has the same messages under another name.
    """
    servicer = reflection.aio.ReflectionServicer((*services, *REFLECTION), DescriptorPool(descriptor_pool.Default()))
    places = _places("streams of reflection are open")

    async def admitted(requests: Requests, context: _Context) -> AsyncIterator[Any]:
        # Not before the first request is here: a client of grpc.aio that still sends takes a refusal for a broken call.
        while (data := await _asked(requests, clock)) is not None:
            if callers is not None:
                await callers.of(context)
            yield decode(reflection_pb2.ServerReflectionRequest, data)

    async def reflect(requests: Any, context: _Context) -> AsyncIterator[bytes]:
        # An async generator, whatever its stub says.
        try:
            # By machine: who it is that calls is only asked with the first request.
            async with reading(requests) as received:
                with places.place(machine(context.peer())):
                    answers: Any = servicer.ServerReflectionInfo(admitted(received, context), context)
                    async for answer in answers:
                        yield answer.SerializeToString()
            return
        except Exception as caught:  # noqa: BLE001 - the boundary: everything becomes a status
            refused = refusal(caught)
        await abort(context, refused)

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(reflect)
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in REFLECTION)
    )
