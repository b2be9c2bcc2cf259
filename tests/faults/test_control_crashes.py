"""Processes that are killed while somebody else is to end their operations: each point with its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from torture.v1.torture_pb2 import WorkResult

from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operations_service_pb2 as pb
from tests.faults.process import Caller, ServerProcess, served
from tests.faults.test_crashes import State, check_log, kinds, reason_of, result_of, settled, start


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with served(tmp_path) as found:
        yield found


def control(caller: Caller) -> Any:
    return control_grpc.OperationControlServiceStub(caller.channel)


def complete(name: str) -> control_pb2.CompleteRequest:
    result = AnyMessage()
    result.Pack(WorkResult(text="by hand"))
    return control_pb2.CompleteRequest(name=name, result=result)


async def handed_over(
    server: ServerProcess, caller: Caller, script: str = "note ran\ndefer die", deaths: int = 1
) -> str:
    """The name of an operation whose last process has died with its deferral durable, and a new server."""
    starting = asyncio.ensure_future(start(caller, script))  # asked again, if the process dies before it has answered
    for _ in range(deaths - 1):
        assert await server.ended() == -9
        await server.launch()  # which may die before it has said that it serves
    assert await server.ended() == -9
    await server.start()
    name = await starting
    snapshot = await caller.operations.Get(pb.GetRequest(name=name), wait_for_ready=True)
    assert (snapshot.state, snapshot.deferred) == (State.STATE_RUNNING, True)
    return name


async def check(server: ServerProcess, caller: Caller, name: str, *wanted: str) -> Any:
    """Its log is whole, its handler ran once, and a further crash changes nothing. Returns the last snapshot."""
    await server.kill()
    await server.start()
    snapshot, events = await settled(caller, name), await caller.events(name)
    check_log(snapshot, events)
    assert kinds(events) == ["accepted", "started", *wanted]
    assert (snapshot.attempt, snapshot.crashes) == (1, 0)
    assert len(server.ledger()) == 1
    return snapshot


async def test_killed_between_defer_and_its_control_call(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await handed_over(server, caller)
        snapshot = await control(caller).Complete(complete(name))
        assert snapshot.state == State.STATE_COMPLETED
        assert result_of(await check(server, caller, name, "completed")).text == "by hand"


async def test_killed_again_and_again_between_defer_and_its_control_call(server: ServerProcess) -> None:
    """A deferred operation is part of no crash: it never reaches its cap."""
    async with Caller(server) as caller:
        name = await handed_over(server, caller)
        for _ in range(6):
            await server.kill()
            await server.start()
        error = status_pb2.Status(code=9, message="no")
        await control(caller).Fail(control_pb2.FailRequest(name=name, error=error), wait_for_ready=True)
        assert reason_of((await check(server, caller, name, "failed")).error) == "FAILED"


async def test_killed_in_cancelling_while_deferred(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await handed_over(server, caller)
        snapshot = await caller.operations.Cancel(pb.CancelRequest(name=name, reason="enough"))
        assert snapshot.state == State.STATE_CANCELLING
        await server.kill()
        await server.start()
        snapshot = await control(caller).GetOperation(control_pb2.GetOperationRequest(name=name), wait_for_ready=True)
        assert (snapshot.state, snapshot.cancel_reason) == (State.STATE_CANCELLING, "enough")
        await control(caller).AcknowledgeCancel(control_pb2.AcknowledgeCancelRequest(name=name))
        snapshot = await check(server, caller, name, "cancelling", "cancelled")
        assert snapshot.error.message == "enough"


async def test_attached_work_is_lost_with_its_process(server: ServerProcess) -> None:
    """It is not run again; whoever controls the operation ends it."""
    async with Caller(server) as caller:
        name = await handed_over(server, caller, "attach die")
        await control(caller).Complete(complete(name))
        assert result_of(await check(server, caller, name, "progress", "completed")).text == "by hand"


async def test_killed_before_the_deferral_the_handler_runs_again(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await handed_over(server, caller, "die 1\ndefer die", deaths=2)
        await control(caller).Complete(complete(name), wait_for_ready=True)
        snapshot = await settled(caller, name)
        assert (snapshot.attempt, snapshot.crashes, snapshot.state) == (2, 1, State.STATE_COMPLETED)
