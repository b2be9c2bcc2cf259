"""Stands for the outside world: a ledger of effects on a file of its own that takes each idempotency key once."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import aiosqlite

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    key      TEXT PRIMARY KEY,      -- the step's key: the same in every attempt
    order_id TEXT NOT NULL,
    kind     TEXT NOT NULL,
    asked    INTEGER NOT NULL       -- how often it was asked for
)
"""


class Ledger:
    """Reservations, charges and shipments, each made once however often it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._db = await aiosqlite.connect(self._path, isolation_level=None)
        await self._db.execute("PRAGMA journal_mode = WAL")
        await self._db.execute(_SCHEMA)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._db.close()

    async def enter(self, key: str, order_id: str, kind: str) -> None:
        """Make the effect, unless it has been made under this key already."""
        await self._db.execute(
            "INSERT INTO effects VALUES (?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET asked = asked + 1",
            (key, order_id, kind),
        )
