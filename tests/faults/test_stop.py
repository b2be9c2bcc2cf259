"""A stop in good order: what runs is left to the next server, and nothing fails because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.duration_pb2 import Duration
from lab.v1 import lab_pb2
from torture.v1.torture_pb2 import WorkProgress, WorkRequest

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, refused, retry_after
from tests.faults.process import Caller, ServerProcess, served

State = operation_pb2.OperationSnapshot.State
MINUTE = Duration(seconds=60)


async def stopped_within(server: ServerProcess, script: str) -> Any:
    """The snapshot of a script that is at its first progress when the server is stopped and started again."""
    async with Caller(server) as caller:
        name = (await caller.start("Script", WorkRequest(script=script))).operation.name
        watch = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0))
        async for message in watch:
            if message.event.HasField("progress"):
                watch.cancel()
                break
        assert await server.stop() == 0, server.said
        await server.start()
        if "family signal" in script:
            await signal_child(caller, name)
        return await caller.end(name)


async def signal_child(caller: Caller, name: str) -> None:
    """Send what the child of a script waits for, as soon as there is one: the progress of its parent names it."""
    watch = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0), wait_for_ready=True)
    async for message in watch:
        told = WorkProgress()
        if message.event.progress.value.Unpack(told) and told.text.startswith("operations/"):
            watch.cancel()
            request = pb.SignalRequest(name=told.text, signal="say")
            request.payload.Pack(WorkProgress())
            await caller.operations.Signal(request)
            return


@pytest.mark.parametrize("script", ["family signal", "progress up\npause 0.3\nfamily signal"])
async def test_a_parent_goes_on_at_the_next_server(tmp_path: Path, script: str) -> None:
    """It waits for its child, or is about to start it, when the server stops: both go on, no crash is counted."""
    async with served(tmp_path, "--drain", "0.5") as server:
        snapshot = await stopped_within(server, script)
        assert snapshot.state == State.STATE_COMPLETED, (snapshot, server.said)
        assert (snapshot.attempt, snapshot.crashes) == (2, 0)
        with server.database() as database:
            assert database.execute("SELECT count(*) FROM operations").fetchone()[0] == 2


async def test_a_parent_gets_its_result_while_the_server_drains(tmp_path: Path) -> None:
    """The child ends in the time of the drain, and the parent with it."""
    async with served(tmp_path, "--drain", "20") as server:
        snapshot = await stopped_within(server, "family pause 0.5")
        assert snapshot.state == State.STATE_COMPLETED, (snapshot, server.said)
        assert snapshot.attempt == 1


async def test_a_handler_that_swallows_its_cancellation_does_not_keep_the_process(tmp_path: Path) -> None:
    """After the drain it is left behind, and its operation to the next server: that is no crash."""
    async with served(tmp_path, "--drain", "0.1") as server:
        snapshot = await stopped_within(server, "progress up\nstubborn 1")
        assert snapshot.state == State.STATE_COMPLETED, (snapshot, server.said)
        assert (snapshot.attempt, snapshot.crashes) == (2, 0)


async def _wait(lab: Lab, name: str) -> bool:
    return (await lab.operations.Wait(pb.WaitRequest(name=name, timeout=MINUTE))).state == State.STATE_COMPLETED


async def _wait_operation(lab: Lab, name: str) -> bool:
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    return bool((await stub.WaitOperation(lro.WaitOperationRequest(name=name, timeout=MINUTE))).done)


@pytest.mark.parametrize("wait", [_wait, _wait_operation])
async def test_a_wait_while_the_server_drains_is_answered(
    make_lab: Callable[..., Awaitable[Lab]], wait: Callable[[Lab, str], Awaitable[bool]]
) -> None:
    """With the end if that has come, else with UNAVAILABLE and when to ask again: at once, not when it is cut off."""
    lab = await make_lab(drain=30.0)
    gates = {"short": asyncio.Event(), "long": asyncio.Event()}

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await gates[request.script].wait()
        return lab_pb2.PlayResult()

    short = (await lab.begin(script="short")).operation.name
    long = (await lab.begin(script="long")).operation.name
    live = await lab.engine.find(short)
    waiting = asyncio.ensure_future(wait(lab, long))
    await lab.clock.armed(60)
    stopping = asyncio.ensure_future(lab.harness.running.stop())
    await lab.clock.armed(30)
    try:
        async with asyncio.timeout(60):
            # Both that which waited and that which comes now.
            for call in (waiting, wait(lab, long)):
                code, reason, status = await refused(call)
                assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
                assert retry_after(status) > 0
            ended = live.ended()
            gates["short"].set()
            await ended
            assert await wait(lab, short)
    finally:
        for gate in gates.values():
            gate.set()
        await stopping
