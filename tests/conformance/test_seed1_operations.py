"""A test for every sentence of seed 1 about operations, named after it, over the wire.

Those on gates are in `test_seeds_gates.py`, those on deferral in `test_seeds_deferral.py`. Those on jobs, also
`op.attach(job)`, belong to what comes later; those on transfers are in `tests/server/transfers/test_seed_transfer.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from acme.orders.v1 import orders_pb2_grpc
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage

import longshore_client as lc
from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operation_control_service_pb2_grpc, operations_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conformance.shop import ORDER, QUEUED, READY, Shop, queued
from tests.conftest import refused
from tests.tooling.test_guides_of_ends import Block, Guide

TYPE = "acme.orders.v1.OrdersService/Process"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path) as found:
        yield found


async def kinds(handle: Any) -> list[str]:
    """The kinds of all events, to the end."""
    return [type(event).__name__ async for event in handle.watch()]


# Jobs vs operations.


async def test_callers_start_orders_process_watch_typed_progress_updates_and_receive_the_terminal_result(
    shop: Shop,
) -> None:
    op = await (await shop.orders()).process(ORDER)
    shop.service.ship.set()
    events = [event async for event in op.watch()]
    assert [event.value for event in events if isinstance(event, lc.Progress)] == [QUEUED]
    assert [event.result for event in events if isinstance(event, lc.Completed)] == [READY]


async def test_without_needing_to_know_anything_about_the_service_s_internals(shop: Shop) -> None:
    """What the handler does in steps and writes into its log is in nothing that a caller can ask for."""

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(QUEUED)
        await op.step("warehouse-internal", lambda: "shelf-internal")
        op.log.info("log-internal")
        return READY

    handle = await shop.begin()
    await handle.wait()
    operations = await shop.stub(operations_service_pb2_grpc.OperationsServiceStub)
    who = shop.metadata("shop")
    request = pb.WatchRequest(name=handle.name, after_sequence=0)
    watched = [message async for message in operations.Watch(request, metadata=who)]
    got = await operations.Get(pb.GetRequest(name=handle.name), metadata=who)
    seen = b"".join(message.SerializeToString() for message in [*watched, got])
    assert b"queued" in seen
    assert b"internal" not in seen


@pytest.mark.parametrize("how", ["direct", "step", "attach", "defer"])
async def test_what_backs_an_operation_is_an_implementation_detail(shop: Shop, how: str) -> None:
    """However it is done, callers see the same."""
    deferred: asyncio.Queue[str] = asyncio.Queue()

    async def result() -> ProcessOrderResult:
        return READY

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(QUEUED)
        if how == "step":
            return await op.step("work", result)
        if how == "attach":
            return await op.attach(result())
        if how == "defer":
            await op.defer()
            deferred.put_nowait(op.id)
        return READY

    handle = await (await shop.orders()).process(ORDER)
    if how == "defer":
        control: Any = await shop.server.operations.control(await deferred.get())
        await control.complete(READY)
    assert await handle.wait() == READY
    assert await kinds(handle) == ["Accepted", "Started", "Progress", "Completed"]


# 1. Add Orders.Process to the contract.


async def test_the_contract_has_input_progress_output_capabilities_and_cancel(shop: Shop) -> None:
    operations = await shop.stub(operations_service_pb2_grpc.OperationsServiceStub)
    type = await operations.GetType(pb.GetTypeRequest(type=TYPE), metadata=shop.metadata("stranger"))
    names = ("ProcessOrderRequest", "ProcessOrderProgress", "ProcessOrderResult")
    assert (type.input_type, type.progress_type, type.result_type) == tuple(f"acme.orders.v1.{name}" for name in names)
    gates = {name: list(getattr(type.contract, name).all_of) for name in ("call", "observe", "cancel", "control")}
    write = ["orders.write"]
    assert gates == {"call": write, "observe": ["orders.read"], "cancel": write, "control": write}
    assert type.contract.cancellation


async def test_the_schemas_are_those_of_the_seed_in_json_too() -> None:
    """`orderId`, `step`, `message`, `status`: what grpcurl and gateways show."""
    request = json_format.Parse('{"orderId": "ord_123"}', ProcessOrderRequest())
    assert request == ORDER
    assert json.loads(json_format.MessageToJson(READY)) == {"orderId": "ord_123", "status": "ready_to_ship"}
    assert json.loads(json_format.MessageToJson(QUEUED)) == {"step": "queued", "message": "Fulfillment started"}


async def test_what_does_not_fit_the_schema_is_refused(shop: Shop) -> None:
    operations = await shop.stub(operations_service_pb2_grpc.OperationsServiceStub)
    wrong = AnyMessage()
    wrong.Pack(QUEUED)
    start = operations.Start(pb.StartRequest(type=TYPE, input=wrong), metadata=shop.metadata("shop"))
    code, reason, _ = await refused(start)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WRONG_INPUT_TYPE")
    assert not shop.service.seen


# 2. Implement the operation handler.


async def test_the_handler_calls_op_started_and_publishes_initial_progress(shop: Shop) -> None:
    op = await (await shop.orders()).process(ORDER)
    assert await queued(op) == [lc.Accepted, lc.Started, lc.Progress]
    snapshot = await op.get()
    assert (snapshot.state, snapshot.progress) == (lc.State.RUNNING, QUEUED)


async def test_progress_is_optional(shop: Shop) -> None:
    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.started()
        return READY

    op = await (await shop.orders()).process(ORDER)
    assert await op.wait() == READY
    assert await kinds(op) == ["Accepted", "Started", "Completed"]


async def test_most_handlers_complete_by_returning_the_output(shop: Shop) -> None:
    shop.service.ship.set()
    assert await (await (await shop.orders()).process(ORDER)).wait() == READY


async def test_or_a_terminal_error_that_is_meaningful_to_the_caller(shop: Shop) -> None:
    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        raise OperationError("ALREADY_RESERVED", "Another order has the goods.", metadata={"order": "ord_122"})

    op = await (await shop.orders()).process(ORDER)
    with pytest.raises(lc.OperationFailed) as caught:
        await op.wait()
    error = caught.value
    assert (error.reason, error.message, error.metadata) == (
        "ALREADY_RESERVED", "Another order has the goods.", {"order": "ord_122"},
    )  # fmt: skip
    assert await kinds(op) == ["Accepted", "Started", "Failed"]


async def test_control_only_needs_the_durable_operation_id(shop: Shop) -> None:
    """Another process has the id and generated stubs; the handler, its `op` and the first server are gone."""
    deferred = asyncio.Event()

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(ProcessOrderProgress(step="pending_review", message="Order ord_123 is waiting for approval"))
        await op.defer()
        deferred.set()

    handle = await shop.begin()
    await deferred.wait()
    await shop.harness.crash()
    await shop.harness.start()
    control = await shop.stub(operation_control_service_pb2_grpc.OperationControlServiceStub)
    provider = shop.metadata("provider")
    report = control_pb2.ReportProgressRequest(name="operations/orders-process-ord_123")
    report.progress.Pack(ProcessOrderProgress(step="fulfilling", message="Inventory reserved; preparing shipment"))
    await control.ReportProgress(report, metadata=provider)
    complete = control_pb2.CompleteRequest(name="operations/orders-process-ord_123")
    complete.result.Pack(READY)
    await control.Complete(complete, metadata=provider)
    assert await handle.wait() == READY
    assert await kinds(handle) == ["Accepted", "Started", "Progress", "Progress", "Completed"]
    # It is the service's own: whoever may place orders may not end them.
    code, reason, _ = await refused(control.Complete(complete, metadata=shop.metadata("shop")))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")


# 4. Caller side.


async def test_start_gives_a_ref(shop: Shop) -> None:
    op = await (await shop.orders()).process(ORDER)
    assert (op.name, op.created) == ("operations/orders-process-ord_123", True)


async def test_or_an_error_to_throw(shop: Shop) -> None:
    with pytest.raises(lc.InvalidArgument) as caught:
        await (await shop.orders()).process(ProcessOrderRequest())
    assert [violation.field for violation in caught.value.field_violations] == ["order_id"]


async def test_wait_for_the_final_result(shop: Shop) -> None:
    op = await shop.begin()
    waiting = asyncio.ensure_future(op.wait())
    shop.service.ship.set()
    result = await waiting
    assert (result.order_id, result.status) == ("ord_123", "ready_to_ship")


async def test_or_watch_live_progress_events(shop: Shop) -> None:
    op = await (await shop.orders()).process(ORDER)
    shown: list[Any] = []
    async for event in op.watch():
        if isinstance(event, lc.Progress):
            shown.append((event.value.step, event.value.message))
            shop.service.ship.set()
        if isinstance(event, lc.Completed):
            shown.append(event.result)
            break
    assert shown == [("queued", "Fulfillment started"), READY]


async def test_callers_need_nothing_but_the_stubs_of_their_own_contract(shop: Shop) -> None:
    """Start and watch in one call of the contract's own method."""
    shop.service.ship.set()
    stub = await shop.stub(orders_pb2_grpc.OrdersServiceStub)
    messages = [message async for message in stub.ProcessAndWatch(ORDER, metadata=shop.metadata("shop"))]
    progress, result = ProcessOrderProgress(), ProcessOrderResult()
    assert messages[-1].done
    assert messages[-1].metadata.Unpack(progress)
    assert messages[-1].response.Unpack(result)
    assert (progress, result) == (QUEUED, READY)


