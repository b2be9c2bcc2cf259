"""Jobs in one process, without a network, as `jobs` measures them.

    python -m benchmarks.jobs_process DIRECTORY

Reads lines and answers each with a JSON object: `work INFLIGHT SECONDS` creates jobs of one step and waits for them,
`pending COUNT` creates jobs that are due in a day, `idle SECONDS` tells what the process costs meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.service import Bench
from longshore_server import Config, Job, JobRequest, Server
from longshore_server.clock import SystemClock
from longshore_server.server import Running

BATCH = 1000
server = Server(Bench())


def count(number: int) -> int:
    """The step."""
    return number + 1


@server.job("work", concurrency=256, retention="1m")
async def work(number: int, job: Job[int]) -> int:
    """The job."""
    return await job.step("count", count, number)


async def _work(inflight: int, seconds: float) -> dict[str, float]:
    began = time.perf_counter()
    before = _cpu()
    latencies: list[float] = []

    async def caller() -> None:
        begun = began
        while begun < began + seconds:
            assert await (await work.create(len(latencies))).wait()
            ended = time.perf_counter()
            latencies.append(ended - begun)
            begun = ended

    await asyncio.gather(*(caller() for _ in range(inflight)))
    done, elapsed = len(latencies), time.perf_counter() - began
    return {"rate": done / elapsed, "p50": sorted(latencies)[done // 2] * 1e3, "cpu": (_cpu() - before) / done * 1e6}


async def _pending(jobs: int) -> dict[str, float]:
    for _ in range(0, jobs, BATCH):
        await work.create_many([JobRequest(0, delay="1d")] * BATCH)
    return {"jobs": jobs}


async def _idle(seconds: float) -> dict[str, float]:
    before = _cpu()
    await asyncio.sleep(seconds)
    return {"cpu": _cpu() - before}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _main(data: Path) -> None:
    running = Running(server, Config(data=data, listen=("127.0.0.1:0",), metrics="off"), SystemClock())
    await running.start()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, *numbers = line.split()
        if what == "work":
            answer = await _work(int(numbers[0]), float(numbers[1]))
        elif what == "pending":
            answer = await _pending(int(numbers[0]))
        else:
            answer = await _idle(float(numbers[0]))
        print(json.dumps(answer), flush=True)
    await running.stop()


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1])))
