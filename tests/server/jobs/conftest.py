"""What tests of jobs share: a laboratory whose queues the test declares before it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from longshore_server.store import jobs as rows
from longshore_server.store.jobs import JobRecord
from tests.conftest import Lab


class Yard(Lab):
    """A laboratory with queues."""

    def __init__(self, data: Path, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.job: Callable[..., Any] = self.server.job

    async def jobs(self, where: str = "1") -> list[JobRecord]:
        """The stored jobs for which a condition holds, the oldest first."""

        def read(connection: Any) -> list[JobRecord]:
            uids = connection.execute(f"SELECT uid FROM jobs WHERE {where} ORDER BY uid").fetchall()
            return [record for (uid,) in uids if (record := rows.load(connection, uid)) is not None]

        found: list[JobRecord] = await self.engine.store.read(read)
        return found


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """A laboratory that has not started yet."""
    found = Yard(tmp_path / "data")
    try:
        yield found
    finally:
        await found.stop()


@pytest.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[Callable[..., Yard]]:
    """Makes laboratories with settings of their own; stops them after the test."""
    made: list[Yard] = []

    def make(**settings: Any) -> Yard:
        made.append(Yard(tmp_path / f"data{len(made)}", **settings))
        return made[-1]

    yield make
    for found in made:
        await found.stop()
