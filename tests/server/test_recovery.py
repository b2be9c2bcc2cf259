"""After a crash: what goes on, what is settled, and how the one operation that kills the process is found."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore.v1.operation_control_service_pb2_grpc import OperationControlServiceStub
from longshore_server import Server, StoreError
from longshore_server.engine.sweeper import Sweeper
from longshore_server.store.mutations import Mutation, Nothing
from longshore_server.store.store import Store
from tests.conftest import Lab, State, reason_of, reason_of_end, refused, result_of, turns


async def crash_at(lab: Lab, *names: str) -> None:
    """Kill the server once every named operation has begun."""
    for name in names:
        await lab.reached(name, "started")
    await lab.restart()


async def test_what_a_rerun_knows_of_the_attempt_that_died(lab: Lab) -> None:
    seen: list[Any] = []

    @lab.plays
    async def handler(request, op):
        seen.append((op.attempt, op.recovery))
        if op.attempt < 3:
            if op.attempt == 1:
                await op.progress(lab_pb2.PlayProgress(number=41))
                await op.progress(lab_pb2.PlayProgress(number=42))
            await op.sleep(3600)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "progress", 2)
    await lab.restart()
    await lab.clock.armed(3600)
    await lab.restart()
    lab.clock.advance(1)  # two quick crashes: it is run apart, which needs time to pass
    snapshot = await lab.end(name)
    assert (snapshot.attempt, snapshot.crashes) == (3, 2)
    assert seen[0] == (1, None)
    for attempt, recovery in seen[1:]:
        assert (recovery.attempt, recovery.crashes, recovery.progress.number) == (attempt - 1, attempt - 1, 42)
    kinds = await lab.kinds(name)
    assert kinds == ["accepted", "started", "progress", "progress", "attempt_failed", "attempt_failed", "completed"]
    failed = [e for e in await lab.events(name) if e.HasField("attempt_failed")]
    assert [reason_of(e.attempt_failed.error) for e in failed] == ["INTERRUPTED"] * 2
    assert [e.state for e in failed] == [State.STATE_RUNNING] * 2


@pytest.mark.parametrize(("crash", "how"), [(True, "crashed"), (False, "stopped")])
async def test_an_interrupted_attempt_says_whether_by_a_crash(lab: Lab, crash: bool, how: str) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    await lab.restart(crash=crash)
    assert (await lab.end(name)).crashes == crash
    (failed,) = [e.attempt_failed for e in await lab.events(name) if e.HasField("attempt_failed")]
    assert failed.error.message == f"The server {how} while the attempt was under way."


async def test_pending_operations_begin_and_do_not_count_a_crash(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(number=op.attempt)

    names = [(await lab.begin()).operation.name for _ in range(3)]
    await crash_at(lab, names[0])
    gate.set()
    ended = [await lab.end(name) for name in names]
    assert [(result_of(s).number, s.crashes) for s in ended] == [(2, 1), (1, 0), (1, 0)]


async def test_what_goes_on_begins_only_once_all_else_has_started(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or handlers would log before `longshore serve` has said that it serves."""
    begun = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        begun.set()
        await asyncio.Event().wait()

    sweep = Sweeper.start

    async def start(sweeper: Sweeper, store: Store) -> None:
        for _ in range(5):  # commits take turns: all that was asked to begin before would have begun
            await store.writer.submit(Nothing())
        await sweep(sweeper, store)

    monkeypatch.setattr(Sweeper, "start", start)
    await lab.begin()
    await begun.wait()
    await lab.harness.crash()
    begun.clear()
    await lab.harness.start()
    assert not begun.is_set()
    await begun.wait()


async def test_on_crash_fail(lab: Lab) -> None:
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.attempt)
        await asyncio.Event().wait()

    name = (await lab.begin("PlayOnce")).operation.name
    await crash_at(lab, name)
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot), snapshot.error.code) == (State.STATE_FAILED, "INTERRUPTED", 10)
    assert ran == [1]


async def test_max_crashes(lab: Lab) -> None:
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.attempt)
        await asyncio.Event().wait()

    name = (await lab.begin("PlayThrough")).operation.name
    await crash_at(lab, name)
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot), snapshot.crashes) == (State.STATE_FAILED, "CRASH_LOOP", 1)
    assert ran == [1]


async def test_a_stop_in_good_order_does_not_count(lab: Lab) -> None:
    entered = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        entered.set()
        if op.attempt <= 8:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult(number=op.attempt)

    name = (await lab.begin("PlayThrough")).operation.name
    for _ in range(8):
        await entered.wait()
        entered.clear()
        await lab.restart(crash=False)
    snapshot = await lab.end(name)
    assert (result_of(snapshot).number, snapshot.crashes) == (9, 0)


