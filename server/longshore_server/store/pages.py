"""Pages of operations, and counts of them: each query is driven by one index, and looks at a bounded number of rows.

Every source below gives operations in the order of their uids, which is that of their acceptance, so that no page is
ever sorted. What the driving index does not answer is looked at row by row, newest first or oldest first.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from longshore_server.ids import uid_text
from longshore_server.lifecycle import TERMINAL, State
from longshore_server.store import queries
from longshore_server.store.record import OperationRecord

EXAMINED = 10_000
"""The most operations that one page looks at; a page may therefore be short, or empty."""
COUNTED = 100_000
"""The most operations that one count looks at."""
PAGE_BYTES = 8 << 20
"""A page is not read further once its payloads have so many bytes: more than any answer can hold."""
BRANCHES = 16
"""The most ranges of one index that are merged; more types than that are looked at row by row."""

_Value: TypeAlias = str | int | bytes
_Page: TypeAlias = tuple[list[OperationRecord], bytes | None]


class Condition(NamedTuple):
    """One comparison of a filter, already typed.

    `field` is `state`, `type`, `owner`, `reason`, `parent`, `label`, `create_time`, `start_time`, `update_time` or
    `end_time`; `operator` is `=` or `!=`, for times also `<`, `<=`, `>` or `>=`; `key` is the label's key. Times are in
    microseconds. What an operation does not have, such as a label or an end, differs from every value.
    """

    field: str
    operator: str
    value: str | int
    key: str = ""


class Scope(NamedTuple):
    """Which operations a caller may see: all of `types`, and of `owned` those that it started itself."""

    types: tuple[str, ...]
    owned: tuple[str, ...]
    owner: str


class Count(NamedTuple):
    """How many operations there are by type and state; `truncated`: only the newest `COUNTED` were looked at."""

    counts: dict[tuple[str, State], int]
    truncated: bool


class _Source(NamedTuple):
    """One range of one index. `uid` is its last column, by which it is in order."""

    table: str
    terms: tuple[str, ...] = ("TRUE",)
    values: tuple[_Value, ...] = ()
    uid: str = "o.uid"
    join: str = ""


def page(
    connection: sqlite3.Connection, conditions: Sequence[Condition], after: bytes | None, size: int, *,
    ascending: bool = False, scope: Scope | None = None,
) -> _Page:  # fmt: skip
    """One page of operations, and the uid to go on after; None: this was the last page.

    `ascending`: oldest first; else newest first. `scope`: only these; None: all.
    """
    search = _Search(connection, conditions, scope, ascending=ascending)
    if after is not None:
        search.beyond(after)
    floor = search.limit(connection, EXAMINED)
    records: list[OperationRecord] = []
    weight = 0
    with contextlib.closing(search.run(connection, size + 1)) as rows:
        for row in rows:
            if len(records) == size or weight > PAGE_BYTES:
                return records, records[-1].uid
            records.append(queries.to_record(connection, row))
            weight += sum(len(payload) for payload in row[-2:] if payload is not None)
    return records, floor


def count(connection: sqlite3.Connection, conditions: Sequence[Condition], *, scope: Scope | None = None) -> Count:
    """How many operations there are."""
    search = _Search(connection, conditions, scope)
    truncated = search.limit(connection, COUNTED, always=True) is not None
    sql, values = search.statement("o.type, o.state")
    rows = connection.execute(f"SELECT type, state, count(*) FROM ({sql}) GROUP BY type, state", values)  # noqa: S608
    return Count({(type, State(state)): number for type, state, number in rows}, truncated)


class _Search:
    """The sources of one query, where they begin and end, and what is looked at row by row."""

    def __init__(
        self, connection: sqlite3.Connection, conditions: Sequence[Condition], scope: Scope | None, *,
        ascending: bool = False,
    ) -> None:  # fmt: skip
        conditions = [_meant(connection, condition) for condition in conditions]
        self._sources, answered = _drive(connection, conditions, scope)
        self._direction, self._past, self._up_to = ("", ">", "<=") if ascending else (" DESC", "<", ">=")
        # On the uid, which every source has as its last column: they belong to the range that the index gives.
        self._bounds: list[tuple[str, bytes]] = []
        self._terms: list[str] = []
        self._values: list[_Value] = []
        self._misses = scope is not None
        for condition in conditions:
            self._bounds += _bounds(condition)
            if condition != answered:
                self._misses |= condition.field != "create_time"
                self._add(*_where(condition))
        if scope is not None:
            self._add(*_within(scope))

    def _add(self, term: str, values: Sequence[_Value]) -> None:
        self._terms.append(term)
        self._values += values

    def beyond(self, uid: bytes) -> None:
        """Go on after this operation."""
        self._bounds.append((self._past, uid))

    def limit(self, connection: sqlite3.Connection, rows: int, *, always: bool = False) -> bytes | None:
        """Look at no more than so many rows. Returns the uid of the last of them if there are more.

        A query whose rows all belong to the page ends by itself; it is left alone, unless `always`.
        """
        if not (self._misses or always):
            return None
        scans = [
            f"SELECT {source.uid} FROM {source.table} WHERE {' AND '.join(self._range(source))}"  # noqa: S608 - our text
            for source in self._sources
        ]
        values = [value for source in self._sources for value in self._range_values(source)]
        found = connection.execute(
            f"{' UNION ALL '.join(scans)} ORDER BY 1{self._direction} LIMIT 2 OFFSET ?",
            (*values, rows - 1),
        ).fetchall()
        if len(found) < 2:
            return None
        last = bytes(found[0][0])
        self._bounds.append((self._up_to, last))
        return last

    def run(self, connection: sqlite3.Connection, limit: int) -> sqlite3.Cursor:
        """The operations in order, at most so many."""
        sql, values = self.statement(queries.COLUMNS, queries.JOINS)
        # SQLite merges the parts of a compound by its columns, and finds the order of a single one by its index.
        order = "1" if len(self._sources) > 1 else self._sources[0].uid
        return connection.execute(f"{sql} ORDER BY {order}{self._direction} LIMIT ?", (*values, limit))

    def statement(self, columns: str, joins: str = "") -> tuple[str, list[_Value]]:
        """The SELECT of these columns, in no order, and its values."""
        parts: list[str] = []
        values: list[_Value] = []
        for source in self._sources:
            where = " AND ".join([*self._range(source), *self._terms])
            parts.append(f"SELECT {columns} FROM {source.table} {source.join} {joins} WHERE {where}")  # noqa: S608
            values += [*self._range_values(source), *self._values]
        return " UNION ALL ".join(parts), values

    def _range(self, source: _Source) -> list[str]:
        return [*source.terms, *(f"{source.uid} {operator} ?" for operator, _ in self._bounds)]

    def _range_values(self, source: _Source) -> list[_Value]:
        return [*source.values, *(uid for _, uid in self._bounds)]


# SQLite proves that a partial index fits by its literal condition, which therefore stands beside the parameter.
_INDEXED = {
    "parent": ("operations AS o INDEXED BY operations_parent", "o.parent", "o.parent <> ''", ""),
    "reason": ("operations AS o INDEXED BY operations_reason", "o.reason", "o.reason <> ''", ""),
    "owner": ("operations AS o INDEXED BY operations_owner", "o.owner", "o.owner <> 'local'", "local"),
}
_LIVE = _Source("operations AS o INDEXED BY operations_live", ("o.ended IS NULL",))
_ALL = _Source("operations AS o NOT INDEXED")


def _drive(
    connection: sqlite3.Connection, conditions: Sequence[Condition], scope: Scope | None
) -> tuple[list[_Source], Condition | None]:
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
        source = _Source(
            "labels AS l", ("l.key = ?", "l.value = ?"), (label.key, label.value), "l.uid",
            "CROSS JOIN operations AS o ON o.uid = l.uid",
        )  # fmt: skip
        return [source], label
    if state is not None and state.value != State.COMPLETED:
        terms = ("o.state = ?", "o.state >= 5")
        return [_Source("operations AS o INDEXED BY operations_unsuccessful", terms, (state.value,))], state
    if (found := _indexed(equal, "owner")) is not None:
        return found
    if (type := equal.get("type")) is not None:
        return _of_types(connection, [str(type.value)]) or [_ALL], None
    if scope is not None:
        if not scope.types and (found := _indexed({"owner": Condition("owner", "=", scope.owner)}, "owner")):
            return found
        return _of_types(connection, [*scope.types, *scope.owned]) or [_ALL], None
    return [_ALL], None


def _indexed(equal: dict[str, Condition], field: str) -> tuple[list[_Source], Condition] | None:
    """The index of a field, unless its value is the one that the index leaves out."""
    table, column, condition, left_out = _INDEXED[field]
    wanted = equal.get(field)
    if wanted is None or wanted.value == left_out:
        return None
    return [_Source(table, (f"{column} = ?", condition), (wanted.value,))], wanted


def _of_types(connection: sqlite3.Connection, types: Sequence[str]) -> list[_Source]:
    """The operations of these types: those of each version of their contracts, and those without any. Empty: too many.

    An index by the version's number is smaller than one by the type's name, and tells which versions are in use.
    """
    sources = [_Source("operations AS o INDEXED BY operations_contract", ("o.contract IS NULL",))]
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


def _where(condition: Condition) -> tuple[str, list[_Value]]:
    # IS, not =: what an operation does not have differs from every value, as AIP-160 wants for !=.
    operator = {"=": "IS", "!=": "IS NOT"}.get(condition.operator, condition.operator)
    if condition.field == "label":
        return f"json_extract(o.labels, ?) {operator} ?", ['$."' + condition.key + '"', condition.value]
    return f"{_COLUMN[condition.field]} {operator} ?", [condition.value]


def _within(scope: Scope) -> tuple[str, list[_Value]]:
    term = f"(o.type IN ({_marks(scope.types)}) OR (o.owner = ? AND o.type IN ({_marks(scope.owned)})))"
    return term, [*scope.types, scope.owner, *scope.owned]


def _marks(items: Sequence[object]) -> str:
    return ", ".join("?" * len(items))


def _bounds(condition: Condition) -> list[tuple[str, bytes]]:
    """What a time says of the uid, which begins with the milliseconds of the creation.

    Whatever else happens to an operation happens after that, so an upper bound of any time is one of its uid.
    """
    found: list[tuple[str, bytes]] = []
    if condition.field not in ("create_time", "start_time", "update_time", "end_time"):
        return found
    stamp = max(0, int(condition.value)) // 1000
    if condition.operator in ("<", "<=", "="):
        found.append(("<", _first(stamp + 1)))
    if condition.operator in (">", ">=", "=") and condition.field == "create_time":
        found.append((">=", _first(stamp)))
    return found


def _first(stamp: int) -> bytes:
    """The lowest uid of a millisecond."""
    return (stamp << 80).to_bytes(16, "big")
