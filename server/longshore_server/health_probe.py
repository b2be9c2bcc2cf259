"""`python -m longshore_server.health_probe ADDRESS [SERVICE]`: exits 0 when the server at ADDRESS says SERVING.

For container health checks and init systems that have no gRPC probe of their own.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2

TIMEOUT = 3.0
"""Seconds that the server has to answer."""


def main(arguments: list[str]) -> int:
    """The exit code: 0 serving, 1 not serving or no answer, 2 wrong arguments."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    address, service = arguments[0], arguments[1] if len(arguments) == 2 else ""
    try:
        with grpc.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = check(request, timeout=TIMEOUT, wait_for_ready=True)
    except grpc.RpcError as error:
        print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(status)
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
