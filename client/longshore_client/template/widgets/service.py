"""The handlers of widgets.v1.WidgetsService, and the server that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from longshore.v1.channels_pb2 import MilestoneProgress
from longshore_server import Server

from widgets.v1.widgets_longshore import MakeOperation, WidgetsService
from widgets.v1.widgets_pb2 import MakeRequest, MakeResult


class Workshop:
    """The world outside. Here it takes a second for each part; yours is a database, a bank, another team."""

    async def make(self, item: str, number: int) -> str:
        await asyncio.sleep(1)
        return f"{item} {number}"


class Widgets(WidgetsService[Workshop]):
    """May be killed at any line and will be run again; the steps that are done are not done again."""

    async def make(self, request: MakeRequest, op: MakeOperation[Workshop]) -> MakeResult:
        parts = []
        for number in range(1, request.parts + 1):
            await op.progress(MilestoneProgress(step=number, total_steps=request.parts, label=f"part {number}"))
            parts.append(await op.step(f"part {number}", op.services.make, request.item, number))
        return MakeResult(parts=parts)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncIterator[Workshop]:
    """What is opened here is open while the server runs, and reaches the handlers as `op.services`."""
    yield Workshop()


server = Server(Widgets(), lifespan=lifespan)
