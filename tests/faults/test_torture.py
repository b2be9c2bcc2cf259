"""Load, SIGKILL at random moments, restart, again and again; then every caller's history is held against the store.

`TORTURE_SEED` and `TORTURE_KILLS` in the environment repeat a run or make it longer. The seed fixes what the callers
do and when the server is killed, not how the two meet: the same seed finds the same kind of trouble, not the same
microsecond.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from longshore.v1 import operations_service_pb2 as pb
from tests.faults.calls import Serving
from tests.faults.history import History, event_bytes
from tests.faults.load import KINDS, OWN, Load
from tests.faults.process import Caller, ServerProcess
from tests.faults.stored import Stored
from tests.faults.trace import weakened
from tests.faults.verify import KEEP, Verdict

CALLERS = 4
SESSIONS = 6
"""How many at a time each caller has of each kind: those that only use operations, and those that steer them."""
CALM = 90
"""Seconds in which everything has to end once nobody interrupts any more, at the usual pace of servers."""
STUCK = 30
"""Seconds after which an operation that nobody waited for will never end, at that pace."""


class Torturer:
    """One run: a server, its callers, and the moments at which it dies."""

    def __init__(
        self, data: Path, seed: str, kills: int, *, weak: str = "", steered: int = SESSIONS,
        kinds: Collection[str] = KINDS,
    ) -> None:  # fmt: skip
        self.server = ServerProcess(data, "--drain", "0.5", environment=weakened(weak))
        self.history = History()
        self.serving = Serving()
        self.kills = 0
        self.early_kills = 0
        self.stops = 0
        self._wanted = kills
        self._steered = steered
        self._rng = random.Random(seed)
        self._loads = [Load(self.server, self.history, self.serving, f"{seed}/{n}", kinds) for n in range(CALLERS)]

    async def run(self) -> Verdict:
        """Torture, a calm end, and the verdict."""
        await self.server.start()
        self.serving.up()
        callers = asyncio.gather(*(load.run(SESSIONS, self._steered) for load in self._loads))
        while self.kills < self._wanted:
            moment = self._rng.choice([0.1, 0.4, 0.8, 1.5, 2.5]) * self._rng.uniform(0.5, 1.5)
            # Less than the start of a process the rest suffers from a busy machine.
            await asyncio.sleep(moment * self.server.pace**0.5)
            await self._interrupt()
        for load in self._loads:
            load.stop()
        self.serving.last()
        try:
            async with asyncio.timeout(CALM * self.server.pace):
                await callers
        except TimeoutError:
            raise AssertionError(f"callers wait in vain; not ended are {self._not_ended()}") from None
        logs, shown = await self._read_over_the_wire()
        assert await self.server.stop() == 0, "\n".join(self.server.said[-50:])
        stored = Stored(self.server)
        verdict = Verdict(stored, self.history, shown)
        verdict.all()
        for uid, log in logs.items():
            verdict.counts["logs read over the wire"] += 1
            verdict.that(log == stored.bodies[uid], f"{uid}: the wire shows another log than the file")
        lasting = set(stored.operations) - verdict.kept
        verdict.that(set(logs) == lasting, "List shows other operations than the file")
        verdict.that(self.history.counts["calls broken off"] > self.kills, "the callers hardly noticed")
        return verdict

    def _not_ended(self) -> list[tuple[Any, ...]]:
        with self.server.database() as database:
            return [
                tuple(row)
                for row in database.execute(
                    "SELECT id, type, state, attempt, under_way, crashes FROM operations WHERE ended IS NULL LIMIT 20"
                )
            ]

    async def _interrupt(self) -> None:
        """One death, in order now and then, and one more on the way up now and then."""
        self.serving.down()
        if self._rng.random() < 0.15:
            assert await self.server.stop() == 0, "\n".join(self.server.said[-50:])
            self.stops += 1
        else:
            await self.server.kill()
            self.kills += 1
        await self.server.launch()
        while self._rng.random() < 0.2:
            await asyncio.sleep(self._rng.uniform(0.05, 0.6) * self.server.pace)
            await self.server.kill()
            self.kills += 1
            self.early_kills += 1
            await self.server.launch()
        assert await self.server.serving(), "\n".join(self.server.said[-50:])
        self.serving.up()

    async def _read_over_the_wire(self) -> tuple[dict[str, list[bytes]], dict[str, Any]]:
        """The log and the snapshot of every operation there is; listed, so that unseen ones are not left out.

        Those that go by themselves may go while they are read, and are left out.
        """
        logs: dict[str, list[bytes]] = {}
        shown: dict[str, Any] = {}
        async with Caller(self.server) as caller:
            watch: Any = caller.channel.unary_stream(
                "/longshore.v1.OperationsService/Watch", pb.WatchRequest.SerializeToString
            )

            async def read(operation: Any) -> None:
                name = f"operations/{operation.uid}"
                try:
                    async with asyncio.timeout(STUCK * self.server.pace):
                        messages = [raw async for raw in watch(pb.WatchRequest(name=name, after_sequence=0))]
                except TimeoutError:
                    return  # it has not ended: the verdict will say so
                logs[operation.uid] = [event_bytes(raw) for raw in messages if raw[0] == 0x12]
                shown[operation.uid] = operation

            token, more = "", True
            while more:
                page = await caller.operations.List(pb.ListRequest(page_size=500, page_token=token))
                await asyncio.gather(*(read(operation) for operation in page.operations if operation.type != KEEP))
                token, more = page.next_page_token, bool(page.next_page_token)
        return logs, shown


def judge(verdict: Verdict, torturer: Torturer, enough: dict[str, int]) -> None:
    """Fail on any finding, and on a run that has looked at too little to find any."""
    counts = verdict.counts
    counts["kills"] = torturer.kills
    counts["kills while starting"] = torturer.early_kills
    counts["stops in good order"] = torturer.stops
    print("\n".join(f"{name:>46} {count:>8,}" for name, count in sorted(counts.items())))
    assert not verdict.wrong, shown(verdict.wrong)
    # A busy machine may need longer than the grace for an answer; more are calls that the stop forgot. Those that are
    # cancelled no handler has seen: at one stop these may be none or, where many have come in meanwhile, many.
    assert counts["calls cut by a stop"] <= torturer.stops
    too_little = {name: counts[name] for name, least in enough.items() if counts[name] < least}
    assert not too_little, f"too little was checked: {too_little}, wanted {enough}"


def shown(findings: Iterable[str]) -> str:
    found = list(findings)
    return f"{len(found)} findings:\n" + "\n".join(found[:40])


# What a run with so many kills cannot miss, a tenth of what it usually sees or less. Whether something rare meets one
# of a few kills is chance: each such meeting has a case of its own in test_*_crashes.py; a long run must have seen it.
ENOUGH = {
    "starts acknowledged": 30, "starts answered with what existed": 5, "operations interrupted": 5, "completed": 20,
    "different events seen": 200, "snapshots seen": 30, "ends seen": 10, "watches resumed": 5, "waits": 2,
    "cancels acknowledged": 5, "effects": 20, "sleeps": 2, "children": 1, "logs read over the wire": 30,
    "signals acknowledged": 20, "signals acknowledged as duplicates": 8, "signals consumed": 4,
    "deferred operations": 3, "reports of controllers": 4, "ended by control": 2, "ended ones disturbed": 3,
    "failed attempts made again": 2, "stops acknowledged": 5, "retries acknowledged": 3, "deletes acknowledged": 3,
    "jobs": 10, "steps of jobs": 8, "sleeps of jobs": 8, "delayed jobs": 2, "ended with their jobs": 4,
    "jobs held against younger ones": 2, "jobs attached to jobs": 1,
}  # fmt: skip
ENOUGH_OF_MANY = {name: least * 10 for name, least in ENOUGH.items()} | {
    "effects asked for again": 5, "cancels that came in time": 10, "next attempts seen": 20,
    "signals with a used id refused": 20, "signals consumed by controllers": 50,
    "signals consumed at another server": 10, "signals that wait for ever": 20, "signals given again": 20,
    "deferred operations ended at another server": 30, "controls right after a restart": 30,
    "failed attempts made again by another server": 10,
    "completed by a stop": 30, "completed by a stop at another server": 10,
    "swept away": 30, "swept operations looked for": 20,
    "jobs interrupted": 20, "delayed jobs of another server": 20, "backoffs of jobs": 30,
}  # fmt: skip


async def torture(data: Path, kills: int, enough: dict[str, int]) -> None:
    kills = int(os.environ.get("TORTURE_KILLS", kills))
    seed = os.environ.get("TORTURE_SEED") or f"{time.time_ns():x}"
    print(f"\nTORTURE_SEED={seed} TORTURE_KILLS={kills}")
    torturer = Torturer(data, seed, kills)
    began = time.monotonic()
    try:
        verdict = await torturer.run()
    finally:
        await torturer.server.close()
    print(f"{torturer.kills} kills in {time.monotonic() - began:.0f} s")
    judge(verdict, torturer, {"kills": kills, **enough})


@pytest.mark.timeout(900)
async def test_nothing_is_lost_in_a_few_kills(tmp_path: Path) -> None:
    """The short form of the torture: every promise of docs/durability.md, some kills."""
    await torture(tmp_path, 8, ENOUGH)


@pytest.mark.timeout(900)
async def test_a_server_that_answers_before_it_commits_is_found_out(tmp_path: Path) -> None:
    """The checks can fail: on a store whose COMMITs come fifty transactions late, a few kills find losses."""
    # Nobody waits here for what a lost call was to bring about. Who takes up a job reads it, and reads are late, too.
    torturer = Torturer(tmp_path, "weak", 3, weak="LATER", steered=0, kinds=OWN)
    try:
        verdict = await torturer.run()
    finally:
        await torturer.server.close()
    lost = ("is not stored", "was seen as", "stored are", "NOT_FOUND", "OUT_OF_RANGE")
    assert [finding for finding in verdict.wrong if any(sign in finding for sign in lost)], shown(verdict.wrong)


@pytest.mark.torture
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_in_a_hundred_kills(tmp_path: Path) -> None:
    """The long form."""
    await torture(tmp_path, 120, ENOUGH_OF_MANY)
