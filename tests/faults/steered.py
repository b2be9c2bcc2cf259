"""The handlers of torture/v1/steered.proto: they wait for signals, are handed over, fail, are stopped, are deleted."""

from __future__ import annotations

import asyncio
import random
import time

from torture.v1.steered_longshore import (
    DeferOperation,
    EndureOperation,
    FalterOperation,
    KeepOperation,
    ListenOperation,
    SteeredService,
)
from torture.v1.torture_pb2 import WorkProgress, WorkRequest, WorkResult

from longshore_server import OperationError
from tests.faults.ledger import Ledger

PATIENCE = 60
"""Seconds after which a handler gives up waiting for what was promised to come."""


class Steered(SteeredService[Ledger]):
    """Work that somebody else has a say in. Each writes down what it was told, in every attempt."""

    async def listen(self, request: WorkRequest, op: ListenOperation[Ledger]) -> WorkResult:
        """By its script: `any` signal, `each` name in turn, or `timed`, which does not wait for long."""
        tokens = []
        stream = op.signals()
        for call in range(request.count):
            try:
                if request.script == "any":
                    signal = await anext(stream)
                elif request.script == "each":
                    signal = await op.next_signal("shout" if call % 2 else "word")
                else:
                    signal = await op.next_signal("word", timeout=0.3)
            except TimeoutError:
                token = "late"
            else:
                token = f"{signal.number} {signal.name} {signal.id} {signal.payload.number}"
            op.services.note(op.uid, f"call {call}", op.attempt, token)
            tokens.append(token)
            await asyncio.sleep(random.random() * 0.1)
        return WorkResult(tokens=tokens, attempt=op.attempt, text=request.text)

    async def defer(self, request: WorkRequest, op: DeferOperation[Ledger]) -> WorkResult:
        """By its script: `defer`, or `attach` work that may be lost with its process."""
        op.services.note(op.uid, "ran", op.attempt)
        await op.progress(WorkProgress(number=1, text=request.text))
        await asyncio.sleep(random.random() * 0.2)
        if request.script == "attach":
            return await op.attach(attached(op))
        result = await op.defer()
        op.services.note(op.uid, "handed over", op.attempt)
        return result

    async def falter(self, request: WorkRequest, op: FalterOperation[Ledger]) -> WorkResult:
        """Fails `count` times, and then for good if its script says `broken`."""
        failures = op.recovery.failures if op.recovery is not None else 0
        op.services.note(op.uid, "ran", op.attempt, f"{failures} {time.time_ns() // 1000}")
        token = await op.step("s0", op.services.effect(op.uid, "s0", op.attempt))
        await asyncio.sleep(random.random() * 0.1)
        if failures < request.count:
            raise OperationError("FLAKY", f"failure {failures + 1} of {request.count}")
        if request.script == "broken":
            raise OperationError("BROKEN", "for good")
        return WorkResult(tokens=[token], attempt=op.attempt, text=request.text)

    async def endure(self, request: WorkRequest, op: EndureOperation[Ledger]) -> WorkResult:
        token = await op.step("s0", op.services.effect(op.uid, "s0", op.attempt))
        async with asyncio.timeout(PATIENCE):
            await op.stopping.wait()
        await asyncio.sleep(random.random() * 0.3)
        return WorkResult(tokens=[token], attempt=op.attempt, text=request.text)

    async def keep(self, request: WorkRequest, op: KeepOperation[Ledger]) -> WorkResult:
        token = await op.step("s0", op.services.effect(op.uid, "s0", op.attempt))
        await op.progress(WorkProgress(number=1, text=request.text))
        return WorkResult(tokens=[token], attempt=op.attempt, text=request.text)


async def attached(op: DeferOperation[Ledger]) -> WorkResult:
    """Work that nobody does again."""
    op.services.note(op.uid, "handed over", op.attempt)
    await asyncio.sleep(random.random() * 1.5)
    return WorkResult(text="attached")
