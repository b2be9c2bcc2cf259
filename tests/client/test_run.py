"""`run`: callbacks in order, the abort signal, and no way to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest
from google.rpc import code_pb2

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from tests.client.fake import FakeServer, Record, Refusal, status
from tests.conftest import turns

REQUEST = ProcessOrderRequest(order_id="ord_1")
UNAVAILABLE = Refusal(status(code_pb2.UNAVAILABLE, "SERVER_DRAINING", "going"))


async def finish(record: Record) -> None:
    record.start()
    for number in range(5):
        record.progress(str(number))
        record.output(f"line {number}")
        await asyncio.sleep(0)
    record.complete()


async def hang(record: Record) -> None:
    record.start()
    record.progress("begun")


async def test_without_callbacks_one_call_is_enough(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = finish
    assert (await orders.process.run(REQUEST, timeout=30)).status == "done"
    assert [type(request) for request in server.service.requests] == [pb.StartRequest]


async def test_without_callbacks_the_wait_goes_on_after_an_interruption(
    server: FakeServer, orders: OrdersClient
) -> None:
    server.service.refuse = [UNAVAILABLE]
    server.service.handler = finish
    assert (await orders.process.run(REQUEST)).status == "done"


LONG = 30.0
"""Seconds, which pass where a test lets them: a limit on a call that counts from there, however slow the machine is."""


@pytest.fixture
async def spend(channel: lc.Channel, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let `LONG` pass for whoever has asked the event loop or the channel what time it is."""
    loop, passed = asyncio.get_running_loop(), 0.0
    monotonic = loop.time

    def spend() -> None:
        nonlocal passed
        passed += LONG

    monkeypatch.setattr(loop, "time", lambda: monotonic() + passed)
    monkeypatch.setattr(channel, "monotonic", loop.time)
    return spend


async def test_run_gives_up_waiting_when_the_time_is_up(
    server: FakeServer, orders: OrdersClient, spend: Callable[[], None]
) -> None:
    running = asyncio.ensure_future(orders.process.run(REQUEST, timeout=LONG))
    await server.service.asked(pb.StartRequest)
    spend()
    with pytest.raises(lc.StillRunning, match=r"operations/op-1 has not ended within 30 s; it goes on"):
        await running
    server.service.handler = hang
    with pytest.raises(lc.StillRunning) as caught:
        await orders.process.run(REQUEST, timeout=LONG, on_progress=lambda _: spend())
    assert caught.value.operation == "operations/op-2"


