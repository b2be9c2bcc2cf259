"""Stop, retry and delete, from the Python client to a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from lab.v1 import lab_pb2
from lab.v1.retry_longshore import RetryClient

from longshore_client import (
    AttemptFailed,
    Completed,
    FailedPrecondition,
    NotFound,
    OperationFailed,
    State,
    Stopping,
    connect,
)
from longshore_server import OperationError
from tests.conftest import Lab
from tests.server.retrying import RetryHandlers


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[RetryClient]:
    async with connect(lab.harness.address) as channel:
        yield RetryClient(channel)


async def until_stopped(request: Any, op: Any) -> lab_pb2.PlayResult:
    await op.stopping.wait()
    return lab_pb2.PlayResult(text="a part of it")


async def busy(request: Any, op: Any) -> lab_pb2.PlayResult:
    raise OperationError("BUSY")


async def test_stop(lab: Lab, client: RetryClient) -> None:
    lab.plays(until_stopped)
    handle = await client.keep(lab_pb2.PlayRequest(key="a"))
    asked = await handle.stop("enough")
    assert (asked.state, asked.stop_request_time is not None, asked.stopped) == (State.RUNNING, True, False)
    assert (await handle.wait()).text == "a part of it"
    snapshot = await handle.get()
    assert (snapshot.stopped, snapshot.expire_time is not None) == (True, True)
    events = [event async for event in handle.watch()]
    assert [event.reason for event in events if isinstance(event, Stopping)] == ["enough"]
    assert isinstance(events[-1], Completed)
    assert events[-1].stopped
    only = [event async for event in handle.watch(types=[Stopping])]
    assert [type(event) for event in only] == [Stopping, Completed]
    assert (await handle.stop()).state is State.COMPLETED


async def test_what_is_seen_of_a_failed_attempt(lab: Lab, client: RetryClient) -> None:
    lab.plays(busy)
    handle = await client.try_(lab_pb2.PlayRequest())
    stream = handle.watch()
    failed = None
    async for event in stream:
        if isinstance(event, AttemptFailed):
            failed = event
            break
    await stream.aclose()
    assert failed is not None
    assert (failed.error.reason, failed.retry_delay) == ("BUSY", timedelta(seconds=10))
    snapshot = await handle.get()
    assert (snapshot.failures, snapshot.next_attempt_time) == (1, failed.time + timedelta(seconds=10))


async def test_retry(lab: Lab, client: RetryClient) -> None:
    lab.plays(busy)
    handle = await client.keep_for_ever(lab_pb2.PlayRequest(script="x"), labels={"tenant": "acme"})
    with pytest.raises(OperationFailed):
        await handle.wait()
    lab.handlers.handler = None
    again = await handle.retry()
    assert again.created
    assert (await again.wait()).text == "played"
    snapshot = await again.get()
    assert snapshot.request_id, "without a key a lost answer would start another"
    assert (snapshot.retried_from, snapshot.labels) == (f"operations/{handle.uid}", {"tenant": "acme"})
    one, two = await handle.retry(request_id="k"), await handle.retry(request_id="k")
    assert (one.uid == two.uid, one.created, two.created) == (True, True, False)
    assert one.uid not in (again.uid, handle.uid)


async def test_retry_from_the_step_that_failed(lab: Lab, client: RetryClient) -> None:
    ran: list[int] = []

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("once", ran.append, 1)
        return lab_pb2.PlayResult(number=len(ran))

    handle = await client.keep_for_ever(lab_pb2.PlayRequest())
    await handle.wait()
    assert (await (await handle.retry(keep_steps=True)).wait()).number == 1
    assert (await (await handle.retry()).wait()).number == 2


async def test_retry_and_delete_of_what_has_not_ended(lab: Lab, client: RetryClient) -> None:
    lab.plays(until_stopped)
    handle = await client.keep(lab_pb2.PlayRequest(key="a"))
    for call in (handle.retry(), handle.delete()):
        with pytest.raises(FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "OPERATION_RUNNING"


async def test_delete(lab: Lab, client: RetryClient) -> None:
    handle = await client.keep(lab_pb2.PlayRequest(key="a"))
    await handle.wait()
    attached = client.keep.attach(handle.name)
    await handle.delete()
    await handle.delete()  # repeating it does no harm
    with pytest.raises(NotFound):
        await handle.get()
    with pytest.raises(NotFound):
        await attached.delete()
