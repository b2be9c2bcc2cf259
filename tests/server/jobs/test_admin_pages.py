"""Pages of jobs against a model, which index drives them, and counts."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore_server.clock import SECOND
from longshore_server.ids import Uids, uid_text
from longshore_server.job_lifecycle import ENDED, JobState, Stand
from longshore_server.rpc import filters
from longshore_server.store import job_pages
from longshore_server.store.database import migrate
from longshore_server.store.job_record import Body, JobRecord, QueueRow, new_job
from longshore_server.store.job_rows import load
from longshore_server.store.jobs import Jobs
from longshore_server.testing import ManualClock
from tests.server.test_pages import OPERATORS, plans, quoted, stamp

QUEUES, KEYS, REASONS = ("a", "b", "c"), ("", "k", "l"), ("", "DECLINED", "GONE")
OPERATIONS = tuple(bytes([0] * 6 + [0x70, 0] + [0x80] + [0] * 6 + [n]) for n in (1, 2))
COUNT = 120


class Population:
    """Jobs of every kind, and the records of them in order."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection, path)
        clock, draw = ManualClock(), random.Random(7)
        uids, ledger = Uids(clock, None), Jobs(self.connection, {}, clock.now())
        for name in QUEUES:
            ledger.set_queue(QueueRow(name, 1, None, 0, 0))
        for _ in range(COUNT):
            # Some share a millisecond, most do not.
            clock.advance(draw.choice((0, 0.0004, 0.5, 3)))
            ledger.insert(_job(uids.next(), uids.time, draw), Body("json", b"{}"))
        ledger.flush()
        rows = self.connection.execute("SELECT uid FROM jobs ORDER BY uid").fetchall()
        found = [load(self.connection, uid) for (uid,) in rows]
        self.records: list[JobRecord] = [record for record in found if record is not None]


def _job(uid: bytes, created: int, draw: random.Random) -> JobRecord:
    record = new_job(
        uid, draw.choice(QUEUES), created, priority=draw.randint(-2, 2), key=draw.choice(KEYS),
        operation=draw.choice([None, *OPERATIONS]),
    )  # fmt: skip
    state = draw.choice(list(JobState))
    facts: dict[str, Any] = {"state": state, "updated": created + draw.choice((0, 1000, 20 * SECOND))}
    if state is JobState.QUEUED:
        stand = draw.choice([Stand.READY, Stand.DELAYED, *([Stand.BLOCKED] if record.key else [])])
        return record.evolve(stand=stand, due=created + SECOND if stand is Stand.DELAYED else None, **facts)
    facts |= {"stand": Stand.NONE, "attempt": 1, "started": created + draw.choice((0, 1000)), "begun": created}
    if state is JobState.CANCELLING:
        facts["cancel_requested"] = created
    if state in ENDED:
        facts["ended"] = facts["updated"]
        facts["reason"] = draw.choice(REASONS)
    return record.evolve(**facts)


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Population]:
    made = Population(tmp_path_factory.mktemp("pages") / "longshore.db")
    with closing(made.connection):
        yield made


ATTRIBUTES = {
    "create_time": "created", "start_time": "started", "update_time": "updated", "end_time": "ended", "due_time": "due",
}  # fmt: skip


def holds(record: JobRecord, field: str, comparison: str, value: Any) -> bool:
    actual = getattr(record, ATTRIBUTES.get(field, field))
    if actual is None:
        # What a job does not have differs from every value, and is neither before nor after any.
        return comparison == "!="
    return bool(OPERATORS[comparison](actual, value))


EQUALITY = st.sampled_from(["=", "!=", "="])
WORDS = st.one_of(
    st.tuples(st.just("queue"), EQUALITY, st.sampled_from([*QUEUES, "none"])),
    st.tuples(st.just("key"), EQUALITY, st.sampled_from([*KEYS, "none"])),
    st.tuples(st.just("reason"), EQUALITY, st.sampled_from(REASONS)),
    st.tuples(st.just("operation"), EQUALITY, st.sampled_from(OPERATIONS)),
    st.tuples(st.just("state"), EQUALITY, st.sampled_from(list(JobState))),
    st.tuples(st.just("stand"), EQUALITY, st.sampled_from(list(Stand))),
    st.tuples(st.just("priority"), st.sampled_from(list(OPERATORS)), st.integers(-3, 3)),
)
TIMES = st.tuples(
    st.sampled_from(list(ATTRIBUTES)), st.sampled_from(list(OPERATORS)),
    st.tuples(st.integers(0, COUNT - 1), st.sampled_from([0, 0, 0, 1, -1, 999, -1000, 5 * SECOND])),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    chosen=st.lists(WORDS | TIMES, max_size=4), ascending=st.booleans(), size=st.integers(1, 50),
    examined=st.integers(1, 150), branches=st.sampled_from([1, 16]),
)  # fmt: skip
def test_a_filter_gives_what_the_model_gives_over_all_pages(
    population: Population, chosen: list[Any], ascending: bool, size: int, examined: int, branches: int
) -> None:
    conditions, texts = [], []
    for field, comparison, drawn in chosen:
        value = drawn
        if isinstance(drawn, tuple):
            # At the time of something that happened, or just beside it.
            record = population.records[drawn[0]]
            value = (record.ended or record.updated) + drawn[1]
            text = quoted(stamp(value))
        elif isinstance(drawn, JobState | Stand):
            text = drawn.name
        elif isinstance(drawn, bytes):
            text = f"operations/{uid_text(drawn)}"
        else:
            text = quoted(str(drawn))
        conditions.append((field, comparison, value))
        texts.append(f"{field}{comparison}{text}")
    parsed = filters.parse(" AND ".join(texts), filters.JOBS)
    expected = [r.uid for r in population.records if all(holds(r, *condition) for condition in conditions)]
    if not ascending:
        expected.reverse()
    found: list[bytes] = []
    after, turns = None, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_pages, "EXAMINED", examined)
        patch.setattr(job_pages, "BRANCHES", branches)
        while True:
            records, after = job_pages.page(population.connection, parsed, after, size, ascending=ascending)
            assert len(records) <= size
            found += [record.uid for record in records]
            turns += 1
            if after is None:
                break
            assert turns <= 2 * COUNT, "the pages do not end"
    assert found == expected


