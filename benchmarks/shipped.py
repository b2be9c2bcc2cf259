"""The client that users have, `longshore_client`, keeping operations in flight.

    python -m benchmarks.shipped SERVER FLOOR

Reads lines `KIND INFLIGHT SECONDS` and answers each with a JSON object. `start` is `run(request)`, which is one Start
that waits; `run` is `run(request, on_progress=...)`; `startwatch` a start followed by `watch()`. `echo` is the same
channel arguments and message classes against the floor. Every start carries a request id, as this client's always do.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import uvloop

from benchmarks import contract
from benchmarks.rawclient import OPTIONS, summary
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.channels_pb2 import CounterProgress, DiagnosticOutput, MilestoneProgress
from longshore_client import Completed, OperationMethod, connect

Method = OperationMethod[DiagnosticOutput, MilestoneProgress, DiagnosticOutput, CounterProgress]


def kinds(method: Method, floor: grpc.aio.Channel) -> dict[str, Callable[[], Awaitable[None]]]:
    """What can be measured, by name."""
    request = contract.request(contract.WORK)
    message = pb.StartRequest.FromString(contract.start_request(contract.WORK, wait=30))
    echo_rpc = floor.unary_unary(
        "/bench.Floor/Echo",
        request_serializer=pb.StartRequest.SerializeToString,
        response_deserializer=pb.StartRequest.FromString,
    )

    async def echo() -> None:
        await echo_rpc(message)

    async def start() -> None:
        await method.run(request)

    async def run() -> None:
        seen: list[MilestoneProgress] = []
        await method.run(request, on_progress=seen.append)
        if len(seen) != 1:
            raise ValueError(f"{len(seen)} progress messages instead of one")

    async def startwatch() -> None:
        operation = await method(request)
        last: object = None
        async for event in operation.watch():
            last = event
        if not isinstance(last, Completed):
            raise TypeError(f"the last event is {last!r}")

    return {"echo": echo, "start": start, "run": run, "startwatch": startwatch}


async def measure(call: Callable[[], Awaitable[None]], inflight: int, seconds: float) -> dict[str, object]:
    """Keep calls in flight for a while. Raises what a call raises."""
    latencies: list[float] = []
    epoch = time.perf_counter()

    async def lane() -> None:
        while (began := time.perf_counter()) < epoch + seconds:
            await call()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(lane() for _ in range(inflight)))
    return {**summary(latencies, time.perf_counter() - epoch), "failed": 0}


async def main() -> None:
    """Answer until the input ends."""
    server, floor = sys.argv[1:]
    loop = asyncio.get_running_loop()
    async with connect(server) as channel, grpc.aio.insecure_channel(floor, options=OPTIONS) as raw:
        method: Method = OperationMethod(
            channel, contract.TYPE, input_type=DiagnosticOutput, progress_type=MilestoneProgress,
            output_type=DiagnosticOutput, result_type=CounterProgress,
        )  # fmt: skip
        known = kinds(method, raw)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            kind, inflight, seconds = line.split()
            result = await measure(known[kind], int(inflight), float(seconds))
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
