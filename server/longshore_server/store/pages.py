"""Pages of operations, and counts of them: which index drives each query, and what is looked at row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from longshore_server.ids import uid_text
from longshore_server.lifecycle import TERMINAL, State
from longshore_server.store import queries
from longshore_server.store.record import OperationRecord
from longshore_server.store.search import BRANCHES, EXAMINED, Condition, Search, Source, Value

COUNTED = 100_000
"""The most operations that one count looks at."""


class Scope(NamedTuple):
    """Which operations a caller may see: all of `types`, and of `owned` those that it started itself."""

    types: tuple[str, ...]
    owned: tuple[str, ...]
    owner: str


class Count(NamedTuple):
    """How many operations there are by type and state; `truncated`: only the newest `COUNTED` were looked at."""

    counts: dict[tuple[str, State], int]
    truncated: bool


def page(
    connection: sqlite3.Connection, conditions: Sequence[Condition], after: bytes | None, size: int, *,
    ascending: bool = False, scope: Scope | None = None,
) -> tuple[list[OperationRecord], bytes | None]:  # fmt: skip
    """One page of operations, and the uid to go on after; None: this was the last page.

    `ascending`: oldest first; else newest first. `scope`: only these; None: all.
    """

    def read(row: Sequence[Any]) -> tuple[OperationRecord, int]:
        return queries.to_record(connection, row), sum(len(payload) for payload in row[-2:] if payload is not None)

    search = _search(connection, conditions, scope, ascending=ascending)
    return search.page(connection, after, size, queries.COLUMNS, queries.JOINS, read, examined=EXAMINED)


def count(connection: sqlite3.Connection, conditions: Sequence[Condition], *, scope: Scope | None = None) -> Count:
    """How many operations there are."""
    search = _search(connection, conditions, scope)
    truncated = search.limit(connection, COUNTED, always=True) is not None
    sql, values = search.statement("o.type, o.state")
    rows = connection.execute(f"SELECT type, state, count(*) FROM ({sql}) GROUP BY type, state", values)  # noqa: S608
    return Count({(type, State(state)): number for type, state, number in rows}, truncated)


def _search(
    connection: sqlite3.Connection, conditions: Sequence[Condition], scope: Scope | None, *, ascending: bool = False
) -> Search:
    conditions = [_meant(connection, condition) for condition in conditions]
    sources, answered = _drive(connection, conditions, scope)
    search = Search(sources, ascending=ascending)
    for condition in conditions:
        search.require(condition, None if condition == answered else _where(condition))
    if scope is not None:
        search.add(*_within(scope))
    return search


# SQLite proves that a partial index fits by its literal condition, which therefore stands beside the parameter.
_INDEXED = {
    "parent": ("operations AS o INDEXED BY operations_parent", "o.parent", "o.parent <> ''", ""),
    "reason": ("operations AS o INDEXED BY operations_reason", "o.reason", "o.reason <> ''", ""),
    "owner": ("operations AS o INDEXED BY operations_owner", "o.owner", "o.owner <> 'local'", "local"),
}
_LIVE = Source("operations AS o INDEXED BY operations_live", ("o.ended IS NULL",))
_ALL = Source("operations AS o NOT INDEXED")


def _drive(
    connection: sqlite3.Connection, conditions: Sequence[Condition], scope: Scope | None
) -> tuple[list[Source], Condition | None]:
    """The sources of a query, from the most to the least selective kind, and the condition that they answer."""
    equal = {c.field: c for c in reversed(conditions) if c.operator == "="}
    state = equal.get("state")

    if (found := _indexed(equal, "parent")) is not None:
        return found
    if state is not None and state.value not in TERMINAL:
        return [_LIVE], None
    if (found := _indexed(equal, "reason")) is not None:
        return found
    if (label := equal.get("label")) is not None:
        source = Source(
            "labels AS l", ("l.key = ?", "l.value = ?"), (label.key, label.value), "l.uid",
            "CROSS JOIN operations AS o ON o.uid = l.uid",
        )  # fmt: skip
        return [source], label
    if state is not None and state.value != State.COMPLETED:
        terms = ("o.state = ?", "o.state >= 5")
        return [Source("operations AS o INDEXED BY operations_unsuccessful", terms, (state.value,))], state
    if (found := _indexed(equal, "owner")) is not None:
        return found
    if (type := equal.get("type")) is not None:
        return _of_types(connection, [str(type.value)]) or [_ALL], None
    if scope is not None:
        if not scope.types and (found := _indexed({"owner": Condition("owner", "=", scope.owner)}, "owner")):
            return found
        return _of_types(connection, [*scope.types, *scope.owned]) or [_ALL], None
    return [_ALL], None


def _indexed(equal: dict[str, Condition], field: str) -> tuple[list[Source], Condition] | None:
    """The index of a field, unless its value is the one that the index leaves out."""
    table, column, condition, left_out = _INDEXED[field]
    wanted = equal.get(field)
    if wanted is None or wanted.value == left_out:
        return None
    return [Source(table, (f"{column} = ?", condition), (wanted.value,))], wanted


def _of_types(connection: sqlite3.Connection, types: Sequence[str]) -> list[Source]:
    """The operations of these types: those of each version of their contracts, and those without any. Empty: too many.

    An index by the version's number is smaller than one by the type's name, and tells which versions are in use.
    """
    sources = [Source("operations AS o INDEXED BY operations_contract", ("o.contract IS NULL",))]
    for type in types:
        for (number,) in connection.execute("SELECT id FROM contracts WHERE type = ?", (type,)):
            sources.append(sources[0]._replace(terms=("o.contract = ?",), values=(number,)))
    return sources if len(sources) <= BRANCHES else []


_COLUMN = {
    "state": "o.state", "type": "o.type", "owner": "o.owner", "reason": "o.reason", "parent": "o.parent",
    "create_time": "o.created", "start_time": "o.started", "update_time": "o.updated", "end_time": "o.ended",
}  # fmt: skip


def _meant(connection: sqlite3.Connection, condition: Condition) -> Condition:
    """A parent is kept as `operations/{uid}`, whatever else it is called."""
    if condition.field != "parent":
        return condition
    uid = queries.find(connection, str(condition.value).removeprefix("operations/"))
    return condition if uid is None else condition._replace(value=f"operations/{uid_text(uid)}")


def _where(condition: Condition) -> tuple[str, list[Value]]:
    # IS, not =: what an operation does not have differs from every value, as AIP-160 wants for !=.
    operator = {"=": "IS", "!=": "IS NOT"}.get(condition.operator, condition.operator)
    if condition.field == "label":
        return f"json_extract(o.labels, ?) {operator} ?", ['$."' + condition.key + '"', condition.value]
    return f"{_COLUMN[condition.field]} {operator} ?", [condition.value]


def _within(scope: Scope) -> tuple[str, list[Value]]:
    term = f"(o.type IN ({_marks(scope.types)}) OR (o.owner = ? AND o.type IN ({_marks(scope.owned)})))"
    return term, [*scope.types, scope.owner, *scope.owned]


def _marks(items: Sequence[object]) -> str:
    return ", ".join("?" * len(items))
