"""An application with Longshore beside it: it knows grpcio, the stubs of its contract and one address, nothing more.

It reads order numbers from its standard input, one a line, and says as JSON what becomes of them. Told to end, by a
signal or by the end of its input, it takes no more orders and ends when those that it has taken have.

python application.py ADDRESS
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from acme.orders.v1 import orders_pb2, orders_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc

T = TypeVar("T")
# A sidecar is back in a moment, on the same machine: look often.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]


class Shop:
    """Takes orders, and follows each to its end, over any number of restarts of the sidecar."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._orders = orders_pb2_grpc.OrdersServiceStub(channel)
        self._operations = operations_service_pb2_grpc.OperationsServiceStub(channel)

    async def order(self, number: str) -> None:
        """Start it and wait for its end. Both may be asked again: the order's number is the operation's name."""
        request = orders_pb2.ProcessOrderRequest(
            order_id=number, items=[orders_pb2.OrderItem(sku="tea", quantity=1)], amount=1200
        )
        operation = await insist(number, lambda: self._orders.Process(request, wait_for_ready=True))
        say(order=number, accepted=operation.name)
        wait = pb.WaitRequest(name=operation.name)
        ended = await insist(number, lambda: self._operations.Wait(wait, wait_for_ready=True))
        result = orders_pb2.ProcessOrderResult()
        ended.result.Unpack(result)
        say(order=number, ended=result.status or ended.error.message)


async def insist(number: str, call: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer. A sidecar that stops or has stopped is worth waiting for; all else is raised."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            # A call that gRPC itself breaks off, as it has no handler yet when the server ends, is CANCELLED.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            say(order=number, again=error.code().name)
            await asyncio.sleep(retry_after(error))


def retry_after(error: grpc.aio.AioRpcError) -> float:
    """The seconds after which the server says that it is worth asking again. By itself: now, the channel waits."""
    # Through a tuple: until grpcio 1.80 dict() by itself takes the pairs of its `Metadata` for keys.
    trailers: dict[str, Any] = dict(tuple(error.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


async def main(address: str) -> None:
    """Until told to end."""
    loop = asyncio.get_running_loop()
    numbers = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(numbers), sys.stdin)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pipe.close)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel, asyncio.TaskGroup() as orders:
        shop = Shop(channel)
        async for line in numbers:
            orders.create_task(shop.order(line.decode().strip()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
