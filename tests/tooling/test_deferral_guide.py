"""docs/guides/deferral.md, block after block: its service served, its controls driving what the test starts."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from acme.approvals.v1 import approvals_pb2_grpc
from acme.approvals.v1.approvals_pb2 import ApproveOrder, OrderRequest, OrderResult

from longshore.v1 import operation_pb2, operations_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationControl, Server
from longshore_server.testing import Harness, ManualClock
from tests.conftest import reason_of_end

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "deferral.md"
ADDRESS = "localhost:50051"
State = operation_pb2.OperationSnapshot.State


class Guide:
    """A module that the guide's blocks are run in, one after the other."""

    def __init__(self) -> None:
        text = GUIDE.read_text("utf-8")
        found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.blocks = [(text.count("\n", 0, match.start(1)), match[1]) for match in found]
        self.module = types.ModuleType("guide")

    def __getattr__(self, name: str) -> Any:
        return vars(self.module)[name]

    async def run(self, marker: str, address: str = ADDRESS) -> None:
        """Run the one block that holds `marker`. A trace shows the guide's lines."""
        ((line, block),) = [entry for entry in self.blocks if marker in entry[1]]
        source = "\n" * line + block.replace(ADDRESS, address)
        code = compile(source, GUIDE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(code, vars(self.module))
        if inspect.isawaitable(done):
            await done


class Service:
    """The guide's service, served, and a caller's stubs to it."""

    def __init__(self, harness: Harness, channel: grpc.aio.Channel) -> None:
        self.address = harness.address
        self.operations: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self.approvals: Any = approvals_pb2_grpc.ApprovalsServiceStub(channel)

    async def order(self, id: str, **fields: Any) -> str:
        return str((await self.approvals.Order(OrderRequest(order_id=id, **fields))).name)

    async def end(self, name: str) -> Any:
        return await self.operations.Wait(pb.WaitRequest(name=name))

    async def result(self, name: str) -> OrderResult:
        snapshot, result = await self.end(name), OrderResult()
        assert snapshot.result.Unpack(result), snapshot
        return result


async def served(server: Server, data: Path) -> AsyncIterator[Service]:
    async with (
        Harness(server, data, clock=ManualClock()).serve() as harness,
        grpc.aio.insecure_channel(harness.address) as channel,
    ):
        yield Service(harness, channel)


@pytest.fixture
async def guide() -> Guide:
    found = Guide()
    await found.run("class Approvals")
    return found


@pytest.fixture
async def service(guide: Guide, tmp_path: Path) -> AsyncIterator[Service]:
    async for found in served(guide.server, tmp_path):
        yield found


async def test_control_in_the_service_and_from_another_process(guide: Guide, service: Service) -> None:
    first, second, third = [await service.order(id) for id in ("1", "2", "7")]
    await guide.run("ApprovalsService.order)\nawait control.progress")
    assert (await service.result(first)).approved_by == "the board"
    # Blocking stubs, as in a process of their own.
    await asyncio.to_thread(lambda: asyncio.run(guide.run("import OperationControlServiceStub", service.address)))
    assert (await service.result(second)).approved_by == "grace"
    await asyncio.to_thread(lambda: asyncio.run(guide.run("AttachRequest(", service.address)))
    assert (await service.result(third)).approved_by == "grace"


async def test_cancel_requests(guide: Guide, service: Service) -> None:
    name = await service.order("3")
    vars(guide.module)["control"] = await guide.server.operations.control(name)
    answering = asyncio.ensure_future(guide.run("acknowledge_cancel()"))
    await service.operations.Cancel(pb.CancelRequest(name=name))
    await answering
    assert (await service.end(name)).state == State.STATE_CANCELLED


async def test_signals(guide: Guide, service: Service) -> None:
    name = await service.order("4")
    vars(guide.module)["control"] = await guide.server.operations.control(name)
    deciding = asyncio.ensure_future(guide.run("control.signals("))
    request = pb.SignalRequest(name=name, signal="approve")
    request.payload.Pack(ApproveOrder(by="ada"))
    await service.operations.Signal(request)
    await deciding
    assert (await service.result(name)).approved_by == "ada"


async def test_attach(guide: Guide, tmp_path: Path) -> None:
    await guide.run("op.attach(")
    async for service in served(Server(guide.Fulfilment()), tmp_path):
        assert (await service.result(await service.order("5"))).order_id == "5"
        failed = await service.end(await service.order("minus", amount=-1))
        assert reason_of_end(failed) == "INVALID_AMOUNT"


async def test_accept(guide: Guide, service: Service) -> None:
    await guide.run("operations.accept(")
    assert guide.control.created
    snapshot = await service.end("operations/approvals-order-6")
    assert (snapshot.owner, snapshot.state) == ("ada", State.STATE_COMPLETED)


def test_every_block_has_its_part_in_these_tests() -> None:
    assert len(Guide().blocks) == 8


def test_the_table_names_what_there_is() -> None:
    table = GUIDE.read_text("utf-8").partition("|---|---|")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)(?:\(.*?\))?`", table))
    members = {name for name in vars(OperationControl) if not name.startswith("_")} | {"cancelled", "stopping"}
    assert members - {"uid", "type_name"} <= named
