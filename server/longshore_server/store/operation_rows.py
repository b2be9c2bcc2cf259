"""How an operation becomes a row: what its insert and its updates set, by how much of it has changed."""

from __future__ import annotations

import enum
import json
from functools import lru_cache
from typing import Any

from longshore_server.lifecycle import EventType
from longshore_server.store import statements
from longshore_server.store.record import OperationRecord


class Extent(enum.IntEnum):
    """How much of an operation's row has changed: the fewer columns a statement sets, the faster it is."""

    REPORTED = 0  # progress and output
    COMPLETED = 1  # that, and the end as COMPLETED
    ALL = 2


def inserted_plain(key: bytearray, r: OperationRecord) -> tuple[Any, ...]:
    """The values of a new row that has nothing of what `inserted` adds."""
    return (
        key, r.id, r.type, int(r.state), r.revision, r.sequence, r.attempt, int(r.under_way), r.begun, r.created,
        r.updated, r.started, r.deadline, r.owner, _listed(r.capabilities) if r.capabilities else "[]", r.contract,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _listed(capabilities: tuple[str, ...]) -> str:
    # Kept: callers are few, and each has the same capabilities in every start.
    return json.dumps(capabilities)


def inserted(key: bytearray, r: OperationRecord) -> tuple[Any, ...]:
    """The values of a new row."""
    labels = json.dumps(r.labels, sort_keys=True) if r.labels else "{}"
    return (
        *inserted_plain(key, r),
        labels,
        r.request_id,
        r.parent,
        r.retried_from,
        r.trace,
        int(r.deferred),
        _transfers(r),
    )


def _reported(key: bytearray, r: OperationRecord, stored: int) -> tuple[Any, ...]:
    return (key, stored, r.revision, r.sequence, r.progress_sequence, r.updated)


def _completed(key: bytearray, r: OperationRecord, stored: int) -> tuple[Any, ...]:
    return (key, stored, int(r.state), r.revision, r.sequence, r.progress_sequence, r.updated, r.ended, r.expires)


def _updated(key: bytearray, r: OperationRecord, stored: int) -> tuple[Any, ...]:
    return (
        key, stored, int(r.state), r.revision, r.sequence, r.first_sequence, r.progress_sequence, r.attempt, r.crashes,
        r.under_way, r.begun, r.updated, r.started, r.ended, r.cancel_requested, r.cancel_reason, r.failures,
        r.next_attempt, r.deferred, r.stop_requested, r.stopped, r.signals, len(r.pending), r.reason, r.expires,
        _transfers(r),
    )  # fmt: skip


def _transfers(r: OperationRecord) -> int:
    return (r.upload is not None) + len(r.downloads)


# Plain numbers and tuples: an enum's member hashes and compares in Python.
ALL = int(Extent.ALL)
EXTENT = {EventType.PROGRESS: int(Extent.REPORTED), EventType.OUTPUT: int(Extent.REPORTED)} | {
    EventType.COMPLETED: int(Extent.COMPLETED)
}
"""By the event that has changed it, if that is all; others change `ALL`."""
UPDATED = (_reported, _completed, _updated)
"""By extent: the values of an update, from the uid, the record and the revision that the row has."""
UPDATES = (statements.UPDATE_REPORTED, statements.UPDATE_COMPLETED, statements.UPDATE_OPERATIONS)
"""By extent: the statements that take those."""
