"""The vocabulary of errors: each reason is documented, raised by the server, and seen by a test.

What a refusal carries is held against `Reason.details` by `refused` of tests/conftest.py, in every test that uses it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc import error_details_pb2, status_pb2

from longshore_server.errors import OperationError, failure
from longshore_server.reasons import Again, Reason

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "longshore_server"


def trees(folder: Path) -> Iterator[ast.AST]:
    """The syntax of every file, but for those that hold the vocabulary itself."""
    for file in folder.rglob("*.py"):
        if file != SERVER / "reasons.py" and file != Path(__file__) and "contracts" not in file.parts[-4:-1]:
            yield ast.parse(file.read_text("utf-8"))


def named(folder: Path, *, strings: bool) -> set[str]:
    """The reasons that the code names, as `Reason.X` or, in tests, by their words."""
    found = set()
    for tree in trees(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
                found.add(node.attr)
            elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_reason_is_raised_somewhere() -> None:
    raised = named(SERVER, strings=False)
    assert [reason.name for reason in Reason if reason.name not in raised] == []


def test_every_reason_is_seen_by_a_test() -> None:
    seen = named(ROOT / "tests", strings=True)
    assert [reason.name for reason in Reason if reason.name not in seen] == []


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_word_that_says_what_to_do(reason: Reason) -> None:
    assert reason.name.isupper()
    assert len(reason.name) <= 63  # AIP-193
    for sentence in (reason.meaning, reason.action):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "|" not in sentence, "it stands in a table"
    if reason.ends:
        assert reason.again in (Again.NO, Again.ANEW)
    else:
        assert reason.again is not Again.ANEW
    for name in reason.details:
        assert hasattr(error_details_pb2, name)


def test_reasons_of_endings_come_after_those_of_calls() -> None:
    ends = [reason.ends for reason in Reason]
    assert ends == sorted(ends)
    assert any(ends)
    assert not all(ends)


def test_an_operation_error_may_not_take_a_word_of_the_server() -> None:
    """The domain tells them apart: what a handler raises is the contract's."""
    info = error_details_pb2.ErrorInfo()
    OperationError("CANCELLED").status("acme.orders.v1").details[0].Unpack(info)
    assert info.domain == "acme.orders.v1"
    status_pb2.Status.FromString(failure(Reason.CANCELLED)).details[0].Unpack(info)
    assert info.domain == "longshore"


def test_the_page_has_every_reason_in_one_of_its_tables() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    calls, ends = text.split("## Operations that end without a result")
    for reason in Reason:
        assert f"| `{reason.name}` | {reason.code.name} |" in (ends if reason.ends else calls)
