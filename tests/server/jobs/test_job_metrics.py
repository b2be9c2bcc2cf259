"""What Prometheus reads of jobs and their queues."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable
from typing import Any

from longshore_server import Job, JobRetry
from tests.server.jobs.conftest import Yard

SAMPLE = re.compile(r'(longshore_(?:job|queue)\w+)\{queue="(\w+)"(?:,st\w+="(\w+)")?\} (\S+)')


async def read(yard: Yard) -> dict[tuple[str, ...], float]:
    """The values that are not zero, by metric, queue and state or stand."""
    metrics = yard.harness.running.metrics
    assert metrics is not None
    url = f"http://{metrics.address}/metrics"
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    found = {tuple(part for part in parts if part): float(value) for *parts, value in SAMPLE.findall(text)}
    return {key: value for key, value in found.items() if value and not key[0].endswith("_created")}


async def test_queues_are_measured_and_dead_letters_of_those_that_are_no_more(make_yard: Callable[..., Yard]) -> None:
    gate = asyncio.Event()
    yard = make_yard(metrics="127.0.0.1:0")

    @yard.job("load", key="{name}", max_queued=9, concurrency=2, retry=JobRetry(max_attempts=1))
    async def load(payload: dict[str, str], job: Job[None]) -> None:
        if payload["name"] == "bad":
            raise ValueError
        await gate.wait()

    await yard.start()
    # A server that begins looks first what waits, with the slots for it in its hand.
    while ("longshore_job_slots_taken", "load") in (found := await read(yard)):
        await yard.catch_up()
    assert found == {("longshore_job_slots", "load"): 2}
    bad = await load.create({"name": "bad"})
    await asyncio.gather(bad.wait(), return_exceptions=True)
    refs: list[Any] = [await load.create({"name": name}) for name in "aabc"]
    await load.create({"name": "d"}, delay=60)
    await yard.engine.jobs.pause("load", True)
    expected: dict[tuple[str, ...], float] = {
        ("longshore_job_slots", "load"): 2,
        ("longshore_job_slots_taken", "load"): 2,
        ("longshore_jobs_live", "load", "ACTIVE"): 2,
        ("longshore_jobs_live", "load", "QUEUED"): 3,
        ("longshore_jobs_queued", "load", "READY"): 1,
        ("longshore_jobs_queued", "load", "BLOCKED"): 1,
        ("longshore_jobs_queued", "load", "DELAYED"): 1,
        ("longshore_jobs_dead", "load"): 1,
        ("longshore_jobs_ended_total", "load", "DEAD"): 1,
        ("longshore_queue_paused", "load"): 1,
    }
    assert await read(yard) == expected
    await refs[1].cancel()
    await yard.catch_up()
    del expected["longshore_jobs_queued", "load", "BLOCKED"]
    expected["longshore_jobs_live", "load", "QUEUED"] = 2
    expected["longshore_jobs_ended_total", "load", "CANCELLED"] = 1
    assert await read(yard) == expected
    gate.set()
    await yard.engine.jobs.pause("load", False)
    yard.clock.advance(60)
    for record in await yard.jobs("state < 5"):
        await asyncio.gather(load.job(record.name).wait(), return_exceptions=True)
    assert (await read(yard))["longshore_jobs_ended_total", "load", "COMPLETED"] == 4
    await yard.stop()
    later = Yard(yard.data, metrics="127.0.0.1:0")
    await later.start()
    try:
        assert await read(later) == {("longshore_jobs_dead", "load"): 1}
    finally:
        await later.stop()
