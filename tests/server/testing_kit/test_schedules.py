"""A month of a schedule, in as many steps as it has runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from longshore_server import Server
from longshore_server.clock import SECOND
from longshore_server.testing import Harness, ManualClock
from tests.conftest import LabHandlers

VIENNA = ZoneInfo("Europe/Vienna")


async def test_a_month_of_a_cron_schedule(tmp_path: Path) -> None:
    server, clock, runs = Server(LabHandlers()), ManualClock(), []

    @server.recurring("report", cron="0 9 * * 1-5", zone="Europe/Vienna", state=dict, start_immediately=False)
    async def report(ctx: Any) -> None:
        runs.append(datetime.fromtimestamp(clock.now() / SECOND, UTC).astimezone(VIENNA))

    async with Harness(server, tmp_path, clock=clock).serve() as longshore:
        await longshore.advance_to(datetime(2026, 3, 1, tzinfo=VIENNA))
        await report.start("all", {})
        commits = longshore.running.engine.store.writer.published
        await longshore.advance_to(datetime(2026, 4, 1, tzinfo=VIENNA))
        commits = longshore.running.engine.store.writer.published - commits
    weekdays = [day for day in range(1, 32) if datetime(2026, 3, day, tzinfo=UTC).weekday() < 5]
    assert [(run.day, run.hour, run.minute) for run in runs] == [(day, 9, 0) for day in weekdays]
    # Nothing is written, and so nothing is waited for, between one run and the next.
    assert commits <= 3 * len(runs)


async def test_a_crash_amid_a_run_of_the_schedule(tmp_path: Path) -> None:
    server, attempts = Server(LabHandlers()), []

    @server.recurring("refresh", every="30m", state=int)
    async def refresh(ctx: Any) -> None:
        attempts.append((ctx.run_count, ctx.attempt))
        ctx.state = ctx.state + 1

    async with Harness(server, tmp_path).serve() as longshore:
        await refresh.start("a", 0)
        happened = []
        for commits in range(1, 4):
            crash = longshore.crash_after(commits=commits)
            await longshore.advance(minutes=30)
            happened.append(crash.happened)
            crash.cancel()
        assert happened[0]
        assert await refresh.get_state("a") == 4
        assert {run for run, _ in attempts} == {1, 2, 3, 4}
