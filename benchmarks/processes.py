"""The processes of a benchmark: started here, ended here, and asked what they cost while they run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(__file__).resolve().parent / ".build"
_TICK = os.sysconf("SC_CLK_TCK")
_ADDRESS = re.compile(r" on (\S+:\d+) ")
_METRICS = re.compile(r" metrics (\S+:\d+)$")
SERVICE = "benchmarks.service:server"


class BenchError(Exception):
    """Something that is measured did not do what it should; the message says what."""


def verdict(values: Sequence[float], target: float, *, at_most: bool = False) -> str:
    """What the median of some rounds says of a target, and whether the rounds agree on it."""
    median = statistics.median(values)
    reached = median <= target if at_most else median >= target
    spans = min(values) < target < max(values)
    return f"  target {target} {'reached' if reached else 'MISSED'}{', but the rounds disagree' if spans else ''}"


class Process:
    """A server or a client."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None, **streams: Any) -> None:
        self.popen: subprocess.Popen[str] = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, text=True, **streams
        )
        self.address = ""
        """Of a server: where it listens."""
        self.metrics = ""
        """Of a server: where its metrics are; empty: nowhere."""

    def cpu(self) -> float:
        """Seconds of processor time so far, user and system, all threads."""
        # The name in parentheses may hold spaces; the fields after it do not.
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def rss(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text("ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def line(self) -> str:
        """The next line of its output. Raises `BenchError` when it has ended."""
        assert self.popen.stdout is not None
        text = self.popen.stdout.readline()
        if not text:
            raise BenchError(f"{self.popen.args!r} ended with code {self.popen.wait()}")
        return text

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and read the JSON object that answers it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def end(self, *, kill: bool = False) -> None:
        """End it and wait until it is gone. Repeatable."""
        if self.popen.poll() is None:
            if kill:
                self.popen.kill()
            elif self.popen.stdin is not None:
                self.popen.stdin.close()
            else:
                self.popen.terminate()
        self.popen.wait()
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


def _forward(stream: IO[str]) -> None:
    """Pass on what a server has to say, so that its pipe never fills."""
    with contextlib.suppress(ValueError):
        for line in stream:
            if "recovered" not in line and "stopping" not in line:
                sys.stderr.write(f"server: {line}")


def start_server(data: Path, service: str = SERVICE, *options: str, metrics: str = "off", hanging: int = 0) -> Process:
    """`longshore serve` of `service` on `data`, as anyone would run it, with `options`. Raises `BenchError`."""
    command = [
        sys.executable, "-m", "longshore_client.cli", "serve", service, "--listen", "127.0.0.1:0",
        "--data", str(data), "--metrics", metrics, "--log-level", "error", "--drain", "0", *options,
    ]  # fmt: skip
    environment = {"LONGSHORE_BENCH_HANGING": str(hanging)}
    process = Process(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    errors = process.popen.stderr
    assert errors is not None
    said = []
    for line in errors:
        said.append(line)
        match = _ADDRESS.search(line)
        if match:
            process.address = match[1]
            read = _METRICS.search(line)
            process.metrics = "" if read is None else read[1]
            threading.Thread(target=_forward, args=(errors,), daemon=True).start()
            return process
    process.end()
    raise BenchError("the server did not start: " + "".join(said))


def start_floor() -> Process:
    """The raw grpc.aio server."""
    process = Process([sys.executable, "-m", "benchmarks.floor"], stdout=subprocess.PIPE)
    process.address = f"127.0.0.1:{process.line().strip()}"
    return process


@contextlib.contextmanager
def server(
    data: Path, service: str = SERVICE, *options: str, metrics: str = "off", hanging: int = 0
) -> Iterator[Process]:
    """A server for the length of the block; see `start_server`."""
    process = start_server(data, service, *options, metrics=metrics, hanging=hanging)
    try:
        yield process
    finally:
        process.end(kill=bool(hanging))


@contextlib.contextmanager
def floor() -> Iterator[Process]:
    """The floor for the length of the block."""
    process = start_floor()
    try:
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def scratch(where: Path | None) -> Iterator[Path]:
    """A directory for data, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="longshore-bench-", dir=where))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
