"""A disk that is full, a disk that fails, and a change that the database refuses."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lab.v1 import lab_pb2
from torture.v1.torture_pb2 import WorkRequest

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Mutation, Report
from longshore_server.store.transaction import Transaction
from tests.conftest import Lab, reason_of, refused, result_of, retry_after
from tests.faults import trace
from tests.faults.process import Caller, ServerProcess, served

State = operation_pb2.OperationSnapshot.State
Serving = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """The folder in which a file of the right name makes system calls fail."""
    folder = tmp_path / "orders"
    folder.mkdir()
    return folder


async def start(caller: Caller, script: str, number: int) -> str:
    """The name of an operation whose start was acknowledged."""
    request = WorkRequest(script=script, text=str(number))
    return str((await caller.start("Script", request, request_id=f"r{number}")).operation.name)


def gates(folder: Path, count: int) -> list[Path]:
    """Pipes at which handlers wait until `open_gate`."""
    paths = [folder / f"gate{number}" for number in range(count)]
    for path in paths:
        os.mkfifo(path)
    return paths


async def open_gate(path: Path) -> None:
    """Let the handler that waits at this gate, or comes to it, go on."""
    await asyncio.to_thread(path.write_bytes, b"")


async def first_progress(caller: Caller, name: str) -> None:
    """Return once it has reported something."""
    watch = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0))
    async for message in watch:
        if message.event.HasField("progress"):
            watch.cancel()
            return


def check(server: ServerProcess, names: list[str]) -> None:
    """Every operation that was acknowledged is stored, and the file is whole."""
    with server.database() as database:
        assert [row[0] for row in database.execute("PRAGMA integrity_check")] == ["ok"]
        stored = {row[0] for row in database.execute("SELECT id FROM operations")}
    assert {name.removeprefix("operations/") for name in names} <= stored


async def test_a_full_disk_refuses_work_and_stops_none(tmp_path: Path, shim: Path, orders: Path) -> None:
    """New work is refused with its reason; what runs waits for room and goes on, in the same attempt."""
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", environment=environment) as server, Caller(server) as caller:
        closed = gates(tmp_path, 5)
        script = "progress up\ngate {}\nprogress on\nstep one\nsleep 0.01\nchild c\noutput off"
        names = [await start(caller, script.format(gate), n) for n, gate in enumerate(closed)]
        for name in names:
            await first_progress(caller, name)
        (orders / "full").touch()
        for number in range(3):
            code, reason, status = await refused(start(caller, "", 10 + number))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert "full" in status.message
            assert retry_after(status) > 0
        for gate in closed:
            await open_gate(gate)
        # All handlers have come to their next report and have to wait there. Reading goes on.
        await server.says("a batch of 5 changes was not written")
        for name in names:
            snapshot: Any = await caller.operations.Get(pb.GetRequest(name=name))
            assert snapshot.state == State.STATE_RUNNING
        # Accepted before the disk was full and not begun, or accepted as it was: nothing may be forgotten.
        (orders / "full").unlink()
        for name in names:
            snapshot = await caller.end(name)
            assert (snapshot.state, snapshot.attempt) == (State.STATE_COMPLETED, 1), (snapshot, server.said)
            kinds = [event.WhichOneof("event") for event in await caller.events(name)]
            assert kinds == ["accepted", "started", "progress", "progress", "output", "completed"]
        assert server.process is not None
        assert server.process.returncode is None
        names.append(await start(caller, "", 10))
        assert await server.stop() == 0
        check(server, names)
        assert len(server.ledger()) == 5


async def test_what_waits_for_a_slot_still_begins_after_a_full_disk(tmp_path: Path, shim: Path, orders: Path) -> None:
    """The slot comes free while nothing can be written."""
    environment = trace.environment(shim, folder=orders)
    flags = ("--concurrency", "1")
    async with served(tmp_path / "data", *flags, environment=environment) as server, Caller(server) as caller:
        (gate,) = gates(tmp_path, 1)
        names = [await start(caller, f"progress up\ngate {gate}", 0)]
        names += [await start(caller, "progress up", n) for n in (1, 2)]
        await first_progress(caller, names[0])
        (orders / "full").touch()
        await open_gate(gate)
        # The end of the first, and the begin of the one that got its slot.
        await server.says("a batch of 2 changes was not written")
        (orders / "full").unlink()
        for name in names:
            assert (await caller.end(name)).state == State.STATE_COMPLETED


async def test_a_server_stops_in_good_time_with_a_full_disk(tmp_path: Path, shim: Path, orders: Path) -> None:
    """Nothing waits for room that will not come any more; the next server goes on."""
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", "--drain", "1", environment=environment) as server, Caller(server) as caller:
        name = await start(caller, "progress up\npause 0.2\nprogress on", 1)
        await first_progress(caller, name)
        (orders / "full").touch()
        await refused(start(caller, "", 2))
        await server.stop()
        (orders / "full").unlink()
        await server.start()
        assert (await caller.end(name)).state == State.STATE_COMPLETED


async def test_a_full_disk_at_the_start_is_said_in_a_sentence(tmp_path: Path, shim: Path, orders: Path) -> None:
    """A supervisor may try as often as it likes: starts that come to nothing are no crashes of the operations."""
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", environment=environment) as server, Caller(server) as caller:
        name = await start(caller, "progress up\npause 60 until 2", 1)
        await first_progress(caller, name)
        await server.kill()
        (orders / "full").touch()
        for _ in range(6):
            server.said.clear()
            await server.launch()
            assert not await server.serving()
            assert await server.ended() == 2
            assert "full" in server.said[-1]
            assert server.said[-1].startswith("error: ")
        (orders / "full").unlink()
        await server.start()
        snapshot = await caller.end(name)
        assert (snapshot.state, snapshot.attempt, snapshot.crashes) == (State.STATE_COMPLETED, 2, 1)


@pytest.mark.parametrize("fault", ["unsynced", "unwritable"])
async def test_a_failed_commit_ends_the_process(tmp_path: Path, shim: Path, orders: Path, fault: str) -> None:
    """The server says so and exits non-zero, soon, whatever its handlers do; the next one has all that was promised."""
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", environment=environment) as server, Caller(server) as caller:
        # The last of them does not even end when it is cancelled.
        scripts = ["progress up\npause 60 until 2"] * 4 + ["progress up\nstubborn 1"]
        names = [await start(caller, script, n) for n, script in enumerate(scripts)]
        for name in names:
            await first_progress(caller, name)
        stub: Any = health_pb2_grpc.HealthStub(caller.channel)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == Serving.SERVING
        (orders / fault).touch()
        code, reason, status = await refused(start(caller, "", 100))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "The store has stopped" in status.message
        assert retry_after(status) > 0
        assert (await health.read()).status == Serving.NOT_SERVING
        health.cancel()
        # Without the time that a stop in good order gives to handlers: nothing that they do can be kept.
        assert await server.ended() == 1
        assert any("The store has stopped" in line for line in server.said)
        (orders / fault).unlink()
        await server.start()
        for name in names:
            snapshot = await caller.end(name)
            assert (snapshot.state, snapshot.attempt) == (State.STATE_COMPLETED, 2)
        assert await server.stop() == 0
        check(server, names)


async def test_what_a_failed_sync_left_in_the_page_cache_is_no_ground_to_build_on(
    tmp_path: Path, shim: Path, orders: Path
) -> None:
    """After a failed sync a later one succeeds without the lost pages: what is acknowledged then must not need them."""
    record = tmp_path / "trace"
    environment = trace.environment(shim, trace=record, folder=orders)
    async with served(tmp_path / "data", environment=environment) as server, Caller(server) as caller:
        before = await start(caller, "", 1)
        await caller.end(before)
        (orders / "unsynced").touch()
        await refused(start(caller, "", 2))
        assert await server.ended() == 1
        (orders / "unsynced").unlink()
        await server.start()
        after = await start(caller, "", 3)
        await caller.end(after)
        await server.kill()
    disk = trace.Disk()
    for call in trace.read(record):
        disk.apply(call)
    database = disk.after_power_loss(tmp_path / "cut", None)
    connection = sqlite3.connect(database)
    stored = {row[0] for row in connection.execute("SELECT id FROM operations WHERE ended IS NOT NULL")}
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert {name.removeprefix("operations/") for name in (before, after)} <= stored


@dataclass(slots=True)
class Broken(Mutation[None]):
    """Writes something, and then breaks in one of the ways in which a change can."""

    uid: bytes
    how: str

    def apply(self, tx: Transaction) -> None:
        execute = tx.connection.execute
        execute("INSERT INTO boots (started) VALUES (?)", (-1,))
        match self.how:
            case "raises":
                raise RuntimeError("a mistake of ours")
            case "constraint":
                execute("UPDATE operations SET state = 9 WHERE uid = ?", (self.uid,))
            case "flush":
                tx.note(tx.head(self.uid), attempt=-1)


@pytest.mark.parametrize("how", ["raises", "constraint", "flush"])
async def test_a_change_that_breaks_its_batch_fails_alone(lab: Lab, how: str) -> None:
    """Its neighbours in the same transaction are written, in order, and of itself nothing is."""
    running, may_end = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        running.set()
        await may_end.wait()
        return lab_pb2.PlayResult(text="unharmed")

    name = (await lab.begin()).operation.name
    await running.wait()
    writer, uid = lab.engine.store.writer, (await lab.engine.find(name)).record.uid
    batch = writer.published

    def report(number: int) -> Report:
        value = lab_pb2.PlayProgress(number=number)
        packed = operation_pb2.OperationEvent.Progress()
        packed.value.Pack(value)
        return Report(uid, 1, Move.PROGRESS, packed.value.SerializeToString())

    # Submitted in one step of the loop, so that they are one batch.
    futures = [writer.submit(m) for m in (report(1), Broken(uid, how), report(2), Broken(uid, how), report(3))]
    outcomes: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[1::2]] == [ServiceError, ServiceError]
    assert {outcome.reason for outcome in outcomes[1::2]} == {Reason.INTERNAL}
    assert not [outcome for outcome in outcomes[::2] if isinstance(outcome, BaseException)]
    assert writer.published == batch + 1
    assert lab.tables()["boots"] == [row for row in lab.tables()["boots"] if row[1] >= 0]
    may_end.set()
    assert result_of(await lab.end(name)).text == "unharmed"
    events = await lab.events(name)
    assert [e.WhichOneof("event") for e in events] == ["accepted", "started", *["progress"] * 3, "completed"]
    progress = lab_pb2.PlayProgress()
    assert [e.progress.value.Unpack(progress) and progress.number for e in events[2:5]] == [1, 2, 3]


async def test_a_change_that_breaks_alone_is_refused_and_the_writer_goes_on(lab: Lab) -> None:
    name = (await lab.begin()).operation.name
    uid = (await lab.engine.find(name)).record.uid
    await lab.end(name)
    with pytest.raises(ServiceError) as caught:
        await lab.engine.store.writer.submit(Broken(uid, "raises"))
    assert caught.value.reason is Reason.INTERNAL
    assert reason_of(caught.value.status()) == "INTERNAL"
    assert (await lab.end((await lab.begin()).operation.name)).state == State.STATE_COMPLETED
