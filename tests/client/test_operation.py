"""Handles and calls: what they return, what they raise, and how they go on when the server does not answer."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.instances_pb2 import InstanceStatus
from longshore.v1.operation_pb2 import OperationSnapshot, UploadGrant
from tests.client.fake import FakeServer, Record, Refusal, status

REQUEST = ProcessOrderRequest(order_id="ord_1")
UNAVAILABLE = Refusal(status(code_pb2.UNAVAILABLE, "SERVER_DRAINING", "going"))


async def finish(record: Record) -> None:
    record.start()
    record.progress("one")
    record.output("line")
    record.progress("two")
    record.complete(ProcessOrderResult(order_id="ord_1", status="ready_to_ship"))


async def test_start_watch_wait_get_and_attach(server: FakeServer, orders: OrdersClient) -> None:
    server.service.handler = finish
    op = await orders.process(REQUEST, request_id="checkout-7", labels={"tenant": "acme"})
    assert (op.name, op.uid, op.created) == ("operations/op-1", "uid-1", True)
    seen: list[object] = []
    async for event in op.watch():
        match event:
            case lc.Progress(value):
                seen.append(value.step)
            case lc.Output(value):
                seen.append(value.message)
            case lc.Completed(result):
                seen.append(result.status)
            case _:
                seen.append(type(event))
        assert event.sequence == len(seen)
        assert abs((datetime.now(UTC) - event.time).total_seconds()) < 60
    assert seen == [lc.Accepted, lc.Started, "one", "line", "two", "ready_to_ship"]
    assert (await op.wait(timeout=30)).status == "ready_to_ship"
    same = orders.process.attach(op.name)
    snapshot = await same.get()
    assert snapshot.state is lc.State.COMPLETED
    assert snapshot.state.terminal
    assert snapshot.result == ProcessOrderResult(order_id="ord_1", status="ready_to_ship")
    assert snapshot.progress == ProcessOrderProgress(step="two")
    assert same.uid == "uid-1"
    again = await orders.process(REQUEST, request_id="checkout-7")
    assert (again.name, again.created) == (op.name, False)


async def test_a_start_always_carries_a_request_id(server: FakeServer, orders: OrdersClient) -> None:
    await orders.process(REQUEST)
    await orders.process(REQUEST)
    first, second = (request.request_id for request in server.service.requests)
    assert first
    assert second
    assert first != second


async def test_a_start_whose_answer_was_lost_is_not_started_twice(
    server: FakeServer, orders: OrdersClient, pauses: list[float]
) -> None:
    server.service.refuse = [UNAVAILABLE, UNAVAILABLE]
    op = await orders.process(REQUEST)
    assert op.name == "operations/op-1"
    assert len({request.request_id for request in server.service.requests}) == 1
    assert len(server.service.requests) == 3
    assert pauses == [0.05, 0.1], "full jitter below a bound that doubles"


async def test_retry_info_is_the_least_pause(server: FakeServer, orders: OrdersClient, pauses: list[float]) -> None:
    hint = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    server.service.refuse = [Refusal(status(code_pb2.UNAVAILABLE, "SERVER_DRAINING", "going", hint))]
    await orders.process(REQUEST)
    assert pauses == [2.05]


async def test_cancelled_by_the_server_is_tried_again(server: FakeServer, orders: OrdersClient) -> None:
    server.service.refuse = [Refusal(status(code_pb2.CANCELLED, "X", "burst"))]
    assert (await orders.process(REQUEST)).name == "operations/op-1"


async def test_giving_up_raises_unavailable(server: FakeServer) -> None:
    server.service.refuse = [UNAVAILABLE] * 50
    async with lc.connect(server.address, retry=lc.Retry(give_up_after=0)) as channel:
        with pytest.raises(lc.Unavailable) as caught:
            await OrdersClient(channel).process(REQUEST)
    assert caught.value.reason == "SERVER_DRAINING"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with lc.connect("127.0.0.1:1", retry=lc.Retry(give_up_after=0)) as channel:
        with pytest.raises(lc.Unavailable) as caught:
            await OrdersClient(channel).process(REQUEST)
    assert caught.value.reason == "UNAVAILABLE"
    with pytest.raises(RuntimeError, match="closed"):
        await OrdersClient(channel).process(REQUEST)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (code_pb2.INVALID_ARGUMENT, lc.InvalidArgument),
        (code_pb2.NOT_FOUND, lc.NotFound),
        (code_pb2.ALREADY_EXISTS, lc.AlreadyExists),
        (code_pb2.PERMISSION_DENIED, lc.PermissionDenied),
        (code_pb2.RESOURCE_EXHAUSTED, lc.ResourceExhausted),
        (code_pb2.FAILED_PRECONDITION, lc.FailedPrecondition),
        (code_pb2.ABORTED, lc.Aborted),
        (code_pb2.OUT_OF_RANGE, lc.OutOfRange),
        (code_pb2.UNIMPLEMENTED, lc.Unimplemented),
        (code_pb2.INTERNAL, lc.InternalError),
        (code_pb2.DATA_LOSS, lc.DataLoss),
        (code_pb2.UNAUTHENTICATED, lc.Unauthenticated),
        (code_pb2.DEADLINE_EXCEEDED, lc.DeadlineExceeded),
    ],
)
async def test_errors_keep_their_type_and_details(
    server: FakeServer, orders: OrdersClient, code: int, kind: type[lc.CallError]
) -> None:
    details = (
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="order_id", description="is empty")]
        ),
        # Longer than the client is ready to wait for a busy server.
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=90, nanos=500_000_000)),
        error_details_pb2.ResourceInfo(resource_name="operations/x"),
    )
    server.service.refuse = [Refusal(status(code, "SOME_REASON", "some text", *details))]
    with pytest.raises(kind) as caught:
        await orders.process(REQUEST)
    error = caught.value
    assert type(error) is kind
    assert (error.reason, error.message, error.domain, error.metadata) == (
        "SOME_REASON", "some text", "longshore", {"k": "v"}
    )  # fmt: skip
    assert error.field_violations == (("order_id", "is empty"),)
    assert error.retry_after == 90.5
    assert error.resource == "operations/x"
    assert error.code == code
    assert str(error).startswith("SOME_REASON: some text")


async def test_a_failed_operation_raises_its_error_with_its_own_details(
    server: FakeServer, orders: OrdersClient
) -> None:
    async def fail(record: Record) -> None:
        record.fail(status(code_pb2.ABORTED, "OUT_OF_STOCK", "no A1", ProcessOrderProgress(step="x"), domain="orders"))

    server.service.handler = fail
    op = await orders.process(REQUEST)
    with pytest.raises(lc.OperationFailed) as caught:
        await op.wait()
    error = caught.value
    assert (error.reason, error.message, error.code, error.domain) == (
        "OUT_OF_STOCK",
        "no A1",
        lc.Code.ABORTED,
        "orders",
    )
    assert error.detail(ProcessOrderProgress) == ProcessOrderProgress(step="x")
    assert error.detail(ProcessOrderResult) is None
    assert error.operation == op.name
    events = [event async for event in op.watch(types=[lc.Failed])]
    assert [type(event) for event in events] == [lc.Failed]
    assert (await op.get()).error is not None


async def test_wait_ends_when_the_time_is_up_and_the_operation_goes_on(
    server: FakeServer, orders: OrdersClient
) -> None:
    op = await orders.process(REQUEST)
    with pytest.raises(lc.StillRunning) as caught:
        await op.wait(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.operation == op.name
    server.service.records[op.name].complete()
    assert (await op.wait(timeout=5)).status == "done"


async def test_cancel_returns_the_snapshot(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)
    snapshot = await op.cancel(reason="no longer wanted")
    assert snapshot.state is lc.State.CANCELLED
    assert server.service.requests[-1].reason == "no longer wanted"
    with pytest.raises(lc.OperationCancelled) as caught:
        await op.wait()
    assert caught.value.reason == "CANCELLED"


async def test_an_unexpected_payload_says_what_to_do(server: FakeServer, orders: OrdersClient) -> None:
    async def finish_wrong(record: Record) -> None:
        record.complete(ProcessOrderProgress())

    server.service.handler = finish_wrong
    with pytest.raises(lc.UnexpectedMessage, match="generate its modules anew"):
        await orders.process.run(REQUEST)


async def test_a_cancelled_task_stays_cancelled(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)

    async def read() -> None:
        async for _ in op.watch():
            pass

    for coroutine, request in ((op.wait(), pb.WaitRequest), (read(), pb.WatchRequest)):
        task = asyncio.create_task(coroutine)
        await server.service.asked(request)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not server.service.records[op.name].ended, "giving up never cancels the operation"


async def test_closing_the_channel_under_a_call_is_an_error_and_no_cancellation(server: FakeServer) -> None:
    channel = lc.connect(server.address)
    op = await OrdersClient(channel).process(REQUEST)

    async def read() -> None:
        async for _ in op.watch():
            pass

    tasks = [asyncio.create_task(coroutine) for coroutine in (op.wait(), read())]
    await server.service.asked(pb.WaitRequest)
    await server.service.asked(pb.WatchRequest)
    await channel.close()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, lc.CallCancelled)
        assert error.reason == "CHANNEL_CLOSED"


def test_the_package_exports_what_it_says() -> None:
    assert dir(lc) == sorted(lc.__all__)
    for name in lc.__all__:
        assert getattr(lc, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        lc.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (5, "int"),
        (None, "NoneType"),
        ({"order_id": "ord_1"}, "dict"),
        (ProcessOrderRequest, "the class ProcessOrderRequest"),
        (ProcessOrderResult(), "acme.orders.v1.ProcessOrderResult"),
    ],
)
async def test_another_input_than_the_contract_says_is_refused_before_anything_is_sent(
    server: FakeServer, orders: OrdersClient, given: Any, called: str
) -> None:
    sentence = f"acme.orders.v1.OrdersService/Process takes acme.orders.v1.ProcessOrderRequest, not {called}"
    for start in (orders.process, orders.process.run):
        with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
            await start(given)
    assert not server.service.requests


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"request_id": UUID(int=7)}, "request_id is a text, not UUID: give str() of it"),
        ({"labels": {"tenant": "acme", "shop": 7}}, "labels['shop'] is a text, not int: give str() of it"),
    ],
)
async def test_a_key_or_a_label_that_is_no_text_is_named(
    server: FakeServer, orders: OrdersClient, given: dict[str, Any], sentence: str
) -> None:
    for start in (orders.process, orders.process.run):
        with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
            await start(REQUEST, **given)
    assert not server.service.requests


def test_enums_are_their_names_for_people_and_their_numbers_for_programs() -> None:
    for ours, theirs, prefix in (
        (lc.State, OperationSnapshot.State, "STATE_"),
        (lc.UploadState, UploadGrant.State, "STATE_"),
        (lc.InstanceStatus, InstanceStatus, "INSTANCE_STATUS_"),
        (lc.Code, code_pb2.Code, ""),
    ):
        for name, number in theirs.items():
            member = ours(number)
            shown = name.removeprefix(prefix)
            assert (str(member), f"{member}", f"{member:<30}|") == (shown, shown, f"{shown:<30}|")
            assert (f"{member:d}", f"{member:05.1f}") == (str(number), f"{number:05.1f}")
            assert member == number
    assert lc.State(99) is lc.State.UNSPECIFIED, "what a newer server says"
    assert lc.Code(99) is lc.Code.UNKNOWN
    with pytest.raises(ValueError, match="'RUNNING' is not a valid State"):
        lc.State("RUNNING")  # type: ignore[arg-type]
