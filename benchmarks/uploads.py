"""Uploads to durable objects against a raw stream into the same kind of file; other calls beside 200 uploads."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc

from benchmarks import contract, processes
from benchmarks.loadgen import Loadgen
from benchmarks.processes import BenchError, Process
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import transfers_service_pb2 as bytes_pb2

SERVICE = "benchmarks.transfer_service:server"
SIZE = 256 << 20
CHUNK = 256 << 10
UPLOAD, P99 = 0.7, 2.0
UPLOADS = 200
PACE = 100_000
"""Bytes a second of each of them, where they keep one: 20 MB/s together."""
INFLIGHT = 16
DATA = os.urandom(CHUNK)
CRC32C = google_crc32c.value(DATA)


def run(loadgen: Loadgen, data: Path, rounds: int, seconds: float) -> None:
    """Measure all and print it."""
    with processes.server(data, SERVICE) as ours:
        with processes.floor() as floor:
            _rates(ours, floor, data / "raw", rounds)
        _others(loadgen, ours, rounds, seconds)


def _rates(ours: Process, floor: Process, path: Path, rounds: int) -> None:
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    cpus: dict[str, list[float]] = {"raw": [], "ours": []}
    with grpc.insecure_channel(ours.address) as channel, grpc.insecure_channel(floor.address) as other:
        keep: Any = other.stream_unary("/bench.Floor/Keep", bytes_pb2.UploadRequest.SerializeToString)
        upload = transfers_service_pb2_grpc.TransfersServiceStub(channel).Upload
        for turn in range(rounds + 1):
            for who in ("raw", "ours")[:: 1 if turn % 2 else -1]:
                name = str(path) if who == "raw" else _begin(channel, f"k{turn}")
                process = floor if who == "raw" else ours
                cpu, began = process.cpu(), time.perf_counter()
                if who == "raw":
                    done = int(keep(_messages(name))) == SIZE
                else:
                    grant = upload(_messages(name)).upload
                    done = grant.state == grant.STATE_COMMITTED
                taken = time.perf_counter() - began
                if not done:
                    raise BenchError(f"{who}: the upload was not taken")
                if turn:  # the first turn warms up
                    rates[who].append(SIZE / taken / 1e6)
                    cpus[who].append((process.cpu() - cpu) * 1e9 / SIZE)
    ratios = [a / b for a, b in zip(rates["ours"], rates["raw"], strict=True)]
    print(f"\nupload of {SIZE >> 20} MiB in chunks of {CHUNK >> 10} KiB with their CRC32C, Python client")
    print(f"{'raw MB/s':>9} {'MB/s':>6} {'ratio':>20} {'server ms/MB':>14} {'raw':>5}")
    raw, own, bare, cpu = (statistics.median(each[who]) for each in (rates, cpus) for who in ("raw", "ours"))
    spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
    print(f"{raw:>9.0f} {own:>6.0f} {statistics.median(ratios):>8.2f} {spread} {cpu:>13.2f} {bare:>5.2f}", end="")
    print(processes.verdict(ratios, UPLOAD))


def _begin(channel: grpc.Channel, key: str) -> str:
    """Start an operation that takes bytes; the name of its upload."""
    request = pb.StartRequest(type=contract.CARRIED)
    request.input.Pack(contract.request(key))
    stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
    return stub.Start(request).operation.upload.name


def _messages(upload: str) -> Iterator[bytes_pb2.UploadRequest]:
    yield bytes_pb2.UploadRequest(header=bytes_pb2.UploadHeader(upload=upload))
    for offset in range(0, SIZE, CHUNK):
        yield bytes_pb2.UploadRequest(chunk=bytes_pb2.UploadChunk(offset=offset, data=DATA, crc32c=CRC32C))
    yield bytes_pb2.UploadRequest(commit=bytes_pb2.UploadCommit(total_size=SIZE))


def _others(loadgen: Loadgen, ours: Process, rounds: int, seconds: float) -> None:
    """p99 of unary waits alone, beside uploads that keep a pace, and beside uploads as fast as they go."""
    request = loadgen.file("bytes-start", contract.start_request(contract.WORK, wait=30))
    found: dict[str, list[tuple[float, float]]] = {"idle": [], "paced": [], "unbounded": []}

    def measure(kind: str) -> None:
        def call(length: float) -> dict[str, Any]:
            return loadgen.run(ours.address, "calls", kind="start", request=request, inflight=INFLIGHT, seconds=length)

        # The uploads begin all at once, and the first calls beside them would wait for 200 others that begin.
        call(1.0)
        result = call(max(seconds, 2.0))
        found[kind].append((result["p99_ms"], result["ops"] / result["seconds"]))

    for turn in range(rounds):
        measure("idle")
        for kind, pace in (("paced", PACE), ("unbounded", 0)):
            command = [
                sys.executable,
                "-m",
                "benchmarks.uploads_load",
                ours.address,
                str(UPLOADS),
                str(pace),
                f"{turn}",
            ]
            client = Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                client.line()
                measure(kind)
            finally:
                client.end()
    print(f"\nunary wait, {INFLIGHT} in flight, beside {UPLOADS} uploads under way; medians of {rounds} rounds")
    print(f"{'uploads':<28}{'p99 ms':>8}{'to idle':>9}{'ops/s':>8}")
    titles = {"idle": "none", "paced": f"{PACE // 1000} kB/s each", "unbounded": "as fast as they go"}
    for kind, title in titles.items():
        ratios = [each[0] / idle[0] for each, idle in zip(found[kind], found["idle"], strict=True)]
        p99, rate = (statistics.median(column) for column in zip(*found[kind], strict=True))
        verdict = processes.verdict(ratios, P99, at_most=True) if kind != "idle" else ""
        print(f"{title:<28}{p99:>8.1f}{statistics.median(ratios):>9.2f}{rate:>8.0f}{verdict}")
