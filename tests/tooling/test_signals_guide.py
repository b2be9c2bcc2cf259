"""docs/guides/signals.md, block after block: its service served, its callers sending."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from acme.approvals.v1 import approvals_pb2_grpc
from acme.approvals.v1.approvals_pb2 import ApproveOrder, OrderRequest, OrderResult

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import OperationEndedError, Server
from longshore_server.lifecycle import State
from longshore_server.testing import Harness
from tests.conftest import LabClock, reason_of_end

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "signals.md"
CONTRACT = ROOT / "examples" / "approvals" / "protos" / "acme" / "approvals" / "v1" / "approvals.proto"
ADDRESS = "localhost:50051"


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks() -> list[Block]:
    text = GUIDE.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2))) for match in found]


DECLARE, HANDLER, ITERATE, WITHDRAW, CLIENT, TERMINAL, HOST = blocks()
MODULE = types.ModuleType("guide")


async def run(block: Block, address: str = ADDRESS) -> None:
    """A trace shows the guide's lines."""
    source = "\n" * block.line + block.text.replace(ADDRESS, address)
    done = eval(compile(source, GUIDE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), vars(MODULE))
    if inspect.isawaitable(done):
        await done


class Service:
    """The guide's service, served, and a caller's stubs to it."""

    def __init__(self, harness: Harness, channel: grpc.aio.Channel) -> None:
        self.harness = harness
        self.clock: Any = harness.clock
        self._operations: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self._approvals: Any = approvals_pb2_grpc.ApprovalsServiceStub(channel)

    async def order(self, id: str) -> str:
        return str((await self._approvals.Order(OrderRequest(order_id=id))).name)

    async def end(self, name: str) -> Any:
        return await self._operations.Wait(pb.WaitRequest(name=name))

    async def approved_by(self, name: str) -> str:
        snapshot, result = await self.end(name), OrderResult()
        assert snapshot.result.Unpack(result), snapshot
        return result.approved_by


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    await run(HANDLER)
    async with (
        Harness(vars(MODULE)["server"], tmp_path, clock=LabClock()).serve() as harness,
        grpc.aio.insecure_channel(harness.address) as channel,
    ):
        yield Service(harness, channel)


def test_the_contract_is_that_of_the_example() -> None:
    assert DECLARE.language == "proto"
    assert DECLARE.text in CONTRACT.read_text("utf-8")


async def test_each_way_to_send_reaches_the_handler(service: Service) -> None:
    first, second, third = [await service.order(id) for id in "123"]
    await run(CLIENT, service.harness.address)
    assert await service.approved_by(first) == "ada"
    sent = vars(MODULE)["sent"]
    assert (sent.number, sent.signal_id, sent.duplicate) == (1, "decision-7", False)
    (command,) = (line.removeprefix("$ ") for line in TERMINAL.text.splitlines())
    assert command.startswith("longshore ")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "longshore_client.cli", *shlex.split(command)[1:],
        env={**os.environ, "LONGSHORE_SERVER": service.harness.address},
    )  # fmt: skip
    assert await process.wait() == 0
    assert await service.approved_by(second) == "grace"
    await run(HOST)
    assert await service.approved_by(third) == "the system"


async def test_nobody_approves(service: Service) -> None:
    name = await service.order("4")
    await service.clock.armed(3600)
    service.clock.advance(3600)
    assert reason_of_end(await service.end(name)) == "NOT_APPROVED"


async def test_an_iterator(tmp_path: Path) -> None:
    await run(HANDLER)
    await run(ITERATE)

    class Several(vars(MODULE)["Approvals"]):  # type: ignore[misc]
        async def order(self, request: OrderRequest, op: Any) -> OrderResult:
            return OrderResult(approved_by=" ".join(await vars(MODULE)["total"](op)))

    server = Server(Several())
    async with (
        Harness(server, tmp_path).serve() as harness,
        grpc.aio.insecure_channel(harness.address) as channel,
    ):
        service = Service(harness, channel)
        name = await service.order("5")
        ref = await server.operations.find(name)
        for by in ("ada", "grace", "the board"):
            await ref.signal("approve", ApproveOrder(by=by))
        assert await service.approved_by(name) == "ada grace the board"


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("end", ["cancel", "approve"])
async def test_a_wait_for_a_signal_notices_a_cancel_request_at_once(tmp_path: Path, end: str, crash: bool) -> None:
    """The clock stands still: no grace is over."""
    await run(HANDLER)
    await run(WITHDRAW)
    waiting = asyncio.Event()

    class Deciding(vars(MODULE)["Approvals"]):  # type: ignore[misc]
        async def order(self, request: OrderRequest, op: Any) -> OrderResult:
            waiting.set()
            result: OrderResult = await vars(MODULE)["decide"](request, op)
            return result

    server = Server(Deciding())
    harness = Harness(server, tmp_path, clock=LabClock())
    async with harness.serve():
        async with grpc.aio.insecure_channel(harness.address) as channel:
            name = await Service(harness, channel).order("6")
            await waiting.wait()
        if crash:
            waiting.clear()
            await harness.crash()
            await harness.start()
            await waiting.wait()
        ref = await server.operations.find(name)
        if end == "approve":
            await ref.signal("approve", ApproveOrder(by="ada"))
            assert (await ref.wait()).approved_by == "ada"
            assert vars(MODULE)["withdrawn"] == []
        else:
            assert await ref.cancel() is State.CANCELLING
            with pytest.raises(OperationEndedError, match="CANCELLED"):
                await ref.wait()
            assert vars(MODULE)["withdrawn"] == ["6"]
