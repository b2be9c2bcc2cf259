"""No signal is lost, given out twice or out of order: hypothesis mixes senders, waits, crashes, stops and re-runs."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.v1.lab_pb2 import PlayRequest, PlayResult
from lab.v1.signals_pb2 import Approve

from longshore_server import Server
from longshore_server.engine.engine import Engine
from longshore_server.engine.signals import Sending
from longshore_server.errors import Reason, ServiceError
from longshore_server.store.mutations import SignalAccepted
from longshore_server.testing import Harness
from tests.conftest import LabClock, LabHandlers, turns
from tests.server.signalling import SignalHandlers

TYPE = "lab.v1.SignalsService/Listen"
NAMES = ("approve", "few")


class World:
    """One operation whose handler follows a script of waits, and senders, over any number of servers."""

    def __init__(self, directory: Path, script: list[tuple[str, int | None]]) -> None:
        self.directory, self.script = directory, script
        self.clock, handlers = LabClock(), LabHandlers()
        handlers.handler = self.handle
        self.harness = Harness(Server(SignalHandlers(handlers)), directory, clock=self.clock)
        self.permits = asyncio.Semaphore(0)
        self.runs: list[list[Any]] = []
        """What each attempt was given, in order: a signal's name, number and amount, or a timeout."""
        self.accepted: dict[str, tuple[int, str, int]] = {}
        """By id: number, name and amount of the signals that were acknowledged."""

    @property
    def engine(self) -> Engine:
        return self.harness.running.engine

    async def begin(self) -> None:
        await self.harness.start()
        self.uid = (await self.engine.start(self.engine.types[TYPE], PlayRequest())).live.record.uid

    async def handle(self, request: Any, op: Any) -> PlayResult:
        """Each line waits for a permit where no earlier attempt got so far: re-runs race through what they know."""
        got: list[Any] = []
        known = max(map(len, self.runs), default=0)
        self.runs.append(got)
        for name, timeout in self.script:
            if len(got) >= known:
                await self.permits.acquire()
            try:
                if name == "any":
                    signal = await anext(op.signals())
                else:
                    signal = await op.next_signal(name, timeout=timeout)
            except TimeoutError:
                got.append("timeout")
            else:
                got.append((signal.number, signal.name, signal.payload.amount))
        return PlayResult()

    async def send(self, name: str, id: str, amount: int) -> None:
        """Whatever is acknowledged counts: a duplicate has to tell of the same signal."""
        live = await self.engine.load(self.uid)
        sending = self.engine.requests.signal(live, Sending(name, Approve(amount=amount), "ada", id))
        (answer,) = await asyncio.gather(sending, return_exceptions=True)
        if isinstance(answer, BaseException):
            assert isinstance(answer, ServiceError)
            before = self.accepted.get(id)
            if answer.reason is Reason.SIGNAL_ID_REUSED:
                # Not known here: it was under way at a crash.
                assert before is None or before[1:] != (name, amount)
            else:
                assert answer.reason in (Reason.TOO_MANY_SIGNALS, Reason.OPERATION_ENDED)
                assert before is None
            return
        self.note(id, answer, name, amount)

    def note(self, id: str, answer: SignalAccepted, name: str, amount: int) -> None:
        assert answer.duplicate or id not in self.accepted
        assert self.accepted.setdefault(id, (answer.number, name, amount)) == (answer.number, name, amount)

    async def restart(self, *, crash: bool) -> None:
        await (self.harness.crash() if crash else self.harness.stop())
        # No two quick crashes: that is another test's subject.
        self.clock.advance(120)
        # Permits that the lost attempt had taken and not used are gone with it: a wait more than needed does no harm.
        self.permits = asyncio.Semaphore(0)
        await self.harness.start()

    def check(self) -> None:
        """The runs against each other and against the table, at any moment."""
        longest = max(self.runs, key=len, default=[])
        for run in self.runs:
            assert run == longest[: len(run)], "a re-run got something else"
        with sqlite3.connect(f"file:{self.directory / 'longshore.db'}?mode=ro", uri=True) as database:
            database.execute("BEGIN")  # both at one moment: the writer may be at work
            rows = database.execute("SELECT number, name, id, consumed IS NULL FROM signals ORDER BY number").fetchall()
            entries = database.execute(
                "SELECT outcome FROM journal WHERE kind = 'signal' AND outcome <> x''"
            ).fetchall()
        database.close()
        assert {(id, number, name) for number, name, id, _ in rows} >= {
            (id, number, name) for id, (number, name, _) in self.accepted.items()
        }, "an acknowledged signal is lost"
        assert [number for number, *_ in rows] == list(range(1, len(rows) + 1))
        consumed = [int(outcome) for (outcome,) in entries]
        assert len(set(consumed)) == len(consumed), "one signal in two entries of the journal"
        assert sorted(consumed) == [number for number, _, _, waits in rows if not waits], "consumed without an entry"
        given_out = [item for item in longest if item != "timeout"]
        for name in NAMES:
            numbers = [number for number, found, _ in given_out if found == name]
            assert numbers == sorted(set(numbers)), "out of order, or twice"
            # Nobody is passed over: what was given out is the beginning of what was accepted.
            assert numbers == [number for number, found, _, _ in rows if found == name][: len(numbers)]
        for number, name, amount in given_out:
            known = [fact for fact in self.accepted.values() if fact[0] == number]
            assert known in ([], [(number, name, amount)])


actions = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 1)),
    st.tuples(st.just("permit"), st.integers(1, 3)),
    st.tuples(st.just("advance"), st.sampled_from([1, 10, 60])),
    st.just(("settle",)),
    st.just(("turn",)),
    st.just(("crash",)),
    st.just(("stop",)),
)
waits = st.tuples(st.sampled_from([*NAMES, "any"]), st.sampled_from([None, 0, 10, 100]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(waits, min_size=1, max_size=8), actions=st.lists(actions, min_size=1, max_size=30))
def test_each_signal_is_given_out_once_in_order_and_none_is_lost(
    script: list[tuple[str, int | None]], actions: list[tuple[Any, ...]]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), script)
            await world.begin()
            try:
                sending: set[asyncio.Task[None]] = set()
                for action in actions:
                    match action:
                        case ("send", name, id, amount):
                            task = asyncio.create_task(world.send(name, str(id), amount))
                            sending.add(task)
                        case ("permit", count):
                            for _ in range(count):
                                world.permits.release()
                        case ("advance", seconds):
                            world.clock.advance(seconds)
                        case ("settle",):
                            await world.harness.settle()
                            await asyncio.gather(*sending)
                            sending.clear()
                            world.check()
                        case ("turn",):
                            await turns(3)
                        case ("crash" | "stop",) as how:
                            await turns(1)
                            await world.restart(crash=how[0] == "crash")
                            # What was under way at a crash may be accepted or not: nobody was told.
                            for task in sending:
                                task.cancel()
                            await asyncio.gather(*sending, return_exceptions=True)
                            sending.clear()
                await world.harness.settle()
                await asyncio.gather(*sending)
                for _ in script:
                    world.permits.release()
                await world.harness.settle()
                world.check()
            finally:
                # Also after a failure: threads that are left behind would keep the process alive.
                await world.harness.stop()

    asyncio.run(play())
