"""A reviewer in a process of its own, with generated stubs and nothing else of Longshore.

python examples/approvals/review.py 127.0.0.1:50051 list
python examples/approvals/review.py 127.0.0.1:50051 approve operations/approvals-order-7 ada
python examples/approvals/review.py 127.0.0.1:50051 reject operations/approvals-order-7 "too dear"
"""

from __future__ import annotations

import argparse
import sys

import grpc
from acme.approvals.v1.approvals_pb2 import OrderProgress, OrderRequest, OrderResult
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operation_pb2, operations_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as operations_pb2

WAITING = 'type = "acme.approvals.v1.ApprovalsService/Order" AND state = RUNNING'


def show(channel: grpc.Channel) -> None:
    """Print the orders that wait for somebody."""
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    for operation in operations.List(operations_pb2.ListRequest(filter=WAITING)).operations:
        progress = OrderProgress()
        if operation.progress.Unpack(progress) and progress.step in ("review", "board"):
            print(operation.name, progress.message, sep="\t")


def approve(channel: grpc.Channel, name: str, reviewer: str) -> operation_pb2.OperationSnapshot:
    """End an order with its result: whether its handler still waits or has deferred it, in whatever process."""
    control = control_grpc.OperationControlServiceStub(channel)
    request = OrderRequest()
    control.GetOperation(control_pb2.GetOperationRequest(name=name)).input.Unpack(request)
    result = Any()
    result.Pack(OrderResult(order_id=request.order_id, approved_by=reviewer))
    return control.Complete(control_pb2.CompleteRequest(name=name, result=result))


def reject(channel: grpc.Channel, name: str, why: str) -> operation_pb2.OperationSnapshot:
    """End an order with an error that callers can tell from others."""
    reason = Any()
    reason.Pack(error_details_pb2.ErrorInfo(reason="REJECTED", domain="acme.approvals.v1"))
    error = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message=why, details=[reason])
    control = control_grpc.OperationControlServiceStub(channel)
    return control.Fail(control_pb2.FailRequest(name=name, error=error))


def main() -> str | None:
    """Do what the command line says. Returns what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    for command, rest in (("approve", "reviewer"), ("reject", "why")):
        verb = commands.add_parser(command)
        verb.add_argument("name")
        verb.add_argument(rest)
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.server) as channel:
        try:
            if arguments.command == "list":
                show(channel)
                return None
            if arguments.command == "approve":
                snapshot = approve(channel, arguments.name, arguments.reviewer)
            else:
                snapshot = reject(channel, arguments.name, arguments.why)
        except grpc.RpcError as error:
            return f"error: {error.details()}" if isinstance(error, grpc.Call) else str(error)
    # A cancel request that came first wins.
    print(snapshot.name, operation_pb2.OperationSnapshot.State.Name(snapshot.state).removeprefix("STATE_"), sep="\t")
    return None


if __name__ == "__main__":
    sys.exit(main())
