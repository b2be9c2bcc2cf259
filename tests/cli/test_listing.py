"""`longshore ls` and `count`: what there is, as a user sees it."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from longshore_server import OperationError
from longshore_server.store import pages
from tests.cli.test_cli import Run, command, play
from tests.conftest import Lab


@pytest.fixture
async def run(lab: Lab) -> Run:
    """Run a command against a laboratory with three operations that ended: b failed."""

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.key == "b":
            raise OperationError("OUT_OF_STOCK", "no A1 left")
        return await play(request, op)

    for key in "abc":
        await lab.end((await lab.begin("PlayNamed", key=key)).operation.name)
    return functools.partial(command, lab)


async def test_ls_in_either_order(run: Run) -> None:
    for order, expected in (((), "cba"), (("--order", "newest"), "cba"), (("--order", "oldest"), "abc")):
        done = await run("ls", "--json", *order)
        assert [item["name"] for item in done.json] == [f"operations/named-{key}" for key in expected]
    wrong = await run("ls", "--order", "best")
    assert (wrong.code, wrong.out) == (2, "")
    assert "'best' is not one of 'newest', 'oldest'" in wrong.err


async def test_ls_by_the_reason_of_the_error(run: Run) -> None:
    done = await run("ls", "--filter", "reason=OUT_OF_STOCK")
    (row,) = done.out.splitlines()[1:]
    assert row.startswith("operations/named-b")
    assert row.endswith("no A1 left (OUT_OF_STOCK)")


async def test_count(run: Run) -> None:
    done = await run("count")
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["TYPE", "STATE", "COUNT"],
        ["lab.v1.LabService/PlayNamed", "COMPLETED", "2"],
        ["lab.v1.LabService/PlayNamed", "FAILED", "1"],
    ]
    done = await run("count", "--filter", "state=FAILED", "--json")
    assert done.json == [{"type": "lab.v1.LabService/PlayNamed", "state": "FAILED", "count": 1}]
    assert await run("count", "--filter", "state=RUNNING") == (0, "", "no operations match the filter\n")


async def test_count_says_that_there_are_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "COUNTED", 2)
    done = await run("count", "--json")
    assert sum(item["count"] for item in done.json) == 2
    assert done.err == "there are more: only the newest were counted; a filter narrows it down\n"


@pytest.mark.parametrize(
    ("command", "filter", "said"),
    [
        (("ls",), "state=running", "'running' is no state (did you mean RUNNING?); the states are PENDING, RUNNING"),
        (("jobs", "ls"), "state=queued", "'queued' is no state (did you mean QUEUED?); the states are QUEUED, ACTIVE"),
        (("jobs", "dead"), "stand=Redy", "'Redy' is no stand (did you mean READY?); the stands are"),
    ],
)
async def test_a_state_that_is_not_spelt_so(run: Run, command: tuple[str, ...], filter: str, said: str) -> None:
    done = await run(*command, "--filter", filter)
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith(f"error: filter: {said}")


async def test_a_wrong_filter_is_one_sentence(run: Run) -> None:
    for verb in ("ls", "count"):
        done = await run(verb, "--filter", "state=ASLEEP")
        assert (done.code, done.out) == (6, "")
        assert done.err.startswith("error: filter: 'ASLEEP' is no state; the states are PENDING, RUNNING")
        assert len(done.err.splitlines()) == 1
