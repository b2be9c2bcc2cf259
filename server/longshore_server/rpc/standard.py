"""The services that tools expect: health per service, and reflection v1 and v1alpha over the same descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HEALTH = health.SERVICE_NAME
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Health:
    """NOT_SERVING while the server starts and drains, SERVING in between; "" stands for the whole server."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._servicer = health.aio.HealthServicer()

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self.set(serving=False)

    async def set(self, *, serving: bool) -> None:
        """Tell every watcher."""
        for service in self._services:
            await self._servicer.set(service, _SERVING if serving else _NOT_SERVING)


def add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Serve reflection. grpcio-reflection knows v1alpha only; v1 has the same messages under another name."""
    servicer = reflection.aio.ReflectionServicer((*services, *REFLECTION))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in REFLECTION)
    )
