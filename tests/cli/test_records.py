"""`longshore logs` and `longshore steps` as an operator meets them."""

# ruff: noqa: G010 - op.log is no logger of the standard library
from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.cli import records
from longshore_server import StepRetry
from longshore_server.store import logs
from tests.cli.test_cli import Run, command
from tests.conftest import Lab


@pytest.fixture
def run(lab: Lab) -> Run:
    return functools.partial(command, lab)


async def told(lab: Lab) -> str:
    """An operation whose step failed twice, and took 1.2 s."""

    @lab.plays
    async def handler(request, op):
        tries = iter([ConnectionError("no\x1b[2Jline"), ConnectionError("out of stock")])

        async def reserve() -> None:
            for error in tries:
                op.log.warn("not yet", why={"sku": "a\x1bb"}, left=0)
                raise error

        op.log.info("begun")
        await op.step("reserve", reserve, retry=StepRetry(3, initial_delay=0.6, backoff="constant"))
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    for _ in range(2):
        await lab.clock.armed(0.6)
        lab.clock.advance(0.6)
    await lab.end(name)
    await lab.catch_up()
    return name


async def test_logs_are_lines_for_people(lab: Lab, run: Run) -> None:
    done = await run("logs", (await told(lab)).removeprefix("operations/"))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "2026-01-01T00:00:00Z  info   1  begun",
        r'2026-01-01T00:00:00Z  warn   1/reserve  not yet  why={"sku": "a\u001bb"}  left=0',
        r'2026-01-01T00:00:00.600000Z  warn   1/reserve  not yet  why={"sku": "a\u001bb"}  left=0',
    ]


async def test_logs_from_a_level_on_for_programs(lab: Lab, run: Run) -> None:
    done = await run("logs", await told(lab), "--level", "warn", "--json")
    first, second = map(json.loads, done.out.splitlines())
    assert first == {
        "number": 2, "time": "2026-01-01T00:00:00Z", "attempt": 1, "level": "warn", "step": "reserve",
        "message": "not yet", "data": {"why": {"sku": "a\x1bb"}, "left": 0},
    }  # fmt: skip
    assert (second["number"], second["time"]) == (3, "2026-01-01T00:00:00.600000Z")


async def test_the_latest_lines_alone(lab: Lab, run: Run) -> None:
    name = await told(lab)
    whole = (await run("logs", name)).out.splitlines()
    done = await run("logs", name, "--limit", "2")
    assert done.out.splitlines() == whole[1:]
    assert (done.code, done.err) == (0, "there are more than 2: a greater --limit shows them\n")
    done = await run("logs", name, "--limit", "1", "--json")
    assert ([line["number"] for line in done.json], done.err) == ([3], "")
    assert await run("logs", name, "--limit", "3") == (0, "\n".join([*whole, ""]), "")
    assert (await run("logs", name, "--limit", "0")).code == 2


async def test_steps_say_how_often_how_long_and_why(lab: Lab, run: Run) -> None:
    name = await told(lab)
    done = await run("steps", name)
    said = "reserve: 3 tries, 1.2 s, attempt 1, last error ConnectionError: out of stock"
    assert (done.code, done.out, done.err) == (0, f"completed  {said}\n", "")
    done = await run("steps", name, "--json")
    assert json.loads(done.out) == {
        "step": "reserve", "attempt": 1, "state": "completed", "tries": 3, "kept": False,
        "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:01.200000Z",
        "error": "ConnectionError: out of stock",
    }  # fmt: skip


async def test_steps_that_failed_and_steps_that_were_kept(lab: Lab, run: Run) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("pay", int)
        await op.step("ship", {}.__getitem__, "box")

    name = (await lab.run()).name
    again = (await lab.operations.Retry(pb.RetryRequest(name=name, keep_steps=True))).operation.name
    await lab.end(again)
    done = await run("steps", again)
    assert done.out.splitlines() == [
        "completed  pay: 1 try, 0.0 s, kept from the operation that it repeats",
        "failed     ship: 1 try, 0.0 s, attempt 1, last error KeyError: 'box'",
    ]


async def test_all_pages_are_shown(lab: Lab, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PAGE", 2)

    @lab.plays
    async def handler(request, op):
        for number in range(5):
            op.log.info(str(number))
            await op.step(f"step {number}", int)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    assert [line[-1] for line in (await run("logs", name)).out.splitlines()] == list("01234")
    assert len((await run("steps", name)).out.splitlines()) == 5


async def test_what_is_gone_and_what_is_not_there_is_said(lab: Lab, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LINES", 8)
    name = (await lab.run()).name
    for verb in ("logs", "steps"):
        done = await run(verb, name)
        assert (done.code, done.out, done.err) == (0, "", f"no {verb if verb == 'steps' else 'lines'}\n")

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        for number in range(10):
            op.log.info(str(number))
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    done = await run("logs", name)
    assert done.err == "the first 2 lines are not kept any more\n"
    assert len(done.out.splitlines()) == 8
    assert (await run("logs", "operations/none")).code == 6
