"""The server that is fuzzed, in a process of its own, so that its memory is only its own.

It serves every contract of the tests on a manual clock. A line on stdin is a command and a number, the answer to it a
line of JSON on stdout:

    begin 0     there are new jobs, and what goes on by itself has come to rest
    settle 0    let what goes on by itself come to rest
    advance N   the same, N seconds later
    quiet 0     the same as settle, for a moment without calls: their tasks have N seconds to end
    rest N      end every operation, then as quiet: nothing may be left of the calls so far

Every answer is the inside of the server: see `Fuzzed.state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytes.v1 import files_longshore
from gates.v1 import gates_longshore
from lab.v1 import control_longshore, lab_longshore, retry_longshore, signals_longshore

from longshore_server import OperationError, Server
from longshore_server.engine.control import Control
from longshore_server.rpc.authorization import PROVIDER
from longshore_server.testing import Harness, ManualClock
from longshore_server.testing.clock import START
from longshore_server.transfers.stores import LocalStore
from tests.conftest import turns
from tests.fuzz import durable
from tests.server.auth import identities

SHARED = (
    control_longshore.ControlService, files_longshore.FilesService, retry_longshore.RetryService,
    signals_longshore.SignalsService,
)  # fmt: skip
# Each has types that the other kind of server refuses, or whose names are the other's.
GATED, OPEN = (*SHARED, gates_longshore.GatesService), (*SHARED, lab_longshore.LabService)
GATES = ("gates.start", "gates.see", "gates.cancel", "gates.steer")
# Small enough that every bound is met, and that what is kept of ended operations does not grow for long.
BOUNDS: dict[str, Any] = {
    "concurrency": 4, "concurrency_per_owner": 3, "queue": 4, "queue_per_owner": 3, "max_live": 200,
    "max_live_per_owner": 150, "max_events": 64, "max_input": 65_536, "max_payload": 65_536, "max_watches": 4,
    "max_watches_per_owner": 3, "max_transfers": 4, "max_transfers_per_owner": 3,
}  # fmt: skip
OBJECTS = ("a", "b")
"""The keys of objects that are there from the start."""
PAGE = os.sysconf("SC_PAGE_SIZE")


async def perform(self: Any, request: Any, op: Any) -> Any:
    """Every handler: its input says what it does."""
    script = getattr(request, "script", "wait" if hasattr(request, "done") and not request.done else "")
    count = abs(getattr(request, "count", 0)) % 80
    result = op._type.result()
    if hasattr(result, "text"):
        result.text = "done"
    if script == "wait":
        await asyncio.Event().wait()
    elif script == "cancel":
        await op.cancelled.wait()
        raise OperationError("LAB_CANCELLED")
    elif script == "transfer" and op._type.transfer and op._type.transfer.sends:
        await op.transfer.completed()
    elif script == "stop":
        await op.stopping.wait()
    elif script == "sleep":
        await op.sleep(count)
    elif script == "step":
        await op.step("step", lambda: count)
        await op.sleep(count)
    elif script == "report":
        for number in range(count):
            progress = op._type.progress()
            if hasattr(progress, "number"):
                progress.number = number
                op.progress(progress)
        op.output("said")
    elif script == "fail":
        raise OperationError("LAB_FAILED", "as it was told")
    elif script == "raise":
        raise ValueError("as it was told")
    elif script == "defer":
        return await op.defer()
    elif script == "signals":
        async for _ in op.signals():
            if op.stopping:
                break
    elif script == "signal" and op._type.signals:
        with contextlib.suppress(TimeoutError):
            await op.next_signal(next(iter(op._type.signals)), timeout=count)
    return result


class Errors(logging.Handler):
    """What the server complains about, apart from handlers that fail as they were told."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        told = record.name.startswith(("longshore_server.handler.failures", "longshore_server.engine.outcome"))
        told = told or text.endswith(": its handler took too long")
        # gRPC's own words where a caller has gone while it is answered.
        gone = record.name == "grpc._cython.cygrpc" and "ExecuteBatchError raised in core" in text
        if not told and not gone:
            self.lines.append(text)


