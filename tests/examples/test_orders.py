"""`examples/orders` in a real process: its whole contract, and orders that somebody has to approve. And what goes on
behind it, by a clock that stands still."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from acme.orders.v1 import orders_pb2_grpc
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import (
    ApproveOrder,
    OrderItem,
    ProcessOrderProgress,
    ProcessOrderRequest,
    ProcessOrderResult,
)
from google.protobuf import text_format

from longshore.v1 import annotations_pb2, operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_client import OperationFailed
from longshore_server import InstanceStatus
from longshore_server.testing import Harness
from tests.conftest import reason_of_end
from tests.faults.process import Caller, ServerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders"
TYPE = "acme.orders.v1.OrdersService/Process"
CONTRACT = """
call { all_of: "orders.write" } observe { all_of: "orders.read" }
cancel { all_of: "orders.write" } control { all_of: "orders.write" }
cancellation: CANCELLATION_COOPERATIVE
signals { name: "approve" payload_type: "ApproveOrder" description: "Lets an order with restricted goods go on." }
timeout { seconds: 3600 } retention { seconds: 604800 }
id_template: "orders-process-{order_id}" on_terminal: ON_TERMINAL_RETURN
"""
State = operation_pb2.OperationSnapshot.State


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    found = ServerProcess(tmp_path, service=EXAMPLE / "service.py", warm=True)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


async def order(caller: Caller, *skus: str) -> str:
    """Start an order of one piece each by its own RPC, and return its name."""
    stub: Any = orders_pb2_grpc.OrdersServiceStub(caller.channel)
    items = [OrderItem(sku=sku, quantity=1) for sku in skus]
    request = ProcessOrderRequest(order_id="ord_123", items=items, amount=4200)
    return str((await stub.Process(request)).name)


async def reached(caller: Caller, name: str, step: str) -> None:
    """Return once the order is at a step."""
    call = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0), wait_for_ready=True)
    async for message in call:
        progress = ProcessOrderProgress()
        if message.event.progress.value.Unpack(progress) and progress.step == step:
            call.cancel()
            return
    raise AssertionError(f"{name} ended before {step}")


async def approve(caller: Caller, name: str) -> pb.SignalResponse:
    request = pb.SignalRequest(name=name, signal="approve", signal_id="only")
    request.payload.Pack(ApproveOrder(by="ada"))
    response: pb.SignalResponse = await caller.operations.Signal(request, wait_for_ready=True)
    return response


async def test_its_contract_declares_everything(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        type = await caller.operations.GetType(pb.GetTypeRequest(type=TYPE))
    assert type.contract == text_format.Parse(CONTRACT, annotations_pb2.OperationContract())


async def test_an_order_is_kept_for_a_week_and_ends_within_an_hour(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        snapshot = await caller.end(await order(caller, "kettle"))
    result = ProcessOrderResult()
    assert snapshot.result.Unpack(result), snapshot
    assert result == ProcessOrderResult(order_id="ord_123", status="ready_to_ship")
    assert snapshot.deadline.ToSeconds() - snapshot.create_time.ToSeconds() == 3600
    assert snapshot.expire_time.ToSeconds() - snapshot.end_time.ToSeconds() == 604_800


async def test_restricted_goods_wait_for_an_approval_across_a_crash(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, "kettle", "restricted-flares")
        await reached(caller, name, "review")
        await server.kill()
        await server.start()
        assert not (await approve(caller, name)).duplicate
        snapshot = await caller.end(name)
        assert (snapshot.state, snapshot.attempt) == (State.STATE_COMPLETED, 2)
        assert not snapshot.pending_signals


async def test_one_that_is_cancelled_in_time_is_not_charged(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        with closing(sqlite3.connect(server.data / "ledger.db", isolation_level=None)) as ledger:
            ledger.execute("BEGIN IMMEDIATE")  # nothing is reserved yet, however long the request takes
            name = await order(caller, "kettle")
            await reached(caller, name, "reserve")
            await caller.operations.Cancel(pb.CancelRequest(name=name, reason="the customer called"))
            ledger.execute("COMMIT")
        snapshot = await caller.end(name)
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "the customer called")
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        assert ledger.execute("SELECT kind FROM effects WHERE kind NOT IN ('reserve', 'exchange')").fetchall() == []


async def test_one_that_waits_can_be_cancelled(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, "restricted-flares")
        await reached(caller, name, "review")
        asked = await caller.operations.Cancel(pb.CancelRequest(name=name, reason="too slow"))
        assert asked.state == State.STATE_CANCELLING
        # Its handler does not look at the request: a stop of the server is the end of its grace.
        await server.kill()
        await server.start()
        snapshot = await caller.end(name)
        assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_CANCELLED, "CANCELLED")


class World:
    """The outside world, without its delays."""

    def __init__(self) -> None:
        self.effects: dict[tuple[str, str], str] = {}
        """Their kinds, by key and subject."""
        self.asked = 0
        """How often somebody asked for some."""
        self.breaking = ""
        """At which kind the line breaks once, after the effect."""

    async def enter(self, key: str, kind: str, *subjects: str) -> None:
        assert len(set(subjects)) == len(subjects), subjects
        self.asked += 1
        for subject in subjects:
            self.effects[key, subject] = kind
        if kind == self.breaking:
            self.breaking = ""
            raise ConnectionError

    @property
    def made(self) -> Counter[tuple[str, str]]:
        """How often each kind of effect was made, on which subject."""
        return Counter((kind, subject) for (_, subject), kind in self.effects.items())


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The example's module, under a name that no other example has."""
    spec = importlib.util.spec_from_file_location("orders_example", EXAMPLE / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def shop(example: ModuleType, world: World, tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(example.server, tmp_path, services=world).serve() as harness:
        yield harness


def request(order_id: str, *skus: str, amount: int = 4200) -> ProcessOrderRequest:
    return ProcessOrderRequest(order_id=order_id, items=[OrderItem(sku=sku, quantity=1) for sku in skus], amount=amount)


async def test_an_order_reserves_each_article_once_and_the_partner_hears_of_it(shop: Harness, world: World) -> None:
    orders = shop.client(OrdersClient)
    await orders.process.run(request("web-1", "kettle", "kettle", "lantern"))
    await orders.process.run(request("web-2", "kettle"))
    await shop.advance(seconds=1)
    assert world.made == Counter(
        [("reserve", f"web-{line}") for line in ("1/kettle", "1/lantern", "2/kettle")]
        + [(kind, f"web-{order}") for order in "12" for kind in ("charge", "ship", "webhook")]
    )
    assert len({key for (key, _), kind in world.effects.items() if kind == "webhook"}) == 1, "one batch"


async def test_what_cannot_be_ordered_reserves_nothing(shop: Harness, world: World) -> None:
    with pytest.raises(OperationFailed, match="no longer made"):
        await shop.client(OrdersClient).process.run(request("web-1", "kettle", "discontinued-astrolabe"))
    assert not world.made


async def test_a_business_is_reminded_twice_and_then_sued(shop: Harness, world: World, example: ModuleType) -> None:
    await shop.client(OrdersClient).process.run(request("B2B.1"))
    seen = []
    for _ in range(4):
        await shop.advance(7 * example.DAY)
        seen.append([kind for kind, _ in world.made if kind.startswith("reminder") or kind == "lawsuit"])
    reminders = ["reminder 1", "reminder 2"]
    assert seen == [reminders[:1], reminders, [*reminders, "lawsuit"], [*reminders, "lawsuit"]]
    assert (await example.payments.status("B2B.1")).stop_reason == "with the lawyers"


async def test_a_business_that_pays_is_left_alone(shop: Harness, world: World, example: ModuleType) -> None:
    await shop.client(OrdersClient).process.run(request("B2B.2", amount=1_000_000))
    await shop.advance(7 * example.DAY)
    assert (await example.payments.send("B2B.2", example.Paid(1_000_000))).status is InstanceStatus.TERMINATED
    await shop.advance(21 * example.DAY)
    assert [kind for kind, _ in world.made if kind != "webhook"] == ["invoice", "ship", "reminder 1"]


async def test_each_token_is_exchanged_once_and_a_day_later_the_next(
    shop: Harness, world: World, example: ModuleType
) -> None:
    await example.partner_token.start(example.PARTNER, example.Token(1))
    await shop.advance(2 * example.DAY)
    assert world.made == Counter(("exchange", f"token {number}") for number in (1, 2, 3))
    assert await example.partner_token.get_state(example.PARTNER) == example.Token(4)


@pytest.mark.parametrize("kind", ["reserve", "exchange", "webhook", "reminder 1", "lawsuit"])
async def test_what_failed_after_its_effect_does_not_have_it_twice(
    shop: Harness, world: World, example: ModuleType, kind: str
) -> None:
    world.breaking = kind
    await example.partner_token.start(example.PARTNER, example.Token(1))
    operation = await shop.client(OrdersClient).process(request("B2B.3", "kettle"))
    await shop.advance(120)
    await operation.wait()
    assert set(world.made.values()) == {1}
    assert world.asked == len(world.effects) + 1


@pytest.mark.parametrize("commits", range(1, 24))
async def test_nothing_is_done_twice_whichever_change_a_crash_follows(
    shop: Harness, world: World, example: ModuleType, commits: int
) -> None:
    await example.partner_token.start(example.PARTNER, example.Token(1))
    crash = shop.crash_after(commits=commits)
    operation = await shop.client(OrdersClient).process(request("B2B.3", "kettle", "lantern"))
    await shop.advance(21 * example.DAY)
    await operation.wait()
    assert crash.happened
    assert set(world.made.values()) == {1}
    assert {kind for kind, _ in world.made} == {
        "exchange", "reserve", "invoice", "ship", "webhook", "reminder 1", "reminder 2", "lawsuit"
    }  # fmt: skip
