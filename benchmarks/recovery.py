"""Start-up after a crash: from the start of the process until every interrupted handler runs again."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

from benchmarks import contract, processes
from benchmarks.loadgen import Loadgen

TARGET = 2.0


def run(loadgen: Loadgen, data: Path, operations: int, rounds: int) -> None:
    """Measure and print."""
    request = loadgen.file("hang", contract.start_request(contract.HANG))
    crashed = data / "crashed"
    process = processes.start_server(crashed, hanging=operations)
    try:
        loadgen.run(
            process.address, "calls", kind="start", ended="no", request=request, inflight=256, seconds=600,
            count=operations,
        )  # fmt: skip
        process.line()  # every handler runs
    finally:
        process.end(kill=True)
    times = [_restart(crashed, data / f"round-{number}", operations) for number in range(rounds)]
    whole, listening = (statistics.median(column) for column in zip(*times, strict=True))
    verdict = processes.verdict([time for time, _ in times], TARGET, at_most=True)
    print(f"\nRecovery of {operations} operations after SIGKILL, median of {rounds} restarts of the same crash:")
    print(
        f"all handlers run {whole:.2f} s after the start of the process, which announced itself after {listening:.2f} s"
        f"{verdict}"
    )


def _restart(crashed: Path, data: Path, operations: int) -> tuple[float, float]:
    """Seconds from the start of the process until all handlers run, and until it says that it serves."""
    # From a copy: after a second quick crash in a row the server runs what it recovers in small groups, on purpose.
    shutil.copytree(crashed, data)
    began = time.monotonic()
    process = processes.start_server(data, hanging=operations)
    try:
        announced = time.monotonic() - began
        _, count, at = process.line().split()
        if int(count) != operations:
            raise processes.BenchError(f"{count} handlers run instead of {operations}")
        return float(at) - began, announced
    finally:
        process.end(kill=True)
        shutil.rmtree(data)