class Fuzzed:
    """The server and what it knows of itself."""

    def __init__(self, data: Path, *, authenticated: bool) -> None:
        self.errors = Errors()
        logging.basicConfig(level=logging.WARNING, handlers=[self.errors])
        logging.captureWarnings(True)
        self.data = data
        self.callers: dict[str, str] = {}
        settings = dict(BOUNDS)
        if authenticated:
            settings |= self.identities()
        services = GATED if authenticated else OPEN
        made = [type("Made", (base,), dict.fromkeys(base.OPERATIONS.values(), perform))() for base in services]
        self.clock = ManualClock()
        self.server = Server(*made, stores={"uploads": LocalStore()})
        self.queue = durable.declare(self.server, guarded=authenticated)
        self.jobs: list[str] = []
        self.harness = Harness(self.server, data / "data", clock=self.clock, **settings)

    def identities(self) -> dict[str, Any]:
        """Callers of every kind, and the settings by which the server knows them."""
        tokens = self.data / "tokens.toml"

        def until(seconds: float) -> datetime:
            return datetime.fromtimestamp(START / 1e6 + seconds, UTC)

        self.callers = {
            "ada": identities.bearer(tokens, "ada", *GATES, PROVIDER),
            "bob": identities.bearer(tokens, "bob", *GATES),
            "eve": identities.bearer(tokens, "eve"),
            "late": identities.bearer(tokens, "late", *GATES, expires=until(7200)),
            "gone": identities.bearer(tokens, "gone", *GATES, expires=until(-1)),
            "jay": identities.signed(sub="jay", exp=int(START / 1e6) + 10**9, scope=" ".join(GATES)),
            "past": identities.signed(sub="past", exp=1),
        }
        keys = identities.write_keys(self.data / "keys.json", identities.public("k1"))
        return {
            "tokens": tokens, "jwt_keys": keys, "jwt_issuer": identities.ISSUER, "jwt_audience": identities.AUDIENCE,
            "health": "authenticated",
        }  # fmt: skip

    async def run(self) -> None:
        """Serve until stdin ends."""
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        async with self.harness.serve():
            self.engine: Any = self.harness.running.engine
            for key in OBJECTS:
                await self.harness.running.stores["uploads"].put(key, bytes(300_000))
            path = f"file:{self.data / 'data' / 'longshore.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(path, uri=True)) as self.database:
                await self.settle()
                self.base = asyncio.all_tasks()
                say({"address": self.harness.address, "callers": self.callers})
                while line := await commands.readline():
                    word, number = line.decode().split()
                    await getattr(self, word)(float(number))
                    say(self.state())

    def state(self) -> dict[str, Any]:
        """What the fuzzer holds against what it has sent."""
        errors, self.errors.lines = self.errors.lines, []
        executor, [version] = self.engine.executor, self.database.execute("PRAGMA data_version").fetchone()
        return {
            "errors": errors,
            "version": version,  # changes with every commit that changes anything
            "memory": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            "jobs": self.jobs,
            "leaked": [repr(task) for task in self.calls()],
            "left": {
                "operations": len(self.engine.table.live), "attempts": executor.running,
                "watches": self.engine.watches.count, "starts": len(self.engine._starts.inputs),
                "transfers": self.engine.transfers.count, "uploads": len(self.engine.transfers.uploads._open),
                "downloads": len(self.engine.transfers.downloads._open),
                "places": self.engine._live.count,
                # The next bucket of deadlines, the next sweep and the next time of an instance have one each.
                "timers": max(0, self.clock.pending - 3), "jobs": len(self.engine.jobs.runs),
                "instances": len(self.engine.instances._runner._runs),
                "waiting": sum(executor.waiting_of(name) + executor.running_of(name) for name in self.engine.types),
            },
        }  # fmt: skip

    def calls(self) -> set[asyncio.Task[Any]]:
        """The tasks that are neither the server's own nor those of handlers: calls, and what should have ended."""
        attempts = {attempt.task for attempt in self.engine.executor._attempts}
        attempts |= {run.task for run in self.engine.jobs.runs.values()}
        attempts |= {*self.engine.instances._runner._runs.values()}
        # gRPC has a task that waits for the next call, and another one after each.
        return {
            task for task in asyncio.all_tasks() - self.base - attempts
            if not getattr(task.get_coro(), "__qualname__", "").startswith(("AioServer._request_", "_caught"))
        }  # fmt: skip

    # Commands.

    async def begin(self, _: float) -> None:
        self.jobs = await durable.begin(self.queue)
        await self.settle()

    async def settle(self, _: float = 0) -> None:
        """Return once nothing goes on any more without a clock, a caller or a signal."""
        await turns()  # what the network has brought is known to the loop only when it turns
        await self.harness.settle()

    async def advance(self, seconds: float) -> None:
        await self.harness.advance(seconds)
        await self.harness.settle()

    async def quiet(self, seconds: float) -> None:
        await self.settle()
        if calls := self.calls():
            await asyncio.wait(calls, timeout=seconds)
            await self.settle()

    async def rest(self, seconds: float) -> None:
        await self.quiet(seconds)
        control = Control(self.engine)
        for live in list(self.engine.table.live.values()):
            if not live.record.terminal:
                await control.cancel(live, "it is over")
        await durable.end(self.engine, self.database)
        await self.advance(120)  # the longest grace
        await self.quiet(seconds)


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="longshore-fuzz-") as folder:
        fuzzed = Fuzzed(Path(folder), authenticated=sys.argv[1] == "authenticated")
        asyncio.run(fuzzed.run())
