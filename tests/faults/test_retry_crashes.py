"""A real process that is killed while it waits to make an attempt again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore.v1 import operations_service_pb2 as pb
from tests.faults.process import HERE, Caller, ServerProcess
from tests.faults.test_crashes import State, check_log, kinds, reason_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    found = ServerProcess(tmp_path, service=HERE / "retrying.py", warm=True)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


async def waiting(server: ServerProcess, caller: Caller, kills: int = 1) -> Any:
    """An operation whose first attempt has failed, and whose server has been killed since: its snapshot before that."""
    start = pb.StartRequest(type="lab.v1.RetryService/TryLater")
    start.input.Pack(PlayRequest(count=1))
    name = (await caller.operations.Start(start, wait_for_ready=True)).operation.name
    watch = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0))
    async for message in watch:
        if message.event.HasField("attempt_failed"):
            break
    watch.cancel()
    before = await caller.operations.Get(pb.GetRequest(name=name))
    assert (before.state, before.failures) == (State.STATE_RUNNING, 1)
    for _ in range(kills):
        await server.kill()
        await server.start()
    return before


@pytest.mark.parametrize("kills", [1, 2])
async def test_killed_while_retrying(server: ServerProcess, kills: int) -> None:
    """The next attempt comes at the recorded time: not at once, and not twice."""
    async with Caller(server) as caller:
        before = await waiting(server, caller, kills)
        due = before.next_attempt_time.ToMicroseconds()
        assert await caller.operations.Get(pb.GetRequest(name=before.name), wait_for_ready=True) == before
        await server.kill()
        # It is due soon after this start, or before that where processes take long to start.
        server.environment["FAULTS_AHEAD"] = str(due / 1e6 - time.time() - 1)
        await server.start()
        snapshot = await caller.end(before.name)
        events = await caller.events(before.name)
        check_log(snapshot, events)
        assert kinds(events) == ["accepted", "started", "progress", "attempt_failed", "progress", "completed"]
        failed, again = events[3], events[4]
        assert due == failed.time.ToMicroseconds() + failed.attempt_failed.retry_delay.ToMicroseconds()
        assert (again.attempt, again.time.ToMicroseconds() >= due) == (2, True)
        assert (snapshot.attempt, snapshot.failures, snapshot.crashes) == (2, 1, 0)
        assert reason_of(failed.attempt_failed.error) == "BUSY"


async def test_killed_while_retrying_after_a_stop(server: ServerProcess) -> None:
    """The stop is durable, and so is that the attempt is due at once and the last."""
    async with Caller(server) as caller:
        before = await waiting(server, caller)
        asked = await caller.operations.Stop(pb.StopRequest(name=before.name), wait_for_ready=True)
        assert asked.HasField("stop_request_time")
        await server.kill()
        await server.start()
        snapshot = await caller.end(before.name)
        check_log(snapshot, await caller.events(before.name))
        result = PlayResult()
        assert snapshot.result.Unpack(result)
        assert (result.text, snapshot.stopped) == ("stopped", True)


async def test_killed_while_retrying_after_a_cancel(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        before = await waiting(server, caller)
        cancelled = await caller.operations.Cancel(pb.CancelRequest(name=before.name), wait_for_ready=True)
        assert cancelled.state == State.STATE_CANCELLED
        await server.kill()
        await server.start()
        assert await caller.end(before.name) == cancelled
