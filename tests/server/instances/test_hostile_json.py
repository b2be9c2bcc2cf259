"""JSON that is well-formed and means harm: it is refused in words that reach its caller, by every kind of event."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1.lab_pb2 import PlayProgress

from longshore.v1 import debounce_service_pb2, debounce_service_pb2_grpc, instances_pb2
from longshore_server.config import Config
from longshore_server.handler.codec import MAX_DEPTH
from longshore_server.instance_lifecycle import Kind
from tests.conftest import refused
from tests.server.instances.laboratory import World


@dataclass
class Loose:
    """An event whose field may be anything."""

    value: Any = None


@pytest.fixture
async def add(world: World) -> AsyncIterator[Any]:
    """Adds an event that is a JSON text to a debounce of messages, of classes, of anything."""
    for name, event in (("messages", PlayProgress), ("classes", Loose), ("anything", Any)):

        @world.server.debounce(name, event=event, flush_after=60)
        async def handler(ctx: Any) -> None: ...

    await world.start()
    async with grpc.aio.insecure_channel(world.harness.address) as channel:
        stub: Any = debounce_service_pb2_grpc.DebounceServiceStub(channel)

        async def call(definition: str, text: str) -> Any:
            name, event = f"debounces/{definition}/instances/a", instances_pb2.InstanceValue(json=text)
            return await stub.AddEvent(debounce_service_pb2.AddEventRequest(name=name, event=event, no_wait=True))

        yield call


async def test_what_is_too_large_is_not_even_read(add: Any, world: World) -> None:
    limit = Config.max_payload
    no_json = "[" + " " * 2 * limit
    assert (await refused(add("anything", no_json)))[1] == "INPUT_TOO_LARGE"
    assert (await refused(add("anything", no_json[:-1])))[1] == "INVALID_ARGUMENT"
    name = "debounces/messages/instances/a"
    packed = AnyMessage(type_url="type.googleapis.com/lab.v1.PlayProgress", value=b"\xff" * (limit + 1))
    event = instances_pb2.InstanceValue(message=packed)
    async with grpc.aio.insecure_channel(world.harness.address) as channel:
        stub: Any = debounce_service_pb2_grpc.DebounceServiceStub(channel)
        call = stub.AddEvent(debounce_service_pb2.AddEventRequest(name=name, event=event))
        assert (await refused(call))[1] == "INPUT_TOO_LARGE"
    # Spaces are not stored.
    await add("anything", "[" + " " * limit + "]")


@dataclass
class Slow:
    """An event that takes its time to be made."""

    text: str
    begun: ClassVar[threading.Event]
    others_are_served: ClassVar[threading.Event]

    def __post_init__(self) -> None:
        self.begun.set()
        assert self.others_are_served.wait(60)


async def test_others_are_served_while_a_long_text_is_read(world: World) -> None:
    Slow.begun, Slow.others_are_served = threading.Event(), threading.Event()

    @world.server.debounce("slow", event=Slow, flush_after=60)
    async def handler(ctx: Any) -> None: ...

    await world.start()
    async with grpc.aio.insecure_channel(world.harness.address) as channel:
        stub: Any = debounce_service_pb2_grpc.DebounceServiceStub(channel)
        name = "debounces/slow/instances/a"
        event = instances_pb2.InstanceValue(json=json.dumps({"text": "x" * 100_000}))
        adding = stub.AddEvent(debounce_service_pb2.AddEventRequest(name=name, event=event, no_wait=True))
        await asyncio.to_thread(Slow.begun.wait, 60)
        get = debounce_service_pb2.GetDebounceRequest(name=name)
        assert (await stub.GetDebounce(get)).event_count == 0
        Slow.others_are_served.set()
        assert (await adding).event_count == 1


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


async def test_a_refusal_that_quotes_half_of_a_character_reaches_its_caller(add: Any) -> None:
    code, reason, status = await refused(add("messages", r'{"number": "\ud800 1"}'))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "? 1" in status.message


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 700, 950, 5000, 100_000])
async def test_a_value_nested_too_deeply_is_refused(add: Any, world: World, depth: int) -> None:
    events = {"messages": f'{{"text": {nested(depth)}}}', "classes": f'{{"value": {nested(depth)}}}'}
    for definition, event in {**events, "anything": nested(depth)}.items():
        if definition != "classes" or depth > 1000:
            code, reason, _ = await refused(add(definition, event))
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), definition
    assert not world.rows("SELECT * FROM instances WHERE definition != 'classes'")


async def test_what_is_as_deep_as_can_be_is_stored_and_read_by_everybody(add: Any, world: World) -> None:
    await add("anything", nested(MAX_DEPTH + 1))
    with pytest.raises(grpc.aio.AioRpcError):
        await add("anything", nested(MAX_DEPTH + 2))
    found: Any = world.server.definitions[Kind.DEBOUNCE, "anything"]
    assert (await found.status("a")).event_count == 1
