"""A recurring, a debounce and a task for a process of its own that is killed again and again.

What handlers do elsewhere goes to a file outside of the store: a line for each run, with the key that all of its
attempts have and the time at which it began.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# The server is started with this file alone on its path.
sys.path += [str(Path(__file__).parents[1] / "contracts"), str(Path(__file__).parents[2])]

from longshore_server import DebounceContext, ExecuteContext, RecurringContext, Server, Task, TaskEventContext
from tests.conftest import LabHandlers

EVERY = 0.1
FLUSH_AFTER = 0.3
MAX_EVENTS = 5
DELAY = 0.2
"""Of each timer that an event sets, in seconds."""


class Lines:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, ctx: Any, due: float, what: Any) -> None:
        """One run begins, which was due then."""
        line = [ctx.instance, ctx.key, ctx.attempt, time.time(), due, what]
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncIterator[Lines]:
    """The file is where the server's data is."""
    lines = Lines(Path(os.environ["INSTANCES_FILE"]))
    try:
        yield lines
    finally:
        lines.close()


server = Server(LabHandlers(), lifespan=lifespan)


async def work() -> None:
    """Long enough to be killed in."""
    await asyncio.sleep(random.random() * 0.03)


@server.recurring("beat", every=EVERY, rate="fixed_rate", misfire="all", overlap="queue", max_crashes=1000)
async def beat(ctx: RecurringContext[list]) -> None:  # type: ignore[type-arg]
    """The state is the history of its planned times."""
    planned = ctx.planned_at.timestamp()
    ctx.services.write(ctx, planned, ctx.run_count)
    ctx.state.append(planned)
    await work()


def collect(ctx: Any) -> list[int]:
    """What `numbers` does with an event."""
    return [*ctx.state, ctx.event]


@server.debounce(
    "numbers", event=int, initial=list, on_event=collect, flush_after=FLUSH_AFTER, max_events=MAX_EVENTS,
    max_crashes=1000,
)  # fmt: skip
async def numbers(ctx: DebounceContext[list]) -> None:  # type: ignore[type-arg]
    """Its batches are in the file alone."""
    due = ctx.started_at.timestamp() + (FLUSH_AFTER if ctx.flush_reason.value == "flush_after" else 0)
    ctx.services.write(ctx, due, ctx.state)
    await work()


class Steps(Task[list, int]):  # type: ignore[type-arg]
    """The state is the history of its events and timers."""

    async def on_event(self, event: int, ctx: TaskEventContext[list]) -> None:  # type: ignore[type-arg]
        ctx.services.write(ctx, 0, event)
        ctx.schedule(DELAY, name=str(event))
        due = ctx.get_schedule(name=str(event))
        assert due is not None
        ctx.state = [*(ctx.state or []), ["event", event, due.timestamp()]]
        await work()

    async def execute(self, ctx: ExecuteContext[list]) -> None:  # type: ignore[type-arg]
        if ctx.timer is None or ctx.state is None:
            return
        due = next(due for _, event, due in ctx.state if str(event) == ctx.timer)
        ctx.services.write(ctx, due, ctx.timer)
        ctx.state = [*ctx.state, ["timer", ctx.timer, 0]]
        await work()


server.task("steps", Steps, max_crashes=1000)
