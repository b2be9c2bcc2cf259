"""A test for every sentence of seed 2's operation part, named after it, on the contract of examples/orders.

Those on accepting, controlling and attaching are in `test_seeds_deferral.py`; those on jobs belong to what comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from acme.orders.v1 import orders_longshore
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from lab.v1 import lab_longshore, lab_pb2

import longshore_client as lc
from longshore.v1 import annotations_pb2
from longshore_server import ContractError, OperationError, Server
from longshore_server.testing import Harness
from tests.conftest import Lab, LabClock

ORDER = ProcessOrderRequest(order_id="ord_123")


class Orders(orders_longshore.OrdersService):
    def __init__(self) -> None:
        self.ship, self.interrupted = asyncio.Event(), asyncio.Event()
        self.seen: list[str] = []

    async def process(
        self, request: ProcessOrderRequest, op: orders_longshore.ProcessOperation, /
    ) -> ProcessOrderResult:
        self.seen.append(op.id)
        await op.started()
        await op.progress(ProcessOrderProgress(step="queued", message="Fulfillment started"))
        if request.amount < 0:
            raise OperationError("BAD_AMOUNT", "The amount is negative.")
        try:
            await self.ship.wait()
        except asyncio.CancelledError:
            self.interrupted.set()
            raise
        return ProcessOrderResult(order_id=request.order_id, status="shipped")


class Shop:
    def __init__(self, data: Path) -> None:
        self.service = Orders()
        self.server = Server(self.service)
        self.clock = LabClock()
        self.harness = Harness(self.server, data, clock=self.clock)
        self.orders: orders_longshore.OrdersClient


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path / "data")
    async with made.harness.serve(), lc.connect(made.harness.address) as channel:
        made.orders = orders_longshore.OrdersClient(channel)
        yield made


async def test_callers_start_process_watch_typed_progress_updates_and_receive_the_terminal_result(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    shop.service.ship.set()
    events = [event async for event in op_ref.watch()]
    (progress,) = [event.value for event in events if isinstance(event, lc.Progress)]
    assert progress == ProcessOrderProgress(step="queued", message="Fulfillment started")
    (completed,) = [event for event in events if isinstance(event, lc.Completed)]
    assert completed.result == ProcessOrderResult(order_id="ord_123", status="shipped")


async def test_the_contract_names_input_progress_and_output(shop: Shop) -> None:
    kind = shop.harness.running.engine.types["acme.orders.v1.OrdersService/Process"]
    assert (kind.input, kind.progress, kind.result) == (ProcessOrderRequest, ProcessOrderProgress, ProcessOrderResult)


def test_call_observe_cancel_and_control_are_gates_of_the_contract() -> None:
    fields: Any = annotations_pb2.OperationContract.DESCRIPTOR.fields_by_name
    assert {fields[name].message_type.full_name for name in ("call", "observe", "cancel", "control")} == {
        "longshore.v1.Gate"
    }


async def test_if_the_operation_has_no_named_signals_control_can_be_omitted(shop: Shop) -> None:
    kind = shop.harness.running.engine.types["acme.orders.v1.OrdersService/Process"]
    assert not kind.contract.signals
    assert not kind.contract.HasField("control")


def test_an_omitted_observe_differs_from_an_explicit_empty_one() -> None:
    play = lab_pb2.DESCRIPTOR.services_by_name["LabService"].methods_by_name
    option = annotations_pb2.operation
    assert play["Play"].GetOptions().Extensions[option].HasField("observe")
    assert not play["PlayOn"].GetOptions().Extensions[option].HasField("observe")


async def test_an_explicit_empty_list_makes_it_available_to_every_authenticated_caller(lab: Lab) -> None:
    """`Play` declares `call {}`, `observe {}` and `cancel {}`; the local principal is authenticated."""
    name = (await lab.begin()).operation.name
    assert (await lab.end(name)).owner == "local"


def test_the_facade_is_generated_and_a_service_that_does_not_follow_it_is_refused() -> None:
    class Forgotten(lab_longshore.LabService):
        """Regenerated, and a new operation has no handler yet."""

    with pytest.raises(TypeError, match="abstract"):
        Forgotten()  # type: ignore[abstract]
    Forgotten.__abstractmethods__ = frozenset()
    with pytest.raises(ContractError, match="no handler"):
        Server(Forgotten())  # type: ignore[abstract]


async def test_the_operation_id_is_made_from_the_order_id(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    assert op_ref.name == "operations/orders-process-ord_123"
    again = await shop.orders.process(ORDER)
    assert (again.uid, again.created) == (op_ref.uid, False)


async def test_the_handler_marks_the_operation_running_and_publishes_initial_progress(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    kinds = []
    async for event in op_ref.watch():
        kinds.append(type(event))
        if isinstance(event, lc.Progress):
            break
    assert kinds == [lc.Accepted, lc.Started, lc.Progress]
    snapshot = await op_ref.get()
    assert snapshot.state == lc.State.RUNNING
    assert snapshot.progress == ProcessOrderProgress(step="queued", message="Fulfillment started")


async def test_the_handler_completes_it(shop: Shop) -> None:
    shop.service.ship.set()
    assert (await (await shop.orders.process(ORDER)).wait()).status == "shipped"


async def test_the_handler_fails_it_with_a_message(shop: Shop) -> None:
    op_ref = await shop.orders.process(ProcessOrderRequest(order_id="ord_1", amount=-1))
    with pytest.raises(lc.OperationFailed) as caught:
        await op_ref.wait()
    assert (caught.value.reason, caught.value.message) == ("BAD_AMOUNT", "The amount is negative.")


async def test_get_by_operation_id_from_anywhere(shop: Shop) -> None:
    await shop.orders.process(ORDER)
    async with lc.connect(shop.harness.address) as elsewhere:
        same = orders_longshore.OrdersClient(elsewhere).process.attach("operations/orders-process-ord_123")
        assert (await same.get()).state in (lc.State.PENDING, lc.State.RUNNING)


async def test_wait_for_the_terminal_result(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    waiting = asyncio.ensure_future(op_ref.wait())
    shop.service.ship.set()
    assert (await waiting).order_id == "ord_123"


async def test_watch_live_progress_until_completed_which_is_the_last(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    shop.service.ship.set()
    states = [(type(event), event.state) async for event in op_ref.watch()]
    assert states[-1] == (lc.Completed, lc.State.COMPLETED)
    assert sum(kind in (lc.Completed, lc.Failed, lc.Cancelled) for kind, _ in states) == 1


async def test_cancel_returns_a_snapshot(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    async for event in op_ref.watch():
        if isinstance(event, lc.Progress):
            break
    snapshot = await op_ref.cancel("the customer called")
    assert snapshot.state == lc.State.CANCELLING


async def test_the_runtime_rejects_cancellation_for_non_cancelable_operations(lab: Lab) -> None:
    async with lc.connect(lab.harness.address) as channel:
        gate = asyncio.Event()

        @lab.plays
        async def handler(request, op):
            await gate.wait()
            return lab_pb2.PlayResult()

        op_ref = await lab_longshore.LabClient(channel).play_through(lab_pb2.PlayRequest())
        with pytest.raises(lc.FailedPrecondition) as caught:
            await op_ref.cancel()
        assert caught.value.reason == "NOT_CANCELLABLE"
        gate.set()


async def test_cancellation_reaches_the_work_and_resolves_with_a_cancelled_terminal_snapshot(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    async for event in op_ref.watch():
        if isinstance(event, lc.Progress):
            break
    await op_ref.cancel()
    await shop.clock.armed(10)
    shop.clock.advance(10)
    await shop.service.interrupted.wait()
    with pytest.raises(lc.OperationCancelled):
        await op_ref.wait()
    snapshot = await op_ref.get()
    assert snapshot.state == lc.State.CANCELLED


async def test_the_operation_is_resumed_by_id_after_the_service_has_restarted(shop: Shop) -> None:
    op_ref = await shop.orders.process(ORDER)
    async for event in op_ref.watch():
        if isinstance(event, lc.Progress):
            break
    await shop.harness.crash()
    shop.service.ship.set()
    await shop.harness.start()
    result: Any = await op_ref.wait()
    assert result.status == "shipped"
    assert shop.service.seen == ["orders-process-ord_123"] * 2
