"""Pages and counts against a model: a list of records that is filtered in Python; and which index drives each query."""

from __future__ import annotations

import operator
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore_server.clock import SECOND
from longshore_server.errors import OperationError
from longshore_server.ids import Uids, uid_text
from longshore_server.lifecycle import Move, State
from longshore_server.rpc import filters
from longshore_server.store import pages, queries, search
from longshore_server.store.database import migrate
from longshore_server.store.mutations import (
    Accept,
    Begin,
    ContractVersion,
    Delete,
    RequestCancel,
    Settle,
    StoreContracts,
)
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction, new_record
from longshore_server.testing import ManualClock

TYPES = ("shop.v1.Shop/Buy", "shop.v1.Shop/Sell", "shop.v1.Shop/Look")
OWNERS = ("local", "ada", "bob")
LABELS = {"tenant": ("acme", 'it\'s "us"'), "n.umber-1": ("1", "2"), "rare": ("x",)}
REASONS = ("OUT_OF_STOCK", "DECLINED")
PARENTS = ("", "operations/mother", "operations/father")
COUNT = 90


class Population:
    """Operations of every kind, made by the writer's own mutations, and the records of them in order."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection, path)
        self.clock = ManualClock()
        uids, draw = Uids(self.clock, None), random.Random(7)
        numbers = self._apply(
            StoreContracts([ContractVersion(TYPES[0], b"1", b""), ContractVersion(TYPES[1], b"1", b"")])
        )
        numbers |= {TYPES[2]: None}  # some were started before contracts were stored
        for position in range(COUNT):
            if position == COUNT // 2:
                numbers |= self._apply(StoreContracts([ContractVersion(TYPES[0], b"2", b"")]))
            # Some share a millisecond, most do not.
            self.clock.advance(draw.choice((0, 0.0004, 0.5, 3)))
            self._add(uids.next(), uids.time, draw, numbers)
        rows = self.connection.execute("SELECT uid FROM operations ORDER BY uid").fetchall()
        found = [queries.load(self.connection, uid) for (uid,) in rows]
        self.records: list[OperationRecord] = [record for record in found if record is not None]

    def _add(self, uid: bytes, created: int, draw: random.Random, numbers: dict[str, int | None]) -> None:
        type = draw.choice(TYPES)
        labels = {key: draw.choice(values) for key, values in LABELS.items() if draw.random() < 0.5}
        record = new_record(
            uid=uid, id=uid_text(uid), type=type, created=created, deadline=None, labels=labels,
            owner=draw.choice(OWNERS), request_id="", parent=draw.choice(PARENTS), contract=numbers[type],
        )  # fmt: skip
        end = draw.choice(list(State))
        if end is State.PENDING:
            self._apply(Accept(record, b"", b"", template=False, renew=False, begin=False))
            return
        self._apply(Accept(record, b"", b"", template=False, renew=False, begin=draw.random() < 0.5))
        self.clock.advance(draw.choice((0, 0.001, 2)))
        if (head := queries.load(self.connection, uid)) is not None and head.state is State.PENDING:
            self._apply(Begin(uid))
        self.clock.advance(draw.choice((0, 0.001, 20)))
        error = OperationError(draw.choice(REASONS)).status("shop.v1").SerializeToString()
        if end in (State.CANCELLING, State.CANCELLED):
            self._apply(RequestCancel(uid, "", Move.REQUEST_CANCEL))
        if end is State.CANCELLED:
            self._apply(Settle(uid, 1, Move.CANCEL, error))
        elif end is State.FAILED:
            self._apply(Settle(uid, 1, Move.FAIL, error))
        elif end is State.COMPLETED:
            self._apply(Settle(uid, 1, Move.COMPLETE, b""))

    def _apply(self, mutation: Any) -> Any:
        transaction = Transaction(self.connection, {}, self.clock.now(), 100, {})
        self.connection.execute("BEGIN")
        outcome = mutation.apply(transaction)
        transaction.flush()
        self.connection.execute("COMMIT")
        return outcome


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Population]:
    made = Population(tmp_path_factory.mktemp("pages") / "longshore.db")
    with closing(made.connection):
        yield made


# The model.

OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def holds(record: OperationRecord, field: str, comparison: str, value: Any) -> bool:
    actual: Any
    if field.startswith("labels."):
        actual = record.labels.get(field.removeprefix("labels."))
    else:
        attribute = {"create_time": "created", "start_time": "started", "update_time": "updated", "end_time": "ended"}
        actual = getattr(record, attribute.get(field, field))
    if actual is None:
        # What an operation does not have differs from every value, and is neither before nor after any.
        return comparison == "!="
    return bool(OPERATORS[comparison](actual, value))


def visible(record: OperationRecord, scope: pages.Scope | None) -> bool:
    return scope is None or record.type in scope.types or (record.type in scope.owned and record.owner == scope.owner)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def stamp(micros: int) -> str:
    return datetime.fromtimestamp(micros // SECOND, UTC).replace(microsecond=micros % SECOND).isoformat()


EQUALITY = st.sampled_from(["=", "!=", "="])
TEXTS = st.one_of(
    st.tuples(st.just("type"), EQUALITY, st.sampled_from([*TYPES, "shop.v1.Shop/Gone"])),
    st.tuples(st.just("owner"), EQUALITY, st.sampled_from([*OWNERS, "nobody"])),
    st.tuples(st.just("reason"), EQUALITY, st.sampled_from([*REASONS, ""])),
    st.tuples(st.just("parent"), EQUALITY, st.sampled_from(PARENTS)),
    *(st.tuples(st.just(f"labels.{key}"), EQUALITY, st.sampled_from(values)) for key, values in LABELS.items()),
)
STATES = st.tuples(st.just("state"), EQUALITY, st.sampled_from(list(State)))
TIMES = st.tuples(
    st.sampled_from(["create_time", "start_time", "update_time", "end_time"]),
    st.sampled_from(list(OPERATORS)),
    st.tuples(st.integers(0, COUNT - 1), st.sampled_from([0, 0, 0, 1, -1, 999, -1000, 5 * SECOND])),
)
SCOPES = st.none() | st.builds(
    lambda types, owned, owner: pages.Scope(tuple(sorted(types - owned)), tuple(sorted(owned)), owner),
    st.frozensets(st.sampled_from(TYPES)), st.frozensets(st.sampled_from(TYPES)), st.sampled_from(OWNERS),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    chosen=st.lists(TEXTS | STATES | TIMES, max_size=4), ascending=st.booleans(), size=st.integers(1, 40),
    examined=st.integers(1, 120), scope=SCOPES,
)  # fmt: skip
def test_a_filter_gives_what_the_model_gives_over_all_pages(
    population: Population, chosen: list[Any], ascending: bool, size: int, examined: int, scope: pages.Scope | None
) -> None:
    conditions, texts = [], []
    for field, comparison, drawn in chosen:
        value = drawn
        if isinstance(drawn, tuple):
            # At the time of something that happened, or just beside it.
            record = population.records[drawn[0]]
            value = (record.ended or record.updated) + drawn[1]
            text = quoted(stamp(value))
        else:
            text = value.name if isinstance(value, State) else quoted(value)
        conditions.append((field, comparison, value))
        texts.append(f"{field}{comparison}{text}")
    parsed = filters.parse(" AND ".join(texts))
    expected = [
        record.id
        for record in population.records
        if visible(record, scope) and all(holds(record, *condition) for condition in conditions)
    ]
    if not ascending:
        expected.reverse()
    found: list[str] = []
    after, turns = None, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "EXAMINED", examined)
        while True:
            records, after = pages.page(population.connection, parsed, after, size, ascending=ascending, scope=scope)
            assert len(records) <= size
            found += [record.id for record in records]
            turns += 1
            if after is None:
                break
            assert turns <= 2 * COUNT, "the pages do not end"
    assert found == expected
    by_id = {record.id: record for record in population.records}
    counted = pages.count(population.connection, parsed, scope=scope)
    assert not counted.truncated
    assert counted.counts == Counter((by_id[id].type, by_id[id].state) for id in expected)


def test_a_page_holds_the_whole_records(population: Population) -> None:
    records, after = pages.page(population.connection, [], None, COUNT)
    assert after is None
    assert [vars(record) for record in records] == [vars(record) for record in reversed(population.records)]


def test_the_milliseconds_of_a_uid_are_those_of_the_creation(population: Population) -> None:
    assert [int.from_bytes(r.uid[:6], "big") for r in population.records] == [
        r.created // 1000 for r in population.records
    ]


def test_a_count_beyond_the_bound_is_of_the_newest_and_says_so(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", COUNT)
    assert not pages.count(population.connection, []).truncated
    monkeypatch.setattr(pages, "COUNTED", 10)
    found = pages.count(population.connection, [])
    assert found.truncated
    assert found.counts == Counter((record.type, record.state) for record in population.records[-10:])


def test_a_page_is_read_no_further_than_any_answer_can_be_long(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand operations may hold gigabytes."""
    monkeypatch.setattr(search, "PAGE_BYTES", 1)
    filter = filters.parse("state=FAILED")
    records, after = pages.page(population.connection, filter, None, 50)
    assert len(records) == 1
    assert after == records[0].uid


