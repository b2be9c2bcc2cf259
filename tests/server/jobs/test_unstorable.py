"""What a job leaves that the store does not take: it ends all the same, and lets go of its key."""

from __future__ import annotations

from typing import Any

import pytest

from longshore_server import Job, JobFailedError
from longshore_server.job_lifecycle import JobMove
from longshore_server.store.mutations.job import SettleJob
from tests.server.jobs.conftest import Yard


async def test_an_error_that_quotes_half_of_a_character_is_one_as_any(yard: Yard) -> None:
    @yard.job("quote")
    async def quote(payload: list[str], job: Job[None]) -> None:
        raise ValueError(f"not a word: {payload[0]}\ud800")

    await yard.start()
    ref = await quote.create(["x"])
    with pytest.raises(JobFailedError):
        await ref.wait()
    (record,) = await yard.jobs()
    assert record.problem == "ValueError: not a word: x?"


async def test_an_end_that_the_store_does_not_take_fails_the_job(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = SettleJob.apply

    def broken(self: SettleJob, tx: Any) -> Any:
        if self.move is JobMove.COMPLETE:
            raise RuntimeError("a mistake of ours")
        return applied(self, tx)

    monkeypatch.setattr(SettleJob, "apply", broken)

    @yard.job("count")
    async def count(payload: int, job: Job[int]) -> int:
        return payload

    await yard.start()
    with pytest.raises(JobFailedError) as failed:
        await (await count.create(1)).wait()
    assert failed.value.reason == "INTERNAL"
