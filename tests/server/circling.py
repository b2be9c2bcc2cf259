"""Operations, jobs and instances that wait for one another as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore_server import Reason, ServiceError
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from tests.server.instances.laboratory import Gate, Ping, Token, World

PLAY = "lab.v1.LabService/Play"


class Calls(Task[Token, Ping]):
    """Does at each event what the test says."""

    call: Callable[[str], Awaitable[None]]

    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        await type(self).call(ctx.id)
        ctx.state = Token(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None: ...


class Ring(World):
    """One operation type, one queue and one task, each of which does what the test says."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.task = self.server.task("calls", Calls)
        self.problems: list[str] = []
        self.gate = Gate()
        """Where the test lets go on who closes a circle, or does not."""

    def handles(self, handler: Callable[[Any], Awaitable[Any]]) -> None:
        """What the operation does; its handler returns what the test's returns, or a result of its own."""

        async def handle(request: PlayRequest, op: Any) -> PlayResult:
            return await handler(op) or PlayResult(text="done")

        handlers: Any = self.server.services[0]
        handlers.handler = handle

    def does(self, call: Callable[[str], Awaitable[None]]) -> None:
        """What the task does."""
        Calls.call = staticmethod(call)

    async def begin(self) -> Any:
        """An operation."""
        return await self.server.operations.start(PLAY, PlayRequest())

    async def wait_for(self, name: str, timeout: float | None = None) -> Any:
        """Wait for an operation, as the handler does that calls this."""
        return await (await self.server.operations.find(name)).wait(timeout)

    async def go_on(self) -> None:
        """Open the gate, once everybody waits who can."""
        await self.gate.reached.wait()
        await self.settled()
        self.gate.opened.set()

    async def refused(self, awaitable: Awaitable[Any]) -> None:
        """Keep why it is refused, which it must be."""
        with pytest.raises(ServiceError) as caught:
            await awaitable
        assert caught.value.reason is Reason.ILLEGAL_MOVE
        self.problems.append(caught.value.message)


@pytest.fixture
async def ring(tmp_path: Path) -> AsyncIterator[Ring]:
    found = Ring(tmp_path / "data")
    try:
        async with asyncio.timeout(60):
            yield found
    finally:
        await found.stop()
