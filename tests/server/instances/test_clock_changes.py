"""Cron and every over the changes of the clocks, against what the zone itself says minute by minute: both hemispheres,
changes by half an hour, and one at midnight."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from longshore_server.instances.schedule import Every, read
from longshore_server.testing.clock import START

ZONES = ["Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Pacific/Auckland"]
MINUTE = timedelta(minutes=1)


def changes(zone: ZoneInfo) -> list[datetime]:
    """The first minutes of 2026 with another offset, in UTC."""
    moment, found = datetime(2026, 1, 1, tzinfo=UTC), []
    while moment.year == 2026:
        later = moment + timedelta(hours=1)
        if moment.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
            while moment.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
                moment += MINUTE
            found.append(moment)
        moment = later
    return found


def fires(cron: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """What the schedule says, from one of its times to the next."""
    schedule = read(None, cron, zone, "fixed_delay")
    found, micros = [], round(begin.timestamp()) * 1_000_000
    while (micros := schedule.next(micros, micros)) <= end.timestamp() * 1_000_000:
        found.append(datetime.fromtimestamp(micros / 1_000_000, UTC))
    return found


def local_times(zone: ZoneInfo, times: list[time], begin: datetime, end: datetime) -> list[datetime]:
    """When clocks show one of `times` first; for those that they skip, the end of the skip."""
    found = set()
    day = begin.astimezone(zone).date() - timedelta(days=1)
    while day <= end.astimezone(zone).date():
        for at in times:
            moment = datetime.combine(day, at, zone)
            real = moment.astimezone(UTC)
            if real.astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
                real = next(change for change in changes(zone) if abs(change - real) < timedelta(hours=2))
            if begin < real <= end:
                found.add(real)
        day += timedelta(days=1)
    return sorted(found)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("30 2 * * *", [time(2, 30)]),
        ("0 30 2 * * *", [time(2, 30)]),
        ("15 0,1,2 * * *", [time(0, 15), time(1, 15), time(2, 15)]),
        ("*/20 1-2 * * *", [time(hour, minute) for hour in (1, 2) for minute in (0, 20, 40)]),
        ("45 1 * * *", [time(1, 45)]),
        ("0 0 * * *", [time(0, 0)]),
    ],
)
def test_a_named_hour_means_what_the_clocks_show_and_runs_once_a_day(zone: str, cron: str, times: list[time]) -> None:
    known = ZoneInfo(zone)
    assert len(changes(known)) == 2
    for change in changes(known):
        begin, end = change - timedelta(days=2), change + timedelta(days=2)
        assert fires(cron, zone, begin, end) == local_times(known, times, begin, end)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("cron", "minutes"), [("*/15 * * * *", range(0, 60, 15)), ("0 5 * * * *", [5]), ("10 * * * *", [10])]
)
def test_every_hour_means_whenever_the_clocks_show_the_minute(zone: str, cron: str, minutes: list[int]) -> None:
    known = ZoneInfo(zone)
    for change in changes(known):
        begin, end = change - timedelta(hours=5), change + timedelta(hours=5)
        moments = [begin + n * MINUTE for n in range(1, 601)]
        expected = [moment for moment in moments if moment.astimezone(known).minute in minutes]
        assert fires(cron, zone, begin, end) == expected


def test_once_an_hour_is_once_also_where_clocks_repeat_half_of_one() -> None:
    begin = datetime(2026, 4, 4, 13, tzinfo=UTC)
    found = fires("45 * * * *", "Australia/Lord_Howe", begin, begin + timedelta(hours=5))
    assert [moment.strftime("%H:%M") for moment in found] == ["13:45", "14:45", "16:15", "17:15"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 1-2 * * *", "15 * * * *"])
def test_the_latest_time_that_has_passed_is_one_of_the_schedule(zone: str, cron: str) -> None:
    schedule = read(None, cron, zone, "fixed_delay")
    for change in changes(ZoneInfo(zone)):
        begin = change - timedelta(days=2)
        times = fires(cron, zone, begin, change + timedelta(days=2))
        first = round(times[0].timestamp()) * 1_000_000
        for n in range(0, 4 * 24 * 60, 35):
            now = begin + n * MINUTE
            if now >= times[0]:
                expected = max(moment for moment in times if moment <= now)
                found = schedule.latest(first, round(now.timestamp()) * 1_000_000)
                assert datetime.fromtimestamp(found / 1_000_000, UTC) == expected, now


def test_every_is_by_the_time_that_passes() -> None:
    every = read("24h", None, None, "fixed_rate")
    assert isinstance(every, Every)
    day = 86_400_000_000
    assert every.next(START, START) == START + day
    assert every.beyond(START, START + 100 * day + 1) == START + 101 * day