# 5. Cancellation.


async def test_a_caller_can_cancel_in_flight_operations(shop: Shop) -> None:
    snapshot = await (await shop.begin()).cancel()
    assert snapshot.state is lc.State.CANCELLING
    assert snapshot.cancel_request_time is not None


async def test_the_cancellation_signal_flows_to_the_active_work_which_checks_it_cooperatively(shop: Shop) -> None:
    rounds: asyncio.Queue[bool] = asyncio.Queue()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(QUEUED)
        while not op.cancelled:
            rounds.put_nowait(False)
            await go_on.get()
        rounds.put_nowait(True)
        raise asyncio.CancelledError

    op = await shop.begin()
    assert not await rounds.get()
    go_on.put_nowait(None)
    assert not await rounds.get()
    await op.cancel()
    go_on.put_nowait(None)
    assert await rounds.get()
    with pytest.raises(lc.OperationCancelled):
        await op.wait()


async def test_when_the_work_ends_as_cancelled_so_does_the_operation_in_a_terminal_snapshot(shop: Shop) -> None:
    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        async def work() -> Any:
            await op.cancelled.wait()
            raise asyncio.CancelledError

        await op.progress(QUEUED)
        return await op.attach(work())

    op = await shop.begin()
    await op.cancel("the customer called")
    with pytest.raises(lc.OperationCancelled) as caught:
        await op.wait()
    assert (caught.value.reason, caught.value.message) == ("CANCELLED", "the customer called")
    assert (await op.get()).state is lc.State.CANCELLED
    assert (await kinds(op))[-2:] == ["Cancelling", "Cancelled"]