@pytest.mark.parametrize("after", range(1, 12, 2))
async def test_a_stop_in_the_midst_of_starts_does_not_count_either(make_lab: Any, after: int) -> None:
    """Starts whose commit is under way, and operations that just get a slot, when the server stops."""
    lab = await make_lab(concurrency=3)
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.name)
        if len(ran) > 2:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    kind = lab.engine.types["lab.v1.LabService/PlayThrough"]
    calls = [asyncio.ensure_future(lab.engine.start(kind, lab_pb2.PlayRequest())) for _ in range(8)]
    await turns(after)
    await lab.harness.stop()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    started = [a.live.record.name for a in answers if not isinstance(a, BaseException)]
    assert started
    frozen = list(ran)
    await turns(50)
    assert ran == frozen  # nothing runs on in a server that has stopped
    assert all(stopped is not None for _, _, stopped, _ in lab.tables()["boots"])
    lab.handlers.handler = None
    await lab.harness.start()
    await lab.connect()
    for name in started:
        ended = await lab.end(name)
        assert (ended.state, ended.crashes) == (State.STATE_COMPLETED, 0)


@pytest.mark.parametrize("after", range(0, 12, 2))
async def test_nothing_runs_on_in_a_server_that_has_crashed(make_lab: Any, after: int) -> None:
    lab = await make_lab(concurrency=3)
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.name)
        await op.sleep(1)
        return lab_pb2.PlayResult()

    kind = lab.engine.types[Lab.TYPE]
    calls = [asyncio.ensure_future(lab.engine.start(kind, lab_pb2.PlayRequest())) for _ in range(8)]
    await turns(after)
    await lab.harness.crash()
    frozen = list(ran)
    await turns(50)
    assert ran == frozen
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_the_drain_time_is_given(make_lab: Any) -> None:
    lab = await make_lab(drain=30.0)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(number=op.attempt)

    one = (await lab.begin()).operation.name
    await lab.reached(one, "started")
    stopping = asyncio.ensure_future(lab.harness.stop())
    await lab.clock.armed(30)
    gate.set()
    await stopping
    await lab.harness.start()
    await lab.connect()
    assert result_of(await lab.end(one)).number == 1


async def test_the_drain_time_ends(make_lab: Any) -> None:
    lab = await make_lab(drain=30.0)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult(number=op.attempt)

    one = (await lab.begin()).operation.name
    await lab.reached(one, "started")
    stopping = asyncio.ensure_future(lab.harness.stop())
    await lab.clock.armed(30)
    lab.clock.advance(30)
    await stopping
    await lab.harness.start()
    await lab.connect()
    snapshot = await lab.end(one)
    assert (result_of(snapshot).number, snapshot.crashes) == (2, 0)
    assert await lab.kinds(one) == ["accepted", "started", "attempt_failed", "completed"]


async def test_overdue_deadlines_come_before_handlers(lab: Lab) -> None:
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.attempt)
        await asyncio.Event().wait()

    late = [(await lab.begin("PlayMinute")).operation.name for _ in range(5)]
    kept = (await lab.begin()).operation.name
    for name in (*late, kept):
        await lab.reached(name, "started")
    await lab.harness.crash()
    lab.clock.advance(61)
    ran.clear()
    await lab.harness.start()
    await lab.connect()
    for name in late:
        snapshot = await lab.end(name)
        assert (reason_of_end(snapshot), snapshot.attempt) == ("DEADLINE_EXCEEDED", 1)
        assert await lab.kinds(name) == ["accepted", "started", "failed"]
    await lab.catch_up()
    assert ran == [2]


async def test_starts_are_refused_and_reads_are_answered_until_recovery_is_over(tmp_path: Any) -> None:
    opened, go = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(server: Any) -> Any:
        opened.set()
        await go.wait()
        yield "services"

    go.set()
    lab = Lab(tmp_path / "data", lifespan=lifespan)
    await lab.start()
    ended = (await lab.run()).name
    seen = []

    @lab.plays
    async def handler(request, op):
        seen.append(op.services)
        return lab_pb2.PlayResult()

    await lab.harness.stop()
    opened.clear()
    go.clear()
    starting = asyncio.ensure_future(lab.harness.start())
    await opened.wait()
    lab.harness._running, address = None, lab.harness._config.listen[0]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
        assert (await stub.Get(pb.GetRequest(name=ended))).state == State.STATE_COMPLETED
        code, reason, _ = await refused(stub.Start(pb.StartRequest(type=Lab.TYPE)))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STARTING")
    go.set()
    await starting
    await lab.connect()
    await lab.run()
    assert seen == ["services"]
    await lab.stop()


async def test_live_operations_of_a_type_that_is_gone_refuse_the_start(make_lab: Any) -> None:
    lab = await make_lab()

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    for _ in range(3):
        await lab.begin()
    await lab.harness.crash()
    with sqlite3.connect(lab.data / "longshore.db") as database:
        database.execute("UPDATE operations SET type = 'old.v1.Service/Gone'")
    database.close()
    with pytest.raises(StoreError, match=r"3 of old\.v1\.Service/Gone"):
        await lab.harness.start()
    with sqlite3.connect(lab.data / "longshore.db") as database:
        database.execute("UPDATE operations SET type = ?", (Lab.TYPE,))
    database.close()
    await lab.harness.start()


