"""Measures Longshore beside its floor, in one run, and prints ratios.

    make bench                                           everything short, about two minutes
    make bench ARGS='calls --inflight 64 --rounds 7'     one part, longer
    make bench ARGS='million'                            the run with 1,000,000 stored operations

Absolute figures are the machine's; ratios are what to compare. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sqlite3
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import calls, guarded, jobs, loadgen, million, processes, recovery, transfers, uploads, watching

PARTS = ("calls", "guarded", "fanout", "idle", "recovery", "transfers", "jobs")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Benchmarks of Longshore against plain gRPC.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} or million [default: all but million]"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds [default: 3]")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of each measurement [default: 0.7]")
    parser.add_argument("--inflight", type=int, nargs="+", default=[1, 16, 64, 256], help="[default: 1 16 64 256]")
    parser.add_argument("--watchers", type=int, nargs="+", default=[1, 100, 1000], help="[default: 1 100 1000]")
    parser.add_argument("--idle", type=int, default=2000, help="idle streams [default: 2000]")
    parser.add_argument("--interrupted", type=int, default=10_000, help="operations to recover [default: 10000]")
    parser.add_argument("--size", type=int, default=256, help="MiB of a transfer [default: 256]")
    parser.add_argument("--transfers", type=int, nargs="+", default=[1, 4], help="at once [default: 1 4]")
    parser.add_argument("--pending", type=int, default=100_000, help="timers of `jobs` [default: 100000]")
    parser.add_argument("--queued", type=int, default=1_000_000, help="the long queue of `jobs` [default: 1000000]")
    parser.add_argument("--stored", type=int, default=1_000_000, help="operations of `million` [default: 1000000]")
    parser.add_argument("--scratch", type=Path, help="where to keep data while it runs [default: the system's]")
    options = parser.parse_args()
    unknown = set(options.parts) - {*PARTS, "million"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}, million")
    options.parts = options.parts or list(PARTS)
    return options


def machine() -> str:
    """What the figures belong to."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf", "uvloop"))
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), load {load:.1f} before the run; Python"
        f" {platform.python_version()}, {versions}, SQLite {sqlite3.sqlite_version}, synchronous=FULL"
    )


def main() -> None:
    """Run what was asked for."""
    options = parse()
    began = time.monotonic()
    print(machine(), flush=True)
    with processes.scratch(options.scratch) as scratch:
        requests = scratch / "requests"
        requests.mkdir()
        client = loadgen.make(requests)
        for part in options.parts:
            data = scratch / part
            data.mkdir()
            if part == "calls":
                calls.run(client, data, options.inflight, options.rounds, options.seconds)
            elif part == "guarded":
                guarded.run(client, data, options.rounds, options.seconds)
            elif part == "fanout":
                watching.fan_out(client, data, options.watchers, options.rounds)
            elif part == "idle":
                watching.idle(client, data, options.idle)
            elif part == "transfers":
                transfers.run(client, data, options.size, options.transfers, options.rounds)
                uploads.run(client, data / "uploads", options.rounds, options.seconds)
            elif part == "jobs":
                jobs.run(data, options.rounds, options.seconds, options.pending, options.queued)
            elif part == "recovery":
                recovery.run(client, data, options.interrupted, options.rounds)
            else:
                million.run(client, data, options.stored, options.rounds, options.seconds)
            sys.stdout.flush()
    elapsed, load = time.monotonic() - began, os.getloadavg()[0]
    print(f"\n{elapsed:.0f} s in all; load {load:.1f} after the run, whose own share is about 2")


if __name__ == "__main__":
    # An exit instead of a death: the servers are ended and the data is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except processes.BenchError as error:
        sys.exit(f"error: {error}")
