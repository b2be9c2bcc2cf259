"""Bytes: how fast an object is fetched, beside a raw stream of the same file."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import grpc

from benchmarks import contract, processes
from benchmarks.loadgen import Loadgen
from benchmarks.watching import START
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2

SERVICE = "benchmarks.transfer_service:server"
DOWNLOAD = "/longshore.v1.TransfersService/Download"
DOWNLOAD_TARGET = 0.8
MIB = 1 << 20


def run(loadgen: Loadgen, data: Path, size: int, inflight: Sequence[int], rounds: int) -> None:
    """Measure downloads of `size` MiB and print them."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    with processes.server(data, SERVICE) as server, processes.floor() as floor:
        name = _offer(server.address, str(size))
        asked = transfers_service_pb2.DownloadRequest(name=name).SerializeToString()
        path = data / "stores" / "files" / str(size)
        cells = {
            "raw": (floor.address, "/bench.Floor/File", loadgen.file("path", str(path).encode())),
            "download": (server.address, DOWNLOAD, loadgen.file("download", asked)),
        }
        for turn in range(rounds + 1):
            for count in inflight:
                for kind, (address, method, request) in cells.items():
                    result = loadgen.run(address, "fetch", method=method, request=request, inflight=count)
                    if result["bytes"] < size * MIB * count:
                        raise processes.BenchError(f"{count} downloads of {size} MiB brought {result['bytes']} bytes")
                    if turn:  # the first turn warms up
                        rates[kind, count].append(size * MIB * count / result["seconds"])
        print(f"\ndownloads of {size} MiB in chunks of 512 KiB, {loadgen.name}")
        print(f"{'at once':>8} {'raw MB/s':>9} {'MB/s':>9} {'ratio':>22}")
        for count in inflight:
            raw, ours = rates["raw", count], rates["download", count]
            ratios = [one / other for one, other in zip(ours, raw, strict=True)]
            print(
                f"{count:>8} {statistics.median(raw) / 1e6:>9.0f} {statistics.median(ours) / 1e6:>9.0f}"
                f" {statistics.median(ratios):>8.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                + processes.verdict(ratios, DOWNLOAD_TARGET)
            )


def _offer(address: str, key: str) -> str:
    """Start the operation that makes an object and offers it; the name of the download."""
    with grpc.insecure_channel(address) as channel:
        rpc: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(START)
        answer = pb.StartResponse.FromString(rpc(contract.start_request(key, type=contract.EXPORT, wait=300)))
    return answer.operation.downloads[0].name
