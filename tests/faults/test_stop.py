"""A stop in good order: what runs is left to the next server, and nothing fails because of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torture.v1.torture_pb2 import WorkRequest

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.faults.process import Caller, ServerProcess, served

State = operation_pb2.OperationSnapshot.State


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
        return await caller.end(name)


@pytest.mark.parametrize("script", ["family 1", "progress up\npause 0.3\nfamily 0.1"])
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
        snapshot = await stopped_within(server, "family 0.5")
        assert snapshot.state == State.STATE_COMPLETED, (snapshot, server.said)
        assert snapshot.attempt == 1
