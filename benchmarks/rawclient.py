"""`loadgen.cc` in Python, argument for argument, for machines where that cannot be built."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operation_pb2 import OperationSnapshot

SERVICE = "/longshore.v1.OperationsService/"
Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
Stream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


def content(path: str) -> bytes:
    """A request that the harness has written."""
    return Path(path).read_bytes()


class Caller:
    """Makes one operation, or one echo, after the other."""

    def __init__(self, channel: grpc.aio.Channel, options: dict[str, str]) -> None:
        self._kind = options["kind"]
        self._request = content(options["request"])
        self._ended = options.get("ended") != "no"
        value = options.get("authorization")
        self._metadata = () if value is None else (("authorization", value),)
        self._echo: Unary = channel.unary_unary("/bench.Floor/Echo")
        self._start: Unary = channel.unary_unary(SERVICE + "Start")
        self._run: Stream = channel.unary_stream(SERVICE + "Run")
        self._watch: Stream = channel.unary_stream(SERVICE + "Watch")

    async def call(self) -> int:
        """One of them. Returns how many messages it received. Raises `ValueError` when it did not complete."""
        if self._kind == "echo":
            await self._echo(self._request, metadata=self._metadata)
            return 0
        if self._kind == "run":
            return await self._follow(self._run(self._request, metadata=self._metadata))
        answer = await self._start(self._request, metadata=self._metadata)
        operation = pb.StartResponse.FromString(answer).operation
        if self._kind == "start":
            if self._ended and operation.state != OperationSnapshot.STATE_COMPLETED:
                raise ValueError(f"{operation.name} has not completed")
            return 0
        watch = pb.WatchRequest(name=operation.name, after_sequence=0, uid=operation.uid)
        return await self._follow(self._watch(watch.SerializeToString(), metadata=self._metadata))

    async def _follow(self, stream: Any) -> int:
        count, last = 0, b""
        async for message in stream:
            count, last = count + 1, message
        if not pb.WatchResponse.FromString(last).event.HasField("completed"):
            raise ValueError("a stream did not end with the completed event")
        return count


async def calls(channel: grpc.aio.Channel, options: dict[str, str]) -> dict[str, Any]:
    """Keep calls in flight for a while."""
    caller = Caller(channel, options)
    left = int(options.get("count", sys.maxsize))
    epoch = time.perf_counter()
    end = epoch + float(options["seconds"])
    latencies: list[float] = []
    messages = failed = 0

    async def lane() -> None:
        nonlocal left, messages, failed
        while left > 0:
            left -= 1
            began = time.perf_counter()
            try:
                messages += await caller.call()
                latencies.append(time.perf_counter() - began)
            except (grpc.aio.AioRpcError, ValueError) as error:
                failed += 1
                sys.stderr.write(f"rawclient: {error}\n")
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(lane() for _ in range(int(options["inflight"]))))
    return {**summary(latencies, time.perf_counter() - epoch), "failed": failed, "messages": messages}


def summary(latencies: list[float], seconds: float) -> dict[str, Any]:
    """What every client reports of its calls."""
    latencies.sort()
    count = len(latencies)
    return {
        "ops": count,
        "seconds": seconds,
        "p50_ms": latencies[count // 2] * 1e3 if count else 0.0,
        "p99_ms": latencies[count * 99 // 100] * 1e3 if count else 0.0,
    }


async def fanout(channel: grpc.aio.Channel, options: dict[str, str], *, hold: bool) -> dict[str, Any]:
    """Open streams, and count what they bring after the trigger, or just hold them."""
    request = content(options["request"])
    watch: Stream = channel.unary_stream(options["method"])
    streams = []
    for _ in range(int(options["inflight"])):
        stream = aiter(watch(request))
        await anext(stream)
        streams.append(stream)
    if hold:
        sys.stdout.write(json.dumps({"ready": len(streams)}) + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        sys.exit(0)
    trigger: Unary = channel.unary_unary(options["trigger"])
    epoch = time.perf_counter()
    triggered = asyncio.ensure_future(trigger(content(options["trigger_request"])))
    result = await drain(streams, epoch)
    await triggered
    return result


async def fetch(channel: grpc.aio.Channel, options: dict[str, str]) -> dict[str, Any]:
    """Open streams, and count what they bring."""
    request = content(options["request"])
    method: Stream = channel.unary_stream(options["method"])
    epoch = time.perf_counter()
    return await drain([aiter(method(request)) for _ in range(int(options["inflight"]))], epoch)


async def drain(streams: Sequence[Any], epoch: float) -> dict[str, Any]:
    """Count what comes until the last stream has ended."""
    messages = size = 0
    last = epoch

    async def one(stream: Any) -> None:
        nonlocal messages, size, last
        async for message in stream:
            messages += 1
            size += len(message)
            last = time.perf_counter()

    await asyncio.gather(*(one(stream) for stream in streams))
    return {"messages": messages, "bytes": size, "seconds": last - epoch, "failed": 0}


async def main() -> None:
    """As the command line says."""
    address, mode, *rest = sys.argv[1:]
    options = dict(argument.split("=", 1) for argument in rest)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        await channel.channel_ready()
        if mode == "calls":
            result = await calls(channel, options)
        elif mode == "fetch":
            result = await fetch(channel, options)
        else:
            result = await fanout(channel, options, hold=mode == "hold")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    uvloop.run(main())
