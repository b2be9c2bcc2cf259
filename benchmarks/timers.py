"""What timers cost that only wait: the CPU of an idle server without any, and with 100,000.

    python -m benchmarks.timers [how many]

In one process, on the machine's clock: first the server idles, then as many tasks are each given an event that sets a
timer for tomorrow, then it idles again. A third time it idles as a server that has just started and found them.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.service import server
from longshore_server import Config, ExecuteContext, Task, TaskEventContext
from longshore_server.instances.task import TaskDefinition

IDLE = 10.0
"""Seconds of each measurement."""
ROUNDS = 5
"""How many there are of each; what is said is the median, and the range."""
AT_ONCE = 500


class Tomorrow(Task[int, int]):
    """Sets a timer and waits."""

    async def on_event(self, event: int, ctx: TaskEventContext[int]) -> None:  # noqa: ARG002
        ctx.schedule("1d")

    async def execute(self, ctx: ExecuteContext[int]) -> None: ...


def cpu() -> float:
    """Seconds of the CPU that this process has used, in all of its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def idle(what: str) -> None:
    """Measure several times, after what came before has settled."""
    await asyncio.sleep(2)
    used = []
    for _ in range(ROUNDS):
        before = cpu()
        await asyncio.sleep(IDLE)
        used.append((cpu() - before) / IDLE * 1000)
    said = f"{statistics.median(used):.2f} ({min(used):.2f} to {max(used):.2f})"
    print(f"{what:40} {said} ms of CPU a second", flush=True)


async def fill(task: TaskDefinition[int, int], count: int) -> None:
    """So many instances, each with a timer."""
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(task.send(str(number), 0) for number in range(first, min(first + AT_ONCE, count))))


async def main(count: int) -> None:
    """All three measurements."""
    task = server.task("tomorrow", Tomorrow)
    with tempfile.TemporaryDirectory() as folder:
        config = Config(data=Path(folder), listen=("127.0.0.1:0",), metrics="")
        async with server.run(config):
            await idle("idle, without timers")
            before = cpu()
            await fill(task, count)
            print(f"{count:,} timers set, {(cpu() - before) / count * 1e6:.0f} us of CPU each", flush=True)
            await idle(f"idle, with {count:,} timers")
        async with server.run(config):
            await idle(f"idle, started with {count:,} timers")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
