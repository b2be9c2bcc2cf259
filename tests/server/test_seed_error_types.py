"""Seed 3's eight types of errors: each has its reason here, which the page on errors names and the server says."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore.v1 import instances_pb2, recurring_service_pb2, recurring_service_pb2_grpc
from longshore_server import InstanceStatus, Job, Reason, RecurringContext, Server, ServiceError, Task, TaskContext
from longshore_server.store.mutations.job import DismissJob
from longshore_server.testing import Harness
from tests.conftest import refused

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
ROWS = {
    "JobNotFoundError": ("nothing is defined under the name", "DEFINITION_NOT_FOUND"),
    "InstanceNotFoundError": ("there is no such instance, or job", "JOB_NOT_FOUND"),
    "InvalidStateError": ("its state does not allow what is asked", "ILLEGAL_MOVE"),
    "ValidationError": ("an input or event is not of the type that is declared", "INVALID_ARGUMENT"),
    "ExecutionError": ("the handler raised", "HANDLER_ERROR"),
    "DuplicateEventError": ("the id of an event was used for another event", "EVENT_ID_REUSED"),
    "StorageError": ("the store cannot write", "STORE_UNAVAILABLE"),
    "SchedulerError": ("what is due cannot be scheduled", "STORE_UNAVAILABLE"),
}
"""By the seed's name: what the page calls it, and the reason."""


class Count(Task[int, int]):
    """Sets a timer with each event."""

    async def on_event(self, event: int, ctx: TaskContext[int]) -> None:
        ctx.state = event
        ctx.schedule(60)

    async def execute(self, ctx: TaskContext[int]) -> None: ...


class World:
    """A server with one definition of each kind that matters here."""

    def __init__(self, data: Path) -> None:
        self.server = Server()

        @self.server.recurring("refresh", every=60, state=int)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ValueError("private")

        @self.server.job("work")
        async def work(payload: int, job: Job[int]) -> int:
            return payload

        self.refresh, self.work, self.count = refresh, work, self.server.task("count", Count)
        self.harness = Harness(self.server, data)

    def break_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL

        def fail(_: Any) -> None:
            raise full

        monkeypatch.setattr(self.harness.running.engine.store.writer._transactions, "write", fail)

    async def start(self, definition: str, json: str) -> tuple[Any, str, Any]:
        stub = recurring_service_pb2_grpc.RecurringServiceStub(self.harness.channel())
        value = instances_pb2.InstanceValue(json=json)
        request = recurring_service_pb2.StartRecurringRequest(name=f"recurrings/{definition}/instances/a", input=value)
        return await refused(stub.StartRecurring(request))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = World(tmp_path / "data")
    await found.harness.start()
    await found.harness.settle()
    yield found
    await found.harness.stop()


async def reason(call: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value.reason.name


@pytest.mark.parametrize("seed", ROWS)
def test_the_page_names_each_with_its_reason(seed: str) -> None:
    what, word = ROWS[seed]
    (row,) = re.findall(rf"^\| {re.escape(what)} \| (.*) \|$", PAGE, re.MULTILINE)
    assert f"`{word}`" in row
    assert all(named in Reason.__members__ for named in re.findall(r"`([A-Z_]+)`", row))


async def test_job_not_found_error(world: World) -> None:
    assert (await world.start("nothing", "1"))[1] == "DEFINITION_NOT_FOUND"


async def test_instance_not_found_error(world: World) -> None:
    assert (await world.count.status("nobody")).status is InstanceStatus.NOT_FOUND
    job = await world.work.create(1)
    unknown = world.work.job(job.id[:-4] + ("0000" if job.id[-4:] != "0000" else "1111"))
    assert await reason(unknown.get()) == "JOB_NOT_FOUND"


async def test_invalid_state_error(world: World) -> None:
    job = await world.work.create(1)
    await job.wait()
    (uid,) = await world.harness.running.engine.store.read(lambda c: c.execute("SELECT uid FROM jobs").fetchone())
    assert await reason(world.harness.running.engine.store.writer.submit(DismissJob(uid))) == "ILLEGAL_MOVE"
    assert await reason(world.count.send("a", 1, expected_version=5)) == "VERSION_MISMATCH"


async def test_validation_error(world: World) -> None:
    """Upstream has written by then, and leaves an instance that never runs."""
    assert (await world.start("refresh", '"no number"'))[1] == "INVALID_ARGUMENT"
    assert (await world.refresh.status("a")).status is InstanceStatus.NOT_FOUND


async def test_execution_error(world: World) -> None:
    await world.refresh.start("a", 1)
    error = (await world.refresh.status("a")).last_error
    assert error is not None
    assert error.reason == "HANDLER_ERROR"


async def test_duplicate_event_error(world: World) -> None:
    """Upstream exports it, and no handler raises it: every add counts."""
    await world.count.send("a", 1, event_id="e")
    assert (await world.count.send("a", 1, event_id="e")).duplicate
    assert await reason(world.count.send("a", 2, event_id="e")) == "EVENT_ID_REUSED"


async def test_storage_error_and_scheduler_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream makes defects of them. Nothing is half there: neither the event nor its timer."""
    with monkeypatch.context() as broken:
        world.break_the_disk(broken)
        assert await reason(world.count.send("a", 1)) == "STORE_UNAVAILABLE"
    assert (await world.count.status("a")).status is InstanceStatus.NOT_FOUND
    sent = await world.count.send("a", 1)
    assert sent.created
    assert sent.scheduled_at is not None