def test_counts_are_those_of_the_rows_and_look_at_no_other_that_has_ended(population: Population) -> None:
    expected = Counter(
        (record.queue, record.state, record.stand)
        for record in population.records
        if record.ended is None or record.state is JobState.DEAD
    )
    found = job_pages.counts(population.connection)
    assert {place: count for place, count in found.items() if count} == expected
    steps = [step for found in plans(population.connection, lambda: job_pages.counts(population.connection))
             for step in found if " jobs" in step]  # fmt: skip
    used = [index for index in ("jobs_live", "jobs_unsuccessful", "jobs_ready") for step in steps if index in step]
    assert used == ["jobs_live", "jobs_unsuccessful", "jobs_ready"]
    assert len(steps) == len(used)


ALL = "SCAN o"
PLANS: dict[str, list[str]] = {
    "": [ALL],
    "queue=a": ["SEARCH o USING INDEX jobs_queue (queue=?)"],
    "queue!=a": [ALL],
    "queue=a AND state=QUEUED": ["SEARCH o USING INDEX jobs_live (queue=? AND state=?)"],
    "queue=a AND state=QUEUED AND priority>1": ["SEARCH o USING INDEX jobs_live (queue=? AND state=?)"],
    "queue=a AND state=DEAD": ["SEARCH o USING INDEX jobs_unsuccessful (state=? AND queue=?)"],
    "queue=a AND state=COMPLETED": ["SEARCH o USING INDEX jobs_queue (queue=?)"],
    "queue=a AND key=k": ["SEARCH o USING INDEX jobs_keyed (queue=? AND key=?)"],
    "reason=GONE": ["SEARCH o USING INDEX jobs_reason (reason=?)"],
    "reason=GONE AND state=DEAD": ["SEARCH o USING INDEX jobs_reason (reason=?)"],
    f"operation=operations/{uid_text(OPERATIONS[0])}": ["SEARCH o USING INDEX jobs_operation (operation=?)"],
    "state=COMPLETED": [ALL],
    'create_time>"2026-01-01T00:00:05Z"': ["SEARCH o USING PRIMARY KEY (uid>?)"],
    'queue=a AND create_time>"2026-01-01T00:00:05Z"': ["SEARCH o USING INDEX jobs_queue (queue=? AND uid>?)"],
    'due_time<"2026-01-01T00:00:05Z"': ["SEARCH o USING PRIMARY KEY (uid<?)"],
}
MERGED = {
    "state=QUEUED": "jobs_live", "state=DEAD": "jobs_unsuccessful", "key=k": "jobs_keyed",
}  # fmt: skip


def driven(population: Population, filter: str, *, ascending: bool) -> list[list[str]]:
    """What each statement of a page reads in order, but for the rows of single jobs."""
    parsed = filters.parse(filter, filters.JOBS)

    def run() -> None:
        job_pages.page(population.connection, parsed, None, 5, ascending=ascending)

    return [steps for steps in plans(population.connection, run) if any(" o" in step for step in steps)]


@pytest.mark.parametrize("filter", PLANS)
@pytest.mark.parametrize("ascending", [False, True], ids=["newest first", "oldest first"])
def test_one_index_drives_each_query_and_nothing_is_sorted(
    population: Population, filter: str, ascending: bool
) -> None:
    found = driven(population, filter, ascending=ascending)
    assert found
    for steps in found:
        assert [step.replace("COVERING ", "") for step in steps] == PLANS[filter]


@pytest.mark.parametrize("filter", MERGED)
def test_without_a_queue_those_of_all_are_merged_and_not_sorted(population: Population, filter: str) -> None:
    for steps in driven(population, filter, ascending=False):
        assert not any("TEMP B-TREE" in step for step in steps), steps
        assert sum(MERGED[filter] in step for step in steps) == len(QUEUES)


def test_too_many_queues_are_not_merged(population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pages, "BRANCHES", 2)
    for filter in MERGED:
        assert {step for steps in driven(population, filter, ascending=False) for step in steps} == {ALL}
