"""A watch across broken connections: every event once, in order."""

from __future__ import annotations

import asyncio

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.rpc import code_pb2

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore_client.stream import Alarm
from tests.client.conftest import Pauses
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
            await server.service.asked(pb.WatchRequest, number + 1)
            record.progress(f"before {number}")
            await arrived.get()
            await server.stop()
            record.progress(f"meanwhile {number}")
            await server.start()
        record.complete()

    arrived: asyncio.Queue[None] = asyncio.Queue()
    task = asyncio.create_task(life())
    seen = []
    async for event in op.watch():
        seen.append(event)
        if isinstance(event, lc.Progress) and event.value.step.startswith("before"):
            arrived.put_nowait(None)
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
    op = await orders.process(REQUEST)
    record = server.service.records[op.name]
    record.start()
    record.output("left out")
    record.beats = 3
    server.service.break_after = [(2, BREAKS[0])]

    async def complete_the_second() -> None:
        await server.service.asked(pb.WatchRequest, 2)
        record.complete()

    task = asyncio.create_task(complete_the_second())
    seen = [event.sequence async for event in op.watch(types=(lc.Progress,))]
    await task
    assert seen == [4]
    assert [request.after_sequence for request in server.service.requests[1:]] == [0, 3]


async def test_a_silent_stream_is_dead_and_resumed(server: FakeServer, pauses: Pauses) -> None:
    async with pauses.connect(server.address, heartbeat_interval=0.03) as channel:
        op = await OrdersClient(channel).process(REQUEST)
        server.service.records[op.name].complete()
        server.service.mute = 2
        assert [event.sequence async for event in op.watch()] == [1, 2]
    assert len(pauses) >= 2, "and as often as there was silence on a machine that is busy"


async def test_a_slow_reader_is_not_taken_for_a_silent_server(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rang: asyncio.Queue[bool] = asyncio.Queue()
    check = Alarm._check

    def noted(alarm: Alarm) -> None:
        check(alarm)
        rang.put_nowait(alarm._rang)

    monkeypatch.setattr(Alarm, "_check", noted)
    async with lc.connect(server.address, heartbeat_interval=0.02) as channel:
        op = await OrdersClient(channel).process(REQUEST)
        record = server.service.records[op.name]
        record.progress("a")
        record.beats = 5
        watch = op.watch()
        await anext(watch)
        while not rang.empty():  # before, on a machine that is busy, it may have rung and been right
            rang.get_nowait()
        # Nobody reads while the alarm looks three times.
        for _ in range(3):
            assert not await rang.get()
        record.complete()
        assert [event.sequence async for event in watch] == [2, 3]


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
