"""When a stored value is the one that is asked for again, and what its digest is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from longshore_server.handler import codec
from longshore_server.store.mutations.job_creation import Admission, Obstacle, read_back, written


@dataclass
class Loose:
    value: Any
    marks: frozenset[str] = field(default_factory=frozenset)


class Account(BaseModel):
    id: str
    cents: int = 0

    def __eq__(self, other: object) -> bool:
        """Two of one account are equal, whatever is on it."""
        return isinstance(other, Account) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("stored", "asked", "same"),
    [
        (Loose(1), Loose(1), True),
        (Loose(1), Loose(True), False),
        (Loose(1), Loose(1.0), False),
        (Loose({"a": 1, "b": 2}), Loose({"b": 2, "a": 1}), True),
        (Loose(0, frozenset("abcdefgh")), Loose(0, frozenset("hgfedcba")), True),
        (Account(id="a"), Account(id="a", cents=0), True),
        (Account(id="a", cents=1), Account(id="a", cents=999), False),
        ({"a": 1}, {"a": 1}, True),
        ([1], [True], False),
    ],
)
def test_values_are_the_same_if_all_that_they_hold_is(stored: Any, asked: Any, same: bool) -> None:
    assert codec.same(codec.encode(stored), asked, type(asked)) is same


def test_a_digest_counts_the_class_of_a_value_and_not_its_module() -> None:
    assert codec.Encoded("json", b"300.0").identity == b"json\x00300.0"
    assert codec.Encoded("proto:acme.v1.Order", b"").identity == b"proto:acme.v1.Order\x00"
    assert codec.Encoded("dataclass:acme.shop:Order", b"{}").identity == b"dataclass:Order\x00{}"


def test_journals_that_hold_no_payloads_are_read() -> None:
    admissions = [Admission(None, obstacle=Obstacle.QUEUE_DEPTH, key="k", limit=3)]
    before = written(admissions).replace(b", null]]", b"]]")
    assert read_back(before) == read_back(written(admissions)) == [(None, admissions[0])]