# Which index.

ALL = "SCAN o"
RANGE = "SEARCH o USING PRIMARY KEY (uid{})"
PLANS: dict[str, list[str]] = {
    "": [ALL],
    "state=PENDING": ["SCAN o USING INDEX operations_live"],
    "state=RUNNING": ["SCAN o USING INDEX operations_live"],
    "state=CANCELLING": ["SCAN o USING INDEX operations_live"],
    "state=COMPLETED": [ALL],
    "state=FAILED": ["SEARCH o USING INDEX operations_unsuccessful (state=?)"],
    "state=CANCELLED": ["SEARCH o USING INDEX operations_unsuccessful (state=?)"],
    "state!=FAILED": [ALL],
    "owner=ada": ["SEARCH o USING INDEX operations_owner (owner=?)"],
    "owner=local": [ALL],
    "owner!=ada": [ALL],
    "reason=DECLINED": ["SEARCH o USING INDEX operations_reason (reason=?)"],
    "parent=operations/mother": ["SEARCH o USING INDEX operations_parent (parent=?)"],
    "labels.tenant=acme": ["SEARCH l USING PRIMARY KEY (key=? AND value=?)"],
    f"type={TYPES[0]}": ["SEARCH o USING INDEX operations_contract (contract=?)"],
    f"type!={TYPES[0]}": [ALL],
    'create_time>="2026-01-01T00:00:05Z"': [RANGE.format(">?")],
    'create_time<"2026-01-01T00:00:05Z"': [RANGE.format("<?")],
    'create_time="2026-01-01T00:00:05Z"': [RANGE.format(">? AND uid<?")],
    'start_time<"2026-01-01T00:00:05Z"': [RANGE.format("<?")],
    'update_time<="2026-01-01T00:00:05Z"': [RANGE.format("<?")],
    'end_time<"2026-01-01T00:00:05Z"': [RANGE.format("<?")],
    'end_time>"2026-01-01T00:00:05Z"': [ALL],
    # Of several conditions the most selective kind drives, and times narrow it.
    "state=FAILED AND labels.tenant=acme AND owner=ada": ["SEARCH l USING PRIMARY KEY (key=? AND value=?)"],
    "state=RUNNING AND labels.tenant=acme": ["SCAN o USING INDEX operations_live"],
    'owner=ada AND create_time>"2026-01-01"': [
        "SEARCH o USING INDEX operations_owner (owner=? AND uid>?)",
    ],
}


