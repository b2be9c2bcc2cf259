"""The machine's clock as the server reads it: from two threads, over steps of its time, and after a sleep."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from longshore_server import clock as module
from longshore_server.clock import LOOK, SECOND, SystemClock

HOUR = 3600 * SECOND


class Machine:
    """The time of a machine, in the place of the module `time`, and of the event loop that counts it."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000 * HOUR, 5 * HOUR
        self.delay = 0.0
        self.fire: Callable[[], object] = lambda: None

    def time_ns(self) -> int:
        return self.wall * 1000

    def monotonic_ns(self) -> int:
        return self.steady * 1000

    def passes(self, micros: int) -> None:
        self.wall += micros
        self.steady += micros

    def call_later(self, delay: float, fire: Callable[[], object], **_: Any) -> Any:
        self.delay, self.fire = delay, fire
        return self

    def cancel(self) -> None:
        self.fire = lambda: None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_a_step_back_stops_no_time(machine: Machine) -> None:
    clock = SystemClock()
    before = clock.now()
    machine.wall -= HOUR
    machine.passes(7)
    assert clock.now() == before + 7
    machine.wall += 2 * HOUR
    assert clock.now() == machine.wall, "a step forward is one"
    clock.never_before(machine.wall + HOUR)
    machine.passes(5)
    assert clock.now() == machine.wall + HOUR


@pytest.mark.parametrize("sleeps", [True, False], ids=["the machine sleeps", "its time is put forward"])
def test_a_timer_is_not_late_by_what_the_loop_does_not_count(machine: Machine, sleeps: bool) -> None:
    clock, fired = SystemClock(), []
    clock.call_at(machine.wall + HOUR, lambda: fired.append("due"))
    machine.wall += 2 * HOUR if sleeps else HOUR
    assert machine.delay <= LOOK / SECOND
    machine.passes(int(machine.delay * SECOND))
    machine.fire()
    assert fired == ["due"]


def test_a_timer_far_away_waits_for_its_time(machine: Machine) -> None:
    clock, fired = SystemClock(), []
    clock.call_at(machine.wall + HOUR, lambda: fired.append("due"))
    looks = 0
    while not fired:
        assert clock.now() < 1_000_001 * HOUR
        machine.passes(round(machine.delay * SECOND))
        machine.fire()
        looks += 1
    assert clock.now() == 1_000_001 * HOUR
    assert looks == HOUR // LOOK


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless")
def test_two_threads_read_one_time() -> None:
    """It is never ahead of the machine's, and goes back for nobody."""
    clock, backwards = SystemClock(), []

    def read() -> None:
        last = clock.now()
        for _ in range(20_000):
            now = clock.now()
            if now < last:
                backwards.append((last, now))
            last = now

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not backwards
    ahead = clock.now() - time.time_ns() // 1000
    assert ahead <= 0
