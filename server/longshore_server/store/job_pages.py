"""Pages of jobs, and how many there are: which index drives each query, and what is looked at row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from longshore_server.ids import parse_uid
from longshore_server.job_lifecycle import ENDED, JobState, Stand
from longshore_server.store import queries
from longshore_server.store.job_record import JobRecord
from longshore_server.store.job_rows import load
from longshore_server.store.search import BRANCHES, EXAMINED, Condition, Search, Source, Value


def page(
    connection: sqlite3.Connection, conditions: Sequence[Condition], after: bytes | None, size: int, *,
    ascending: bool = False,
) -> tuple[list[JobRecord], bytes | None]:  # fmt: skip
    """One page of jobs, without their results, and the uid to go on after; None: this was the last page.

    `ascending`: oldest first; else newest first.
    """

    def read(row: Sequence[Any]) -> tuple[JobRecord, int]:
        record = load(connection, row[0], result=False)
        assert record is not None
        progress = 0 if record.progress is None else len(record.progress.data)
        return record, progress + len(record.error or b"") + len(record.problem)

    conditions = [_meant(connection, condition) for condition in conditions]
    sources, answered = _drive(connection, {c.field: c for c in reversed(conditions) if c.operator == "="})
    search = Search(sources, ascending=ascending)
    for condition in conditions:
        search.require(condition, None if condition in answered else _where(condition))
    return search.page(connection, after, size, "o.uid", "", read, examined=EXAMINED)


def counts(connection: sqlite3.Connection) -> dict[tuple[str, JobState, Stand], int]:
    """How many jobs have not ended, and how many dead letters there are, by queue, state and stand.

    Looks at each of them, and at no other that has ended: asked once, when a server starts.
    """
    found: dict[tuple[str, JobState, Stand], int] = {}
    rows = connection.execute(
        "SELECT queue, state, count(*) FROM jobs INDEXED BY jobs_live WHERE ended IS NULL GROUP BY queue, state"
        " UNION ALL SELECT queue, state, count(*) FROM jobs INDEXED BY jobs_unsuccessful"
        " WHERE state = ? AND state > 5 GROUP BY queue",
        (JobState.DEAD,),
    ).fetchall()
    for queue, state, count in rows:
        stand = Stand.DELAYED if state == JobState.QUEUED else Stand.NONE
        found[queue, JobState(state), stand] = count
    # Those that are queued and neither ready nor blocked are delayed.
    rows = connection.execute(
        "SELECT queue, 1, count(*) FROM jobs INDEXED BY jobs_ready WHERE stand = 1 GROUP BY queue UNION ALL"
        " SELECT queue, 2, sum(jobs) FROM job_keys WHERE stand = 2 GROUP BY queue"
    ).fetchall()
    for queue, stand, count in rows:
        found[queue, JobState.QUEUED, Stand(stand)] = count
        found[queue, JobState.QUEUED, Stand.DELAYED] -= count
    return found


def _drive(connection: sqlite3.Connection, equal: dict[str, Condition]) -> tuple[list[Source], Sequence[Condition]]:
    """The sources of a query, from the most to the least selective kind, and the conditions that they answer.

    Most indexes are of one queue: without one in the filter those of all queues are merged, unless there are too many.
    """
    queue, key, state, reason = (equal.get(field) for field in ("queue", "key", "state", "reason"))
    queues = [queue.value] if queue is not None else [name for (name,) in connection.execute(_QUEUES)]

    def each(index: str, *terms: tuple[str, Value | None]) -> list[Source]:
        texts = ("o.queue = ?", *(text for text, _ in terms))
        values = tuple(value for _, value in terms if value is not None)
        return [Source(f"jobs AS o INDEXED BY {index}", texts, (name, *values)) for name in queues]

    # SQLite proves that a partial index fits by its literal condition, which therefore stands beside the parameter.
    if (operation := equal.get("operation")) is not None:
        terms = ("o.operation = ?", "o.operation IS NOT NULL")
        return [Source("jobs AS o INDEXED BY jobs_operation", terms, (operation.value,))], [operation]
    if not queues:
        return [_ALL], []
    of_queue = [] if queue is None else [queue]
    if len(queues) <= BRANCHES:
        if key is not None and key.value:
            return each("jobs_keyed", ("o.key = ?", key.value), ("o.key <> ''", None)), [*of_queue, key]
        if state is not None and state.value not in ENDED:
            return each("jobs_live", ("o.state = ?", state.value), ("o.ended IS NULL", None)), [*of_queue, state]
    if reason is not None and reason.value:
        terms = ("o.reason = ?", "o.reason <> ''")
        return [Source("jobs AS o INDEXED BY jobs_reason", terms, (reason.value,))], [reason]
    if len(queues) <= BRANCHES:
        if state is not None and state.value != JobState.COMPLETED:
            found = each("jobs_unsuccessful", ("o.state = ?", state.value), ("o.state > 5", None))
            return found, [*of_queue, state]
        if queue is not None:
            return each("jobs_queue"), of_queue
    return [_ALL], []


def latest(connection: sqlite3.Connection) -> int:
    """When the latest of the attempts began that are under way; 0: none is."""
    (found,) = connection.execute(
        "SELECT max(begun) FROM jobs WHERE state IN (2, 3) AND ended IS NULL AND deferred = 0"
    ).fetchone()
    return found or 0


def crashed(crashes: int, connection: sqlite3.Connection) -> list[JobRecord]:
    """The jobs that wait for a runner and have begun so often in a row, or more, without an outcome."""
    rows = connection.execute(
        "SELECT uid FROM jobs WHERE stand = 1 AND ended IS NULL AND claims >= ? ORDER BY uid", (crashes,)
    ).fetchall()
    return [record for (uid,) in rows if (record := load(connection, uid)) is not None]


_QUEUES = "SELECT name FROM queues ORDER BY name"
_ALL = Source("jobs AS o NOT INDEXED")
_COLUMN = {
    "queue": "o.queue", "key": "o.key", "state": "o.state", "stand": "o.stand", "reason": "o.reason",
    "priority": "o.priority", "operation": "o.operation", "create_time": "o.created", "start_time": "o.started",
    "update_time": "o.updated", "end_time": "o.ended", "due_time": "o.due",
}  # fmt: skip


def _meant(connection: sqlite3.Connection, condition: Condition) -> Condition:
    """Names as the rows have them: operations by their uids, queues without their collection."""
    value = str(condition.value)
    if condition.field == "queue":
        return condition._replace(value=value.removeprefix("queues/"))
    if condition.field != "operation":
        return condition
    id = value.removeprefix("operations/")
    # One that there is not has no jobs.
    return condition._replace(value=parse_uid(id) or queries.find(connection, id) or b"")


def _where(condition: Condition) -> tuple[str, list[Value]]:
    # IS, not =: what a job does not have differs from every value, as AIP-160 wants for !=.
    operator = {"=": "IS", "!=": "IS NOT"}.get(condition.operator, condition.operator)
    return f"{_COLUMN[condition.field]} {operator} ?", [condition.value]