def plans(connection: sqlite3.Connection, run: Any) -> list[list[str]]:
    """The query plans of everything that `run` executes, without what looks up single rows for the columns."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        run()
    finally:
        connection.set_trace_callback(None)
    found = []
    for statement in statements:
        if "FROM contracts" not in statement:
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            found.append([step for step in steps if not re.match(r"SEARCH [pt] USING PRIMARY KEY \(uid=\? AND", step)])
    return found


@pytest.mark.parametrize("filter", PLANS)
@pytest.mark.parametrize("ascending", [False, True], ids=["newest first", "oldest first"])
def test_one_index_drives_each_query_and_nothing_is_sorted(
    population: Population, filter: str, ascending: bool
) -> None:
    parsed = filters.parse(filter)

    def run() -> None:
        pages.page(population.connection, parsed, None, 5, ascending=ascending)

    # A parent is looked up by its name first, which is one row.
    found = [steps for steps in plans(population.connection, run) if steps != ["SEARCH names USING PRIMARY KEY (id=?)"]]
    assert found
    for steps in found:
        text = "\n".join(steps)
        assert "TEMP B-TREE" not in text, text
        driving = [step for step in steps if re.match(r"(SCAN|SEARCH) [ol] ", f"{step} ")]
        # Of labels it looks up each operation by its key; the search for the last row to look at needs the index alone.
        joined = [step for step in driving if step != "SEARCH o USING PRIMARY KEY (uid=?)"]
        assert {step.replace("COVERING ", "") for step in joined} == set(PLANS[filter]), text


def test_the_second_page_begins_where_the_first_ended(population: Population) -> None:
    """Its place is a bound of the index, not rows that are read and thrown away."""
    middle = population.records[COUNT // 2].uid
    for filter, expected in (
        ("", "SEARCH o USING PRIMARY KEY (uid<?)"),
        ("state=FAILED", "operations_unsuccessful (state=? AND uid<?)"),
        ("state=RUNNING", "operations_live (uid<?)"),
        ("labels.tenant=acme", "PRIMARY KEY (key=? AND value=? AND uid<?)"),
        (f"type={TYPES[0]}", "operations_contract (contract=? AND uid<?)"),
    ):
        parsed = filters.parse(filter)
        for steps in plans(population.connection, lambda: pages.page(population.connection, parsed, middle, 5)):  # noqa: B023
            assert any(expected in step for step in steps), steps


def test_what_a_caller_may_see_drives_where_the_filter_does_not(population: Population) -> None:
    def run(scope: pages.Scope) -> str:
        return str(plans(population.connection, lambda: pages.page(population.connection, [], None, 5, scope=scope)))

    assert "operations_owner" in run(pages.Scope((), TYPES, "ada"))
    assert "operations_contract" in run(pages.Scope(TYPES[:1], (), "ada"))
    assert "TEMP B-TREE" not in run(pages.Scope(TYPES[:1], TYPES[1:], "ada"))


def test_labels_go_with_their_operation(tmp_path: Path) -> None:
    made = Population(tmp_path / "longshore.db")
    with closing(made.connection) as connection:
        for record in made.records:
            rows = connection.execute("SELECT key, value FROM labels WHERE uid = ?", (record.uid,)).fetchall()
            assert dict(rows) == record.labels
            if record.terminal:
                made._apply(Delete(record.uid))
        left = {uid for (uid,) in connection.execute("SELECT uid FROM labels")}
        assert left == {record.uid for record in made.records if record.labels and not record.terminal}
        sql = "DELETE FROM labels WHERE uid = x'00' AND (key, value) IN (SELECT key, value FROM json_each('{}'))"
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert "SEARCH labels USING PRIMARY KEY (key=? AND value=? AND uid=?)" in plan
