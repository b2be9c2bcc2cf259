"""Watchers: how fast one operation reaches many of them, and what an idle one costs in memory."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import grpc

from benchmarks import contract, processes
from benchmarks.loadgen import Loadgen
from longshore.v1 import operations_service_pb2 as pb

START = "/longshore.v1.OperationsService/Start"
WATCH = "/longshore.v1.OperationsService/Watch"
DELIVERIES = 40_000
"""About how many messages one measurement delivers."""
MOST_EVENTS = 2_000
FAN_TARGET = 0.8
IDLE_TARGET = 1.5


def start(address: str, script: str) -> str:
    """Start an operation; its name."""
    with grpc.insecure_channel(address) as channel:
        rpc: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(START)
        return pb.StartResponse.FromString(rpc(contract.start_request(script))).operation.name


def watch_request(name: str) -> bytes:
    """Snapshot and everything after it, with no heartbeat in the time that a measurement takes."""
    request = pb.WatchRequest(name=name)
    request.heartbeat_interval.seconds = 300
    return request.SerializeToString()


def fan_out(loadgen: Loadgen, data: Path, watchers: Sequence[int], rounds: int) -> None:
    """Measure deliveries a second and print them."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    size = 0
    with processes.server(data) as server, processes.floor() as floor:
        gate = loadgen.file("gate", contract.start_request(contract.OPEN_GATE))
        for turn in range(rounds + 1):
            for count in watchers:
                events = min(MOST_EVENTS, DELIVERIES // count)
                for kind in ("queued", "awaited"):
                    name = start(server.address, f"{contract.FAN}:{events}:{int(kind == 'awaited')}")
                    result = loadgen.run(
                        server.address, "fanout", method=WATCH, request=loadgen.file("watch", watch_request(name)),
                        trigger=START, trigger_request=gate, inflight=count,
                    )  # fmt: skip
                    if result["messages"] != count * (events + 1):
                        raise processes.BenchError(f"{count} watchers of {events} events got {result['messages']}")
                    size = result["bytes"] // result["messages"]
                    if turn:  # the first turn warms up
                        rates[kind, count].append(result["messages"] / result["seconds"])
                raw = loadgen.run(
                    floor.address, "fanout", method="/bench.Floor/Watch", request=loadgen.file("hello", b"hello"),
                    trigger="/bench.Floor/Fan", trigger_request=loadgen.file("fan", f"{events + 1}:{size}".encode()),
                    inflight=count,
                )  # fmt: skip
                if turn:
                    rates["raw", count].append(raw["messages"] / raw["seconds"])
    print(f"\nFan-out of one operation; deliveries/s, medians of {rounds} rounds, {size} bytes a message")
    print("queued: the handler awaits every 512th message, so this is about deliveries, and so is the target")
    print("awaited: it awaits each, so every message is a commit of its own before anyone gets it")
    print(f"{'watchers':>9}{'raw':>9}{'queued':>9}{'ratio':>7}{'awaited':>9}{'ratio':>7}")
    for count in watchers:
        cells = {kind: statistics.median(rates[kind, count]) for kind in ("raw", "queued", "awaited")}
        ratios = {
            kind: [a / b for a, b in zip(rates[kind, count], rates["raw", count], strict=True)]
            for kind in ("queued", "awaited")
        }
        queued, awaited = (statistics.median(ratios[kind]) for kind in ("queued", "awaited"))
        print(
            f"{count:>9}{cells['raw']:>9.0f}{cells['queued']:>9.0f}{queued:>7.2f}{cells['awaited']:>9.0f}"
            f"{awaited:>7.2f}{processes.verdict(ratios['queued'], FAN_TARGET)} (queued)"
        )


def idle(loadgen: Loadgen, data: Path, streams: int) -> None:
    """Measure resident memory for each idle watcher and print it."""
    with processes.server(data) as server, processes.floor() as floor:
        request = loadgen.file("idle", watch_request(start(server.address, contract.HANG)))
        hello = loadgen.file("hello", b"hello")
        costs = []
        for process, method, content in ((server, WATCH, request), (floor, "/bench.Floor/Watch", hello)):
            with loadgen.hold(process.address, method=method, request=content, inflight=50):
                pass  # what the first streams allocate once is not what one more costs
            before = process.rss()
            with loadgen.hold(process.address, method=method, request=content, inflight=streams):
                costs.append((process.rss() - before) / streams / 1024)
    ours, raw = costs
    verdict = processes.verdict([ours / raw], IDLE_TARGET, at_most=True)
    figures = f"{ours:.1f} KiB; raw idle stream {raw:.1f} KiB; ratio {ours / raw:.2f}"
    print(f"\nIdle watcher, {streams} of them: {figures}{verdict}")