class Poisoned:
    """Kills its server whenever the poison runs, as a handler that takes the whole process with it would."""

    def __init__(self, lab: Lab, *, long: bool) -> None:
        self.lab, self.long = lab, long
        self.dead = asyncio.Event()
        self.gate = asyncio.Event()

        @lab.plays
        async def handler(request, op):
            if request.script == "poison":
                self.dead.set()
                await asyncio.Event().wait()
            if self.long:
                await self.gate.wait()
            return lab_pb2.PlayResult()

    async def until_it_ends(self, poison: str) -> int:
        """Crash and restart as long as the poison runs. Returns how many crashes there were."""
        crashes = 0
        while True:
            engine = self.lab.engine
            ended = asyncio.ensure_future(engine.wait(await engine.find(poison), None))
            waits: list[asyncio.Future[Any]] = [ended, asyncio.ensure_future(self.dead.wait())]
            if engine.executor.held:
                waits.append(asyncio.ensure_future(self.lab.clock.armed(1)))  # the probation of a group without it
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            done = ended.done()
            # A group has begun before its handlers run: time must not pass until each has had its first step.
            while any(attempt._operation is None for attempt in engine.executor._attempts):
                await self.lab.catch_up()
            await self.lab.catch_up()
            for wait in waits:
                wait.cancel()
            if self.dead.is_set():
                crashes += 1
                await self.lab.harness.crash()
                self.dead.clear()
                await self.lab.harness.start()
            elif done:
                break
            else:
                self.lab.clock.advance(1)
                await self.lab.catch_up()
        return crashes


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("count", [5, 150])
async def test_only_the_one_that_kills_the_process_reaches_its_cap(make_lab: Any, count: int, long: bool) -> None:
    lab = await make_lab()
    poisoned = Poisoned(lab, long=True)
    names = [(await lab.begin(count=n)).operation.name for n in range(count // 2)]
    poison = (await lab.begin(script="poison")).operation.name
    names += [(await lab.begin(count=n)).operation.name for n in range(count - count // 2)]
    poisoned.long = long
    assert await poisoned.until_it_ends(poison) == 5
    poisoned.gate.set()
    await lab.connect()
    assert reason_of_end(await lab.end(poison)) == "CRASH_LOOP"
    states = [(await lab.end(name)).state for name in names]
    assert states.count(State.STATE_COMPLETED) == count


async def test_new_work_waits_while_suspects_are_run_apart_and_goes_on_after(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if request.script == "long":
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin(script="long")).operation.name
    for attempt in (1, 2):
        await lab.catch_up()
        assert (await lab.get(name)).attempt == attempt
        await lab.restart()
    new = (await lab.begin()).operation
    assert new.state == State.STATE_PENDING
    await lab.clock.armed(1)
    lab.clock.advance(1)
    assert (await lab.end(new.name)).state == State.STATE_COMPLETED


async def test_slow_crashes_put_nobody_apart(lab: Lab) -> None:
    entered = asyncio.Semaphore(0)

    @lab.plays
    async def handler(request, op):
        entered.release()
        if op.attempt <= 4:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    for _ in range(4):
        await entered.acquire()
        lab.clock.advance(120)
        await lab.restart()
        assert not lab.engine.executor.held
    assert (await lab.end(name)).state == State.STATE_COMPLETED


async def test_what_a_provider_takes_over_while_the_server_recovers_is_the_provider_s(lab: Lab, tmp_path: Path) -> None:
    """It comes between the look at what the last server left behind and the change that follows from that."""
    begins, may_begin = asyncio.Event(), asyncio.Event()
    busy, go_on = threading.Event(), threading.Event()

    class Hold(Mutation[None]):
        def apply(self, tx: Any) -> None:
            busy.set()
            assert go_on.wait(60)

    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        begins.set()
        await may_begin.wait()
        yield

    @lab.plays
    async def handler(request: Any, op: Any) -> None:
        await asyncio.Event().wait()

    name = (await lab.begin("PlayOnce")).operation.name
    await lab.reached(name, "started")
    await lab.harness.crash()
    lab.server.lifespan = lifespan
    lab.harness.configure(listen=(address := f"unix:{tmp_path}/socket",))
    starting = asyncio.create_task(lab.harness.start())
    await begins.wait()
    writer = lab.server.operations._require().store.writer
    writer.submit(Hold())
    await asyncio.to_thread(busy.wait)
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = control_pb2.AttachRequest(name=name)
        attaching = asyncio.ensure_future(OperationControlServiceStub(channel).Attach(request))
        while writer.backlog < 1:
            await turns(1)
        may_begin.set()
        while writer.backlog < 2:
            await turns(1)
        go_on.set()
        assert (await attaching).deferred
    await starting
    await lab.connect()
    snapshot = await lab.get(name)
    assert (snapshot.state, snapshot.deferred) == (State.STATE_RUNNING, True)
