"""`examples/orders` in a real process: its whole contract, and orders that somebody has to approve."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from acme.orders.v1 import orders_pb2_grpc
from acme.orders.v1.orders_pb2 import (
    ApproveOrder,
    OrderItem,
    ProcessOrderProgress,
    ProcessOrderRequest,
    ProcessOrderResult,
)
from google.protobuf import text_format

from longshore.v1 import annotations_pb2, operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import reason_of_end
from tests.faults.process import Caller, ServerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders"
TYPE = "acme.orders.v1.OrdersService/Process"
CONTRACT = """
call { all_of: "orders.write" } observe { all_of: "orders.read" }
cancel { all_of: "orders.write" } control { all_of: "orders.write" }
cancellation: CANCELLATION_COOPERATIVE
signals { name: "approve" payload_type: "ApproveOrder" description: "Lets an order with restricted goods go on." }
timeout { seconds: 3600 } retention { seconds: 604800 }
id_template: "orders-process-{order_id}" on_terminal: ON_TERMINAL_RETURN
"""
State = operation_pb2.OperationSnapshot.State


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    found = ServerProcess(tmp_path, service=EXAMPLE / "service.py")
    try:
        await found.start()
        yield found
    finally:
        await found.close()


async def order(caller: Caller, *skus: str) -> str:
    """Start an order of one piece each by its own RPC, and return its name."""
    stub: Any = orders_pb2_grpc.OrdersServiceStub(caller.channel)
    items = [OrderItem(sku=sku, quantity=1) for sku in skus]
    request = ProcessOrderRequest(order_id="ord_123", items=items, amount=4200)
    return str((await stub.Process(request)).name)


async def reached(caller: Caller, name: str, step: str) -> None:
    """Return once the order is at a step."""
    call = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0), wait_for_ready=True)
    async for message in call:
        progress = ProcessOrderProgress()
        if message.event.progress.value.Unpack(progress) and progress.step == step:
            call.cancel()
            return
    raise AssertionError(f"{name} ended before {step}")


async def approve(caller: Caller, name: str) -> pb.SignalResponse:
    request = pb.SignalRequest(name=name, signal="approve", signal_id="only")
    request.payload.Pack(ApproveOrder(by="ada"))
    response: pb.SignalResponse = await caller.operations.Signal(request, wait_for_ready=True)
    return response


async def test_its_contract_declares_everything(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        type = await caller.operations.GetType(pb.GetTypeRequest(type=TYPE))
    assert type.contract == text_format.Parse(CONTRACT, annotations_pb2.OperationContract())


async def test_an_order_is_kept_for_a_week_and_ends_within_an_hour(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        snapshot = await caller.end(await order(caller, "kettle"))
    result = ProcessOrderResult()
    assert snapshot.result.Unpack(result), snapshot
    assert result == ProcessOrderResult(order_id="ord_123", status="ready_to_ship")
    assert snapshot.deadline.ToSeconds() - snapshot.create_time.ToSeconds() == 3600
    assert snapshot.expire_time.ToSeconds() - snapshot.end_time.ToSeconds() == 604_800


async def test_restricted_goods_wait_for_an_approval_across_a_crash(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, "kettle", "restricted-flares")
        await reached(caller, name, "review")
        await server.kill()
        await server.start()
        assert not (await approve(caller, name)).duplicate
        snapshot = await caller.end(name)
        assert (snapshot.state, snapshot.attempt) == (State.STATE_COMPLETED, 2)
        assert not snapshot.pending_signals


async def test_one_that_is_cancelled_in_time_is_not_charged(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, "kettle")
        await reached(caller, name, "reserve")
        await caller.operations.Cancel(pb.CancelRequest(name=name, reason="the customer called"))
        snapshot = await caller.end(name)
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "the customer called")
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        assert ledger.execute("SELECT kind FROM effects").fetchall() == [("reserve",)]


async def test_one_that_waits_can_be_cancelled(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, "restricted-flares")
        await reached(caller, name, "review")
        asked = await caller.operations.Cancel(pb.CancelRequest(name=name, reason="too slow"))
        assert asked.state == State.STATE_CANCELLING
        # Its handler does not look at the request: a stop of the server is the end of its grace.
        await server.kill()
        await server.start()
        snapshot = await caller.end(name)
        assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_CANCELLED, "CANCELLED")
