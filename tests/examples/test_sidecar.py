"""examples/sidecar: its sidecar restarted under load, and the word of its application held against the store."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.v1.operation_pb2 import OperationEvent, OperationSnapshot
from longshore_server import health_probe
from longshore_server.command import serve
from longshore_server.config import load
from longshore_server.testing.reservation import Reservation

ROOT = Path(__file__).parents[2]
SIDECAR = ROOT / "examples" / "sidecar"
AT_ONCE = 30
"""How many orders are under way."""


class Pod:
    """`pod.py`, what it says, and orders in such numbers that there are always some under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self.accepted: dict[str, str] = {}
        """By order, the name of its operation."""
        self.ended: dict[str, str] = {}
        self.again: Counter[str] = Counter()
        """The codes that the application met."""
        self.said: list[str] = []
        """What the pod and its sidecar wrote."""
        self._more = asyncio.Condition()
        self._reading = [asyncio.create_task(self._read_orders()), asyncio.create_task(self._read_notes())]

    def order(self) -> None:
        """One more."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(b"o%d\n" % next(self._numbers))

    async def until(self, seen: Callable[[], bool]) -> None:
        """Return once it is so. Fails if the application ends or says something wrong before that."""
        waiting = asyncio.create_task(self._wait(seen))
        done, _ = await asyncio.wait({waiting, *self._reading}, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            for reading in done:
                reading.result()
            pytest.fail("\n".join([f"the pod has ended with {await self.gone()}:", *self.said]))

    def sidecars(self) -> list[int]:
        """The process ids of all so far."""
        return [int(found[1]) for line in self.said if (found := re.fullmatch(r"pod: sidecar is (\d+)", line))]

    def serving(self) -> int:
        """How many sidecars have come to serve."""
        return sum("  serving " in line for line in self.said)

    def end(self) -> None:
        """As a kubelet says it."""
        self._process.send_signal(signal.SIGTERM)

    async def gone(self) -> int:
        """Return its exit code once it and all that it wrote have ended."""
        code = await self._process.wait()
        await asyncio.gather(*self._reading)
        return code

    async def _wait(self, seen: Callable[[], bool]) -> None:
        async with self._more:
            await self._more.wait_for(seen)

    async def _read_orders(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            async with self._more:
                if "accepted" in told:
                    assert self.accepted.setdefault(told["order"], told["accepted"]) == told["accepted"]
                elif "again" in told:
                    self.again[told["again"]] += 1
                else:
                    assert told["order"] not in self.ended, "it is told once"
                    self.ended[told["order"]] = told["ended"]
                    self.order()
                self._more.notify_all()

    async def _read_notes(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            async with self._more:
                self.said.append(line.decode().rstrip())
                self._more.notify_all()


@contextlib.asynccontextmanager
async def running(directory: Path, address: str, drain: float) -> AsyncIterator[Pod]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SIDECAR / "pod.py"), str(directory), address, stdin=pipe, stdout=pipe, stderr=pipe,
        env={**os.environ, "LONGSHORE_DRAIN": str(drain)},
    )  # fmt: skip
    pod = Pod(process)
    try:
        yield pod
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await pod.gone()


@pytest.fixture
def directory(tmp_path: Path) -> Any:
    """With a name short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("loopback", "drain"), [(False, 0.3), (True, 4.0)], ids=["socket, cut short", "loopback, drained"]
)
async def test_a_rolling_restart_under_load_loses_nothing(directory: Path, loopback: bool, drain: float) -> None:
    reserved = Reservation()
    async with running(directory, reserved.address if loopback else "", drain) as pod:
        for _ in range(AT_ONCE):
            pod.order()
        for restart in range(1, 4):
            before = len(pod.accepted)
            await pod.until(lambda before=before: len(pod.accepted) >= before + AT_ONCE)  # type: ignore[misc]
            os.kill(pod.sidecars()[-1], signal.SIGTERM)
            # The pod says in its own time which one it is.
            await pod.until(lambda restart=restart: min(pod.serving(), len(pod.sidecars())) > restart)  # type: ignore[misc]
        await pod.until(lambda: len(pod.accepted) >= 4 * AT_ONCE)
        pod.end()
        assert await pod.gone() == 0, pod.said
    assert pod.accepted.keys() == pod.ended.keys(), "the application has finished all its calls"
    assert set(pod.ended.values()) == {"ready_to_ship"}
    assert pod.again["UNAVAILABLE"] > 0
    assert pod.again.keys() <= {"UNAVAILABLE", "CANCELLED"}
    notes = [line for line in pod.said if line.startswith("pod: ") and "ended" in line]
    assert notes[-2:] == ["pod: application ended with 0", "pod: sidecar ended with 0"]
    assert notes[:-2] == ["pod: sidecar ended with 0, and begins again"] * 3
    stored, effects = read(directory / "data")
    assert stored.keys() == set(pod.accepted.values()), "one operation for each order, and no other"
    for name, (state, events) in stored.items():
        ends = [event for event in events if event.WhichOneof("event") in ("completed", "failed", "cancelled")]
        assert (state, ends) == (OperationSnapshot.STATE_COMPLETED, events[-1:]), name
        assert [event.sequence for event in events] == list(range(1, len(events) + 1)), name
    for kind in ("charge", "ship"):
        assert Counter(order for order in pod.accepted for row in effects if {order, kind} <= row) == dict.fromkeys(
            pod.accepted, 1
        ), f"{kind}: each once, under one key"


def read(data: Path) -> tuple[dict[str, tuple[int, list[OperationEvent]]], list[set[Any]]]:
    """Every operation by name, with its state and its events; and what the ledger has of each effect in the world."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'longshore.db'}?mode=ro", uri=True)) as database:
        found = {
            f"operations/{id}": (
                state,
                [
                    OperationEvent.FromString(body)
                    for (body,) in database.execute("SELECT body FROM events WHERE uid = ? ORDER BY sequence", (uid,))
                ],
            )
            for uid, id, state in database.execute("SELECT uid, id, state FROM operations")
        }
    with contextlib.closing(sqlite3.connect(f"file:{data / 'ledger.db'}?mode=ro", uri=True)) as database:
        return found, [set(row) for row in database.execute("SELECT * FROM effects")]


async def test_an_application_whose_input_ends_finishes_what_it_has_taken(directory: Path) -> None:
    async with running(directory, "", 20.0) as pod:
        pod.order()
        assert pod._process.stdin is not None
        pod._process.stdin.close()
        assert await pod.gone() == 0, pod.said
    assert pod.ended == {"o1": "ready_to_ship"}


def test_the_guides_commands_are_right() -> None:
    text = (ROOT / "docs" / "guides" / "sidecar.md").read_text("utf-8")
    pod, server, probe = (shlex.split(block, comments=True) for block in re.findall(r"```\n(.*?)```", text, re.DOTALL))
    assert (pod[0], ROOT / pod[1]) == ("python", SIDECAR / "pod.py")
    assert server[:2] == ["longshore", "serve"]
    with serve.make_context("serve", server[2:]) as context:
        flags = dict(context.params)
    assert flags.pop("target") == "service.py:server"
    config = load(flags, {})
    assert (config.socket_mode, config.socket_group) == ("0660", "shop")
    assert probe == ["python3", "-m", health_probe.__name__, *config.listen]


def test_the_application_has_nothing_of_ours_but_stubs() -> None:
    tree = ast.parse((SIDECAR / "application.py").read_text("utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - set(sys.stdlib_module_names) == {"acme", "google", "grpc", "longshore"}
