"""Deploys: a server on the data of an earlier one whose contract was another, through real restarts.

The contracts are made at run time, each in a descriptor pool of its own, so that one process can be both versions.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import LocalStore, NonDeterministicError, Server
from longshore_server.contract import compatibility
from longshore_server.store.database import StoreError
from longshore_server.testing import Harness
from tests.conftest import LabClock, reason_of_end, refused

TYPE = "shop.v1.Shop/Buy"
CONTRACT = """
name: "shop/v1/shop.proto" package: "shop.v1" syntax: "proto3"
dependency: "google/longrunning/operations.proto" dependency: "longshore/v1/annotations.proto"
dependency: "longshore/v1/channels.proto"
message_type {
  name: "Input"
  field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "amount" number: 12 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "items" number: 3 type: TYPE_MESSAGE type_name: ".shop.v1.Item" label: LABEL_REPEATED }
  field { name: "card" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "cash" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "notes" number: 6 type: TYPE_MESSAGE type_name: ".shop.v1.Input.NotesEntry" label: LABEL_REPEATED }
  oneof_decl { name: "payment" }
  nested_type {
    name: "NotesEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  }
}
message_type {
  name: "Item"
  field { name: "sku" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "color" number: 2 type: TYPE_ENUM type_name: ".shop.v1.Color" label: LABEL_OPTIONAL }
  field { name: "parts" number: 3 type: TYPE_MESSAGE type_name: ".shop.v1.Item" label: LABEL_REPEATED }
}
enum_type {
  name: "Color"
  value { name: "COLOR_UNSPECIFIED" number: 0 } value { name: "RED" number: 1 } value { name: "BLUE" number: 2 }
}
message_type { name: "Progress" field { name: "step" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Result" field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Approval" field { name: "by" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Unused" field { name: "by" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
service {
  name: "Shop"
  method {
    name: "Buy" input_type: ".shop.v1.Input" output_type: ".google.longrunning.Operation"
    options {
      [google.longrunning.operation_info] { response_type: "Result" metadata_type: "Progress" }
      [longshore.v1.operation] {
        control {} cancel {} cancellation: CANCELLATION_COOPERATIVE id_template: "buy-{key}"
        signals { name: "approve" payload_type: "Approval" }
      }
    }
  }
}
"""


def contract(*edits: tuple[str, str]) -> FileDescriptorProto:
    """The contract's file after textual edits, each of which must apply exactly once."""
    text = CONTRACT
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text_format.Parse(text, FileDescriptorProto(), descriptor_pool=descriptor_pool.Default())


def refusable(payload: str) -> tuple[str, str]:
    """A contract with one signal more."""
    return (SIGNAL, f'{SIGNAL} signals {{ name: "refuse" payload_type: "{payload}" }}')


class Deploy:
    """One version of the service, with these stores.

    Its handler waits for ever, unless it is told to return or to listen, or for approval where one pays in cash.
    """

    def __init__(
        self, file: FileDescriptorProto, stores: Iterable[str] = ("one", "two"), *, listen: bool = False
    ) -> None:
        pool = descriptor_pool.DescriptorPool()
        self._add(pool, file)
        self.service = pool.FindServiceByName("shop.v1.Shop")
        names = {method.name: method.name.lower() for method in self.service.methods}
        members = dict.fromkeys(names.values(), self._handle)
        kind = type("Shop", (), {"DESCRIPTOR": self.service, "OPERATIONS": names, "LINES": {}, **members})
        self.server = Server(kind(), stores={name: LocalStore() for name in stores})
        self.finish = False
        self.inputs: list[Any] = []
        self.listen = listen
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        """The payloads of signals."""

    def _add(self, pool: descriptor_pool.DescriptorPool, file: FileDescriptorProto) -> None:
        for name in file.dependency:
            needed = FileDescriptorProto()
            descriptor_pool.Default().FindFileByName(name).CopyToProto(needed)
            self._add(pool, needed)
        pool.Add(file)

    def message(self, name: str, **fields: Any) -> Any:
        pool = self.service.file.pool
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.v1.{name}"))(**fields)

    @property
    def _handle(self) -> Callable[..., Awaitable[Any]]:
        async def handle(_: Any, request: Any, op: Any) -> Any:
            self.inputs.append(request)
            if request.cash:
                await op.next_signal("approve", timeout=60)
            elif self.listen:
                async for signal in op.signals():
                    self.heard.put_nowait(signal.payload)
            elif not self.finish:
                await asyncio.Event().wait()
            return self.message("Result", text="bought")

        return handle


class Shop:
    """One data directory and the versions that are deployed on it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.harness: Harness | None = None
        self.deployed: Deploy

    async def deploy(
        self, *edits: tuple[str, str], crash: bool = False, stores: Iterable[str] = ("one", "two"), listen: bool = False
    ) -> Deploy:
        """Stop what runs and start a version. Raises what its start raises."""
        await self.stop(crash=crash)
        self.deployed = Deploy(contract(*edits), stores, listen=listen)
        self.harness = Harness(self.deployed.server, self.data, clock=LabClock())
        try:
            await self.harness.start()
        except BaseException:
            self.harness = None
            raise
        self.channel = grpc.aio.insecure_channel(self.harness.address)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(self.channel)
        return self.deployed

    async def stop(self, *, crash: bool = False) -> None:
        if self.harness is not None:
            await self.channel.close()
            await (self.harness.crash() if crash else self.harness.stop())
            self.harness = None

    async def refusal(self, *edits: tuple[str, str], **options: Any) -> str:
        """Why this version does not start on the data."""
        with pytest.raises(StoreError) as caught:
            await self.deploy(*edits, **options)
        return str(caught.value).replace(str(self.data), "DATA")

    async def buy(self, key: str = "a", **fields: Any) -> str:
        """Start an operation; its name."""
        packed = AnyMessage()
        packed.Pack(self.deployed.message("Input", key=key, **fields))
        return str((await self.operations.Start(pb.StartRequest(type=TYPE, input=packed))).operation.name)

    async def bring(self, *, consumed: bool) -> str:
        """Start an operation, and send it a signal that only the next version has brought; its name."""
        name = await self.buy()
        await self.deploy(refusable("Approval"), listen=consumed)
        packed = AnyMessage()
        packed.Pack(self.deployed.message("Approval", by="ada"))
        await self.operations.Signal(pb.SignalRequest(name=name, signal="refuse", payload=packed))
        if consumed:
            await self.deployed.heard.get()
        return name

    async def approve(self, name: str) -> None:
        await self.operations.Signal(pb.SignalRequest(name=name, signal="approve"))

    def stored(self) -> list[bytes]:
        """The contracts that are stored."""
        with closing(sqlite3.connect(self.data / "longshore.db")) as database:
            return [row[0] for row in database.execute("SELECT descriptors FROM contracts ORDER BY id")]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path / "data")
    await made.deploy()
    yield made
    await made.stop()


def refusal_of(problem: str, count: str = "1 operation") -> str:
    return (
        "DATA/longshore.db: the contract has changed under operations that have not ended:\n"
        f"  {count} of {TYPE}: {problem}\n"
        "Change the contract as it says, or serve the one that they were started under until they have ended, or "
        f"cancel them there (longshore ls --filter 'type=\"{TYPE}\"')"
    )


AMOUNT = 'field { name: "amount" number: 12 type: TYPE_INT32 label: LABEL_OPTIONAL }'
BLUE = 'value { name: "BLUE" number: 2 }'
SIGNAL = 'signals { name: "approve" payload_type: "Approval" }'


def kind(where: str, old: str, new: str) -> str:
    return f"{where} was {old}, and is {new}; make it {old} again, or add the new one under another name and number"


def root(role: str, old: str, new: str) -> str:
    return f"{role} was {old}, and is {new}; declare {old} again, or another method with {new}"


def template(old: str, new: str) -> str:
    return (
        f"option id_template was {old!r}, and is {new!r}: names would no longer tell which operation is meant; "
        "set it back, or declare another method with the new one"
    )


def moved(where: str, old: str, new: str) -> str:
    return f"{where} was {old}, and is {new}; put it back, or add the new one under another name and number"


GONE = "shop.v1.Input.amount (number 12) is gone; give it back, or write `reserved 12;` where its data may be forgotten"
RENAMED = (
    "shop.v1.Input.amount (number 12) is now called 'total'; call it 'amount' again, or give 'total' a number of its "
    "own"
)
UNSIGNALLED = (
    "signal 'approve' is gone: operations that wait for it, or have had it, would fail; declare it again until they "
    "have ended"
)
ITEMS = 'type_name: ".shop.v1.Item" label: LABEL_REPEATED }\n  field { name: "card"'
CASH = 'name: "cash" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL oneof_index: 0'
CHANNELS = 'dependency: "longshore/v1/channels.proto"'
EMPTY = "google.protobuf.Empty"
INCOMPATIBLE: dict[str, tuple[list[tuple[str, str]], str]] = {
    "a renamed field": ([('name: "amount"', 'name: "total"')], RENAMED),
    "a changed type": (
        [(AMOUNT, AMOUNT.replace("INT32", "INT64"))], kind("shop.v1.Input.amount", "int32", "int64"),
    ),
    "a changed label": (
        [(AMOUNT, AMOUNT.replace("OPTIONAL", "REPEATED"))], kind("shop.v1.Input.amount", "int32", "repeated int32"),
    ),
    "another message in a field": (
        [(ITEMS, ITEMS.replace("Item", "Approval"))],
        kind("shop.v1.Input.items", "repeated shop.v1.Item", "repeated shop.v1.Approval"),
    ),
    "a removed field": ([(AMOUNT, "")], GONE),
    "a removed field while other numbers are reserved": (
        [(AMOUNT, "reserved_range { start: 7 end: 12 } reserved_range { start: 13 end: 14 }")], GONE,
    ),
    "a field with another number": (
        [(AMOUNT, AMOUNT.replace("number: 12", "number: 9"))],
        "shop.v1.Input.amount had number 12, and has 9; numbers are for ever: set it back",
    ),
    "a field that left its oneof": (
        [(CASH, CASH.removesuffix(" oneof_index: 0"))],
        moved("shop.v1.Input.cash", "in oneof 'payment'", "in no oneof"),
    ),
    "a field that joined a oneof": (
        [(AMOUNT, AMOUNT.replace(" }", " oneof_index: 0 }"))],
        moved("shop.v1.Input.amount", "in no oneof", "in oneof 'payment'"),
    ),
    "a field deep inside": (
        [('name: "sku"', 'name: "code"')],
        "shop.v1.Item.sku (number 1) is now called 'code'; call it 'sku' again, or give 'code' a number of its own",
    ),
    "a map of something else": (
        [('name: "value" number: 2 type: TYPE_STRING', 'name: "value" number: 2 type: TYPE_BYTES')],
        kind("shop.v1.Input.NotesEntry.value", "string", "bytes"),
    ),
    "an enum value that is gone": (
        [(BLUE, "")],
        "shop.v1.Color.BLUE (2) is gone; give it back, or write `reserved 2;` where it may be forgotten",
    ),
    "an enum value with another number": (
        [(BLUE, BLUE.replace("2", "3"))],
        "shop.v1.Color.BLUE was 2, and is 3; numbers are for ever: set it back",
    ),
    "an enum value with another name": (
        [(BLUE, BLUE.replace("BLUE", "GREEN"))],
        "shop.v1.Color.BLUE (2) is now called 'GREEN'; call it 'BLUE' again, or give the new value a number of its own",
    ),
    "another input": (
        [('input_type: ".shop.v1.Input"', 'input_type: ".shop.v1.Item"'), ("buy-{key}", "buy-{sku}")],
        root("the input", "shop.v1.Input", "shop.v1.Item"),
    ),
    "another progress": (
        [('metadata_type: "Progress"', 'metadata_type: "Approval"')],
        root("the progress", "shop.v1.Progress", "shop.v1.Approval"),
    ),
    "another result": (
        [('response_type: "Result"', f'response_type: "{EMPTY}"'),
         (CHANNELS, f'{CHANNELS} dependency: "google/protobuf/empty.proto"')],
        root("the result", "shop.v1.Result", EMPTY),
    ),
    "another output": (
        [("control {} ", 'control {} output_type: "Approval" ')],
        root("the output", "longshore.v1.DiagnosticOutput", "shop.v1.Approval"),
    ),
    "another payload of a signal": (
        [('payload_type: "Approval"', 'payload_type: "Unused"')],
        root("the payload of signal 'approve'", "shop.v1.Approval", "shop.v1.Unused"),
    ),
    "a removed signal": ([(SIGNAL, "")], UNSIGNALLED),
    "another template": ([("buy-{key}", "purchase-{key}")], template("buy-{key}", "purchase-{key}")),
    "no template": ([('id_template: "buy-{key}"', "")], template("buy-{key}", "absent")),
}  # fmt: skip


@pytest.mark.parametrize("case", INCOMPATIBLE)
async def test_a_contract_that_has_changed_under_live_operations_is_refused(shop: Shop, case: str) -> None:
    edits, problem = INCOMPATIBLE[case]
    await shop.buy()
    found = await shop.refusal(*edits)
    if case == "another input":
        # The template goes with it.
        found = found.replace(f"  1 operation of {TYPE}: {template('buy-{key}', 'buy-{sku}')}\n", "")
    assert found == refusal_of(problem)
    # A refused start has changed nothing: the version that they were started under goes on.
    version = await shop.deploy()
    version.finish = True
    assert len(shop.stored()) == 1


LOOK = """
method {
  name: "Look" input_type: ".shop.v1.Unused" output_type: ".google.longrunning.Operation"
  options {
    [google.longrunning.operation_info] { response_type: "Result" metadata_type: "Progress" }
    [longshore.v1.operation] {}
  }
}
"""
COMPATIBLE: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "a new field": [(AMOUNT, AMOUNT + ' field { name: "tip" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }')],
    "a new message": [('message_type { name: "Unused"', 'message_type { name: "More" } message_type { name: "Unused"')],
    "a new enum value": [(BLUE, BLUE + ' value { name: "GREEN" number: 3 }')],
    "a second name for an enum value": [
        ('name: "Color"', 'name: "Color" options { allow_alias: true }'),
        (BLUE, BLUE + ' value { name: "AZURE" number: 2 }'),
    ],
    "a removed field whose number is reserved": [(AMOUNT, "reserved_range { start: 12 end: 13 }")],
    "a removed enum value whose number is reserved": [(BLUE, "reserved_range { start: 2 end: 2 }")],
    "a message that nobody uses is gone": [
        ('message_type { name: "Unused" field { name: "by" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }', ""),
    ],
    "explicit presence": [
        (AMOUNT, AMOUNT.replace(" }", " oneof_index: 1 proto3_optional: true }")),
        ('oneof_decl { name: "payment" }', 'oneof_decl { name: "payment" } oneof_decl { name: "_amount" }'),
    ],
    "new options": [("control {} ", "control {} timeout { seconds: 60 } max_crashes: 3 ")],
    "a new signal": [(SIGNAL, SIGNAL + ' signals { name: "refuse" payload_type: "Approval" }')],
    "a new method": [
        ('service {\n  name: "Shop"\n', f'service {{ name: "Shop" {LOOK}'),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", COMPATIBLE)
async def test_a_contract_that_still_fits_goes_on(shop: Shop, case: str) -> None:
    name = await shop.buy(amount=7, items=[{"sku": "A1", "color": 2}], notes={"a": "b"})
    deployed = Deploy(contract(*COMPATIBLE[case]))
    deployed.finish = True
    await shop.stop(crash=True)
    shop.harness = Harness(deployed.server, shop.data)
    await shop.harness.start()
    async with grpc.aio.insecure_channel(shop.harness.address) as shop.channel:
        operations = operations_service_pb2_grpc.OperationsServiceStub(shop.channel)
        ended = await operations.Wait(pb.WaitRequest(name=name))
    assert ended.state == ended.STATE_COMPLETED
    (request,) = deployed.inputs
    assert (request.key, request.items[0].sku, request.notes["a"]) == ("a", "A1", "b")


async def test_a_signal_stays_until_those_that_may_wait_for_it_have_ended(shop: Shop) -> None:
    names = [await shop.buy(key, cash=True) for key in "ab"]
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    await clock.armed(60, len(names))
    assert await shop.refusal((SIGNAL, ""), crash=True) == refusal_of(UNSIGNALLED, "2 operations")
    await shop.deploy()
    for name in names:
        await shop.approve(name)
        ended = await shop.operations.Wait(pb.WaitRequest(name=name))
        assert ended.state == ended.STATE_COMPLETED
    await shop.deploy((SIGNAL, ""))


async def test_a_removed_method_is_refused_with_counts(shop: Shop) -> None:
    for key in "abc":
        await shop.buy(key)
    found = await shop.refusal(('    name: "Buy"', '    name: "Purchase"'))
    assert found == (
        f"operations of types that this server does not serve have not ended: 3 of {TYPE}. Serve the types again until "
        "they have, or cancel them with the version that does"
    )


async def test_every_version_with_live_operations_is_compared(shop: Shop) -> None:
    """The oldest one has a field that the second has reserved, and that nobody may give another meaning."""
    old = await shop.buy("old", amount=1)
    await shop.deploy((AMOUNT, "reserved_range { start: 12 end: 13 }"))
    await shop.buy("new")
    assert len(shop.stored()) == 2
    renamed = AMOUNT.replace("amount", "total")
    assert await shop.refusal((AMOUNT, renamed)) == refusal_of(RENAMED)
    version = await shop.deploy((AMOUNT, "reserved_range { start: 12 end: 13 }"))
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    assert clock.timers(10) == 0
    await shop.operations.Cancel(pb.CancelRequest(name=old))
    # The attempt that was begun again by the start may still be reading its input, and has its grace only then.
    await clock.armed(10)
    clock.advance(10)
    await shop.operations.Wait(pb.WaitRequest(name=old))
    await shop.deploy((AMOUNT, renamed))
    assert version is not shop.deployed


async def test_of_two_deploys_each_operation_is_compared_with_what_it_began_under(shop: Shop) -> None:
    tip = 'field { name: "tip" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }'
    tipped, (_, reserved) = (AMOUNT, f"{AMOUNT} {tip}"), (AMOUNT, "reserved_range { start: 7 end: 8 }")
    await shop.buy("first", amount=1)
    await shop.deploy(tipped, crash=True)
    await shop.buy("second", amount=2, tip=1)
    await shop.buy("third", amount=3, tip=1)
    where = "shop.v1.Input.tip"
    assert await shop.refusal((AMOUNT, f"{AMOUNT} {tip.replace('tip', 'bonus')}"), crash=True) == refusal_of(
        f"{where} (number 7) is now called 'bonus'; call it 'tip' again, or give 'bonus' a number of its own",
        "2 operations",
    )
    assert await shop.refusal((AMOUNT, f"{AMOUNT} {tip.replace('INT32', 'INT64')}")) == refusal_of(
        kind(where, "int32", "int64"), "2 operations"
    )
    assert await shop.refusal() == refusal_of(
        f"{where} (number 7) is gone; give it back, or write `reserved 7;` where its data may be forgotten",
        "2 operations",
    )
    assert await shop.refusal((AMOUNT, f"{AMOUNT.replace('INT32', 'INT64')} {tip}")) == refusal_of(
        kind("shop.v1.Input.amount", "int32", "int64"), "3 operations"
    )
    found = await shop.refusal((AMOUNT, f"{AMOUNT} {tip}"), ('    name: "Buy"', '    name: "Purchase"'))
    assert f"have not ended: 3 of {TYPE}." in found
    await shop.deploy((AMOUNT, f"{AMOUNT} {reserved}"))
    assert len(shop.stored()) == 3


async def test_a_signal_that_a_deploy_in_between_has_brought_stays_while_it_waits(shop: Shop) -> None:
    """The operation was started under a contract that had not heard of it."""
    added = refusable("Approval")
    name = await shop.buy()
    await shop.deploy(added)
    await shop.buy("later")
    for _ in range(2):
        await shop.operations.Signal(pb.SignalRequest(name=name, signal="refuse"))
    gone = UNSIGNALLED.replace("approve", "refuse")
    assert await shop.refusal() == refusal_of(gone, "2 operations")
    await shop.deploy(added)
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    await shop.operations.Cancel(pb.CancelRequest(name="operations/buy-later"))
    await clock.armed(10)
    clock.advance(10)
    await shop.operations.Wait(pb.WaitRequest(name="operations/buy-later"))
    assert await shop.refusal() == refusal_of(gone)


UNREADABLE = f"signal 'refuse' cannot be read any more: a shop.v1.Approval was sent, and {TYPE} declares "
RETYPED = root("the payload of signal 'refuse'", "shop.v1.Approval", "shop.v1.Unused")


@pytest.mark.parametrize("consumed", [False, True])
async def test_a_signal_that_a_deploy_in_between_has_brought_stays_what_it_is(shop: Shop, consumed: bool) -> None:
    """Also once it is consumed: a re-run reads it again."""
    await shop.bring(consumed=consumed)
    assert await shop.refusal(refusable("Unused"), crash=True) == refusal_of(RETYPED)
    assert await shop.refusal() == refusal_of(UNSIGNALLED.replace("approve", "refuse"))
    version = await shop.deploy(refusable("Approval"), listen=True)
    assert await version.heard.get() == version.message("Approval", by="ada")


@pytest.mark.parametrize("consumed", [False, True])
@pytest.mark.parametrize(
    ("edits", "now"),
    [([refusable("Unused")], "shop.v1.Unused for it"), ([], "no signal of this name")],
    ids=["another type", "gone"],
)
async def test_a_signal_that_cannot_be_read_any_more_is_given_to_nobody(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, edits: list[tuple[str, str]], now: str, consumed: bool
) -> None:
    """Should a server have started all the same."""
    name = await shop.bring(consumed=consumed)
    monkeypatch.setattr(compatibility, "compare_signal", lambda *_: None)
    version = await shop.deploy(*edits, listen=True)
    await shop.harness.settle()  # type: ignore[union-attr]
    assert version.heard.empty()
    ended = await shop.operations.Wait(pb.WaitRequest(name=name))
    assert (ended.state, reason_of_end(ended)) == (ended.STATE_FAILED, "NON_DETERMINISTIC")
    assert ended.error.message == f"{UNREADABLE}{now} now."


async def test_a_signal_that_cannot_be_read_any_more_is_given_to_no_controller(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await shop.bring(consumed=False)
    monkeypatch.setattr(compatibility, "compare_signal", lambda *_: None)
    control = await (await shop.deploy(refusable("Unused"))).server.operations.control(name)
    with pytest.raises(NonDeterministicError, match=re.escape(f"{UNREADABLE}shop.v1.Unused for it now")):
        await anext(control.signals())


async def test_operations_that_have_ended_refuse_nothing(shop: Shop) -> None:
    shop.deployed.finish = True
    await shop.operations.Wait(pb.WaitRequest(name=await shop.buy()))
    await shop.deploy(*INCOMPATIBLE["a renamed field"][0])
    assert len(shop.stored()) == 2


async def test_a_retry_of_an_input_that_means_something_else_today_is_refused(shop: Shop) -> None:
    shop.deployed.finish = True
    first = await shop.operations.Wait(pb.WaitRequest(name=await shop.buy(amount=3)))
    name = f"operations/{first.uid}"
    await shop.deploy(*COMPATIBLE["a new field"])
    shop.deployed.finish = True
    again = await shop.operations.Retry(pb.RetryRequest(name=name))
    await shop.operations.Wait(pb.WaitRequest(name=again.operation.name))
    await shop.deploy(*INCOMPATIBLE["a changed type"][0])
    for uid in (first.uid, again.operation.uid):
        retry = shop.operations.Retry(pb.RetryRequest(name=f"operations/{uid}"))
        code, reason, status = await refused(retry)
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WRONG_INPUT_TYPE")
        assert status.message == (
            "name: its input was written under another contract: shop.v1.Input.amount was int32, and is int64; "
            "start a new one"
        )
    # What is another message only for what it sends back can be started again.
    await shop.deploy(*INCOMPATIBLE["another progress"][0])
    await shop.operations.Retry(pb.RetryRequest(name=name))


async def test_a_version_that_no_operation_refers_to_is_dropped(shop: Shop) -> None:
    shop.deployed.finish = True
    name = await shop.buy()
    await shop.operations.Wait(pb.WaitRequest(name=name))
    (first,) = shop.stored()
    changed = COMPATIBLE["a new field"]
    await shop.deploy(*changed)
    kept, second = shop.stored()
    assert kept == first
    await shop.operations.Delete(pb.DeleteRequest(name=name))
    assert len(shop.stored()) == 2
    await shop.deploy(*changed)
    assert shop.stored() == [second]


async def test_comments_and_other_methods_make_no_new_version(shop: Shop) -> None:
    await shop.buy()
    await shop.deploy(*COMPATIBLE["a message that nobody uses is gone"])
    assert len(shop.stored()) == 1


async def test_what_is_stored_is_a_contract_that_anybody_can_read(shop: Shop) -> None:
    """A set of files that stands for itself: in dependency order, with all that the messages are made of."""
    (stored,) = shop.stored()
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(stored).file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.v1.Input"))(key="a", amount=3)
    assert message == message.FromString(shop.deployed.message("Input", key="a", amount=3).SerializeToString())
    assert pool.FindMethodByName("shop.v1.Shop.Buy").input_type.full_name == "shop.v1.Input"
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("shop.v1.Unused")


def test_the_fields_of_a_descriptor_that_are_compared_are_all_that_change_meaning() -> None:
    """A new field of FieldDescriptorProto must be looked at before it can be ignored."""
    compared = {"name", "number", "label", "type", "type_name", "default_value", "oneof_index", "proto3_optional"}
    harmless = {"extendee", "json_name", "options"}
    assert {field.name for field in descriptor_pb2.FieldDescriptorProto.DESCRIPTOR.fields} == compared | harmless
