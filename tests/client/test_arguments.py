"""What is no argument is said by its name, in one sentence, before anything is sent."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest
from acme.orders.v1.orders_longshore import OrdersBlockingClient, OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from bytes.v1.bytes_longshore import BytesClient
from bytes.v1.bytes_pb2 import BytesRequest

import longshore_client as lc
from longshore_client import blocking
from tests.client.fake import FakeServer

REQUEST = ProcessOrderRequest(order_id="ord_1")


async def _refused(call: Callable[[], Any], sentence: str, kind: type[Exception] = TypeError) -> None:
    """See that a call, or what it returns, raises exactly this."""

    async def made() -> None:
        found = call()
        await (anext(found) if inspect.isasyncgen(found) else found)

    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        await made()


CONNECTING: list[tuple[dict[str, Any], str]] = [
    ({"target": 5}, "target is host:port, or unix:PATH, as a text, not int"),
    ({"target": 5, "token": "t"}, "target is host:port, or unix:PATH, as a text, not int"),
    ({"target": None}, "target is host:port, or unix:PATH, as a text, not NoneType"),
    ({"credentials": "ca.pem"}, "credentials are what longshore_client.tls() returns, not str"),
    ({"token": 5}, "token is a text, or a function that returns one, not int"),
    ({"metadata": "tenant=acme"}, "metadata is a dict of texts, not str"),
    ({"metadata": {"tenant": 5}}, "metadata['tenant'] is a text, not int: give str() of it"),
    ({"metadata": {"tenant": b"acme"}}, "metadata['tenant'] is a text, not bytes"),
    ({"retry": 5}, "retry is a Retry, not int"),
    ({"call_timeout": "30"}, "call_timeout is a number of seconds, not str"),
    ({"call_timeout": None}, "call_timeout is a number of seconds, not NoneType"),
    ({"heartbeat_interval": timedelta(seconds=5)}, "heartbeat_interval is a number of seconds, not timedelta"),
]


@pytest.mark.parametrize(("given", "sentence"), CONNECTING)
def test_what_names_no_server_is_refused(given: dict[str, Any], sentence: str) -> None:
    for connect in (lc.connect, blocking.connect):
        with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
            connect(**given)


@pytest.mark.parametrize("what", ["initial_delay", "max_delay", "give_up_after", "first_contact", "busy_for"])
def test_a_retry_is_of_seconds(what: str) -> None:
    with pytest.raises(TypeError, match=f"^{what} is a number of seconds, not str$"):
        lc.Retry(**{what: "5"})  # type: ignore[arg-type]
    assert getattr(lc.Retry(give_up_after=None, first_contact=None, busy_for=None), what) in (0.1, 5.0, None)


async def test_bytes_are_metadata_where_grpc_wants_them(server: FakeServer) -> None:
    async with lc.connect(server.address, metadata={"tenant-bin": b"\xff"}) as channel:  # type: ignore[dict-item]
        assert (await OrdersClient(channel).process(REQUEST)).created


async def test_a_function_of_tokens_that_returns_none_is_told(server: FakeServer) -> None:
    async with lc.connect(server.address, token=lambda: None) as channel:  # type: ignore[arg-type]
        sentence = "token is a function that returns a text, not NoneType"
        await _refused(lambda: OrdersClient(channel).process(REQUEST), sentence)
    assert not server.service.requests


def test_a_client_is_made_of_a_channel() -> None:
    with blocking.connect("localhost:1") as other:
        given: list[tuple[Any, str]] = [
            (5, "int"),
            ("localhost:50051", "str"),
            (other, "one of longshore_client.blocking.channel"),
        ]
        for wrong, called in given:
            for make in (OrdersClient, lambda channel: lc.TaskClient(channel, "order")):
                sentence = f"a client takes the channel that longshore_client.connect() returns, not {called}"
                with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
                    make(wrong)


def test_a_channel_is_for_one_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lc.Channel, "dial", lambda _: MagicMock())
    channel = lc.connect("localhost:1")

    async def use() -> object:
        return channel.calls

    opened = asyncio.run(use())
    assert opened is not None
    with pytest.raises(RuntimeError, match=r"^the event loop in which the channel was opened has ended: connect anew "):
        asyncio.run(use())


async def test_so_is_one_that_blocks() -> None:
    async with lc.connect("localhost:1") as other:
        given: list[tuple[Any, str]] = [
            (None, "NoneType"),
            ("localhost:50051", "str"),
            (other, "one of longshore_client.channel"),
        ]
        for wrong, called in given:
            for make in (OrdersBlockingClient, lambda channel: blocking.TaskClient(channel, "order")):
                sentence = (
                    "a client that blocks takes the channel that longshore_client.blocking.connect() returns, "
                    f"not {called}"
                )
                with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
                    make(wrong)


STARTING: list[tuple[dict[str, Any], str]] = [
    ({"timeout": "5"}, "timeout is a number of seconds, not str"),
    ({"timeout": True}, "timeout is a number of seconds, not bool"),
    ({"timeout": timedelta(seconds=5)}, "timeout is a number of seconds, not timedelta"),
    ({"request_id": UUID(int=7)}, "request_id is a text, not UUID: give str() of it"),
    ({"request_id": 0}, "request_id is a text, not int: give str() of it"),
    ({"labels": "tenant=acme"}, "labels is a dict of texts, not str"),
    ({"labels": {5: "acme"}}, "labels: the key 5 is a text, not int: give str() of it"),
]
RUNNING: list[tuple[dict[str, Any], str]] = [
    ({"on_progress": 5}, "on_progress is a function, not int"),
    ({"on_output": "show"}, "on_output is a function, not str"),
    ({"abort": threading.Event()}, "abort is an asyncio.Event, not Event"),
    ({"abort": asyncio.Event(), "abort_timeout": "5"}, "abort_timeout is a number of seconds, not str"),
    ({"timeout": "5", "on_progress": print}, "timeout is a number of seconds, not str"),
]


async def test_a_start_says_what_it_takes(server: FakeServer, channel: lc.Channel) -> None:
    orders, files = OrdersClient(channel), BytesClient(channel)
    for given, sentence in STARTING:
        await _refused(lambda: orders.process(REQUEST, **given), sentence)  # noqa: B023
        await _refused(lambda: orders.process.run(REQUEST, **given), sentence)  # noqa: B023
        await _refused(lambda: files.upload(BytesRequest(key="a"), **given), sentence)  # noqa: B023
    for given, sentence in RUNNING:
        await _refused(lambda: orders.process.run(REQUEST, **given), sentence)  # noqa: B023
    for verb in (orders.process.list, orders.process.count):
        await _refused(lambda: verb(5), "filter is a text, not int: give str() of it")  # type: ignore[arg-type] # noqa: B023
    for name, called in ((5, "int"), (None, "NoneType"), (orders.process.attach("operations/x"), "OperationHandle")):
        sentence = f"attach takes the name of an operation, such as operations/order-17, not {called}"
        await _refused(lambda: orders.process.attach(name), sentence)  # type: ignore[arg-type] # noqa: B023
    assert not server.service.requests


TYPES = "types is a list of classes of events, such as [Progress]"
FOLLOWING: list[tuple[Callable[[Any], Any], str]] = [
    (lambda op: op.wait("5"), "timeout is a number of seconds, not str"),
    (lambda op: op.watch("5"), "after is a whole number, not str"),
    (lambda op: op.watch(conflate="no"), "conflate is True or False, not str"),
    (lambda op: op.watch(types=lc.Progress), f"{TYPES}, not the class Progress"),
    (lambda op: op.watch(types=["progress"]), f"{TYPES}; there is str in it"),
    (lambda op: op.watch(types=[lc.State]), f"{TYPES}; there is the class State in it"),
    (lambda op: op.cancel(5), "reason is a text, not int: give str() of it"),
    (lambda op: op.stop(ValueError("full")), "reason is a text, not ValueError: give str() of it"),
    (lambda op: op.retry(request_id=5), "request_id is a text, not int: give str() of it"),
    (lambda op: op.retry(keep_steps="no"), "keep_steps is True or False, not str"),
    (lambda op: op.signal(5), "name is a text, not int: give str() of it"),
    (lambda op: op.signal("shout", signal_id=5), "signal_id is a text, not int: give str() of it"),
    (lambda op: op.upload(b"x", parts="2"), "parts is a whole number, not str"),
    (lambda op: op.upload(b"x").on_transfer(5), "on_transfer is a function, not int"),
    (lambda op: op.upload(b"x").on_progress(5), "on_progress is a function, not int"),
    (lambda op: op.download(5), "to is a path or a binary file, not int"),
    (lambda op: op.download(b"a.pdf"), "to is a path or a binary file, not bytes"),
    (lambda op: op.download(Path("a.pdf"), on_transfer=5), "on_transfer is a function, not int"),
    (lambda op: op.download(Path("a.pdf"), None), "download is the number of one, or its name, not NoneType"),
    (lambda op: op.open(1.5), "download is the number of one, or its name, not float"),
    (lambda op: op.open(offset="5"), "offset is a whole number, not str"),
]


async def test_a_handle_says_what_it_takes(server: FakeServer, orders: OrdersClient) -> None:
    handle = orders.process.attach("operations/x")
    for call, sentence in FOLLOWING:
        await _refused(lambda: call(handle), sentence)  # noqa: B023
    await _refused(lambda: handle.wait(float("nan")), "timeout is a number of seconds, not NaN", ValueError)
    await _refused(lambda: handle.cancel("\ud800"), "reason holds what no text can: half of a character", ValueError)
    assert not server.service.requests


VERBS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda orders: orders.status(5), "id is a text, not int: give str() of it"),
    (lambda orders: orders.status(None), "id is a text, not NoneType"),
    (lambda orders: orders.send(UUID(int=7), "paid"), "id is a text, not UUID: give str() of it"),
    (lambda orders: orders.send("a", {1, 2}), "event: Object of type set is not JSON serializable"),
    (lambda orders: orders.send("a", 1, event_id=5), "event_id is a text, not int: give str() of it"),
    (lambda orders: orders.send("a", 1, expected_version="5"), "expected_version is a whole number, not str"),
    (lambda orders: orders.send("a", 1, timeout=None), "timeout is a number of seconds, not NoneType"),
    (lambda orders: orders.trigger("a", no_wait="no"), "no_wait is True or False, not str"),
    (lambda orders: orders.terminate("a", 5), "reason is a text, not int: give str() of it"),
    (lambda orders: orders.terminate("a", purge="no"), "purge is True or False, not str"),
    (lambda orders: orders.list("ACTIVE"), "status is one of InstanceStatus, not str"),
]


async def test_the_client_of_instances_says_what_it_takes(server: FakeServer, channel: lc.Channel) -> None:
    for call, sentence in VERBS:
        await _refused(lambda: call(lc.TaskClient(channel, "order")), sentence)  # noqa: B023
    for kind in (lc.RecurringClient, lc.DebounceClient, lc.TaskClient):
        await _refused(lambda: kind(channel, 5), "definition is a text, not int: give str() of it")  # type: ignore[arg-type] # noqa: B023
        declared = "state is declared by a class, or a union of classes, not by 'Token'"
        await _refused(lambda: kind(channel, "order", state="Token"), declared)  # type: ignore[arg-type] # noqa: B023
    version = "expected_version: 18446744073709551616 is out of range"
    await _refused(lambda: lc.TaskClient(channel, "order").send("a", 1, expected_version=1 << 64), version, ValueError)
    assert not server.service.requests


async def test_the_blocking_client_says_the_same(server: FakeServer) -> None:
    def caller() -> None:
        with blocking.connect(server.address) as channel:
            orders = OrdersBlockingClient(channel)
            handle = orders.process.attach("operations/x")
            calls: list[tuple[Callable[[], Any], str]] = [
                (lambda: orders.process.attach(5), "attach takes the name of an operation"),  # type: ignore[arg-type]
                (lambda: handle.wait("5"), "timeout is a number of seconds, not str"),  # type: ignore[arg-type]
                (lambda: handle.cancel(5), "reason is a text, not int"),  # type: ignore[arg-type]
                (lambda: list(handle.watch("5")), "after is a whole number, not str"),  # type: ignore[arg-type]
                (lambda: orders.process.run(REQUEST, on_progress=5), "a callback is a function, not int"),  # type: ignore[arg-type]
            ]
            for call, sentence in calls:
                with pytest.raises(TypeError, match=f"^{sentence}"):
                    call()

    await asyncio.to_thread(caller)
    assert not server.service.requests
