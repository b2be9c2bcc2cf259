"""Jobs: their rate beside DBOS on SQLite, what pending timers cost, and claims from a long queue.

DBOS has an environment of its own, made when it is first needed; where it cannot be installed a notice says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import BUILD, BenchError, Process
from longshore_server.clock import SystemClock
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import JobMove
from longshore_server.store.job_record import Body, QueueRow, new_job
from longshore_server.store.mutations.job import ClaimJobs, DeclareQueues, SettleJob
from longshore_server.store.mutations.job_creation import CreateJobs, NewJob, WhenFull
from longshore_server.store.store import Store

DBOS = "dbos==3.4.0"
TARGETS = {1: 3.0, 64: 25.0}
"""How many times the rate of DBOS, by how many are in flight."""
IDLE_TARGET = 0.001
"""Share of a processor that all pending timers together may cost: what cannot be told from none."""
CLAIM_TARGET = 1.2
CLAIMS = 2000
FEW = 1000
BATCH = 2000


def run(scratch: Path, rounds: int, seconds: float, pending: int, queued: int) -> None:
    """Measure all of it, and print."""
    # DBOS makes a few jobs a round otherwise.
    _rates(scratch, rounds, 3 * seconds)
    _idle(scratch, rounds, pending)
    asyncio.run(_claims(scratch, rounds, queued))


# Rates.


def _rates(scratch: Path, rounds: int, seconds: float) -> None:
    python = _dbos()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_process(sys.executable, "-m", "benchmarks.jobs_process", scratch / "rates"))
        theirs = python and stack.enter_context(_process(str(python), "benchmarks/jobs_dbos.py", scratch / "dbos"))
        print(f"\nJobs of one step, created, run and waited for in one process, {rounds} rounds of {seconds:g} s:")
        print("| in flight | jobs a second | p50 ms | us of CPU a job | DBOS a second | ratio | DBOS, called | ratio |")
        print("|--:|--:|--:|--:|--:|---|--:|---|")
        for inflight, target in TARGETS.items():
            samples = []
            created: list[tuple[float, float]] = []
            called: list[tuple[float, float]] = []
            for turn in range(rounds + 1):
                sample = ours.ask(f"work {inflight} {seconds}")
                peers = [theirs.ask(f"{way} {inflight} {seconds}") for way in ("work", "call")] if theirs else []
                if turn:  # the first turn warms up
                    samples.append(sample)
                    for rates, peer in zip((created, called), peers, strict=False):
                        rates.append((peer["rate"], sample["rate"] / peer["rate"]))
            rate, p50, cpu = (statistics.median(s[what] for s in samples) for what in ("rate", "p50", "cpu"))
            row = f"| {inflight} | {rate:.0f} | {p50:.1f} | {cpu:.0f} |"
            for rates, wanted in ((created, target), (called, None)):
                if rates:
                    ratios = [ratio for _, ratio in rates]
                    row += f" {statistics.median(rate for rate, _ in rates):.0f} | {statistics.median(ratios):.1f}"
                    row += f" ({min(ratios):.1f}-{max(ratios):.1f})"
                    row += f"{processes.verdict(ratios, wanted)} |" if wanted else " |"
            print(row, flush=True)


def _dbos() -> Path | None:
    """The interpreter of an environment with DBOS; None: there is none."""
    python = BUILD / "dbos" / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", BUILD / "dbos"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", DBOS], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"\nnotice: {DBOS} cannot be installed, so jobs are not compared with it: {error}")
        return None
    return python


@contextlib.contextmanager
def _process(*command: str | Path) -> Iterator[Process]:
    """A process that has a directory of its own, the last argument, and answers lines."""
    directory = Path(command[-1])
    directory.mkdir(parents=True, exist_ok=True)
    process = Process([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if process.line() != "ready\n":
            raise BenchError(f"{command} is not ready")
        yield process
    finally:
        process.end()


# Timers.


def _idle(scratch: Path, rounds: int, pending: int) -> None:
    seconds = 3.0
    with (
        _process(sys.executable, "-m", "benchmarks.jobs_process", scratch / "pending") as full,
        _process(sys.executable, "-m", "benchmarks.jobs_process", scratch / "none") as none,
    ):
        full.ask(f"pending {pending}")
        with_all, with_none = [], []
        for turn in range(rounds + 1):
            costs = [process.ask(f"idle {seconds}")["cpu"] / seconds for process in (full, none)]
            if turn:  # the first one still cleans up
                with_all.append(costs[0])
                with_none.append(costs[1])
    more = [a - b for a, b in zip(with_all, with_none, strict=True)]
    print(
        f"\nidle with {pending} jobs due in a day: {statistics.median(with_all):.3%} of a processor, with none"
        f" {statistics.median(with_none):.3%}{processes.verdict(more, IDLE_TARGET, at_most=True)} (the difference)"
    )


# Claims.


class _Queue:
    """A store with a queue of a constant length."""

    def __init__(self, directory: Path) -> None:
        self.clock = SystemClock()
        self.store = Store(directory, self.clock, max_events=100, publish=lambda _: None)

    async def open(self, jobs: int) -> None:
        _, highest = await self.store.open()
        self.uids = Uids(self.clock, highest)
        await self.store.writer.submit(DeclareQueues([QueueRow("work", 1, None, 0, 0)]))
        for _ in range(0, jobs, BATCH):
            await self.store.writer.submit(CreateJobs([self._new() for _ in range(min(BATCH, jobs))]))

    async def claim(self) -> float:
        """Seconds of one claim, the job of which then ends, and another one comes in its place."""
        writer = self.store.writer
        began = time.perf_counter()
        claimed = await writer.submit(ClaimJobs("work", 1, None))
        took = time.perf_counter() - began
        ((job, _),) = claimed.jobs
        await asyncio.gather(
            writer.submit(SettleJob(job.uid, job.attempt, JobMove.COMPLETE, Body("json", b"1"))),
            writer.submit(CreateJobs([self._new()])),
        )
        return took

    def _new(self) -> NewJob:
        record = new_job(self.uids.next(), "work", self.clock.now())
        return NewJob(record, Body("json", b"0"), 1, None, WhenFull.REJECT, False, None)


async def _claims(scratch: Path, rounds: int, queued: int) -> None:
    many, few = _Queue(scratch / "many"), _Queue(scratch / "few")
    try:
        began = time.monotonic()
        await many.open(queued)
        await few.open(FEW)
        print(f"\n{queued} jobs queued in {time.monotonic() - began:.0f} s")
        measured = [await _claim_in_turn(many, few) for _ in range(rounds + 1)][1:]  # the first one warms up
    finally:
        await many.store.close()
        await few.store.close()
    p50, p99 = (
        [[statistics.quantiles(times[queue], n=100)[percent - 1] * 1e3 for times in measured] for queue in (many, few)]
        for percent in (50, 99)
    )
    ratios = [one / other for one, other in zip(*p99, strict=True)]
    (many50, few50), (many99, few99) = (map(statistics.median, both) for both in (p50, p99))
    print(
        f"claim with {queued} queued: p50 {many50:.2f} ms, p99 {many99:.2f} ms; with {FEW}: {few50:.2f} and"
        f" {few99:.2f}; p99 {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        f"{processes.verdict(ratios, CLAIM_TARGET, at_most=True)}"
    )


async def _claim_in_turn(many: _Queue, few: _Queue) -> dict[_Queue, list[float]]:
    """Seconds of each claim from the one and from the other."""
    times: dict[_Queue, list[float]] = {many: [], few: []}
    for turn in range(CLAIMS):
        for queue in (many, few) if turn % 2 else (few, many):
            times[queue].append(await queue.claim())
    return times
