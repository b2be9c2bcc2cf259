"""What it costs to be careful: the rates with everything on that guards and observes, against the rates without."""

from __future__ import annotations

import statistics
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import calls, contract, processes
from benchmarks.loadgen import Loadgen
from longshore_server.auth import tokens

TARGET = 0.9
SERVICE = "benchmarks.guarded_service:server"
INFLIGHT = 64
KINDS = ("start", "run", "startwatch")
SCRAPE = 1.0
"""Seconds between two readings of the metrics, which is far more often than Prometheus asks by itself."""
ON = f"""a bearer token with each call, out of a file of hashes; the gates call and observe, each with a capability;
buf.validate rules on the input (required, max_len, pattern); metrics, read every {SCRAPE:g} s; OpenTelemetry, 1 % of
the calls sampled by the server, their spans exported as JSON to nowhere"""


def run(loadgen: Loadgen, data: Path, rounds: int, seconds: float) -> None:
    """Measure both in turn, and print."""
    made = tokens.make("bench", [contract.MAY_CALL, contract.MAY_OBSERVE], None)
    tokens.append(data / "tokens.toml", made)
    known = ("--tokens", str(data / "tokens.toml"))
    found: dict[tuple[str, str], list[calls.Sample]] = {}
    with (
        processes.server(data / "plain") as plain,
        processes.server(data / "guarded", SERVICE, *known, metrics="127.0.0.1:0") as guarded,
        scraped(guarded.metrics),
    ):
        measures = {
            "with": calls.with_loadgen(loadgen, guarded, type=contract.GUARDED, authorization=f"Bearer {made.token}"),
            "without": calls.with_loadgen(loadgen, plain),
        }
        for turn in range(rounds + 1):
            for kind in KINDS:
                # Whoever comes second finds a warmer machine: they take turns at that.
                for name in list(measures)[:: 1 if turn % 2 else -1]:
                    measured = measures[name](kind, INFLIGHT, seconds)
                    if turn:  # the first turn warms up
                        found.setdefault((kind, name), []).append(measured)
    print(f"\nGuarded and not, {loadgen.name}, {INFLIGHT} in flight; medians of {rounds} interleaved rounds. On are:")
    print(f"{ON}.")
    print(f"{'call':<14}{'with/s':>8}{'without/s':>11}{'ratio':>7}{'':>13}{'server us/op':>14}")
    for kind in KINDS:
        pairs = list(zip(found[kind, "with"], found[kind, "without"], strict=True))
        ratios = [a.rate / b.rate for a, b in pairs]
        with_all, without = (statistics.median(sample.rate for sample in column) for column in zip(*pairs, strict=True))
        cpu, bare = (statistics.median(sample.cpu for sample in column) for column in zip(*pairs, strict=True))
        print(
            f"{calls.KINDS[kind]:<14}{with_all:>8.0f}{without:>11.0f}{statistics.median(ratios):>7.2f}"
            f"{f'({min(ratios):.2f}-{max(ratios):.2f})':>13}{f'{cpu:.0f} / {bare:.0f}':>14}"
            f"{processes.verdict(ratios, TARGET)}"
        )


@contextmanager
def scraped(address: str) -> Iterator[None]:
    """Read the metrics of a server again and again for the length of the block, as Prometheus would."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                answer.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
