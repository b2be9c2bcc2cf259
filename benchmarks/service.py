"""The service that is measured, run as everyone runs one: `longshore serve benchmarks.service:server`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any, ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from benchmarks import contract
from longshore.v1.channels_pb2 import CounterProgress, MilestoneProgress
from longshore_server import Server

AWAITED = int(os.environ.get("LONGSHORE_BENCH_HANGING", "0"))
"""When so many handlers hang, say so on stdout with the monotonic time."""


class Bench:
    """The handler of `bench.v1.BenchService/Work`; see `contract` for its scripts."""

    DESCRIPTOR: ClassVar[ServiceDescriptor] = contract.service()
    OPERATIONS: ClassVar[dict[str, str]] = {"Work": "work"}

    def __init__(self) -> None:
        self._gate = asyncio.Event()
        self._hanging = 0

    async def work(self, request: Any, op: Any) -> CounterProgress:
        """Play the script in the input's field `message`."""
        script, _, arguments = request.message.partition(":")
        if script == contract.FAN:
            count, awaited = (int(argument) for argument in arguments.split(":"))
            await self._fan(op, count, awaited=bool(awaited))
        elif script == contract.OPEN_GATE:
            gate, self._gate = self._gate, asyncio.Event()
            gate.set()
        else:
            if script == contract.HANG:
                self._count()
            await op.progress(MilestoneProgress(step=1, total_steps=2, label="half way"))
            if script == contract.HANG:
                await asyncio.Event().wait()
        return CounterProgress(current=2, total=2, message="done")

    async def _fan(self, op: Any, count: int, *, awaited: bool) -> None:
        await self._gate.wait()
        for number in range(count):
            durable = op.progress(MilestoneProgress(step=number, total_steps=count, label="one of many"))
            if awaited or number % 512 == 511:
                await durable

    def _count(self) -> None:
        self._hanging += 1
        if self._hanging == AWAITED:
            sys.stdout.write(f"hanging {AWAITED} {time.monotonic():.6f}\n")
            sys.stdout.flush()


server = Server(Bench())
