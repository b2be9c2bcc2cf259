"""A watch across broken connections: every event once, in order."""

from __future__ import annotations

import asyncio

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.rpc import code_pb2

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore_client.retry import Timing
from tests.client.fake import FakeServer, Refusal, status

REQUEST = ProcessOrderRequest(order_id="ord_1")
BREAKS = [
    Refusal(status(code_pb2.UNAVAILABLE, "SERVER_DRAINING", "going")),
    Refusal(status(code_pb2.CANCELLED, "X", "not by the caller")),
]


@pytest.mark.parametrize("refusal", BREAKS, ids=["unavailable", "cancelled"])
async def test_a_broken_stream_resumes_after_the_last_event(
    server: FakeServer, orders: OrdersClient, refusal: Refusal
) -> None:
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.start()
    for number in range(10):
        record.progress(str(number))
    record.complete()
    server.service.break_after = [(count, refusal) for count in (0, 1, 3, 0, 2)]
    sequences = [event.sequence async for event in op.watch()]
    assert sequences == list(range(1, 14))
    watches = [request for request in server.service.requests if isinstance(request, pb.WatchRequest)]
    assert [request.after_sequence for request in watches] == [0, 0, 1, 4, 4, 6]
    assert {request.uid for request in watches} == {"uid-1"}


async def test_a_watch_survives_restarts_of_the_server(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.start()

    async def life() -> None:
        for number in range(3):
            record.progress(f"before {number}")
            await asyncio.sleep(0.02)
            await server.stop()
            record.progress(f"meanwhile {number}")
            await server.start()
            await asyncio.sleep(0.05)
        record.complete()

    task = asyncio.create_task(life())
    seen = [event async for event in op.watch()]
    await task
    assert [event.sequence for event in seen] == list(range(1, 10))
    assert isinstance(seen[-1], lc.Completed)


async def test_watch_begins_after_a_sequence_and_filters(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.start()
    record.progress("a")
    record.output("b")
    record.complete()
    assert [event.sequence async for event in op.watch(3)] == [4, 5]
    kinds = [type(event) async for event in op.watch(types=(lc.Output,))]
    assert kinds == [lc.Output, lc.Completed]
    attached = orders.process.attach(op.name)
    assert [event.sequence async for event in attached.watch()] == [1, 2, 3, 4, 5]
    assert attached.uid == "uid-1", "learned from the first event"


async def test_heartbeats_move_a_filtered_watch_forward(server: FakeServer, orders: OrdersClient) -> None:
    server.service.heartbeat = 0.02
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.start()
    record.output("left out")
    server.service.break_after = [(2, BREAKS[0])]
    asyncio.get_running_loop().call_later(0.15, record.complete)
    seen = [event.sequence async for event in op.watch(types=(lc.Progress,))]
    assert seen == [4]
    assert [request.after_sequence for request in server.service.requests[1:]] == [0, 3]


async def test_a_silent_stream_is_dead_and_resumed(server: FakeServer, pauses: list[float]) -> None:
    retry = lc.Retry(timing=Timing(sleep=pauses, random=lambda: 0.5))  # type: ignore[arg-type]  # a list that can be called
    async with lc.connect(server.address, retry=retry, heartbeat_interval=0.03) as channel:
        op = await OrdersClient(channel).process(REQUEST)
        server.service.records[op.name].complete()
        server.service.mute = 2
        assert [event.sequence async for event in op.watch()] == [1, 2]
    assert len(pauses) == 2


async def test_a_slow_reader_is_not_taken_for_a_silent_server(server: FakeServer, pauses: list[float]) -> None:
    async with lc.connect(server.address, heartbeat_interval=0.02) as channel:
        op = await OrdersClient(channel).process(REQUEST)
        server.service.heartbeat = 0.02
        record = server.service.records[op.name]
        record.progress("a")
        watch = op.watch()
        await anext(watch)
        await asyncio.sleep(0.2)
        record.complete()
        assert [event.sequence async for event in watch] == [2, 3]
    assert [type(request) for request in server.service.requests].count(pb.WatchRequest) == 1


async def test_a_gap_is_an_error_and_never_passed_over(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.progress("a")
    record.complete()
    record.events[1].sequence = 7
    with pytest.raises(lc.DataLoss) as caught:
        [event async for event in op.watch()]
    assert caught.value.reason == "SEQUENCE_GAP"


async def test_an_unknown_operation_is_not_found(orders: OrdersClient) -> None:
    with pytest.raises(lc.NotFound) as caught:
        [event async for event in orders.process.attach("operations/nope").watch()]
    assert caught.value.reason == "OPERATION_NOT_FOUND"


async def test_leaving_a_watch_early_ends_the_call(server: FakeServer, orders: OrdersClient) -> None:
    op = await orders.process(REQUEST)
    watch = op.watch()
    assert (await anext(watch)).sequence == 1
    await watch.aclose()
    assert not server.service.records[op.name].ended
