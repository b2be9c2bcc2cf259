"""A server that is deployed anew under operations that live, with contracts that a test makes up.

The contracts are made at run time, each in a descriptor pool of its own, so that one process can be both versions.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import LocalStore, Server
from longshore_server.store.database import StoreError
from longshore_server.testing import Harness
from tests.conftest import LabClock

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
