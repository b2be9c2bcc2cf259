"""The jobs of torture/v1/torture.proto: steps, sleeps, delays, retries and chains, interrupted with everything else."""

from __future__ import annotations

import time
import zlib
from typing import Any

from torture.v1.torture_pb2 import WorkProgress, WorkRequest, WorkResult

from longshore_server import Job, JobRetry, Server

PAUSE = 0.1
"""Seconds of each sleep."""
BACKOFF = 0.2
"""Seconds before an attempt that follows a failure."""
LATER = 0.3
"""By so many seconds each job of `Spread` is due after the one before."""
MAX_CLAIMS = 1_000_000


def failures(request: WorkRequest) -> int:
    """How often a job of this payload fails: the same in every attempt."""
    return zlib.crc32(request.text.encode()) % 3


class Errands:
    """Two queues, and the handlers that use them. Each attempt notes when it was where."""

    def __init__(self, server: Server) -> None:
        @server.job(
            "errand", retry=JobRetry(max_attempts=4, backoff="constant", initial_delay=BACKOFF), max_claims=MAX_CLAIMS,
            cancel_grace=0.5,
        )  # fmt: skip
        async def errand(request: WorkRequest, job: Job[WorkResult]) -> WorkResult:
            note(job, "ran")
            tokens = []
            for n in range(request.count):
                tokens.append(await job.step(f"s{n}", job.services.effect(job.id, f"s{n}", job.attempt)))
                await job.sleep(PAUSE)
                note(job, f"woke {n}")
                await job.progress(n + 1, request.count)
            if job.failures < failures(request):
                note(job, "failed")
                raise RuntimeError("once more")
            return WorkResult(tokens=tokens, attempt=job.attempt, text=request.text)

        @server.job("relay", key="{text}", max_claims=MAX_CLAIMS, cancel_grace=0.5)
        async def relay(request: WorkRequest, job: Job[WorkResult]) -> WorkResult:
            note(job, "ran")
            return await job.attach(await errand.create(request))

        self._errand, self._relay = errand, relay

    async def hand(self, request: WorkRequest, op: Any) -> Any:
        """To the one queue, or by way of the other."""
        queue = self._relay if request.count > 1 else self._errand
        return await op.attach(await queue.create(request))

    async def spread(self, request: WorkRequest, op: Any) -> WorkResult:
        """The last one is due last."""
        works = [
            WorkRequest(count=n % 2, text=f"{request.text}/{n}", script=f"{n * LATER}") for n in range(request.count)
        ]
        refs = [await self._errand.create(work, delay=n * LATER, name=f"e{n}") for n, work in enumerate(works)]
        await op.progress(WorkProgress(number=1, text=request.text))
        return WorkResult(tokens=[(await ref.wait()).text for ref in refs], attempt=op.attempt, text=request.text)


def note(job: Job[WorkResult], where: str) -> None:
    """When this attempt came by here, in microseconds."""
    job.services.note(job.id, where, job.attempt, str(time.time_ns() // 1000))
