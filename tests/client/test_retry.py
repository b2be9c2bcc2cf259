"""How long the client waits before it tries again, and when it stops trying."""

from __future__ import annotations

import pytest

from longshore_client import Retry
from longshore_client.retry import Timing


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def timing(self, draw: float) -> Timing:
        return Timing(sleep=self.sleep, monotonic=lambda: self.now, random=lambda: draw)


async def test_the_bound_doubles_up_to_the_longest_delay() -> None:
    time = Time()
    backoff = Retry(initial_delay=0.1, max_delay=1.0, give_up_after=None, timing=time.timing(1.0)).attempts()
    for _ in range(6):
        assert await backoff.pause(None)
    assert time.pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert await backoff.pause(None)
    assert time.pauses[-1] == 0.1


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 0.0), (0.25, 0.025), (0.999, 0.0999)])
async def test_the_jitter_is_full(draw: float, pause: float) -> None:
    time = Time()
    await Retry(initial_delay=0.1, timing=time.timing(draw)).attempts().pause(None)
    assert time.pauses == [pytest.approx(pause)]


async def test_the_servers_hint_is_the_least_delay() -> None:
    time = Time()
    await Retry(initial_delay=0.1, timing=time.timing(0.5)).attempts().pause(3.0)
    assert time.pauses == [3.05]


async def test_it_gives_up_after_a_time_without_any_answer() -> None:
    time = Time()
    backoff = Retry(initial_delay=4.0, max_delay=4.0, give_up_after=10.0, timing=time.timing(1.0)).attempts()
    assert await backoff.pause(None)
    assert await backoff.pause(None)
    assert not await backoff.pause(None), "the third would end 12 s after the first failure"
    backoff.reset()
    assert await backoff.pause(None)


async def test_it_does_not_try_beyond_the_callers_deadline() -> None:
    time = Time()
    backoff = Retry(initial_delay=4.0, timing=time.timing(1.0)).attempts()
    assert not await backoff.pause(None, deadline=103.0)
    assert time.pauses == []


async def test_thousands_of_failures_do_not_overflow() -> None:
    time = Time()
    backoff = Retry(give_up_after=None, timing=time.timing(1.0)).attempts()
    for _ in range(5000):
        assert await backoff.pause(None)
    assert time.pauses[-1] == 5.0


@pytest.mark.parametrize(
    ("give_up_after", "first_contact", "pauses"), [(120, 10, 2), (None, 10, 2), (5, 10, 1), (13, None, 3)]
)
async def test_it_gives_up_sooner_on_a_server_that_never_answered(
    give_up_after: float | None, first_contact: float | None, pauses: int
) -> None:
    time = Time()
    backoff = Retry(4.0, 4.0, give_up_after, first_contact, timing=time.timing(1.0)).attempts()
    while await backoff.pause(None, contacted=False):
        pass
    assert len(time.pauses) == pauses
