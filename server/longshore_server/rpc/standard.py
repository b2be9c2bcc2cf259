"""The services that tools expect: health per service, and reflection v1 and v1alpha over the same descriptors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from longshore_server.rpc.boundary import abort, refusal
from longshore_server.rpc.callers import Callers

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HEALTH = health.SERVICE_NAME
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class _Guard:
    """Lets only callers in who are known."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def check(self, context: _Context) -> None:
        """Return if the caller is known; end the call otherwise."""
        try:
            await self._callers.of(context)
        except Exception as caught:  # noqa: BLE001 - the boundary: everything becomes a status
            await abort(context, refusal(caught))


class _Health(health.aio.HealthServicer):
    """The stock servicer with its Watch as an async generator: interceptors of others break a coroutine that writes."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> Any:  # noqa: N802 - its name
        said: asyncio.Queue[health_pb2.HealthCheckResponse] = asyncio.Queue()
        writer: Any = SimpleNamespace(write=said.put)
        work = asyncio.ensure_future(super().Watch(request, writer))
        try:
            while True:
                yield await said.get()
        finally:
            work.cancel()


class _GuardedHealth(_Health):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> Any:  # noqa: N802 - its name
        await self._guard.check(context)
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> Any:  # noqa: N802 - its name
        await self._guard.check(context)
        async for answer in super().Watch(request, context):
            yield answer


class Health:
    """NOT_SERVING while the server starts and drains, SERVING in between; "" stands for the whole server.

    `callers`: None: anyone may ask, else only who is known.
    """

    def __init__(self, services: Sequence[str], callers: Callers | None) -> None:
        self._services = ("", *services)
        self._servicer = _Health() if callers is None else _GuardedHealth(_Guard(callers))

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self.set(serving=False)

    async def set(self, *, serving: bool) -> None:
        """Tell every watcher."""
        for service in self._services:
            await self._servicer.set(service, _SERVING if serving else _NOT_SERVING)


def add_reflection(services: Sequence[str], server: grpc.aio.Server, callers: Callers | None) -> None:
    """Serve reflection, to anyone or only to callers who are known.

    grpcio-reflection knows v1alpha only; v1 has the same messages under another name.
    """
    servicer = reflection.aio.ReflectionServicer((*services, *REFLECTION))
    guard = None if callers is None else _Guard(callers)

    async def admitted(requests: AsyncIterable[Any], context: _Context) -> AsyncIterator[Any]:
        # Not before the first request is here: a client of grpc.aio that still sends takes a refusal for a broken call.
        async for request in requests:
            if guard is not None:
                await guard.check(context)
            yield request

    async def reflect(requests: AsyncIterable[Any], context: _Context) -> AsyncIterator[Any]:
        # An async generator, whatever its stub says.
        answers: Any = servicer.ServerReflectionInfo(admitted(requests, context), context)
        async for answer in answers:
            yield answer

    method = grpc.stream_stream_rpc_method_handler(
        reflect,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in REFLECTION)
    )
