"""What the clients of instances send and read: types that fit and types that do not, waits, and tries made again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore.v1.instances_pb2 import InstanceValue
from longshore_client import (
    DebounceClient,
    InstanceStatus,
    InvalidArgument,
    PermissionDenied,
    RecurringClient,
    Retry,
    StillRunning,
    UnexpectedMessage,
    connect,
)
from longshore_client.instance_values import Values
from longshore_client.retry import Timing
from longshore_server import DebounceContext, Server
from longshore_server.testing import Harness
from tests.client.instances_server import Batch, Served, served
from tests.proxy import Proxy
from tests.server.instances.laboratory import Gate, Ping, Pong, Token

__all__ = ["served"]


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (PlayResult, PlayResult(text="x")),
        (Token, Token(3, "ä")),
        (Batch, Batch(numbers=[1])),
        (Ping | Pong, Pong("x")),
        (Token | Batch | None, Batch()),
        (Token | None, None),
        (dict[str, Any], {"@type": "mine", "a": [1.5, None]}),
        (float, 3),
        (str | int, "x"),
        (None, [1, {"a": True}]),
        (None, PlayResult(number=1)),
    ],
)
def test_a_value_comes_back_as_it_went(declared: Any, value: Any) -> None:
    values = Values[Any](declared, "state")
    found = values.unpack(InstanceValue.FromString(values.pack(value).SerializeToString()))
    assert (found, type(found)) == (value, type(value))


def test_several_classes_go_by_their_names_and_one_does_not() -> None:
    assert Values[Any](Ping | Pong, "event").pack(Ping(1)).json == '{"@type": "Ping", "number": 1}'
    assert Values(Ping, "event").pack(Ping(1)).json == '{"number":1}'


@pytest.mark.parametrize(
    ("declared", "value", "said"),
    [
        (Ping | Pong, Token(), "event: it must be Ping | Pong, not Token"),
        (PlayResult, PlayRequest(), "event: it must be PlayResult, not PlayRequest"),
        (str, 3, "event: it must be str, not int"),
        (int, True, "event: it must be int, not bool"),
    ],
)
def test_another_type_is_refused_before_anything_is_sent(declared: Any, value: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        Values[Any](declared, "event").pack(value)
    assert str(caught.value) == said


def test_what_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Values(float, "state").pack(float("nan"))


@pytest.mark.parametrize(
    ("declared", "wire"),
    [
        (Token, InstanceValue(json='{"value": "seven"}')),
        (Token, InstanceValue(json='{"@type": "Ping", "value": 1}')),
        (Ping | Pong, InstanceValue(json='{"number": 1}')),
        (Batch, InstanceValue(json='{"numbers": "none"}')),
        (Token, InstanceValue(json="[]")),
        (str, InstanceValue(json="3")),
        (Token, InstanceValue(message=AnyMessage(type_url="type.googleapis.com/lab.v1.PlayResult"))),
    ],
)
def test_what_the_server_sends_of_another_type_is_an_error(declared: Any, wire: InstanceValue) -> None:
    with pytest.raises(UnexpectedMessage) as caught:
        Values[Any](declared, "state").unpack(wire)
    assert caught.value.reason == "UNEXPECTED_MESSAGE"


def test_a_message_that_nobody_knows_stays_packed() -> None:
    packed = AnyMessage(type_url="type.googleapis.com/acme.Unknown", value=b"x")
    assert Values(None, "state").unpack(InstanceValue(message=packed)) == packed


def test_dataclasses_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ImportError, match="pip install msgspec"):
        Values(Token, "state")
    Values(Batch, "state")


async def test_messages_and_plain_json_over_the_wire(served: Served) -> None:
    greeter = RecurringClient(served.channel, "greeter", state=PlayResult)
    await greeter.start("a", PlayResult(text="x"))
    assert (await greeter.get_state("a")).state == PlayResult(text="x")
    plain = RecurringClient[Any](served.channel, "greeter")
    await plain.start("b", {"text": "y"})
    assert (await plain.get_state("b")).state == PlayResult(text="y")
    events = DebounceClient[Any, Any](served.channel, "plain")
    assert (await events.add("a", {"any": ["thing"]})).created
    assert (await events.get_state("a")).state == {"any": ["thing"]}
    with pytest.raises(InvalidArgument) as caught:
        await events.add("a", None)
    assert [found.field for found in caught.value.field_violations] == ["event"]


async def test_a_state_that_is_not_of_the_clients_type(served: Served) -> None:
    await RecurringClient(served.channel, "token-refresher", state=Token).start("a", Token())
    with pytest.raises(UnexpectedMessage):
        await RecurringClient(served.channel, "token-refresher", state=PlayResult).get_state("a")


async def test_no_wait_answers_before_the_handler_has_run(served: Served) -> None:
    served.held = Gate()
    refresher = RecurringClient(served.channel, "token-refresher", state=Token)
    assert (await refresher.start("a", Token(), no_wait=True)).created
    await served.held.reached.wait()
    assert (await refresher.status("a")).run_count == 0
    waiting = asyncio.create_task(refresher.trigger("a"))
    served.held.opened.set()
    assert (await waiting).status is InstanceStatus.ACTIVE


async def test_who_waits_too_long_is_told_and_the_handler_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore_client.channel._DEADLINE_MARGIN", 0.05)
    served.held = Gate()
    refresher = RecurringClient(served.channel, "token-refresher", state=Token)
    # Time enough for the start to reach the server, however slow the machine is.
    with pytest.raises(StillRunning) as caught:
        await refresher.start("a", Token(), timeout=5.0)
    assert caught.value.operation == "recurrings/token-refresher/instances/a"
    await served.held.reached.wait()
    served.held.opened.set()
    await served.world.settled()
    assert (await refresher.status("a")).run_count == 1


async def test_an_event_whose_answer_is_lost_counts_once(served: Served) -> None:
    served.held = Gate()

    async def at_once(_: float) -> None: ...

    retry = Retry(timing=Timing(sleep=at_once))
    async with Proxy(served.world.harness.address) as proxy, connect(proxy.address, retry=retry) as channel:
        webhooks = DebounceClient(channel, "webhooks", event=Ping, state=Batch)
        for number in (1, 2):
            await webhooks.add("a", Ping(number))
        third = asyncio.create_task(webhooks.add("a", Ping(3)))
        await served.held.reached.wait()
        proxy.cut()
        # Asked again, it waits for the same handler.
        served.held.opened.set()
        assert (await third).duplicate
        await served.world.settled()
    assert served.batches == [[1, 2, 3]]


async def test_inside_the_process_and_only_for_who_may(tmp_path: Path) -> None:
    server = Server()

    @server.debounce("pings", flush_after="5m", event=Ping, call="acme.partner")
    async def handle(ctx: DebounceContext[Ping]) -> None: ...

    async with Harness(server, tmp_path).serve() as longshore:
        partner = longshore.connect(principal="ada", capabilities=["acme.partner"])
        pings = DebounceClient(partner, "pings", event=Ping, state=Ping)
        assert (await pings.add("a", Ping(1))).created
        assert (await pings.get_state("a")).state == Ping(1)
        with pytest.raises(PermissionDenied) as caught:
            await pings.clear("a")
        assert caught.value.reason == "CAPABILITY_MISSING"
        provider = longshore.connect(principal="bob", capabilities=["longshore.provider"])
        assert (await DebounceClient(provider, "pings", event=Ping, state=Ping).clear("a")).discarded_events == 1
        with pytest.raises(PermissionDenied):
            await DebounceClient(longshore.connect(principal="eve"), "pings", event=Ping, state=Ping).add("a", Ping(1))
