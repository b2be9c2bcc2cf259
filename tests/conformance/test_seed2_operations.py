"""A test for every sentence of seed 2's operation part, named after it, over the wire.

Those on gates are in `test_seeds_gates.py`, those on accepting, controlling and attaching in `test_seeds_deferral.py`.
Those on jobs belong to what comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from acme.orders.v1.orders_longshore import ProcessHandle
from acme.orders.v1.orders_pb2 import ProcessOrderResult
from seeds.v1.variants_pb2 import VariantRequest

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import OperationError
from tests.conformance.shop import ORDER, QUEUED, READY, Shop, queued
from tests.conftest import refused


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path) as found:
        yield found


async def test_callers_start_process_watch_typed_progress_updates_and_receive_the_terminal_result(shop: Shop) -> None:
    op_ref = await (await shop.orders()).process(ORDER)
    shop.service.ship.set()
    events = [event async for event in op_ref.watch()]
    assert [event.value for event in events if isinstance(event, lc.Progress)] == [QUEUED]
    assert [event.result for event in events if isinstance(event, lc.Completed)] == [READY]


async def test_the_manifest_names_input_progress_output_gates_and_cancel(shop: Shop) -> None:
    operations = await shop.stub(operations_service_pb2_grpc.OperationsServiceStub)
    type_name = "acme.orders.v1.OrdersService/Process"
    type = await operations.GetType(pb.GetTypeRequest(type=type_name), metadata=shop.metadata("stranger"))
    names = ("ProcessOrderRequest", "ProcessOrderProgress", "ProcessOrderResult")
    assert (type.input_type, type.progress_type, type.result_type) == tuple(f"acme.orders.v1.{name}" for name in names)
    gates = {name: list(getattr(type.contract, name).all_of) for name in ("call", "observe", "cancel", "control")}
    write = ["orders.write"]
    assert gates == {"call": write, "observe": ["orders.read"], "cancel": write, "control": write}
    assert type.contract.cancellation


async def test_the_handler_makes_the_operation_id_from_the_order_id(shop: Shop) -> None:
    orders = await shop.orders()
    op_ref = await orders.process(ORDER)
    assert op_ref.name == "operations/orders-process-ord_123"
    again = await orders.process(ORDER)
    assert (again.uid, again.created) == (op_ref.uid, False)


async def test_marks_it_running_and_publishes_any_initial_progress(shop: Shop) -> None:
    op_ref = await (await shop.orders()).process(ORDER)
    assert await queued(op_ref) == [lc.Accepted, lc.Started, lc.Progress]
    snapshot = await op_ref.get()
    assert (snapshot.state, snapshot.progress) == (lc.State.RUNNING, QUEUED)


async def test_and_then_completes_it_directly(shop: Shop) -> None:
    shop.service.ship.set()
    assert await (await shop.begin()).wait() == READY


async def test_or_attaches_completion_to_service_owned_async_work(shop: Shop) -> None:
    async def run_fulfillment() -> ProcessOrderResult:
        await shop.service.shipped()
        return READY

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(QUEUED)
        return await op.attach(run_fulfillment())

    op_ref = await shop.begin()
    shop.service.ship.set()
    assert await op_ref.wait() == READY


async def test_or_fails_it_with_a_message(shop: Shop) -> None:
    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        raise OperationError("FULFILLMENT", "The shelf is empty.")

    op_ref = await (await shop.orders()).process(ORDER)
    with pytest.raises(lc.OperationFailed) as caught:
        await op_ref.wait()
    assert (caught.value.reason, caught.value.message) == ("FULFILLMENT", "The shelf is empty.")


async def by_id(shop: Shop, op_ref: ProcessHandle) -> ProcessHandle:
    """The same operation, by its id and from another connection."""
    return (await shop.orders("reader")).process.attach(op_ref.name)


async def test_get_takes_the_operation_id(shop: Shop) -> None:
    same = await by_id(shop, await shop.begin())
    assert (await same.get()).state is lc.State.RUNNING


async def test_wait_takes_the_operation_id(shop: Shop) -> None:
    waiting = asyncio.ensure_future((await by_id(shop, await shop.begin())).wait())
    shop.service.ship.set()
    assert await waiting == READY


async def test_cancel_may_be_unsupported_and_the_error_names_the_operation_and_the_action(shop: Shop) -> None:
    fixed = await (await shop.variants()).fixed(VariantRequest())
    operations = await shop.stub(operations_service_pb2_grpc.OperationsServiceStub)
    request = pb.CancelRequest(name=fixed.name)
    _, reason, status = await refused(operations.Cancel(request, metadata=shop.metadata("shop")))
    assert reason == "NOT_CANCELLABLE"
    assert fixed.name in str(status)


async def test_wait_for_terminal_result(shop: Shop) -> None:
    op_ref = await shop.begin()
    shop.service.ship.set()
    assert (await op_ref.wait()).order_id == "ord_123"
    assert (await op_ref.get()).result == READY


async def test_or_watch_live_progress(shop: Shop) -> None:
    op_ref = await (await shop.orders()).process(ORDER)
    shown: list[Any] = []
    async for event in op_ref.watch():
        match event:
            case lc.Progress(value=progress):
                shown.append(progress)
                shop.service.ship.set()
            case lc.Completed(result=result):
                shown.append(result)
                break
    assert shown == [QUEUED, READY]
    states = [event.state async for event in op_ref.watch()]
    assert states.index(lc.State.COMPLETED) == len(states) - 1


async def test_cancel_returns_a_snapshot(shop: Shop) -> None:
    snapshot = await (await shop.begin()).cancel("the customer called")
    assert (snapshot.state, snapshot.cancel_reason) == (lc.State.CANCELLING, "the customer called")


async def test_the_cancellation_signal_flows_through_the_operation_control_path(shop: Shop) -> None:
    told = asyncio.Event()

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        control = await shop.server.operations.control(op.name)
        await op.progress(QUEUED)
        await control.cancelled.wait()
        told.set()
        return await control.acknowledge_cancel()

    op_ref = await shop.begin()
    await op_ref.cancel()
    await told.wait()
    with pytest.raises(lc.OperationCancelled):
        await op_ref.wait()


async def test_the_runtime_rejects_cancellation_for_non_cancelable_operations(shop: Shop) -> None:
    fixed = await (await shop.variants()).fixed(VariantRequest())
    with pytest.raises(lc.FailedPrecondition) as caught:
        await fixed.cancel()
    assert caught.value.reason == "NOT_CANCELLABLE"
    assert (await fixed.get()).cancel_request_time is None


@pytest.mark.parametrize("attached", [False, True], ids=["handler", "attached"])
async def test_cancelation_propagates_to_any_private_task_and_resolves_with_a_cancelled_terminal_snapshot(
    shop: Shop, attached: bool
) -> None:
    async def private() -> Any:
        await shop.service.shipped()

    @shop.handles
    async def process(request: Any, op: Any) -> Any:
        await op.progress(QUEUED)
        return await (op.attach(private()) if attached else private())

    op_ref = await shop.begin()
    await op_ref.cancel()
    await shop.clock.armed(10)
    shop.clock.advance(10)
    await shop.service.interrupted.wait()
    with pytest.raises(lc.OperationCancelled):
        await op_ref.wait()
    assert (await op_ref.get()).state is lc.State.CANCELLED


async def test_the_operation_is_resumed_by_id_after_the_service_has_restarted(shop: Shop) -> None:
    op_ref = await shop.begin()
    await shop.harness.crash()
    shop.service.ship.set()
    await shop.harness.start()
    assert await op_ref.wait() == READY
    assert shop.service.seen == ["orders-process-ord_123"] * 2
