"""When a recurring runs: every so often, or by a cron expression in a time zone. Times in microseconds."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from cronsim import CronSim, CronSimError

from longshore_server.clock import SECOND
from longshore_server.contract.durations import span

Rate = Literal["fixed_delay", "fixed_rate"]
_ANY_TIME = 1_767_225_600 * SECOND


class Schedule(Protocol):
    """Says when a run is to begin."""

    @property
    def moves(self) -> bool:
        """Whether a run out of turn puts the next one off."""

    def next(self, planned: int, now: int) -> int:
        """When the run after the one that was planned for `planned` is due; it may be past. `now`: that one's end."""

    def beyond(self, planned: int, now: int) -> int:
        """The first time after `now` at which a run is due, counted on from `planned`."""

    def latest(self, planned: int, now: int) -> int:
        """The last time up to `now` at which a run was due, after `planned`; `now` must not be before the first."""


@dataclass(frozen=True)
class Every:
    """So much time after the end of the run before (fixed delay), or after its planned begin (fixed rate)."""

    interval: int
    fixed_rate: bool

    @property
    def moves(self) -> bool:
        return not self.fixed_rate

    def next(self, planned: int, now: int) -> int:
        return (planned if self.fixed_rate else now) + self.interval

    def beyond(self, planned: int, now: int) -> int:
        return (self.latest(planned, now) if self.fixed_rate else now) + self.interval

    def latest(self, planned: int, now: int) -> int:
        return planned + (now - planned) // self.interval * self.interval


@dataclass(frozen=True)
class Cron:
    """By an expression of 5 fields, or of 6 with the seconds first, read in a time zone.

    One that names hours means the local time: what falls into a time that the clocks skip runs right after it, and what
    falls into one that they repeat runs once. One with `*` for the hour runs by the time that passes.
    """

    expression: str
    zone: zoneinfo.ZoneInfo
    moves = False

    def next(self, planned: int, now: int) -> int:  # noqa: ARG002 - how long a run took makes no difference
        return self._at(planned)

    def beyond(self, planned: int, now: int) -> int:  # noqa: ARG002 - nor does what went before
        return self._at(now)

    def latest(self, planned: int, now: int) -> int:
        moment = _moment(now + SECOND, self.zone)
        if moment.fold:
            # What the first pass of a repeated hour had is read later by the clocks.
            moment += timedelta(hours=1)
        return max(planned, next(found for found in self._times(moment, reverse=True) if found <= now))

    def _at(self, time: int) -> int:
        found = next((found for found in self._times(_moment(time, self.zone)) if found > time), None)
        if found is None:
            raise ValueError(f"cron: {self.expression!r} never fires")
        return found

    def _times(self, moment: datetime, *, reverse: bool = False) -> Iterator[int]:
        if self.expression.split()[-4] == "*":
            for found in CronSim(self.expression, moment, reverse):
                yield int(found.timestamp()) * SECOND
            return
        # The local time, without its zone: cronsim itself looks after skipped and repeated hours with 5 fields alone.
        for local in CronSim(self.expression, moment.replace(tzinfo=None), reverse):
            known = local.replace(tzinfo=self.zone)
            real = known.astimezone(UTC)
            if real.astimezone(self.zone) != known:
                real = _after_gap(real, self.zone)
            yield int(real.timestamp()) * SECOND


def _after_gap(moment: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """When the clocks skipped a local time that became `moment` by the offset before: `moment` is after the skip."""
    before, after = moment - timedelta(days=1), moment
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def read(every: str | float | timedelta | None, cron: str | None, zone: str | None, rate: Rate) -> Every | Cron:
    """The schedule that a definition declares. Raises `ValueError` or `TypeError`, saying what to write instead."""
    if (every is None) == (cron is None):
        raise ValueError('say either every="30m" or cron="0 9 * * 1-5"')
    if rate not in ("fixed_delay", "fixed_rate"):
        raise ValueError(f"rate: {rate!r} is neither 'fixed_delay' nor 'fixed_rate'")
    if every is not None:
        if zone is not None:
            raise ValueError("zone: it means something with cron= alone: leave it out")
        try:
            return Every(span(every), rate == "fixed_rate")
        except ValueError as error:
            raise ValueError(f"every: {error}") from None
    if not isinstance(cron, str):
        raise TypeError(f"cron: {cron!r} is no text such as '0 9 * * 1-5'")
    if rate != "fixed_delay":
        raise ValueError("rate: it means something with every= alone: leave it out")
    schedule = Cron(cron, _zone("UTC" if zone is None else zone))
    fields = len(cron.split())
    why = "Wrong number of fields"
    if fields in (5, 6):
        try:
            schedule.next(_ANY_TIME, _ANY_TIME)
        except CronSimError as error:
            why = str(error)
        else:
            return schedule
    raise ValueError(
        f"cron: {cron!r} is no cron expression ({why}): write 5 fields (minute, hour, day of month, month, day of"
        " week), or 6 with the seconds first"
    )


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(
            f"zone: {name!r} is no time zone that this machine knows: write a name of the IANA database, such as"
            " 'Europe/Vienna'; on a machine without that database install tzdata"
        ) from None


def _moment(time: int, zone: zoneinfo.ZoneInfo) -> datetime:
    return datetime.fromtimestamp(time // SECOND, UTC).astimezone(zone)
