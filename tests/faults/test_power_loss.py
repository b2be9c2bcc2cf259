"""Nothing is acknowledged or shown before the disk has it: SIGKILL leaves the page cache whole, power loss does not.

The server runs with a shim between it and the C library that writes down its writes, its syncs and what it sends, in
their order. Callers put markers into everything that has to be durable; no marker may leave by a socket before the sync
that covers the transaction holding it. Then power is cut, on paper, at many of those moments: what had been sent by
then has to be in the database that is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

import grpc
import pytest
from torture.v1.torture_pb2 import WorkRequest

from longshore.v1 import operations_service_pb2 as pb
from tests.faults import trace
from tests.faults.process import Caller, ServerProcess, served

OPERATIONS = 40


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace.build(tmp_path_factory.mktemp("shim"))


async def use(server: ServerProcess) -> list[bytes]:
    """Load in which everything that gets durable carries a marker; returns the markers, each sent to some caller."""
    markers: list[bytes] = []

    def marker(kind: str, number: int) -> str:
        text = f"mark-{kind}-{number:04}-{random.randbytes(6).hex()}"
        markers.append(text.encode())
        return text

    async def one(caller: Caller, number: int) -> None:
        # A start: its name is in the answer.
        key = marker("name", number)
        result = marker("result", number)
        started = await caller.start("Named", WorkRequest(key=key, count=2, text=result))
        await caller.events(started.operation.name)
        # Progress, output and a cancel request, all watched.
        lines = [f"progress {marker('progress', number)}", f"output {marker('output', number)}", "cancelled"]
        request = WorkRequest(script="\n".join(lines))
        operation = (await caller.start("Script", request, request_id=f"r{number}")).operation
        watching = asyncio.ensure_future(caller.events(operation.name))
        reason = marker("reason", number)
        await caller.operations.Cancel(pb.CancelRequest(name=operation.name, reason=reason))
        await caller.end(operation.name)
        await watching

    async with Caller(server) as caller:
        # In waves, because what happens at once shares a transaction.
        for wave in range(0, OPERATIONS, 8):
            await asyncio.gather(*(one(caller, number) for number in range(wave, wave + 8)))
    return markers


async def traced(folder: Path, shim: Path, weak: str = "") -> tuple[list[trace.Call], list[bytes]]:
    """The system calls of a server under load, and the markers to look for."""
    record = folder / "trace"
    async with served(folder / "data", environment=trace.environment(shim, trace=record, weak=weak)) as server:
        markers = await use(server)
        await server.kill()
    return list(trace.read(record)), markers


async def test_nothing_leaves_the_process_before_its_sync(tmp_path: Path, shim: Path) -> None:
    calls, markers = await traced(tmp_path, shim)
    order = trace.Order(calls, markers)
    assert order.violations() == []
    # It has looked at something: every marker was written to the log, synced and sent, in many transactions.
    assert set(order.written) == set(order.durable) == set(markers)
    assert len(order.sent) >= 0.9 * len(markers), set(markers) - set(order.sent)
    assert len(order.sent) >= 4 * OPERATIONS
    assert order.syncs >= OPERATIONS


@pytest.mark.parametrize("weak", ["NORMAL", "OFF", "LATE"])
async def test_a_weaker_store_is_found_out(tmp_path: Path, shim: Path, weak: str) -> None:
    """The same check refuses a server that syncs less, or commits after it has answered."""
    calls, markers = await traced(tmp_path, shim, weak)
    order = trace.Order(calls, markers)
    assert len(order.sent) >= 4 * OPERATIONS
    assert len(order.violations()) >= OPERATIONS


async def test_what_was_sent_is_there_after_power_loss(tmp_path: Path, shim: Path) -> None:
    """Power is cut at many moments; the disk has what was synced, and of the rest nothing or some."""
    calls, markers = await traced(tmp_path, shim)
    lost, checked, cuts = power_cuts(tmp_path, calls, markers)
    assert lost == []
    assert cuts >= 50
    assert checked >= 50 * OPERATIONS


async def test_a_weaker_store_loses_what_was_sent(tmp_path: Path, shim: Path) -> None:
    """The power cuts find it too."""
    calls, markers = await traced(tmp_path, shim, "NORMAL")
    lost, _, _ = power_cuts(tmp_path, calls, markers)
    assert lost


def power_cuts(folder: Path, calls: list[trace.Call], markers: list[bytes]) -> tuple[list[str], int, int]:
    """What was sent and is lost, over many cuts; how many markers were looked for, and the number of cuts."""
    rng = random.Random(7)
    sends = [n for n, call in enumerate(calls) if call.kind == "S" and any(m in call.data for m in markers)]
    moments = set(rng.sample(sends, min(40, len(sends))))
    disk, sent = trace.Disk(), set[bytes]()
    lost: list[str] = []
    checked = cuts = 0
    for number, call in enumerate(calls):
        if call.kind == "S":
            sent |= {m for m in markers if m not in sent and m in call.data}
        disk.apply(call)
        if number not in moments:
            continue
        for luck in (None, random.Random(number)):
            cuts += 1
            found = contents(disk.after_power_loss(folder / f"cut{cuts}", luck))
            checked += len(sent)
            lost += [f"cut {cuts}: {m.decode()}" for m in sent if m not in found]
    return lost, checked, cuts


def contents(path: Path) -> bytes:
    """Everything that a database left by power loss holds, after SQLite's own recovery; fails if it is damaged."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        try:
            events = database.execute("SELECT body FROM events").fetchall()
            names = database.execute("SELECT id FROM operations").fetchall()
        except sqlite3.OperationalError as error:
            return str(error).encode()
    return b"\n".join([body for (body,) in events] + [id.encode() for (id,) in names])


async def test_what_a_dying_server_had_not_synced_is_synced_before_it_is_shown(tmp_path: Path, shim: Path) -> None:
    """Killed between the write of a commit and its sync: the next server finds the commit, in the page cache.

    It may well show it, but not before a sync of its own.
    """
    orders, first, second = tmp_path / "orders", tmp_path / "first", tmp_path / "second"
    orders.mkdir()
    marker = b"mark-written-but-not-synced"
    settings = trace.environment(shim, trace=first, folder=orders)
    async with served(tmp_path / "data", environment=settings) as server, Caller(server) as caller:
        # The operation that the kill is to be found in; before it, some that are only there to fill the log.
        for number in range(5):
            before_it = await caller.start("Quick", WorkRequest(text=f"before {number}"))
            await caller.end(before_it.operation.name)
        (orders / "killed").touch()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await caller.start("Named", WorkRequest(key=marker.decode(), count=1))
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await server.ended() == -9
        (orders / "killed").unlink()
        before = trace.Order(trace.read(first), [marker])
        assert marker in before.written
        assert marker not in before.durable
        assert marker not in before.sent
        server.environment["FAULTS_TRACE"] = str(second)
        await server.start()
        await caller.events(f"operations/torture-{marker.decode()}")
        await server.kill()
    calls = list(trace.read(second))
    shown = next(n for n, call in enumerate(calls) if call.kind == "S" and marker in call.data)
    synced = next(n for n, call in enumerate(calls) if call.kind == "E" and call.file == "w")
    assert synced < shown
