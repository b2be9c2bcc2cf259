"""A test for every sentence of seeds 1 and 2 on deferral, control, attaching and accepting, named after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from acme.orders.v1.orders_longshore import OrdersClient, OrdersService, ProcessOperation
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult

import longshore_client as lc
from longshore_server import OperationControl, OperationError, Reason, Server, ServiceError
from longshore_server.lifecycle import State
from longshore_server.testing import Harness
from tests.conftest import LabClock

ORDER = ProcessOrderRequest(order_id="ord_123")
RESULT = ProcessOrderResult(order_id="ord_123", status="ready_to_ship")
QUEUED = ProcessOrderProgress(step="queued", message="Fulfillment started")
REVIEW = ProcessOrderProgress(step="pending_review", message="Order ord_123 is waiting for approval")
FULFILLING = ProcessOrderProgress(step="fulfilling", message="Inventory reserved; preparing shipment")


class Orders(OrdersService):
    """Every order waits for an approval; `reviews` stands for the row that the service keeps of it."""

    def __init__(self) -> None:
        self.reviews: asyncio.Queue[str] = asyncio.Queue()

    async def process(self, request: ProcessOrderRequest, op: ProcessOperation, /) -> ProcessOrderResult:
        await op.started()
        await op.progress(REVIEW)
        try:
            return await op.defer()
        finally:
            self.reviews.put_nowait(op.id)


class Shop:
    def __init__(self, data: Path) -> None:
        self.service = Orders()
        self.server = Server(self.service)
        self.harness = Harness(self.server, data, clock=LabClock())

    async def accept(self) -> OperationControl[ProcessOperation]:
        return await self.server.operations.accept(OrdersService.process, ORDER)

    async def events(self, name: str) -> list[str]:
        """The kinds of a caller's events, to the end."""
        async with lc.connect(self.harness.address) as channel:
            operation = OrdersClient(channel).process.attach(name)
            return [type(event).__name__ async for event in operation.watch(after=0)]

    async def review(self) -> str:
        """A caller's order has been deferred: the id that the service has kept."""
        async with lc.connect(self.harness.address) as channel:
            await OrdersClient(channel).process(ORDER)
        return await self.service.reviews.get()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path / "data")
    async with made.harness.serve():
        yield made


# Seed 2.


async def test_the_handler_accepts_an_operation_id_marks_it_running_publishes_progress_and_completes_it(
    shop: Shop,
) -> None:
    accepted = await shop.accept()
    assert accepted.name == "operations/orders-process-ord_123"
    control = await shop.server.operations.control("orders-process-ord_123", OrdersService.process)
    assert await control.started() is State.RUNNING
    await control.progress(QUEUED)
    assert await control.complete(RESULT) is State.COMPLETED
    assert await shop.events(control.name) == ["Accepted", "Started", "Progress", "Completed"]


async def test_or_attaches_completion_to_service_owned_async_work(shop: Shop) -> None:
    control = await shop.accept()

    async def run_fulfillment() -> None:
        await control.complete(RESULT)

    assert await control.attach(run_fulfillment()) is State.COMPLETED


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
async def test_the_attached_task_completes_fails_or_cancels_the_operation_before_it_returns(
    shop: Shop, end: str
) -> None:
    control = await shop.accept()

    async def work() -> None:
        if end == "complete":
            await control.complete(RESULT)
        elif end == "fail":
            await control.fail(OperationError("NO_STOCK", "none left"))
        else:
            await control.cancel("no need")

    wanted = {"complete": State.COMPLETED, "fail": State.FAILED, "cancel": State.CANCELLED}
    assert await control.attach(work()) is wanted[end]


async def test_otherwise_it_is_an_error_because_the_operation_is_still_non_terminal(shop: Shop) -> None:
    control = await shop.accept()
    assert await control.attach(asyncio.sleep(0)) is State.FAILED
    async with lc.connect(shop.harness.address) as channel:
        with pytest.raises(lc.OperationFailed) as caught:
            await OrdersClient(channel).process.attach(control.name).wait()
    assert caught.value.reason == "ATTACH_NOT_TERMINAL"


async def test_persist_the_operation_id_and_resume_the_control_by_id_when_the_worker_completes(shop: Shop) -> None:
    id = await shop.review()
    await shop.harness.crash()
    await shop.harness.start()
    control = await shop.server.operations.control(id, OrdersService.process)
    assert await control.complete(RESULT) is State.COMPLETED


# Seed 1.


async def test_return_defer_instead_of_keeping_the_handler_open_forever(shop: Shop) -> None:
    await shop.review()
    await shop.harness.settle()
    assert shop.harness.running.engine.executor.running == 0


async def test_the_first_handler_records_progress_then_an_admin_decision_completes_the_same_operation_id(
    shop: Shop,
) -> None:
    control = await shop.server.operations.control(await shop.review(), OrdersService.process)
    await control.progress(FULFILLING)
    await control.complete(RESULT)
    assert await shop.events(control.name) == ["Accepted", "Started", "Progress", "Progress", "Completed"]
    async with lc.connect(shop.harness.address) as channel:
        assert await OrdersClient(channel).process.attach(control.name).wait() == RESULT


async def test_or_rejects_it(shop: Shop) -> None:
    control = await shop.server.operations.control(await shop.review(), OrdersService.process)
    await control.fail(OperationError("REJECTED", "too dear"))
    async with lc.connect(shop.harness.address) as channel:
        with pytest.raises(lc.OperationFailed) as caught:
            await OrdersClient(channel).process.attach(control.name).wait()
    assert (caught.value.reason, caught.value.message) == ("REJECTED", "too dear")


@pytest.mark.parametrize("what", ["progress", "completion", "failure", "cancellation"])
async def test_control_publishes_progress_completion_failure_or_cancellation_after_the_handler_has_returned(
    shop: Shop, what: str
) -> None:
    control = await shop.server.operations.control(await shop.review(), OrdersService.process)
    publish = {
        "progress": lambda: control.progress(FULFILLING),
        "completion": lambda: control.complete(RESULT),
        "failure": lambda: control.fail(OperationError("REJECTED", "too dear")),
        "cancellation": lambda: control.cancel("withdrawn"),
    }
    await publish[what]()
    told = {"progress": "Progress", "completion": "Completed", "failure": "Failed", "cancellation": "Cancelled"}
    if what == "progress":
        await control.complete(RESULT)
    assert told[what] in (await shop.events(control.name))[3:], "caller-visible, after what the handler has told"
    with pytest.raises(ServiceError) as caught:
        await control.progress(FULFILLING)
    assert caught.value.reason is Reason.OPERATION_ENDED