# Development loop.

CONTRACT = """syntax = "proto3";
package acme.loops.v1;
import "google/longrunning/operations.proto";
import "longshore/v1/annotations.proto";
service LoopsService {
  rpc Process(LoopRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {response_type: "LoopResult" metadata_type: "LoopProgress"};
    option (longshore.v1.operation) = {call: {} control: {} signals: {name: "go" payload_type: "LoopRequest"}};
  }
}
message LoopRequest { string order_id = 1; }
message LoopProgress { string step = 1; }
message LoopResult { string status = 1; }
"""
SERVICE = """
from acme.loops.v1.loops_longshore import LoopsService
from acme.loops.v1.loops_pb2 import LoopProgress, LoopResult
from longshore_server import Server
class Loops(LoopsService):
    async def process(self, request, op):
        await op.progress(LoopProgress(step="queued"))
        await op.next_signal("go")
        return LoopResult(status="ready")
server = Server(Loops())
"""


async def test_update_the_schemas_rebuild_upgrade_the_contract_restart_the_service(tmp_path: Path) -> None:
    guide = Guide(tmp_path, Block("proto", CONTRACT), Block("python", SERVICE))
    async with guide.served():
        name = (await guide.shell('longshore call LoopsService/Process -d \'{"order_id": "ord_123"}\'')).strip()
    proto = tmp_path / "protos" / "acme" / "loops" / "v1" / "loops.proto"
    proto.write_text(re.sub("string status = 1;", "string status = 1; string carrier = 2;", CONTRACT))
    (tmp_path / "service.py").write_text(SERVICE.replace('"ready"', '"ready", carrier="Longshore"'))
    # `served` generates, which rebuilds, and starts; what was under way before goes on under the new contract.
    async with guide.served():
        await guide.shell(f"longshore signal {name} go")
        assert json.loads(await guide.shell(f"longshore wait {name}")) == {"status": "ready", "carrier": "Longshore"}
