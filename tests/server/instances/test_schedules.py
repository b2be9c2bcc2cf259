"""Every and cron: fixed delay, fixed rate, 5 and 6 fields, time zones over both changes of the clocks, and mistakes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longshore_server import Server, StepRetry
from longshore_server.instances.schedule import Cron, read
from tests.conftest import LabHandlers
from tests.server.instances.laboratory import Gate, Token, World


def fires(cron: str, zone: str, after: datetime, count: int) -> list[str]:
    schedule = read(None, cron, zone, "fixed_delay")
    assert isinstance(schedule, Cron)
    time, found = round(after.timestamp() * 1e6), []
    for _ in range(count):
        time = schedule.next(time, time)
        found.append(datetime.fromtimestamp(time / 1e6, UTC).astimezone(schedule.zone).isoformat(" ", "seconds"))
    return found


SPRING, AUTUMN = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 2 * * *"])
def test_what_falls_into_a_skipped_hour_runs_right_after_it(cron: str) -> None:
    assert fires(cron, "Europe/Vienna", SPRING, 2) == ["2026-03-29 03:00:00+02:00", "2026-03-30 02:30:00+02:00"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 2 * * *"])
def test_what_falls_into_a_repeated_hour_runs_once(cron: str) -> None:
    assert fires(cron, "Europe/Vienna", AUTUMN, 2) == ["2026-10-25 02:30:00+02:00", "2026-10-26 02:30:00+01:00"]


@pytest.mark.parametrize("cron", ["*/30 2 * * *", "0 */30 2 * * *"])
def test_several_times_of_a_named_hour_are_as_many_in_a_repeated_one_and_one_after_a_skipped_one(cron: str) -> None:
    assert fires(cron, "Europe/Vienna", AUTUMN, 3) == [
        "2026-10-25 02:00:00+02:00", "2026-10-25 02:30:00+02:00", "2026-10-26 02:00:00+01:00",
    ]  # fmt: skip
    assert fires(cron, "Europe/Vienna", SPRING, 2) == ["2026-03-29 03:00:00+02:00", "2026-03-30 02:00:00+02:00"]


@pytest.mark.parametrize("cron", ["30 * * * *", "0 30 * * * *"])
def test_what_runs_every_hour_runs_by_the_time_that_passes(cron: str) -> None:
    assert fires(cron, "Europe/Vienna", datetime(2026, 10, 24, 23, 0, tzinfo=UTC), 4) == [
        "2026-10-25 01:30:00+02:00", "2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00",
        "2026-10-25 03:30:00+01:00",
    ]  # fmt: skip
    assert fires(cron, "Europe/Vienna", datetime(2026, 3, 29, 0, 0, tzinfo=UTC), 2) == [
        "2026-03-29 01:30:00+01:00", "2026-03-29 03:30:00+02:00",
    ]  # fmt: skip


def test_seconds_come_first_where_there_are_six_fields() -> None:
    assert fires("*/20 0 9 * * 1-5", "UTC", datetime(2026, 1, 2, 9, tzinfo=UTC), 3) == [
        "2026-01-02 09:00:20+00:00", "2026-01-02 09:00:40+00:00", "2026-01-05 09:00:00+00:00",
    ]  # fmt: skip


async def runs_of(world: World, *, during: float = 0, **options: Any) -> tuple[Any, list[tuple[float, float]]]:
    """A recurring, and when its runs began and were planned; the first takes so long."""
    runs: list[tuple[float, float]] = []

    @world.server.recurring("refresh", state=Token, **options)
    async def refresh(ctx: Any) -> None:
        runs.append((world.now(), ctx.planned_at.timestamp() - 1_767_225_600))
        if len(runs) == 1:
            world.clock.advance(during)

    await world.start()
    return refresh, runs


async def test_fixed_delay_counts_from_the_end_of_a_run(world: World) -> None:
    refresh, runs = await runs_of(world, every="1m", during=25)
    await refresh.start("a", Token())
    await world.advance(60)
    await world.advance(60)
    assert runs == [(0, 0), (85, 85), (145, 145)]


async def test_fixed_rate_counts_from_begin_to_begin(world: World) -> None:
    refresh, runs = await runs_of(world, every="1m", rate="fixed_rate", during=25)
    await refresh.start("a", Token())
    await world.advance(35)
    await world.advance(60)
    assert runs == [(0, 0), (60, 60), (120, 120)]


async def test_what_comes_due_during_a_run_is_skipped(world: World) -> None:
    refresh, runs = await runs_of(world, every="1m", rate="fixed_rate", during=150)
    await refresh.start("a", Token())
    await world.settled()
    assert runs == [(0, 0)]
    await world.advance(30)
    assert runs[1:] == [(180, 180)]


async def test_or_queued_as_one_run(world: World) -> None:
    refresh, runs = await runs_of(world, every="1m", rate="fixed_rate", during=150, overlap="queue")
    await refresh.start("a", Token())
    await world.settled()
    assert runs == [(0, 0), (150, 120)]
    await world.advance(30)
    assert runs[2:] == [(180, 180)]


MISFIRES = [
    ("once", [(250, 60)], (300, 300)),
    ("skip", [], (300, 300)),
    ("all", [(250, 60), (250, 120), (250, 180), (250, 240)], (300, 300)),
]


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize(("misfire", "made_up", "following"), MISFIRES)
async def test_what_passes_while_nobody_is_there(
    world: World, misfire: str, made_up: list[Any], following: Any, pause: bool
) -> None:
    refresh, runs = await runs_of(world, every="1m", rate="fixed_rate", misfire=misfire)
    await refresh.start("a", Token())
    if pause:
        await refresh.pause("a")
        await world.advance(250)
        await refresh.resume("a")
    else:
        await world.harness.crash()
        world.clock.advance(250)
        await world.start()
    await world.settled()
    assert runs[1:] == made_up
    assert (await refresh.status("a")).run_count == 1 + len(made_up)
    await world.advance(50)
    assert runs[-1] == following


async def test_cron_in_a_zone(world: World) -> None:
    refresh, runs = await runs_of(world, cron="0 9 * * 1-5", zone="Europe/Vienna", start_immediately=False)
    started = await refresh.start("a", Token())
    assert started.created
    # 2026-01-01 is a Thursday.
    for _ in range(5):
        await world.advance(24 * 3600)
    hours = [planned / 3600 - 8 for _, planned in runs]
    assert hours == [0, 24, 96]


async def test_a_trigger_moves_a_fixed_delay_and_nothing_else(world: World) -> None:
    delayed, _ = await runs_of(world, every="1m")
    await delayed.start("a", Token())
    await world.advance(30)
    await delayed.trigger("a")
    status = await delayed.status("a")
    assert status.next_run_at == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=90)


async def test_a_trigger_leaves_a_fixed_rate_alone(world: World) -> None:
    refresh, _ = await runs_of(world, every="1m", rate="fixed_rate")
    await refresh.start("a", Token())
    await world.advance(30)
    await refresh.trigger("a")
    status = await refresh.status("a")
    assert status.next_run_at == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=60)


async def test_a_trigger_takes_the_place_of_a_run_that_waits_for_its_retry(world: World) -> None:
    seen: list[tuple[int, int]] = []

    @world.server.recurring("refresh", every=3600, state=Token, retry=StepRetry(5, initial_delay=100))
    async def refresh(ctx: Any) -> None:
        seen.append((ctx.run_count, ctx.attempt))
        if len(seen) < 3:
            raise RuntimeError

    await world.start()
    started = await refresh.start("a", Token())
    assert started.retry_at is not None
    await world.advance(100)
    assert seen == [(1, 1), (1, 2)]
    assert (await refresh.trigger("a")).triggered
    assert seen[2:] == [(1, 1)]
    await world.advance(1000)
    assert len(seen) == 3


async def test_a_paused_run_comes_to_its_end(world: World) -> None:
    gate, done = Gate(), []

    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None:
        await gate.hold()
        done.append(ctx.run_count)

    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    await gate.reached.wait()
    assert (await refresh.pause("a")).changed
    gate.opened.set()
    await world.settled()
    await world.advance(1000)
    assert done == [1]
    status = await refresh.status("a")
    assert (status.run_count, status.next_run_at) == (1, None)


MISTAKES = [
    ({}, "either every="),
    ({"every": 1, "cron": "* * * * *"}, "either every="),
    ({"every": -1}, "every: it must be longer than zero"),
    ({"every": 0}, "every: it must be longer than zero"),
    ({"every": "soon"}, 'write "30m"'),
    ({"every": 1e12}, "must not be longer than"),
    ({"cron": "* * * *"}, "Wrong number of fields"),
    ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
    ({"cron": "61 * * * *"}, "Bad minute"),
    ({"cron": "0 9 * * *", "zone": "Europe/Wien"}, "IANA database"),
    ({"cron": "0 9 * * *", "zone": ""}, "IANA database"),
    ({"every": 1, "zone": "UTC"}, "zone: it means something with cron= alone"),
    ({"cron": "0 9 * * *", "rate": "fixed_rate"}, "rate: it means something with every= alone"),
    ({"every": 1, "rate": "often"}, "fixed_delay"),
    ({"every": 1, "overlap": "run"}, "overlap: "),
    ({"every": 1, "misfire": "run"}, "misfire: "),
    ({"every": 1, "state": set}, "set cannot be stored"),
    ({"every": 1, "state": tuple[int, str]}, "tuple cannot be stored"),
    ({"every": 1, "retry": 3}, "StepRetry"),
    ({"every": 1, "log_level": "loud"}, "log_level: "),
    ({"every": 1, "max_crashes": 0}, "max_crashes: "),
    ({"every": 1, "max_crashes": True}, "max_crashes: True is no whole number"),
    ({"every": 1, "start_immediately": "no"}, "start_immediately must be True or False, not 'no'"),
    ({"every": 1, "call": "longshore.provider"}, "built in"),
    ({"every": 1, "call": "a b"}, "cannot be a capability"),
    ({"every": 1, "call": ["a"]}, r"refresh: call: \['a'\] is no text"),
    ({"every": 1, "timeout": None}, "refresh: timeout: None is no time span"),
    ({"every": 1, "on_error": lambda error, ctx: None}, r"on_error must be an `async def` function of \(error, ctx\)"),
]


@pytest.mark.parametrize(("options", "problem"), MISTAKES)
def test_a_mistake_is_found_where_the_definition_is_written(options: dict[str, Any], problem: str) -> None:
    server = Server(LabHandlers())

    async def refresh(ctx: Any) -> None: ...

    with pytest.raises((ValueError, TypeError), match=problem):
        server.recurring("refresh", **{"state": Token, **options})(refresh)
    assert not server.definitions


@pytest.mark.parametrize("kind", ["recurring", "debounce"])
def test_a_decorator_without_its_arguments_and_a_handler_of_others_are_refused(kind: str) -> None:
    server = Server()
    declare: Any = getattr(server, kind)

    async def refresh(ctx: Any, more: int) -> None: ...

    when = {"every": 1} if kind == "recurring" else {"flush_after": 1}
    with pytest.raises(TypeError, match=rf"a {kind} has a name: write @server.{kind}\('...', ...\) above"):
        declare(refresh, **when)
    with pytest.raises(TypeError, match=r"refresh: the handler must be an `async def` function of \(ctx\)"):
        declare("refresh", state=Token, **when)(refresh)
    assert not server.definitions


@pytest.mark.parametrize("on_event", [5, "reduce", lambda: 1, lambda state, event: 1])
def test_what_cannot_be_called_with_an_event_is_refused_where_it_is_declared(on_event: Any) -> None:
    """It used to refuse every event, and say why in the server's log alone."""
    server = Server()

    async def pings(ctx: Any) -> None: ...

    with pytest.raises(TypeError, match=r"pings: on_event: it must be a plain function of \(ctx\)"):
        server.debounce("pings", event=int, flush_after=1, on_event=on_event)(pings)
    silent: Any = max  # does not say what it takes
    server.debounce("pings", event=int, flush_after=1, on_event=silent)(pings)


def test_a_handler_that_is_none_and_a_name_that_is_none_or_taken() -> None:
    server = Server(LabHandlers())

    async def refresh(ctx: Any) -> None: ...

    with pytest.raises(TypeError, match="async def"):
        server.recurring("refresh", every=1, state=Token)(lambda ctx: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="give state="):
        server.recurring("refresh", every=1)(refresh)
    with pytest.raises(ValueError, match="cannot name a definition"):
        server.recurring("re fresh", every=1, state=Token)(refresh)
    server.recurring("refresh", every=1, state=Token)(refresh)
    with pytest.raises(ValueError, match="there is a recurring 'refresh' already"):
        server.recurring("refresh", every=1, state=Token)(refresh)
