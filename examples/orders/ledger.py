"""Stands for the outside world: a ledger of effects on a file of its own that takes each idempotency key once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Self

import aiosqlite

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    key     TEXT NOT NULL,      -- the step's or the run's: the same in every attempt
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,      -- what it is done to, an order for example
    asked   INTEGER NOT NULL,   -- how often it was asked for
    PRIMARY KEY (key, subject)
) WITHOUT ROWID
"""


class Ledger:
    """Charges, parcels, letters: each made once under its key, however often it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._db = await aiosqlite.connect(self._path, isolation_level=None)
        await self._db.execute("PRAGMA journal_mode = WAL")
        await self._db.execute(_SCHEMA)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._db.close()

    async def enter(self, key: str, kind: str, *subjects: str) -> None:
        """Make an effect on each of the subjects, unless it has been made under this key already.

        Warehouses, banks and carriers take their time to confirm. A server that dies meanwhile asks again when it is
        back, under the same key.
        """
        entry = "INSERT INTO effects VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET asked = asked + 1"
        async with self._db.executemany(entry, [(key, kind, subject) for subject in subjects]):
            pass  # a cursor that is not closed in its thread would be while others use it
        await asyncio.sleep(random.uniform(0.05, 0.3))
