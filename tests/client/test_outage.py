"""What the client says about a server that does not answer."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.rpc import code_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore_client.errors import call_error
from longshore_client.outage import Outage
from longshore_client.retry import Timing
from tests.client.conftest import Pauses
from tests.client.fake import FakeServer, Refusal, status
from tests.client.instances_server import Served, served
from tests.client.test_retry import Time
from tests.server.instances.laboratory import Gate, Token

__all__ = ["served"]

REQUEST = ProcessOrderRequest(order_id="ord_1")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(item.levelno, item.getMessage()) for item in caplog.records if item.name == "longshore_client"]


async def test_one_warning_and_one_info_for_many_calls(
    server: FakeServer, orders: OrdersClient, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    op = await orders.process(REQUEST)
    watch = op.watch()
    await anext(watch)
    assert told(caplog) == [], "nothing to tell while all is well"
    await server.stop()
    calls = [asyncio.ensure_future(call) for call in (anext(watch), op.get(), op.get())]
    await pauses.made(3)
    server.service.records[op.name].start()
    await server.start()
    await asyncio.gather(*calls)
    (warned, warning), (informed, info) = told(caplog)
    assert (warned, informed) == (logging.WARNING, logging.INFO)
    assert warning.startswith(f"{server.address} does not answer, trying again: ")
    assert "UNAVAILABLE" in warning
    assert re.fullmatch(rf"{server.address} answers again after \d+\.\d s", info)
    await watch.aclose()


async def test_a_wrong_address_is_told_at_once_and_given_up_after_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    async with lc.connect("127.0.0.1:1", retry=lc.Retry(timing=time.timing(0.5))) as channel:
        with pytest.raises(lc.Unavailable):
            await OrdersClient(channel).process(REQUEST)
        assert 5 < time.now - 100 <= 10
        with pytest.raises(lc.Unavailable):
            [event async for event in OrdersClient(channel).process.attach("operations/x").watch()]
    ((level, message),) = told(caplog)
    assert level == logging.WARNING
    assert message.startswith("127.0.0.1:1 does not answer")


async def test_a_server_that_has_answered_is_worth_the_whole_wait(server: FakeServer) -> None:
    time = Time()
    async with lc.connect(server.address, retry=lc.Retry(timing=time.timing(0.5))) as channel:
        op = await OrdersClient(channel).process(REQUEST)
        await server.stop()
        with pytest.raises(lc.Unavailable):
            await op.get()
    assert 110 < time.now - 100 <= 120


async def test_a_server_that_asks_to_come_again_was_contacted(server: FakeServer) -> None:
    time = Time()
    busy = Refusal(status(code_pb2.UNAVAILABLE, "SERVER_DRAINING", "going"))
    server.service.refuse = [busy] * 20
    async with lc.connect(server.address, retry=lc.Retry(timing=time.timing(0.5))) as channel:
        await OrdersClient(channel).process(REQUEST)
    assert time.now - 100 > 10


class Heard:
    def __init__(self) -> None:
        self.lost_it = asyncio.Event()
        self.back_again = asyncio.Event()

    def lost(self, target: str, error: lc.CallError) -> None:
        self.lost_it.set()

    def back(self, target: str, seconds: float) -> None:
        self.back_again.set()


@pytest.mark.parametrize("run", [False, True])
async def test_who_waits_for_an_end_hears_at_once_that_the_server_is_back(
    server: FakeServer, orders: OrdersClient, channel: lc.Channel, run: bool
) -> None:
    channel.outage.listener = heard = Heard()
    asked = pb.StartRequest if run else pb.WaitRequest
    waiting = asyncio.ensure_future(orders.process.run(REQUEST) if run else (await orders.process(REQUEST)).wait())
    await server.service.asked(asked)
    await server.stop()
    await server.start()
    await asyncio.wait_for(heard.back_again.wait(), 60)
    (record,) = server.service.by_request.values()
    assert not record.ended
    # It goes on to wait.
    await server.service.asked(pb.WaitRequest, 1 if run else 3)
    record.complete()
    assert (await waiting).status == "done"


async def test_who_waits_for_the_handler_of_an_instance_hears_at_once_that_the_server_is_back(served: Served) -> None:
    refreshers = lc.RecurringClient(served.channel, "token-refresher", state=Token)
    await refreshers.start("a", Token(1))
    served.channel.outage.listener = heard = Heard()
    first = served.held = Gate()
    waiting = asyncio.ensure_future(refreshers.trigger("a"))
    await first.reached.wait()
    await served.world.harness.crash()
    await heard.lost_it.wait()
    again = served.held = Gate()
    await served.world.harness.start()
    await asyncio.wait_for(heard.back_again.wait(), 20)
    assert not waiting.done()
    # It goes on to wait.
    await again.reached.wait()
    again.opened.set()
    assert (await waiting).triggered


async def test_a_caller_who_may_only_trigger_hears_it_too(served: Served) -> None:
    """Whatever is answered to the question whether the server is back: it is."""
    outage, waited = served.channel.outage, asyncio.Event()
    outage.listener = heard = Heard()
    tries = 0

    async def trigger(request: object, /, **options: object) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())
        await waited.wait()
        return "triggered"

    async def status(**options: object) -> None:
        raise AioRpcError(StatusCode.PERMISSION_DENIED, Metadata(), Metadata())

    waiting = asyncio.ensure_future(served.channel.invoke(trigger, None, wait=9.0, probe=status))
    await asyncio.wait_for(heard.back_again.wait(), 20)
    waited.set()
    assert await waiting == "triggered"


async def test_a_server_that_answers_and_refuses_what_waits_is_not_back() -> None:
    """It drains, and told of an end of the outage and of another one each second."""
    heard, time, refused, waits, over = Heard(), Time(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    tries = 0

    async def trigger(request: object, /, **options: object) -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            if tries == 2:
                refused.set()
            raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())
        waits.set()
        await over.wait()
        return "triggered"

    async def status(**options: object) -> None:
        await (refused if tries < 3 else waits).wait()
        assert not heard.back_again.is_set()

    async with lc.connect("127.0.0.1:1", retry=lc.Retry(timing=time.timing(0.5))) as channel:
        channel.outage.listener = heard
        waiting = asyncio.ensure_future(channel.invoke(trigger, None, wait=9.0, probe=status))
        await heard.back_again.wait()
        over.set()
        assert await waiting == "triggered"
    assert tries == 3


async def test_a_call_that_waits_for_long_outlives_outages_that_are_far_apart() -> None:
    time, tries = Time(), 0

    async def trigger(request: object, /, **options: object) -> str:
        nonlocal tries
        tries += 1
        if tries == 9:
            return "triggered"
        await answered.wait()
        answered.clear()
        time.now += 600
        raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())

    async def status(**options: object) -> None:
        asyncio.get_running_loop().call_soon(answered.set)

    answered = asyncio.Event()
    answered.set()
    async with lc.connect("127.0.0.1:1", retry=lc.Retry(timing=time.timing(0.5))) as channel:
        assert await channel.invoke(trigger, None, wait=9000.0, probe=status) == "triggered"


async def test_no_retry_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with lc.connect("127.0.0.1:1", retry=lc.Retry(give_up_after=0, timing=Timing(random=lambda: 1.0))) as channel:
        with pytest.raises(lc.Unavailable):
            await OrdersClient(channel).process(REQUEST)
    assert told(caplog) == [], "the error says it"


async def test_a_call_that_is_cancelled_meanwhile_does_not_keep_the_outage_open(
    server: FakeServer, orders: OrdersClient, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    op = await orders.process(REQUEST)
    await server.stop()
    for waiting in (op.get(), anext(op.watch(1))):
        pauses.clear()
        call = asyncio.ensure_future(waiting)
        await pauses.made(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await server.start()
    await op.get()
    assert [level for level, _ in told(caplog)] == [logging.WARNING, logging.INFO]


def test_it_is_back_only_when_nobody_waits_any_longer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage("x:1", lambda: 1.0)
    error = call_error(14, "refused", None)
    first, second = object(), object()
    outage.lost(first, error)
    outage.lost(second, error)
    outage.answered(None)
    outage.answered(first)
    assert len(told(caplog)) == 1
    outage.answered(second)
    assert len(told(caplog)) == 2


async def test_options_of_the_caller_stand_in_place_of_ours() -> None:
    """Of two channels to somebody who takes connections and says nothing, only that with the short limit gives up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target, once = f"127.0.0.1:{silent.getsockname()[1]}", lc.Retry(give_up_after=0)
        long, short = ([("grpc.min_reconnect_backoff_ms", milliseconds)] for milliseconds in (600_000, 1))
        async with lc.connect(target, retry=once, options=long, call_timeout=600) as patient:
            waiting = asyncio.ensure_future(OrdersClient(patient).process(REQUEST))
            async with lc.connect(target, retry=once, options=short) as channel:
                with pytest.raises(lc.Unavailable, match="timed out"):
                    await OrdersClient(channel).process(REQUEST)
            assert not waiting.done()
        await asyncio.gather(waiting, return_exceptions=True)
