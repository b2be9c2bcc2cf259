"""The filters of lists: the part of AIP-160 that one index scan can answer."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NamedTuple

from longshore_server.clock import SECOND
from longshore_server.errors import Reason, ServiceError, Violation
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.lifecycle import State
from longshore_server.store.search import Condition

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator><=|>=|!=|=|<|>|:)|(?P<paren>[()])|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'"""
    r"""|(?P<word>[^\s()=<>!:"']+))"""
)
# Where a value is due a colon may stand in it: times have some.
_VALUE = re.compile(r"""\s*(?P<word>[^\s()=<>!:"'][^\s()=<>!"']*)""")
MAX_FILTER = 4096
MAX_CONDITIONS = 16


class Fields(NamedTuple):
    """What the filters of one list can compare. `words`: by field, the names that it can have."""

    words: Mapping[str, type[enum.IntEnum]]
    texts: tuple[str, ...]
    labels: bool = False
    numbers: tuple[str, ...] = ()
    times: tuple[str, ...] = ("create_time", "start_time", "update_time", "end_time")


OPERATIONS = Fields({"state": State}, ("type", "owner", "reason", "parent"), labels=True)
JOBS = Fields(
    {"state": JobState, "stand": Stand}, ("queue", "key", "operation", "reason"), numbers=("priority",),
    times=(*OPERATIONS.times, "due_time"),
)  # fmt: skip


def parse(text: str, fields: Fields = OPERATIONS) -> list[Condition]:
    """The conditions of a filter, all of which must hold. Raises `ServiceError` (INVALID_FILTER)."""
    if len(text) > MAX_FILTER:
        raise _error(f"it is longer than {MAX_FILTER} characters")
    tokens = _tokens(text)
    conditions: list[Condition] = []
    position = 0
    while position < len(tokens):
        if conditions:
            kind, value = tokens[position]
            if kind != "word" or value != "AND":
                raise _error(f"only AND may join comparisons, not {value!r}")
            position += 1
        if len(tokens) - position < 3:
            raise _error("a comparison has three parts, for example state=RUNNING")
        (field_kind, field), (operator_kind, operator), (value_kind, value) = tokens[position : position + 3]
        if field_kind == "word" and field in ("NOT", "OR", "-"):
            raise _error(f"{field} is not supported: comparisons joined by AND are")
        if operator_kind != "operator" or value_kind == "operator" or "paren" in (field_kind, value_kind):
            raise _error(f"{field!r} {operator!r} {value!r} is not a comparison like state=RUNNING")
        conditions.append(_condition(fields, field, operator, value))
        position += 3
    if len(conditions) > MAX_CONDITIONS:
        raise _error(f"it has more than {MAX_CONDITIONS} comparisons")
    return conditions


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        value_due = bool(tokens) and tokens[-1][0] == "operator"
        match = (_VALUE.match(text, position) if value_due else None) or _TOKEN.match(text, position)
        if match is None:
            raise _error(f"it cannot be read from {text[position : position + 20]!r} on; is a quote missing?")
        position = match.end()
        kind = match.lastgroup
        assert kind is not None
        value = match[kind]
        if kind in ("double", "single"):
            value = re.sub(r"\\(.)", r"\1", value)
            kind = "string"
        tokens.append((kind, value))
    return tokens


def _condition(fields: Fields, field: str, operator: str, value: str) -> Condition:
    if field in fields.words:
        known = fields.words[field].__members__
        name = value.removeprefix(f"{field.upper()}_")
        if name not in known:
            meant = "".join(f" (did you mean {close}?)" for close in get_close_matches(name.upper(), known, n=1))
            raise _error(f"{value!r} is no {field}{meant}; the {field}s are {', '.join(known)}")
        return Condition(field, _equality(field, operator), int(known[name]))
    if field in fields.texts:
        return Condition(field, _equality(field, operator), value)
    if field in fields.numbers:
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise _error(f"{value!r} is no whole number")
        return Condition(field, _comparison(field, operator), int(value))
    if fields.labels and field.startswith("labels."):
        key = field.removeprefix("labels.")
        if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,62}", key):
            raise _error(f"{key!r} cannot be the key of a label")
        return Condition("label", _equality(field, operator), value, key)
    if field in fields.times:
        return Condition(field, _comparison(field, operator), _time(value))
    labels = ("labels.KEY",) if fields.labels else ()
    known_fields = ", ".join((*fields.words, *fields.texts, *labels, *fields.numbers, *fields.times))
    raise _error(f"there is no field {field!r}; the fields are {known_fields}")


def _equality(field: str, operator: str) -> str:
    if operator not in ("=", "!="):
        raise _error(f"{field} is compared by = and !=")
    return operator


def _comparison(field: str, operator: str) -> str:
    if operator == ":":
        raise _error(f"{field} is compared by =, !=, <, <=, > and >=")
    return operator


def _time(value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _error(f'{value!r} is no time; write it like "2026-01-31T09:00:00Z"') from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


def _error(problem: str) -> ServiceError:
    return ServiceError(Reason.INVALID_FILTER, f"filter: {problem}.", violations=[Violation("filter", problem)])
