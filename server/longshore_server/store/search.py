"""Pages of rows by filters: each query is driven by one index, and looks at a bounded number of rows.

Every source gives rows in the order of their uids, which is that of their creation, so that no page is ever sorted.
What the driving index does not answer is looked at row by row, newest first or oldest first.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

EXAMINED = 10_000
"""The most rows that one page looks at; a page may therefore be short, or empty."""
PAGE_BYTES = 8 << 20
"""A page is not read further once its payloads have so many bytes: more than any answer can hold."""
BRANCHES = 16
"""The most ranges of one index that are merged; more than that are looked at row by row."""

Value: TypeAlias = str | int | bytes


class Row(Protocol):
    """What a page is made of."""

    @property
    def uid(self) -> bytes: ...


RowT = TypeVar("RowT", bound=Row)


class Condition(NamedTuple):
    """One comparison of a filter, already typed.

    `operator` is `=` or `!=`, for times and numbers also `<`, `<=`, `>` or `>=`; `key`, of the field `label`, is the
    label's. Times, whose fields end in `_time`, are in microseconds. What a row does not have, such as a label or an
    end, differs from every value.
    """

    field: str
    operator: str
    value: Value
    key: str = ""


class Source(NamedTuple):
    """One range of one index. `uid` is its last column, by which it is in order."""

    table: str
    terms: tuple[str, ...] = ("TRUE",)
    values: tuple[Value, ...] = ()
    uid: str = "o.uid"
    join: str = ""


class Search:
    """The sources of one query, where they begin and end, and what is looked at row by row."""

    def __init__(self, sources: Sequence[Source], *, ascending: bool = False) -> None:
        self._sources = sources
        self._direction, self._past, self._up_to = ("", ">", "<=") if ascending else (" DESC", "<", ">=")
        # On the uid, which every source has as its last column: they belong to the range that the index gives.
        self._bounds: list[tuple[str, bytes]] = []
        self._terms: list[str] = []
        self._values: list[Value] = []
        self._misses = False

    def require(self, condition: Condition, where: tuple[str, Sequence[Value]] | None) -> None:
        """Only rows for which a condition holds. `where`: what it says of a row; None: the sources answer it."""
        self._bounds += _bounds(condition)
        if where is not None:
            self.add(*where, misses=condition.field != "create_time")

    def add(self, term: str, values: Sequence[Value], *, misses: bool = True) -> None:
        """Only rows for which a term of our own text holds. `misses`: which may leave out rows of the sources."""
        self._terms.append(term)
        self._values += values
        self._misses |= misses

    def beyond(self, uid: bytes) -> None:
        """Go on after this row."""
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

    def page(
        self, connection: sqlite3.Connection, after: bytes | None, size: int, columns: str, joins: str,
        read: Callable[[Sequence[Any]], tuple[RowT, int]], *, examined: int = EXAMINED,
    ) -> tuple[list[RowT], bytes | None]:  # fmt: skip
        """One page after a uid, and the uid to go on after; None: this was the last page.

        `columns`: the uid first. `read`: what a row stands for, and how many bytes that has.
        """
        if after is not None:
            self.beyond(after)
        floor = self.limit(connection, examined)
        found: list[RowT] = []
        weight = 0
        with contextlib.closing(self._run(connection, columns, joins, size + 1)) as rows:
            for row in rows:
                if len(found) == size or weight > PAGE_BYTES:
                    return found, found[-1].uid
                record, bytes_ = read(row)
                found.append(record)
                weight += bytes_
        return found, floor

    def _run(self, connection: sqlite3.Connection, columns: str, joins: str, limit: int) -> sqlite3.Cursor:
        """The rows in order, at most so many."""
        sql, values = self.statement(columns, joins)
        # SQLite merges the parts of a compound by its columns, and finds the order of a single one by its index.
        order = "1" if len(self._sources) > 1 else self._sources[0].uid
        return connection.execute(f"{sql} ORDER BY {order}{self._direction} LIMIT ?", (*values, limit))

    def statement(self, columns: str, joins: str = "") -> tuple[str, list[Value]]:
        """The SELECT of these columns, in no order, and its values."""
        parts: list[str] = []
        values: list[Value] = []
        for source in self._sources:
            where = " AND ".join([*self._range(source), *self._terms])
            parts.append(f"SELECT {columns} FROM {source.table} {source.join} {joins} WHERE {where}")  # noqa: S608
            values += [*self._range_values(source), *self._values]
        return " UNION ALL ".join(parts), values

    def _range(self, source: Source) -> list[str]:
        return [*source.terms, *(f"{source.uid} {operator} ?" for operator, _ in self._bounds)]

    def _range_values(self, source: Source) -> list[Value]:
        return [*source.values, *(uid for _, uid in self._bounds)]


def _bounds(condition: Condition) -> list[tuple[str, bytes]]:
    """What a time says of the uid, which begins with the milliseconds of the creation.

    Whatever else happens to a row happens after that, so an upper bound of any time is one of its uid.
    """
    found: list[tuple[str, bytes]] = []
    if not condition.field.endswith("_time"):
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
