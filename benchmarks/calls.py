"""Operations a second against echoes a second: two clients, four ways to call, interleaved."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import contract, processes
from benchmarks.loadgen import Loadgen
from benchmarks.processes import Process

KINDS = {"echo": "echo", "start": "unary wait", "run": "Run", "startwatch": "Start + Watch"}
TARGETS = {"start": 0.60, "run": 0.45, "startwatch": 0.30}
TARGET_LEVEL = 64
SHIPPED = "longshore_client"


class Sample(NamedTuple):
    """One measurement."""

    rate: float  # a second
    cpu: float  # microseconds of the server's processor time an operation
    p50: float  # ms
    p99: float  # ms


Measure = Callable[[str, int, float], Sample]
Samples = dict[tuple[str, int], list[Sample]]


def with_loadgen(
    loadgen: Loadgen, server: Process, floor: Process | None = None, *, type: str = contract.TYPE,
    authorization: str = "",
) -> Measure:  # fmt: skip
    """Measure by the bytes client. `floor`: for echoes. `authorization`: metadata of each call; empty: none."""
    waiting = contract.start_request(contract.WORK, wait=30, type=type)
    contents = {
        "echo": waiting,
        "start": waiting,
        "run": contract.run_request(contract.WORK, type=type),
        "startwatch": contract.start_request(contract.WORK, type=type),
    }
    service = type.partition("/")[0]
    requests = {kind: loadgen.file(f"{service}-{kind}", content) for kind, content in contents.items()}
    options = {"authorization": authorization} if authorization else {}

    def measure(kind: str, inflight: int, seconds: float) -> Sample:
        target = floor if floor is not None and kind == "echo" else server
        before = target.cpu()
        result = loadgen.run(
            target.address, "calls", kind=kind, request=requests[kind], inflight=inflight, seconds=seconds, **options
        )
        return sample(result, target.cpu() - before)

    return measure


def with_shipped(client: Process, server: Process, floor: Process) -> Measure:
    """Measure by `longshore_client`."""

    def measure(kind: str, inflight: int, seconds: float) -> Sample:
        target = floor if kind == "echo" else server
        before = target.cpu()
        result = client.ask(f"{kind} {inflight} {seconds}")
        return sample(result, target.cpu() - before)

    return measure


def sample(result: dict[str, float], cpu: float) -> Sample:
    """A client's report as a sample."""
    ops = max(1.0, result["ops"])
    return Sample(result["ops"] / result["seconds"], cpu * 1e6 / ops, result["p50_ms"], result["p99_ms"])


def run(loadgen: Loadgen, data: Path, levels: Sequence[int], rounds: int, seconds: float) -> None:
    """Measure all and print it."""
    with processes.server(data) as server, processes.floor() as floor:
        command = [sys.executable, "-m", "benchmarks.shipped", server.address, floor.address]
        client = Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            measures = {
                loadgen.name: with_loadgen(loadgen, server, floor),
                SHIPPED: with_shipped(client, server, floor),
            }
            samples = {name: interleave(measure, levels, rounds, seconds) for name, measure in measures.items()}
        finally:
            client.end()
    for name, found in samples.items():
        report(name, found, levels, rounds)


def interleave(measure: Measure, levels: Sequence[int], rounds: int, seconds: float) -> Samples:
    """Every cell once a round, so that a slow minute of the machine falls on all of them."""
    samples: Samples = defaultdict(list)
    for kind in KINDS:
        measure(kind, 16, min(seconds, 0.3))  # warm-up, thrown away
    for _ in range(rounds):
        for level in levels:
            for kind in KINDS:
                samples[kind, level].append(measure(kind, level, seconds))
    return samples


def ratios(samples: Samples, kind: str, level: int) -> list[float]:
    """Each round's rate over the echo rate of the same round."""
    return [s.rate / e.rate for s, e in zip(samples[kind, level], samples["echo", level], strict=True)]


def report(client: str, samples: Samples, levels: Sequence[int], rounds: int) -> None:
    """Print one table: medians, and ratios as the median of the rounds' ratios with their range."""
    print(f"\n{client}; medians of {rounds} interleaved rounds; ratio = to the echo of the same round (lowest-highest)")
    titles = f"{'per s':>8}{'ratio':>8}{'':>13}{'p50 ms':>9}{'p99 ms':>9}{'server us/op':>14}"
    print(f"{'in flight':>9}  {'call':<14}{titles}")
    for level in levels:
        for kind, title in KINDS.items():
            rate, cpu, p50, p99 = (statistics.median(column) for column in zip(*samples[kind, level], strict=True))
            found = ratios(samples, kind, level)
            ratio = statistics.median(found)
            spread = "" if kind == "echo" else f"({min(found):.2f}-{max(found):.2f})"
            wanted = TARGETS.get(kind) if level == TARGET_LEVEL and client != SHIPPED else None
            verdict = "" if wanted is None else processes.verdict(found, wanted)
            figures = f"{rate:>8.0f}{ratio:>8.2f}{spread:>13}{p50:>9.1f}{p99:>9.1f}{cpu:>14.0f}"
            print(f"{level:>9}  {title:<14}{figures}{verdict}")