async def test_callbacks_see_everything_in_order_and_are_awaited(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = finish
    seen: list[str] = []

    async def on_progress(value: ProcessOrderProgress) -> None:
        await turns()
        seen.append(value.step)

    result = await orders.process.run(
        REQUEST, on_progress=on_progress, on_output=lambda value: seen.append(value.message)
    )
    assert result.status == "done"
    assert seen == [item for number in range(5) for item in (str(number), f"line {number}")]
    assert [type(request) for request in server.service.requests] == [pb.RunRequest]


@pytest.mark.parametrize("count", range(7))
async def test_an_interruption_at_any_place_loses_and_repeats_nothing(
    server: FakeServer, orders: OrdersClient, count: int
) -> None:
    server.service.handler = finish
    server.service.break_after = [(count, UNAVAILABLE), (1, UNAVAILABLE)]
    seen: list[str] = []
    await orders.process.run(REQUEST, on_progress=lambda value: seen.append(value.step))
    assert seen == ["0", "1", "2", "3", "4"]
    assert len(server.service.by_request) == 1, "the same request id every time"


async def test_an_operation_that_exists_is_told_from_the_beginning(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = finish
    await orders.process.run(REQUEST, request_id="k")
    seen: list[str] = []
    await orders.process.run(REQUEST, request_id="k", on_progress=lambda value: seen.append(value.step))
    assert seen == ["0", "1", "2", "3", "4"]


async def test_a_callback_that_raises_surfaces(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = hang

    def on_progress(value: ProcessOrderProgress) -> None:
        raise ValueError(value.step)

    with pytest.raises(ValueError, match="begun"):
        await orders.process.run(REQUEST, on_progress=on_progress)
    with pytest.raises(ValueError, match="begun"):
        await orders.process.run(REQUEST, on_progress=on_progress, abort=asyncio.Event())
    assert not server.service.records["operations/op-1"].ended


async def test_a_callbacks_own_timeout_error_is_not_ours(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = hang

    def on_progress(_: ProcessOrderProgress) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await orders.process.run(REQUEST, on_progress=on_progress, timeout=30)


async def test_abort_cancels_the_operation_and_ends_the_call(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = hang
    abort = asyncio.Event()
    with pytest.raises(lc.OperationCancelled) as caught:
        await orders.process.run(REQUEST, on_progress=lambda _: abort.set(), abort=abort)
    assert caught.value.reason == "CANCELLED"
    assert caught.value.operation == "operations/op-1"
    assert server.service.records["operations/op-1"].snapshot.error.code == code_pb2.CANCELLED


async def test_abort_without_callbacks(server: FakeServer, orders: OrdersClient) -> None:
    abort = asyncio.Event()
    run = asyncio.create_task(orders.process.run(REQUEST, abort=abort))
    await server.service.asked(pb.RunRequest)
    abort.set()
    with pytest.raises(lc.OperationCancelled):
        await run


async def test_abort_before_the_start_starts_nothing(server: FakeServer, orders: OrdersClient) -> None:
    abort = asyncio.Event()
    abort.set()
    with pytest.raises(lc.OperationCancelled) as caught:
        await orders.process.run(REQUEST, abort=abort)
    assert (caught.value.reason, caught.value.operation) == ("ABORTED", "")
    assert not server.service.requests


async def test_abort_of_what_does_not_settle_ends_the_call(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = hang
    server.service.on_cancel = lambda _: None
    abort = asyncio.Event()
    with pytest.raises(lc.OperationCancelled) as caught:
        await orders.process.run(REQUEST, on_progress=lambda _: abort.set(), abort=abort, abort_timeout=0.1)
    assert caught.value.reason == "ABORTED"
    assert caught.value.operation == "operations/op-1"


async def test_abort_while_nobody_answers_ends_the_call(server: FakeServer, orders: OrdersClient) -> None:
    server.service.mute = 100
    abort = asyncio.Event()
    run = asyncio.create_task(orders.process.run(REQUEST, abort=abort, abort_timeout=0.1))
    await server.service.asked(pb.RunRequest)
    abort.set()
    with pytest.raises(lc.OperationCancelled) as caught:
        await run
    assert caught.value.reason == "ABORTED"


async def test_abort_of_what_cannot_be_cancelled_raises_the_refusal(server: FakeServer, orders: OrdersClient) -> None:
    async def begin(record: Record) -> None:
        await hang(record)
        server.service.refuse = [Refusal(status(code_pb2.FAILED_PRECONDITION, "NOT_CANCELLABLE", "no"))]

    server.service.handler = begin
    abort = asyncio.Event()
    with pytest.raises(lc.FailedPrecondition) as caught:
        await orders.process.run(REQUEST, on_progress=lambda _: abort.set(), abort=abort)
    assert caught.value.reason == "NOT_CANCELLABLE"


async def test_abort_of_a_best_effort_operation_that_completes_returns_its_result(
    server: FakeServer, orders: OrdersClient
) -> None:
    server.service.handler = hang
    server.service.on_cancel = lambda record: record.complete()
    abort = asyncio.Event()
    result = await orders.process.run(REQUEST, on_progress=lambda _: abort.set(), abort=abort)
    assert result.status == "done"


async def test_an_abort_that_never_comes_changes_nothing(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = finish
    assert (await orders.process.run(REQUEST, abort=asyncio.Event())).status == "done"


async def test_failure_keeps_its_reason(server: FakeServer, orders: OrdersClient) -> None:
    async def fail(record: Record) -> None:
        record.fail(status(code_pb2.UNKNOWN, "HANDLER_ERROR", "broke"))

    server.service.handler = fail
    for callback in (None, lambda _: None):
        with pytest.raises(lc.OperationFailed) as caught:
            await orders.process.run(REQUEST, on_progress=callback)
        assert caught.value.reason == "HANDLER_ERROR"


async def test_the_time_is_up_with_an_abort_signal_too(
    server: FakeServer, orders: OrdersClient, spend: Callable[[], None]
) -> None:
    server.service.handler = hang
    running = asyncio.ensure_future(orders.process.run(REQUEST, abort=asyncio.Event(), timeout=LONG))
    await server.service.asked(pb.RunRequest)
    spend()
    with pytest.raises(lc.StillRunning):
        await running
    assert not server.service.records["operations/op-1"].ended


def note(seen: asyncio.Event, _: ProcessOrderProgress) -> None:
    seen.set()


async def test_cancelling_the_call_is_not_cancelling_the_operation(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = hang
    for abort in (None, asyncio.Event()):
        seen = asyncio.Event()
        call = asyncio.create_task(orders.process.run(REQUEST, abort=abort, on_progress=partial(note, seen)))
        await seen.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert not any(record.ended for record in server.service.records.values())
