"""grpcurl, which learns everything from the server, and ghz, which makes a load: without any file of ours."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore.v1.operation_pb2 import OperationSnapshot
from longshore_client.codegen.export import export_protos
from tests.polyglot import clients
from tests.polyglot.service import Dock

# Either is built first.
pytestmark = [pytest.mark.skipif(shutil.which("go") is None, reason="needs go"), pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PROCESS = "acme.orders.v1.OrdersService/Process"
CALLS = 1000


@pytest.fixture
async def dock(tmp_path: Path) -> AsyncIterator[Dock]:
    found = Dock(tmp_path / "data")
    found.orders.shipping.set()
    async with found.harness.serve():
        yield found


async def run(package: str, *arguments: str) -> str:
    """What a program in Go prints, if it ends well."""
    process = await asyncio.create_subprocess_exec(
        clients.go_tool(package), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def grpcurl(*arguments: str) -> str:
    return await run(clients.GRPCURL, "-plaintext", *arguments)


async def test_grpcurl_lists_and_describes(dock: Dock) -> None:
    services = (await grpcurl(dock.address, "list")).split()
    assert {"acme.orders.v1.OrdersService", "longshore.v1.OperationsService", "google.longrunning.Operations"} < set(
        services
    )
    for service in services:
        assert (await grpcurl(dock.address, "list", service)).startswith(f"{service}.")
    described = await grpcurl(dock.address, "describe", PROCESS.replace("/", "."))
    assert "rpc Process ( .acme.orders.v1.ProcessOrderRequest ) returns ( .google.longrunning.Operation )" in described
    assert '"approve"' in described, "the contract's options are there to be read"
    assert "string order_id = 1;" in await grpcurl(dock.address, "describe", "acme.orders.v1.ProcessOrderRequest")


async def test_grpcurl_shows_what_events_hold(dock: Dock) -> None:
    started = json.loads(await grpcurl("-d", '{"order_id": "1"}', dock.address, PROCESS))
    watch = json.dumps({"name": started["name"], "after_sequence": "0"})
    text = await grpcurl("-d", watch, dock.address, "longshore.v1.OperationsService/Watch")
    assert '"@type": "type.googleapis.com/acme.orders.v1.ProcessOrderProgress"' in text
    assert '"message": "Charging the card"' in text
    assert '"status": "ready_to_ship"' in text


async def test_grpcurl_needs_no_reflection_where_it_has_the_descriptor_set(tmp_path: Path) -> None:
    contracts = tmp_path / "contracts.binpb"
    export_protos([ROOT / "examples" / "orders" / "protos"], descriptor_set=contracts)
    dock = Dock(tmp_path / "data", reflection="off")
    dock.orders.shipping.set()
    async with dock.harness.serve():
        with pytest.raises(AssertionError, match="server does not support the reflection API"):
            await grpcurl(dock.address, "list")
        known = ("-protoset", str(contracts))
        assert "acme.orders.v1.OrdersService" in (await grpcurl(*known, "list")).split()
        started = json.loads(await grpcurl(*known, "-d", '{"order_id": "1"}', dock.address, PROCESS))
        wait = json.dumps({"name": started["name"]})
        ended = json.loads(await grpcurl(*known, "-d", wait, dock.address, "longshore.v1.OperationsService/Wait"))
        assert ended["result"]["status"] == "ready_to_ship"


async def test_ghz_makes_a_load_of_which_nothing_is_lost(dock: Dock) -> None:
    order = '{"order_id": "{{.RequestNumber}}"}'
    options = ["--total", str(CALLS), "--concurrency", "20", "--format", "json"]
    told = json.loads(await run(clients.GHZ, "--insecure", "--call", PROCESS, "--data", order, *options, dock.address))
    assert told["statusCodeDistribution"] == {"OK": CALLS}
    async with grpc.aio.insecure_channel(dock.address) as channel:
        operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        for number in range(CALLS):
            await operations.Wait(pb.WaitRequest(name=f"operations/orders-process-{number}"))
        (entry,) = (await operations.Count(pb.CountRequest())).counts
    assert (entry.count, entry.state) == (CALLS, OperationSnapshot.State.STATE_COMPLETED)
