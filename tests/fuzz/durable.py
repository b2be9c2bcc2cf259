"""What the fuzzed server has behind it: a queue, and a definition of each kind of instance. Payloads say what to do."""

from __future__ import annotations

import asyncio
from typing import Any

from longshore_server import (
    DebounceContext,
    ExecuteContext,
    Job,
    JobCancelledError,
    JobQueue,
    JobRetry,
    OperationError,
    RecurringContext,
    Server,
    StepRetry,
    Task,
    TaskEventContext,
)
from longshore_server.engine.engine import Engine
from longshore_server.instance_lifecycle import Kind
from longshore_server.store.mutations.job import DismissJob
from longshore_server.store.mutations.job_end import CancelJob

RETRY = StepRetry(2, backoff="constant", initial_delay=5)
CALL = "gates.start"
"""What callers of instances need, where they are told apart."""
DEFINITIONS = ("recurrings/beat", "debounces/numbers", "tasks/steps")


class Steps(Task[str, str]):
    """Its events say what becomes of them; each sets the timer."""

    async def on_event(self, event: str, ctx: TaskEventContext[str]) -> None:
        ctx.set_state(event)
        ctx.schedule(30)
        await act(event, ctx)

    async def execute(self, ctx: ExecuteContext[str]) -> None:
        if ctx.execute_count > 3:
            ctx.terminate("enough")


async def act(script: str, ctx: Any) -> None:
    """What a text says: a word, or nothing that anybody knows."""
    if script == "fail":
        raise OperationError("LAB_FAILED", "as it was told")
    if script == "raise":
        raise ValueError("as it was told")
    if script == "wait":
        await asyncio.Event().wait()
    if script == "report":
        ctx.log.info("said", script=script)


def declare(server: Server, *, guarded: bool) -> JobQueue[str, str]:
    """All of it. `guarded`: callers of instances need a capability."""
    call = CALL if guarded else None

    @server.job("work", retry=JobRetry(1), retention=60, cancel_grace=1)
    async def work(payload: str, job: Job[str]) -> str:
        if payload == "cancel":
            await job.cancelled.wait()
            raise JobCancelledError
        await job.step("count", int)
        await act(payload, job)
        return payload

    @server.recurring("beat", every="12h", retry=RETRY, call=call)
    async def beat(ctx: RecurringContext[str]) -> None:
        await act(ctx.state, ctx)

    @server.debounce("numbers", flush_after=20, max_events=5, retry=RETRY, call=call)
    async def numbers(ctx: DebounceContext[str]) -> None:
        await act(ctx.state, ctx)

    server.task("steps", Steps, retry=RETRY, call=call)
    return work


async def begin(queue: JobQueue[str, str]) -> list[str]:
    """Jobs of every fate, for those who retry, cancel and dismiss them. Returns their names."""
    found = [await queue.create(payload) for payload in ("report", "fail", "cancel")]
    return [ref.name for ref in (*found, await queue.create("report", delay=60))]


async def end(engine: Engine, database: Any) -> None:
    """End every job, and leave nothing of any instance."""
    for (uid,) in database.execute("SELECT uid FROM jobs WHERE ended IS NULL").fetchall():
        await engine.store.writer.submit(CancelJob(uid, "it is over"))
    for (uid,) in database.execute("SELECT uid FROM jobs WHERE state = 10").fetchall():
        await engine.store.writer.submit(DismissJob(uid))
    await engine.jobs.pause("work", False)
    for kind, definition, id in database.execute("SELECT kind, definition, id FROM instances").fetchall():
        await engine.instances.definitions[Kind(kind), definition].terminate(id, purge=True)
