"""What the stories need: the stubs, why a call was refused, and how to print what came of it."""

from __future__ import annotations

import json
import time
from typing import Any

import grpc
from acme.documents.v1 import documents_pb2_grpc
from acme.orders.v1 import orders_pb2, orders_pb2_grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (JSON of a status names its details' types)

from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1.operation_pb2 import OperationEvent, OperationSnapshot


class Stubs:
    """The stubs that protoc makes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.orders = orders_pb2_grpc.OrdersServiceStub(channel)
        self.documents = documents_pb2_grpc.DocumentsServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self.transfers = transfers_service_pb2_grpc.TransfersServiceStub(channel)


def order(key: str, sku: str = "tea", amount: int = 1200) -> orders_pb2.ProcessOrderRequest:
    return orders_pb2.ProcessOrderRequest(
        order_id=key, items=[orders_pb2.OrderItem(sku=sku, quantity=1)], amount=amount
    )


def broken(error: grpc.RpcError) -> bool:
    """Whether it was the connection: a refusal says why in its details, but for UNAVAILABLE it is final."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return True
        # Nothing here is cancelled by its own caller.
        case grpc.StatusCode.CANCELLED | grpc.StatusCode.UNKNOWN | grpc.StatusCode.INTERNAL:
            return not status(error).details
    return False


def pause() -> None:
    """A server that drains refuses at once, so whoever asks again takes a break."""
    time.sleep(0.2)


def status(error: grpc.RpcError) -> status_pb2.Status:
    trailers: Any = error.trailing_metadata() or ()
    return status_pb2.Status.FromString(dict(trailers).get("grpc-status-details-bin", b""))


def refused(call: str, make: Any) -> None:
    try:
        make()
    except grpc.RpcError as error:
        say(call=call, refusal=MessageToDict(status(error)))


def show(event: OperationEvent) -> None:
    """An event, and what it holds in the types of the contract."""
    kind, progress, result = (
        event.WhichOneof("event"),
        orders_pb2.ProcessOrderProgress(),
        orders_pb2.ProcessOrderResult(),
    )
    told: dict[str, Any] = {"sequence": event.sequence, "event": kind}
    if kind == "progress" and event.progress.value.Unpack(progress):
        told["step"] = progress.step
    if kind == "completed" and event.completed.result.Unpack(result):
        told["status"] = result.status
    say(**told)


def end(snapshot: OperationSnapshot) -> None:
    """How an operation stands: with its result, with its error, or with neither."""
    told: dict[str, Any] = {"state": OperationSnapshot.State.Name(snapshot.state)}
    result = orders_pb2.ProcessOrderResult()
    if snapshot.HasField("result") and snapshot.result.Unpack(result):
        told["status"] = result.status
    if snapshot.HasField("error"):
        told["error"] = MessageToDict(snapshot.error)
    say(**told)


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)
