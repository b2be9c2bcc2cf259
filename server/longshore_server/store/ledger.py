"""What a kind of rows beside operations brings to a transaction of the writer: jobs, and the durable instances.

A ledger lives as long as one transaction. It decides against heads, collects rows and writes them in `flush`, as the
transaction does for operations. Both are written by one COMMIT, so that what a job does to an operation, or an
operation to a job, is one change.
"""

from __future__ import annotations

import abc
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """What one commit did to one row: its new revision (None: deleted) and the events that it appended."""

    record: Any | None
    events: list[Any]


class Commit(NamedTuple):
    """What one commit did, by uid."""

    operations: dict[bytes, Published]
    others: dict[type[Ledger], dict[bytes, Published]]
    """By the kind of rows, those that it touched."""


class Ledger(abc.ABC):
    """The rows of one kind inside one transaction. Runs in the writer's thread.

    A published record has `resident`: whether its head stays in memory, because it is about to change again. What is
    not resident is read from its row when it is asked for.
    """

    def __init__(self, connection: sqlite3.Connection, heads: Mapping[bytes, Any], now: int) -> None:
        self.connection = connection
        self.heads = heads
        self.now = now

    @abc.abstractmethod
    def flush(self) -> None:
        """Write what has changed since the last flush."""

    @abc.abstractmethod
    def published(self) -> dict[bytes, Published]:
        """What the transaction did, by uid; after the last `flush`."""
