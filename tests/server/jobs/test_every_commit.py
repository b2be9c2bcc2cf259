"""Queues with keys whose server dies at every commit: jobs, their results and their operation end as without it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayRequest, PlayResult

from longshore_server import Job, JobCancelledError, JobFailedError, JobRetry, Replaced
from longshore_server.handler import codec
from longshore_server.store import job_rows as rows
from tests.server.boundaries import Fate, Scenario, at_every_commit


@dataclass
class Load:
    key: str
    number: int
    seconds: int = 0
    fails: bool = False
    heeds: bool = False
    """Whether it works until it is cancelled."""


class Queues(Scenario):
    """An operation with jobs of each fate, one of which it hands itself over to; and some that others make."""

    def declare(self) -> None:
        self.effects: Counter[int] = Counter()

        @self.server.job(
            "load", key="{key}", max_queued=1, when_full="replace_oldest", concurrency=2, cancel_grace=5, max_claims=9,
            retry=JobRetry(max_attempts=2, backoff="constant", initial_delay=10),
        )  # fmt: skip
        async def load(payload: Load, job: Job[PlayResult]) -> PlayResult:
            await job.step("work", self.effects.update, [payload.number])
            if payload.heeds:
                await job.cancelled.wait()
                raise JobCancelledError
            if payload.seconds:
                await job.sleep(payload.seconds)
            await job.progress(payload.number)
            if payload.fails:
                raise RuntimeError("no")
            return PlayResult(text=f"{payload.number}")

        @self.server.job("relay", max_claims=9)
        async def relay(payload: Load, job: Job[PlayResult]) -> PlayResult:
            return await job.attach(await load.create(payload))

        async def play(request: PlayRequest, op: Any) -> PlayResult:
            # Both are due later: one that had begun and waits for its next attempt could be replaced, too.
            first = await load.create(Load("k", 1), delay=20)
            second = await load.create(Load("k", 2), delay=25, priority=1, name="second")
            outcome = await load.submit(Load("k", 3, seconds=60), name="third")
            assert isinstance(outcome, Replaced)
            assert outcome.replaced.id == first.id
            refs = [first, second, outcome.job, await load.create(Load("d", 4), delay=30, name="later")]
            refs += await load.create_many([Load("m", 5), Load("n", 6, fails=True)], name="many")
            refs += [await load.create(Load("c", 7, heeds=True), name="cancelled")]
            await op.sleep(1)  # until it runs, whoever was quicker
            await refs[-1].cancel("no more")
            for ref in refs:
                with suppress(JobFailedError, JobCancelledError):
                    await ref.wait()
            result: PlayResult = await op.attach(await relay.create(Load("a", 8, seconds=5)))
            return result

        self.handlers.handler, self.load = play, load

    async def play(self) -> Any:
        operation = await self.harness.client(LabClient).play_named(PlayRequest(key="order"))
        await self.harness.settle()
        await self.insist(lambda: self.harness.running.engine.jobs.pause("load", True))
        ref = await self.insist(lambda: self.load.create(Load("i", 9), idempotency_key="once"))
        again = await self.insist(lambda: self.load.create(Load("i", 9), idempotency_key="once"))
        assert (again.id, again.created) == (ref.id, False)
        await self.insist(lambda: self.harness.running.engine.jobs.pause("load", False))
        await self.harness.advance(minutes=2)
        result = await operation.wait()
        kinds = [type(event).__name__ for event in [e async for e in operation.watch()]]
        assert all(self.effects[number] for number in (2, 3, 4, 5, 6, 8, 9))
        assert self.effects[1] == 0
        return result.text, kinds[-1], kinds.count("Accepted"), await self.stored()

    async def stored(self) -> dict[int, Any]:
        """By number: how each job ended, when, and how often its step was recorded."""

        def read(connection: Any) -> dict[int, Any]:
            found = {}
            for uid, queue in connection.execute("SELECT uid, queue FROM jobs").fetchall():
                record, payload = rows.load(connection, uid), rows.payload(connection, uid)
                assert record is not None
                number = codec.decode(codec.Encoded(*payload)).number + (100 if queue == "relay" else 0)
                assert number not in found, "a job was made twice"
                sql = "SELECT count(*) FROM journal WHERE uid = ? AND kind = 'step'"
                (steps,) = connection.execute(sql, (uid,)).fetchone()
                found[number] = (
                    record.state, record.failures, record.reason, record.cancel_reason, record.result, record.progress,
                    record.created, record.ended, steps,
                )  # fmt: skip
            return found

        return await self.harness.running.engine.store.read(read)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fate", Fate)
async def test_queues_with_keys_end_the_same_whichever_commit_their_server_dies_at(tmp_path: Path, fate: Fate) -> None:
    assert await at_every_commit(Queues, tmp_path, fate) > 40
