"""A server that is too busy and says when to come again: the client does, and gives up after a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from lab.v1 import lab_pb2
from lab.v1.lab_longshore import LabClient

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore_client.retry import Timing
from tests.client.conftest import Pauses
from tests.client.fake import FakeServer, Refusal, status
from tests.client.test_operation import finish
from tests.client.test_retry import Time

REQUEST = ProcessOrderRequest(order_id="ord_1")


def busy(seconds: int = 3, reason: str = "TOO_MANY_OPERATIONS") -> Refusal:
    hint = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))
    return Refusal(status(code_pb2.RESOURCE_EXHAUSTED, reason, "too many already", hint))


async def test_a_start_comes_again_when_the_server_says(
    server: FakeServer, orders: OrdersClient, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    server.service.refuse = [busy(3), busy(4)]
    with caplog.at_level(logging.INFO, "longshore_client"):
        op = await orders.process(REQUEST)
    assert op.created
    assert pauses == [3.05, 4.1], "never sooner, and not all at the same moment"
    keys = {request.request_id for request in server.service.requests}
    assert (len(server.service.requests), len(keys)) == (3, 1)
    assert not caplog.records, "a server that answers is no outage"


async def test_a_run_comes_again_for_its_stream(server: FakeServer, orders: OrdersClient, pauses: Pauses) -> None:
    server.service.handler = finish
    server.service.refuse = [busy(5, "TOO_MANY_WATCHES")]
    seen: list[str] = []
    await orders.process.run(REQUEST, on_progress=lambda progress: seen.append(progress.step))
    assert (seen, pauses) == (["one", "two"], [5.05])


async def test_what_is_too_large_is_refused_at_once(server: FakeServer, orders: OrdersClient, pauses: Pauses) -> None:
    server.service.refuse = [Refusal(status(code_pb2.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE", "too large"))]
    with pytest.raises(lc.ResourceExhausted) as caught:
        await orders.process(REQUEST)
    assert (caught.value.reason, caught.value.retry_after, pauses) == ("INPUT_TOO_LARGE", None, [])


async def test_it_gives_up_after_a_time(server: FakeServer, orders: OrdersClient, pauses: Pauses) -> None:
    server.service.refuse = [busy(31)]
    with pytest.raises(lc.ResourceExhausted) as caught:
        await orders.process(REQUEST)
    assert (caught.value.reason, caught.value.retry_after, pauses) == ("TOO_MANY_OPERATIONS", 31.0, [])


async def test_not_beyond_the_callers_deadline(server: FakeServer, orders: OrdersClient, pauses: Pauses) -> None:
    server.service.refuse = [busy(3)]
    with pytest.raises(lc.ResourceExhausted):
        await orders.process(REQUEST, timeout=2)
    assert pauses == []


@pytest.mark.parametrize(("busy_for", "pauses"), [(30.0, 7), (0.0, 0), (9.0, 2)])
async def test_how_long_it_tries(busy_for: float, pauses: int) -> None:
    time = Time()
    backoff = lc.Retry(4.0, 4.0, 5.0, busy_for=busy_for, timing=time.timing(1.0)).attempts()
    while await backoff.pause(0.0, busy=True, contacted=False):
        pass
    assert len(time.pauses) == pauses


async def test_an_answer_and_no_answer_count_apart() -> None:
    time = Time()
    backoff = lc.Retry(4.0, 4.0, give_up_after=9.0, busy_for=9.0, timing=time.timing(1.0)).attempts()
    for _ in range(5):
        assert await backoff.pause(None, busy=True)
        assert await backoff.pause(None)
    assert time.pauses == [4.0] * 10


async def test_a_full_queue_of_a_real_server_is_waited_for(make_lab: Any) -> None:
    """The second start comes when the server says, and by then the first has ended."""
    lab = await make_lab(concurrency=1, queue=0)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        gate.set()
        await lab.end(first.operation.name)

    first: pb.StartResponse = await lab.begin()
    retry = lc.Retry(timing=Timing(sleep=sleep, random=lambda: 0.0))
    async with lc.connect(lab.harness.address, retry=retry) as channel:
        assert (await LabClient(channel).play(lab_pb2.PlayRequest())).created
    assert pauses == [1.0]
