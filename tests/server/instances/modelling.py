"""What the models of the three kinds share: one instance, simulated commit by commit, and a real server beside it.

A model knows nothing of stores, transactions or schedulers. It counts commits, so that it can die where the server
does: right after the n-th change is durable and before anybody has heard of it.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from longshore_server import Server, StepRetry
from longshore_server.errors import reason_of
from longshore_server.store.instances import InstanceRecord, Value
from longshore_server.testing import Harness
from longshore_server.testing.clock import START
from tests.conftest import LabHandlers

RETRY = StepRetry(2, backoff="constant", initial_delay=10)
MAX_CRASHES = 2
LONG = "7d"
"""For handlers that hang until their server ends."""
SLOW = 150
"""How many seconds a slow handler takes, once: if all were, one would always be overdue."""
MODES = ("works", "fails", "slow", "ends", "hangs")
FUSES = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4])
"""After how many commits the server dies; 0: it does not. Who dies all the time waits for nothing."""
SETTINGS = settings(
    max_examples=40, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


@dataclass
class Work:
    """What is being done, or is to be done again."""

    what: str
    """The kind of entry, or `timer`."""
    planned: int
    value: Any = None
    name: str = ""
    """Of the timer."""

    @property
    def queued(self) -> bool:
        return self.what != "timer"


@dataclass(eq=False)
class Waiter:
    """Who has sent something and waits until its handler has run."""

    work: Work
    told: bool = False


class Model(abc.ABC):
    """One instance. Times in seconds since the clock began."""

    def __init__(self, *, rescues: bool) -> None:
        self.rescues = rescues
        self.now = self.since = self.fuse = 0
        self.mode = "works"
        self.generation = 0
        self.seen: list[Any] = []
        """What each handler saw when it began, in order."""
        self.lives = False
        self.version = 0
        self.patient = False
        """Whether the verb that is made now waits,"""
        self.asked: Waiter | None = None
        """and for what, if there is anything to wait for."""
        self.waiters: list[Waiter] = []
        self.begin()

    def begin(self) -> None:
        """A new generation."""
        self.generation += self.lives
        self.status, self.created, self.reason, self.error = "ACTIVE", self.now, "", ""
        self.events = self.runs = self.attempt = self.failures = self.crashes = 0
        self.retry_at: int | None = None
        self.state: Any = None
        self.timers: dict[str, int] = {}
        self.queue: list[Work] = []
        self.dead: list[Work] = []
        self.work: Work | None = None
        self.began = 0
        self.under_way = False

    def open(self) -> bool:
        """An event or a start comes; whether it begins a generation."""
        if self.lives and self.status != "TERMINATED":
            return False
        self.begin()
        if not self.lives:
            self.lives, self.generation = True, 1
        return True

    def commit(self) -> bool:
        """A change is durable. Whether the server dies of it."""
        self.tell()
        self.fuse -= self.fuse > 0
        if self.fuse or not self._lit:
            return False
        self._lit = False
        self.die()
        return True

    _lit = False

    def light(self, fuse: int) -> None:
        self.fuse, self._lit = fuse, fuse > 0

    def ask(self, work: Work) -> None:
        """Whoever waits does so for this, which has its place: until it was tried, or nothing of the instance runs."""
        if self.patient and self.status == "ACTIVE":
            self.asked = Waiter(work, work is self.work and self.retry_at is not None)
            self.waiters.append(self.asked)

    def tell(self) -> None:
        """Who waits for something that is over, or that nobody runs now, waits no more."""
        stands = not self.lives or (self.status != "ACTIVE" and not self.under_way)
        for waiter in self.waiters:
            waiter.told |= stands or not any(work is waiter.work for work in self.queue)

    def die(self, *, crash: bool = True) -> None:
        """The server ends, and another begins. Who waits is told nothing by the one, and unknown to the other."""
        self.since = self.now
        self.waiters = []
        if self.under_way:
            self.under_way = False
            self.crashes += crash
            if crash and self.crashes >= MAX_CRASHES:
                self.exhaust("CRASH_LOOP")

    # What runs.

    @property
    def overtaken(self) -> bool:
        return False

    def due(self) -> int | None:
        if not self.lives or self.status != "ACTIVE" or self.under_way:
            return None
        if self.work is not None:
            return self.now if self.retry_at is None or self.overtaken else self.retry_at
        return self.now if self.queue else min(self.timers.values(), default=None)

    def advance(self, seconds: int) -> None:
        target = self.now + seconds
        while (due := self.due()) is not None and due <= max(target, self.now):
            self.now = max(self.now, due)
            self.run()
        self.now = max(self.now, target)

    def run(self) -> None:
        if self.work is None or self.overtaken:
            self.work = self.take()
            self.attempt = self.failures = self.crashes = 0
            self.began = self.now
        self.attempt += 1
        self.under_way, self.retry_at = True, None
        if self.commit():
            return
        if self.left_out():
            self.finish(run=False)
            self.commit()
            return
        self.seen.append((self.now, self.attempt, *self.sight()))
        if self.mode == "hangs":
            return
        if self.mode == "slow":
            self.mode = "works"
            self.now += SLOW
        if self.mode == "fails":
            self.fail()
        else:
            self.act()
        self.commit()

    def fail(self) -> None:
        self.error = "HANDLER_ERROR"
        if self.failures + 1 < 2:
            self.failures += 1
            self.under_way, self.retry_at = False, self.now + 10
            for waiter in self.waiters:
                waiter.told |= waiter.work is self.work
        elif self.rescues:
            self.rescue()
        else:
            self.exhaust("HANDLER_ERROR")

    def exhaust(self, reason: str) -> None:
        self.status, self.error, self.under_way = "FAILED", reason, False
        self.failures += 1

    def done(self, error: str = "") -> None:
        """What was to be done is."""
        assert self.work is not None
        if self.work.queued:
            self.queue = [work for work in self.queue if work is not self.work]
        self.work, self.retry_at, self.under_way, self.error = None, None, False, error
        self.attempt = self.failures = self.crashes = 0

    def end(self, reason: str) -> None:
        self.status, self.reason, self.under_way = "TERMINATED", reason, False
        self.queue, self.dead, self.timers, self.work, self.retry_at = [], [], {}, None, None
        self.attempt = self.failures = self.crashes = 0

    def left_out(self) -> bool:
        return False

    @abc.abstractmethod
    def take(self) -> Work: ...
    @abc.abstractmethod
    def sight(self) -> tuple[Any, ...]: ...
    @abc.abstractmethod
    def act(self) -> None: ...
    @abc.abstractmethod
    def rescue(self) -> None: ...
    @abc.abstractmethod
    def finish(self, *, run: bool = True, error: str = "") -> None: ...

    # Verbs that all kinds have.

    def pause(self) -> None:
        if self.lives and self.status == "ACTIVE":
            self.status = "PAUSED"
            self.commit()

    def resume(self) -> None:
        if not self.lives or self.status == "TERMINATED" or (self.status == "ACTIVE" and not self.dead):
            return
        if self.status == "FAILED":
            self.attempt = self.failures = self.crashes = 0
            self.retry_at = None
            self.began = self.now
        if self.status != "ACTIVE":
            self.catch_up()
        self.revive()
        self.status = "ACTIVE"
        self.commit()

    def catch_up(self) -> None:  # noqa: B027 - two kinds make nothing of it
        """What a resume makes of times that have passed."""

    def revive(self) -> None:  # noqa: B027 - only debounces have any
        """What a resume makes of dead letters."""

    def terminate(self, purge: bool) -> None:
        if not self.lives or (self.status == "TERMINATED" and not purge):
            return
        if self.status != "TERMINATED":
            self.end("enough")
        if purge:
            self.lives, self.generation, self.version = False, 0, 0
        self.commit()

    # What is compared.

    def facts(self) -> dict[str, Any] | None:
        if not self.lives:
            return None
        return {
            "status": self.status, "generation": self.generation, "created": self.created, "events": self.events,
            "runs": self.runs, "version": self.version, "waiting": len(self.queue), "dead": len(self.dead),
            "attempt": self.attempt, "failures": self.failures if self.work else 0,
            "crashes": self.crashes if self.work else 0, "under way": self.under_way, "retry at": self.retry_at,
            "timers": self.timers, "reason": self.reason, "error": self.error, "state": self.state,
            "working": self.work is not None,
        }  # fmt: skip


def case(machine: type[Machine]) -> Any:
    """Its histories as a test. A busy machine takes minutes for them: the limit is for what hangs."""
    found = pytest.mark.timeout(900)(machine.TestCase)
    found.settings = SETTINGS
    return found


def seconds(micros: int | None) -> int | None:
    """A time as models have it."""
    return None if micros is None else (micros - START) // 1_000_000


class Machine(RuleBasedStateMachine):
    """A real server on a real file, and the model that it has to agree with after every rule."""

    model: Any
    definition: Any

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.server = Server(LabHandlers())
        self.harness = Harness(self.server, Path(self.folder.name))
        self.seen: list[Any] = []
        self.mode = "works"
        self.revisions = 0
        self.waiting: list[tuple[asyncio.Task[Any], Waiter]] = []
        """Verbs that are not answered yet."""
        self.sent = 0
        """How many events the instance beside has got."""

    @classmethod
    @contextlib.contextmanager
    def playing(cls, **options: Any) -> Iterator[Any]:
        """For what chance seldom finds: a machine whose rules the test plays, and that agrees after them."""
        machine: Any = cls()
        try:
            machine.begin(**options)
            yield machine
            machine.agrees()
        finally:
            machine.teardown()

    def serve(self) -> None:
        self.runner.run(self.harness.start())
        path = Path(self.folder.name) / "longshore.db"
        self.file = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            self.runner.run(self._forget())
            self.runner.run(self.harness.stop())
        self.runner.close()
        self.folder.cleanup()

    @property
    def now(self) -> int:
        return (self.harness.clock.now() - START) // 1_000_000

    def is_beside(self, ctx: Any) -> bool:
        return bool(ctx.instance.endswith("/b"))

    async def behave(self, ctx: Any, *sight: Any) -> None:
        """What every handler does: it notes what it sees, then works, fails, takes its time, or hangs."""
        self.seen.append((self.now, ctx.attempt, *sight))
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "slow":
            self.mode = "works"
            self.harness.clock.advance(SLOW)
        if self.mode == "fails":
            raise RuntimeError

    def _changes(self, _: object) -> bool:
        """Whether the file shows a change of the instance: not all that is written makes one."""
        before = self.revisions
        sql = "SELECT coalesce(sum(revision + 1), 0) FROM instances WHERE id = 'a'"
        (self.revisions,) = self.file.execute(sql).fetchone()
        return bool(self.revisions != before)

    async def _does(self, verb: Coroutine[Any, Any, Any], seconds: int, fuse: int) -> asyncio.Task[Any] | None:
        """Let a verb go as far as it can, and have the server die on the way. None: it died before the answer."""
        self._changes(None)
        crash = self.harness.crash_after(commits=fuse, when=self._changes) if fuse else None
        task = asyncio.create_task(verb)
        await self.harness.settle()
        await self.harness.advance(seconds)
        if crash is not None:
            crash.cancel()
        if crash is not None and crash.happened:
            await self._forget(task)
            return None
        return task

    async def _forget(self, *tasks: asyncio.Task[Any]) -> None:
        """Those who wait are not answered by a server that has ended."""
        gone = [*tasks, *(task for task, _ in self.waiting)]
        self.waiting.clear()
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)

    def both(
        self, verb: Coroutine[Any, Any, Any], change: Any, *arguments: Any, fuse: int = 0, wait: bool = False
    ) -> tuple[Any, Any]:
        """The same to the server and to the model: what both answer. None: that is not answered, or not yet."""
        self.model.light(fuse)
        self.model.patient, self.model.asked = wait, None
        expected = change(*arguments)
        self.model.advance(0)
        self.model.light(0)
        self.model.patient = False
        task = self.runner.run(self._does(verb, 0, fuse))
        if task is None:
            return None, expected
        if self.model.asked is not None:
            self.waiting.append((task, self.model.asked))
        else:
            assert task.done()
        return task.result() if task.done() else None, expected

    # Rules that all kinds have.

    @rule(mode=st.sampled_from(MODES))
    def change_mode(self, mode: str) -> None:
        self.mode = self.model.mode = mode

    @rule(seconds=st.sampled_from([1, 10, 30, 60, 250]), fuse=FUSES)
    def advance(self, seconds: int, fuse: int) -> None:
        self.model.light(fuse)
        self.model.advance(seconds)
        self.model.light(0)
        self.runner.run(self._does(asyncio.sleep(0), seconds, fuse))

    @rule(crash=st.booleans(), seconds=st.sampled_from([0, 0, 30, 250]), times=st.sampled_from([1, 1, 1, 2]))
    def end_the_server(self, crash: bool, seconds: int, times: int) -> None:
        for _ in range(times):
            self.runner.run(self._forget())
            self.model.die(crash=crash)
            self.model.now += seconds
            self.model.since = self.model.now
            self.model.advance(0)
            self.runner.run(self._restart(crash, seconds))

    async def _restart(self, crash: bool, seconds: int) -> None:
        await (self.harness.crash() if crash else self.harness.stop())
        self.harness.clock.advance(seconds)
        await self.harness.start()
        await self.harness.settle()

    @rule(fuse=FUSES)
    def pause(self, fuse: int) -> None:
        self.both(self.definition.pause("a"), self.model.pause, fuse=fuse)

    @rule(fuse=FUSES)
    def resume(self, fuse: int) -> None:
        self.both(self.definition.resume("a"), self.model.resume, fuse=fuse)

    @rule(purge=st.sampled_from([False, False, True]), fuse=FUSES)
    def terminate(self, purge: bool, fuse: int) -> None:
        self.both(self.definition.terminate("a", "enough", purge=purge), self.model.terminate, purge, fuse=fuse)

    @rule()
    def send_beside(self) -> None:
        """Another instance of the definition, which nobody disturbs but the crashes: it loses nothing, and mixes in
        nothing of the first."""
        self.runner.run(self._send_beside())

    async def _send_beside(self) -> None:
        # Crashes may have been too many for it.
        await self.definition.resume("b")
        self.sent += 1
        await self.beside(self.sent)
        await self.harness.settle()
        found = await self.definition.host.find(self.definition.address("b"))
        assert found is not None
        assert self.came_beside(self.definition.read_state(*found)) == list(range(1, self.sent + 1))

    @abc.abstractmethod
    async def beside(self, number: int) -> None:
        """Send something to the other instance."""

    @abc.abstractmethod
    def came_beside(self, state: Any) -> list[int]:
        """What has come of all that was sent to it."""

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "file"):
            assert [task.done() for task, _ in self.waiting] == [waiter.told for _, waiter in self.waiting]
            self.waiting = [(task, waiter) for task, waiter in self.waiting if not waiter.told]
            assert self.seen == self.model.seen
            assert self.runner.run(self._found()) == self.model.facts()

    async def _found(self) -> dict[str, Any] | None:
        found = await self.definition.host.find(self.definition.address("a"))
        return None if found is None else self.facts(*found)

    def facts(self, record: InstanceRecord, stored: Value | None) -> dict[str, Any]:
        return {
            "status": record.status.name, "generation": record.generation, "created": seconds(record.created),
            "events": record.events, "runs": record.runs, "version": record.version, "waiting": record.waiting,
            "dead": record.dead, "attempt": record.attempt, "failures": record.failures if record.working else 0,
            "crashes": record.crashes if record.working else 0, "under way": record.under_way,
            "retry at": seconds(record.retry_at),
            "timers": {name: seconds(due) for name, due in record.timers.items()}, "reason": record.reason,
            "error": "" if record.error is None else reason_of(record.error),
            "state": self.definition.read_state(record, stored),
            "working": record.working,
        }  # fmt: skip
