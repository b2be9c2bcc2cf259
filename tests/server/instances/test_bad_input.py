"""What cannot be is refused with words that say what to do, and nothing of it is written: the tables are compared."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from longshore.v1 import (
    debounce_service_pb2,
    debounce_service_pb2_grpc,
    instances_pb2,
    recurring_service_pb2,
    recurring_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from longshore_server import ExecuteContext, Server, Task, TaskEventContext
from longshore_server.errors import ServiceError
from tests.conftest import LabHandlers, refused
from tests.server.instances.laboratory import Ping, Token, World

TABLES = ("instances", "instance_states", "instance_entries", "instance_ids")
LIMIT = 1024


class Order(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None: ...


class Three:
    """One definition of each kind."""

    def __init__(self, world: World) -> None:
        world.settings["max_payload"] = LIMIT
        server = world.server

        @server.recurring("refresh", every=60, state=Token)
        async def refresh(ctx: Any) -> None: ...

        def collect(ctx: Any) -> list[str]:
            if ctx.event.number == 13:
                raise RuntimeError
            if ctx.event.number == 14:
                return {}  # type: ignore[return-value]
            return [*(ctx.state or []), "x" * 250]

        @server.debounce("pings", event=Ping, state=list, on_event=collect, flush_after=60, max_events=1_000_000)
        async def pings(ctx: Any) -> None: ...

        self.refresh, self.pings, self.order = refresh, pings, server.task("order", Order)


def tables(world: World) -> list[Any]:
    return [world.rows(f"SELECT * FROM {table}") for table in TABLES]


Call = Callable[[Three], Coroutine[Any, Any, Any]]
CALLS: list[tuple[Call, str]] = [
    (lambda d: d.refresh.start("b", {}), "state: it must be Token, not dict"),
    (lambda d: d.refresh.start("b", None), "state: it must be Token, not None"),
    (lambda d: d.refresh.start("b", Token(note="x" * LIMIT)), f"state: it has .* the server keeps {LIMIT} at most"),
    (lambda d: d.refresh.start("b", Token(value=object())), "Token cannot be stored"),  # type: ignore[arg-type]
    (lambda d: d.refresh.start("", Token()), "cannot name an instance: write 1 to 128"),
    (lambda d: d.refresh.start("a/b", Token()), "cannot name an instance"),
    (lambda d: d.refresh.start("x" * 129, Token()), "cannot name an instance"),
    (lambda d: d.refresh.start("ä", Token()), "cannot name an instance"),
    (lambda d: d.refresh.start(7, Token()), "id: 7 is no text"),  # type: ignore[arg-type]
    (lambda d: d.refresh.terminate("a", "x" * 1025), "must not be longer than 1024 bytes"),
    (lambda d: d.pings.add("b", Token()), "event: it must be Ping, not Token"),
    (lambda d: d.pings.add("b", Ping(13)), "on_event of debounces/pings/instances/b raised at the event"),
    (lambda d: d.pings.add("a", Ping(13)), "on_event of debounces/pings/instances/a raised at the event"),
    (lambda d: d.pings.add("a", Ping(14)), "state: it must be list, not dict|on_event of .* raised"),
    (lambda d: d.pings.add("a", Ping(1), event_id="x" * 129), "event_id"),
    (lambda d: d.pings.add("a", Ping(1), event_id=5), "event_id must be a text, not 5"),  # type: ignore[arg-type]
    (lambda d: d.pings.add("a", Ping(2), event_id="one"), "event_id 'one' was used for another event"),
    (lambda d: d.order.send("b", Token()), "event: it must be Ping, not Token"),  # type: ignore[arg-type]
    (lambda d: d.order.send("a", Ping(1), expected_version=7), "is at version 1, not 7: read it again"),
    (lambda d: d.order.send("b", Ping(1), expected_version=1), "is at version 0, not 1"),
    (lambda d: d.order.send("a", Ping(2), event_id="one"), "event_id 'one' was used for another event"),
    (lambda d: d.order.send("a", Ping(1), event_id="x" * 129), "event_id"),
    (lambda d: d.refresh.terminate("a", purge="no"), "purge must be True or False, not 'no'"),  # type: ignore[arg-type]
    (lambda d: d.refresh.start("b", Token(), no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.refresh.trigger("a", no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.pings.add("a", Ping(1), no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.pings.flush("a", no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.order.send("a", Ping(1), no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.order.trigger("a", no_wait="no"), "no_wait must be"),  # type: ignore[arg-type]
    (lambda d: d.order.send("a", Ping(1), expected_version="1"), "expected_version: '1' is no"),  # type: ignore[arg-type]
]


async def filled(world: World) -> Three:
    """An instance `a` of each."""
    three = Three(world)
    await world.start()
    await three.refresh.start("a", Token())
    await three.pings.add("a", Ping(1), event_id="one")
    await three.order.send("a", Ping(1), event_id="one")
    await world.settled()
    return three


@pytest.mark.parametrize(("call", "problem"), CALLS)
async def test_a_call_that_cannot_be_writes_nothing(world: World, call: Call, problem: str) -> None:
    three = await filled(world)
    before = tables(world)
    with pytest.raises((ServiceError, TypeError, ValueError), match=problem):
        await call(three)
    assert tables(world) == before


async def test_a_batch_that_grows_too_large_refuses_the_event_and_keeps_the_others(world: World) -> None:
    three = await filled(world)
    for _ in range(3):
        await three.pings.add("a", Ping(1))
    before = tables(world)
    with pytest.raises(ServiceError, match=f"the server keeps {LIMIT} at most"):
        await three.pings.add("a", Ping(1))
    assert tables(world) == before
    assert (await three.pings.flush("a")).event_count == 4


def text(json: str) -> instances_pb2.InstanceValue:
    return instances_pb2.InstanceValue(json=json)


async def test_calls_over_the_wire_that_cannot_be_write_nothing(world: World) -> None:
    await filled(world)
    before = tables(world)
    async with grpc.aio.insecure_channel(world.harness.address) as channel:
        start = recurring_service_pb2_grpc.RecurringServiceStub(channel).StartRecurring
        add = debounce_service_pb2_grpc.DebounceServiceStub(channel).AddEvent
        send = task_service_pb2_grpc.TaskServiceStub(channel).SendEvent
        requests: list[tuple[Any, Any]] = [
            (start, recurring_service_pb2.StartRecurringRequest),
            (add, debounce_service_pb2.AddEventRequest),
            (send, task_service_pb2.SendEventRequest),
        ]
        definitions = ("recurrings/refresh", "debounces/pings", "tasks/order")
        for (call, request), definition in zip(requests, definitions, strict=True):
            field = "input" if definition == "recurrings/refresh" else "event"
            name = f"{definition}/instances/b"
            for value in (None, text(""), text("[1"), text('"x"'), text('{"wrong": 1}'), text('{"number": "x"}')):
                code = (await refused(call(request(name=name, **({field: value} if value else {})))))[0]
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (definition, value)
            kind = definition.partition("/")[0]
            code = (await refused(call(request(name=f"{kind}/unknown/instances/b", **{field: text("{}")}))))[0]
            assert code is grpc.StatusCode.NOT_FOUND
            for wrong in ("", "b", f"{definition}/instances/", f"{definition}/b", f"{name}/c"):
                code = (await refused(call(request(name=wrong, **{field: text("{}")}))))[0]
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (definition, wrong)
    assert tables(world) == before


WHENS: list[tuple[Any, str]] = [
    (-1, "when: it must not be negative|when: "),
    (timedelta(seconds=-1), "when: "),
    (float("nan"), "when: "),
    ("soon", "when: "),
    (datetime(2026, 1, 1), "has no time zone"),  # noqa: DTZ001 - what is refused
]


@pytest.mark.parametrize(("when", "problem"), WHENS)
async def test_a_timer_that_cannot_be_fails_the_handler_and_sets_none(world: World, when: Any, problem: str) -> None:
    class Late(Order):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            ctx.state = Token(1)
            ctx.schedule(datetime(2027, 1, 1, tzinfo=UTC), name="good")
            with pytest.raises((ValueError, TypeError), match=problem):
                ctx.schedule(when)
            ctx.schedule(when)

    late = world.server.task("late", Late)
    await world.start()
    await late.send("a", Ping())
    status = await late.status("a")
    assert (status.status.name, status.timers, await late.get_state("a")) == ("FAILED", {}, None)


async def test_a_name_that_no_timer_can_have_is_refused_where_it_is_said(world: World) -> None:
    said: list[str] = []

    class Named(Order):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            for name in (5, "a\nb", "\ud800", "x" * 129):
                with pytest.raises((ValueError, TypeError), match="name: ") as caught:
                    ctx.schedule(1, name=name)  # type: ignore[arg-type]
                said.append(str(caught.value))
            ctx.state = Token(len(ctx.timers))

    named = world.server.task("named", Named)
    await world.start()
    await named.send("a", Ping())
    assert (said[0], set(said[1:])) == (
        "name: 5 is no text", {"name: it must have printable characters, and not more than 128 bytes"},
    )  # fmt: skip
    assert (await named.status("a")).timers == {}


DEFINITIONS: list[tuple[dict[str, Any], str]] = [
    ({"flush_after": -1}, "flush_after: it must be longer than zero"),
    ({"flush_after": 0}, "flush_after: it must be longer than zero"),
    ({"flush_after": "soon"}, "flush_after: "),
    ({"flush_after": 1, "timeout": 0}, "timeout: it must be longer than zero"),
    ({"flush_after": 1, "max_events": 0}, "max_events: 0 is not between 1 and 1,000,000"),
    ({"flush_after": 1, "max_events": True}, "max_events: True is not between 1 and 1,000,000"),
    ({"flush_after": 1, "max_events": 1_000_001}, "max_events: 1000001 is not between 1 and 1,000,000"),
    ({"flush_after": 1, "max_events": 2.5}, "max_events: "),
    ({"flush_after": 1, "mode": "leading"}, "neither 'window' nor 'trailing'"),
    ({"flush_after": 1, "max_wait": 5}, "with mode='trailing' alone"),
    ({"flush_after": 10, "mode": "trailing", "max_wait": 5}, "shorter than flush_after"),
    ({"flush_after": 1, "state": list}, "give on_event="),
    ({"flush_after": 1, "initial": 7}, "initial: it must be Ping"),
]


@pytest.mark.parametrize(("options", "problem"), DEFINITIONS)
def test_a_debounce_that_cannot_be_is_found_where_it_is_written(options: dict[str, Any], problem: str) -> None:
    server = Server(LabHandlers())

    async def pings(ctx: Any) -> None: ...

    with pytest.raises((ValueError, TypeError), match=problem):
        server.debounce("pings", **{"event": Ping, "state": Ping, **options})(pings)
    assert not server.definitions


def test_a_cron_that_never_fires_is_found_where_it_is_written() -> None:
    server = Server(LabHandlers())

    async def never(ctx: Any) -> None: ...

    for cron in ("0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 30 2 *", "", "@daily", "every monday", "* * * * * * *"):
        with pytest.raises(ValueError, match="cron: "):
            server.recurring("never", cron=cron, state=Token)(never)
    assert not server.definitions
