"""The handlers of torture/v1/torture.proto, served by `python -m longshore_server` and killed there.

Effects go to a ledger outside of the server's own store: a file that lines are appended to, which survives a SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

# The server is started with this file alone on its path.
sys.path += [str(Path(__file__).parents[1] / "contracts"), str(Path(__file__).parents[2])]

from torture.v1.torture_longshore import (
    ChattyOperation,
    FamilyOperation,
    HandOperation,
    NamedOperation,
    QuickOperation,
    ScriptOperation,
    SleepsOperation,
    SpreadOperation,
    StepsOperation,
    TortureService,
)
from torture.v1.torture_pb2 import WorkProgress, WorkRequest, WorkResult

from longshore_server import Server
from tests.faults.ledger import Ledger
from tests.faults.steered import Steered
from tests.faults.working import Errands

QUICK = "torture.v1.TortureService/Quick"
STEPS = "torture.v1.TortureService/Steps"
SCRIPT = "torture.v1.TortureService/Script"


class Torture(TortureService[Ledger]):
    """Work of several kinds, none of which knows that it will be interrupted."""

    async def quick(self, request: WorkRequest, op: QuickOperation[Ledger]) -> WorkResult:
        await op.progress(WorkProgress(number=1, text=request.text))
        return WorkResult(attempt=op.attempt, text=request.text)

    async def steps(self, request: WorkRequest, op: StepsOperation[Ledger]) -> WorkResult:
        tokens = []
        for n in range(request.count):
            tokens.append(await op.step(f"s{n}", op.services.effect(op.uid, f"s{n}", op.attempt)))
            await asyncio.sleep(random.random() * 0.05)
            await op.progress(WorkProgress(number=n + 1, text=request.text))
        return WorkResult(tokens=tokens, attempt=op.attempt, text=request.text)

    async def sleeps(self, request: WorkRequest, op: SleepsOperation[Ledger]) -> WorkResult:
        tokens = []
        for n in range(request.count):
            await op.sleep(0.1)
            tokens.append(await op.step(f"s{n}", op.services.effect(op.uid, f"s{n}", op.attempt)))
            op.progress(WorkProgress(number=n + 1, text=request.text))
        return WorkResult(tokens=tokens, attempt=op.attempt, text=request.text)

    async def chatty(self, request: WorkRequest, op: ChattyOperation[Ledger]) -> WorkResult:
        for n in range(request.count):
            said = op.progress(WorkProgress(number=n + 1, text=request.text))
            if n % 16 == 15:
                await said
                await asyncio.sleep(0.01)
                op.output(f"{n + 1} of {request.count}")
        return WorkResult(attempt=op.attempt, text=request.text)

    async def family(self, request: WorkRequest, op: FamilyOperation[Ledger]) -> WorkResult:
        children = []
        for n in range(request.count):
            kind = STEPS if n % 2 else QUICK
            child = WorkRequest(count=2, text=f"{request.text}/{n}")
            children.append(await server.operations.start(kind, child, name=f"c{n}"))
            await op.progress(WorkProgress(number=n + 1, text=request.text))
        for child_ref in children:
            await child_ref.wait()
        return WorkResult(tokens=[ref.uid for ref in children], attempt=op.attempt, text=request.text)

    async def named(self, request: WorkRequest, op: NamedOperation[Ledger]) -> WorkResult:
        tokens = []
        for n in range(request.count):
            tokens.append(await op.step(f"s{n}", op.services.effect(op.uid, f"s{n}", op.attempt)))
            await op.progress(WorkProgress(number=n + 1, text=request.text))
        return WorkResult(tokens=tokens, attempt=op.attempt, text=request.text)

    async def hand(self, request: WorkRequest, op: HandOperation[Ledger]) -> WorkResult:
        result: WorkResult = await errands.hand(request, op)
        return result

    async def spread(self, request: WorkRequest, op: SpreadOperation[Ledger]) -> WorkResult:
        return await errands.spread(request, op)

    async def script(self, request: WorkRequest, op: ScriptOperation[Ledger]) -> WorkResult:
        """One instruction a line; `die N` and `step NAME die N` kill the process in the attempts up to N.

        `stubborn N` ends by no cancellation, in the attempts up to N. `defer die` and `attach die` kill it whenever the
        operation is handed over.
        """
        tokens = []
        for number, line in enumerate(request.script.splitlines()):
            match line.split():
                case ["step", name]:
                    tokens.append(await op.step(name, op.services.effect(op.uid, name, op.attempt)))
                case ["step", name, "die", count]:
                    effect = op.services.effect(op.uid, name, op.attempt)
                    tokens.append(await op.step(name, deadly(effect) if op.attempt <= int(count) else effect))
                case ["sleep", seconds]:
                    await op.sleep(float(seconds))
                case ["child", name]:
                    ref = await server.operations.start(QUICK, WorkRequest(text=request.text), name=name)
                    tokens.append(ref.uid)
                case ["family", *instruction]:
                    request = WorkRequest(script=" ".join(instruction))
                    ref = await server.operations.start(SCRIPT, request, name=f"line {number}")
                    await op.progress(WorkProgress(number=number, text=ref.name))
                    tokens.append((await ref.wait()).text)
                case ["progress", text]:
                    await op.progress(WorkProgress(number=number, text=text))
                case ["output", text]:
                    await op.output(text)
                case ["cancelled"]:
                    await op.cancelled.wait()
                case ["stopping"]:
                    await op.stopping.wait()
                case ["pause", seconds]:
                    await asyncio.sleep(float(seconds))
                case ["pause", seconds, "until", count]:
                    if op.attempt < int(count):
                        await asyncio.sleep(float(seconds))
                case ["gate", path]:
                    # A pipe: opening it takes until the test opens it, too.
                    await asyncio.to_thread(Path(path).read_bytes)
                case ["stubborn", count]:
                    while op.attempt <= int(count):
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.Event().wait()
                case ["signal"]:
                    tokens.append((await op.next_signal("say")).payload.text)
                case ["signal", timeout]:
                    try:
                        tokens.append((await op.next_signal("say", timeout=float(timeout))).payload.text)
                    except TimeoutError:
                        tokens.append("timeout")
                case ["defer", "die"]:
                    await op.defer()
                    die()
                case ["attach", "die"]:
                    return await op.attach(attached(op))
                case ["note", name]:
                    op.services.note(op.uid, name, op.attempt)
                case ["die", count]:
                    if op.attempt <= int(count):
                        die()
                case other:
                    raise ValueError(f"no such instruction: {other}")
        return WorkResult(tokens=tokens, attempt=op.attempt, text=request.text)


def deadly(effect: Callable[[], str]) -> Callable[[], str]:
    """An effect, and the end of the process."""

    def run() -> str:
        token = effect()
        die()
        return token

    return run


async def attached(op: ScriptOperation[Ledger]) -> WorkResult | None:
    """Work that is lost with its process."""
    op.services.note(op.uid, "attached", op.attempt)
    await op.progress(WorkProgress(text="attached"))
    die()
    return None


def die() -> None:
    """What a power switch does to a process."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.asynccontextmanager
async def lifespan(running: Server) -> AsyncIterator[Ledger]:
    """The ledger, open while the server runs."""
    ledger = Ledger(running.config.data / "ledger.tsv")
    try:
        yield ledger
    finally:
        ledger.close()


server = Server(Torture(), Steered(), lifespan=lifespan)
errands = Errands(server)
