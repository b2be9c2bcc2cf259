"""Jobs, recurrings, debounces and tasks from a stock client: grpcurl, with JSON, and without any file of ours."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longshore_server import ExecuteContext, Job, JobRetry, Server, Task, TaskEventContext
from longshore_server.testing import Harness
from tests.conftest import LabClock
from tests.polyglot import clients
from tests.polyglot.test_tools import grpcurl

pytestmark = [pytest.mark.skipif(shutil.which("go") is None, reason="needs go"), pytest.mark.timeout(900)]


@dataclass
class Token:
    value: str = "none"


@dataclass
class Line:
    text: str


@dataclass
class Basket:
    items: int = 0
    paid: bool = False


class Checkout(Task[Basket, Line]):
    """Counts what is put into it, and is paid once nothing more comes."""

    async def on_event(self, event: Line, ctx: TaskEventContext[Basket]) -> None:
        ctx.state = Basket((ctx.state or Basket()).items + 1)
        ctx.schedule(60)

    async def execute(self, ctx: ExecuteContext[Basket]) -> None:
        ctx.state = Basket((ctx.state or Basket()).items, paid=True)


class Works:
    """A server with one definition of each kind."""

    def __init__(self, data: Path) -> None:
        server = Server()
        self.sent: list[list[str]] = []
        self.moved = False

        @server.recurring("refresh", every=3600, state=Token)
        async def refresh(ctx: Any) -> None:
            ctx.state = Token(f"{ctx.state.value}, refreshed")

        def collect(ctx: Any) -> list[str]:
            return [*(ctx.state or []), ctx.event.text]

        @server.debounce("digest", event=Line, state=list, on_event=collect, flush_after=3600)
        async def digest(ctx: Any) -> None:
            self.sent.append(ctx.state)

        server.task("checkout", Checkout)

        @server.job("mail", retry=JobRetry(max_attempts=1))
        async def mail(payload: Line, job: Job[str]) -> str:
            if not self.moved:
                raise ValueError("no such mailbox")
            return f"sent {payload.text}"

        self.mail = mail
        self.harness = Harness(server, data, clock=LabClock())

    async def call(self, method: str, **request: Any) -> dict[str, Any]:
        """What the server answers, as grpcurl writes it."""
        said = await grpcurl("-d", json.dumps(request), self.harness.address, f"longshore.v1.{method}")
        answer: dict[str, Any] = json.loads(said)
        return answer


@pytest.fixture
async def works(tmp_path: Path) -> AsyncIterator[Works]:
    made = Works(tmp_path / "data")
    async with made.harness.serve():
        yield made


def value(**fields: Any) -> dict[str, str]:
    """An `InstanceValue`."""
    return {"json": json.dumps(fields)}


async def test_a_recurring(works: Works) -> None:
    name = "recurrings/refresh/instances/bank"
    started = await works.call("RecurringService/StartRecurring", name=name, input=value(value="first"))
    assert started == {"created": True, "status": "INSTANCE_STATUS_ACTIVE"}
    again = await works.call("RecurringService/StartRecurring", name=name, input=value(value="second"))
    assert again == {"status": "INSTANCE_STATUS_ACTIVE"}
    await works.call("RecurringService/TriggerRecurring", name=name)
    state = await works.call("RecurringService/GetRecurringState", name=name)
    assert json.loads(state["state"]["json"]) == {"value": "first, refreshed, refreshed"}, "at once, and when asked"
    paused = await works.call("RecurringService/PauseRecurring", name=name)
    assert paused["status"] == "INSTANCE_STATUS_PAUSED"
    await works.call("RecurringService/ResumeRecurring", name=name)
    listed = await works.call("RecurringService/ListRecurrings", parent="recurrings/refresh")
    assert [found["facts"]["name"] for found in listed["instances"]] == [name]
    ended = await works.call("RecurringService/TerminateRecurring", name=name, reason="closed")
    assert ended["status"] == "INSTANCE_STATUS_TERMINATED"


async def test_a_debounce(works: Works) -> None:
    name = "debounces/digest/instances/ada"
    added = [
        await works.call("DebounceService/AddEvent", name=name, event=value(text=text), event_id=id)
        for text, id in (("one", "1"), ("two", "2"), ("two", "2"))
    ]
    assert [(one.get("duplicate", False), one["eventCount"]) for one in added] == [
        (False, "1"), (False, "2"), (True, "2")
    ]  # fmt: skip
    flushed = await works.call("DebounceService/FlushDebounce", name=name)
    assert flushed["eventCount"] == "2"
    assert works.sent == [["one", "two"]]


async def test_a_task(works: Works) -> None:
    name = "tasks/checkout/instances/7"
    for text in ("kettle", "cup"):
        sent = await works.call("TaskService/SendEvent", name=name, event=value(text=text))
        assert "scheduleTime" in sent
    await works.harness.advance(60)
    state = await works.call("TaskService/GetTaskState", name=name)
    assert json.loads(state["state"]["json"]) == {"items": 2, "paid": True}


async def test_jobs(works: Works) -> None:
    letter = await works.mail.create(Line("hello"))
    await works.harness.settle()
    (dead,) = (await works.call("JobsService/ListJobs", filter="state = DEAD"))["jobs"]
    assert dead["name"] == letter.name
    (attempt,) = (await works.call("JobsService/ListJobAttempts", name=letter.name))["attempts"]
    assert "mailbox" in json.dumps(attempt)
    works.moved = True
    await works.call("JobsService/RetryJob", name=letter.name)
    assert await letter.wait() == "sent hello"
    assert (await works.call("JobsService/GetJob", name=letter.name))["state"] == "STATE_COMPLETED"
    assert (await works.call("JobsService/PauseQueue", name="queues/mail"))["paused"] is True
    assert "paused" not in await works.call("JobsService/ResumeQueue", name="queues/mail")


async def test_what_cannot_be_is_refused_with_words_and_details(works: Works) -> None:
    event = {"name": "debounces/digest/instances/ada", "event": value(words=3)}
    tool = clients.go_tool(clients.GRPCURL)
    asked = ("-plaintext", "-format-error", "-d", json.dumps(event), works.harness.address)
    process = await asyncio.create_subprocess_exec(
        tool, *asked, "longshore.v1.DebounceService/AddEvent", stdout=PIPE, stderr=PIPE
    )
    _, said = await process.communicate()
    problem = json.loads(said)
    assert problem["code"] == 3
    assert problem["details"][0]["reason"] == "INVALID_ARGUMENT"
    assert problem["message"] == "event: is no Line: that has no field 'words'"
    listed = await works.call("DebounceService/ListDebounces", parent="debounces/digest")
    assert listed == {}, "and nothing has begun"
