"""`longshore jobs` as an operator meets it."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import Job, JobQueue, JobRetry, OperationError
from tests.cli.test_cli import Run, command
from tests.cli.test_terminal import Terminal
from tests.server.jobs.conftest import Yard


@dataclass
class Load:
    name: str = "x"


class Dock(Yard):
    """A server with two queues: jobs of `load` fail unless they are called `good`, and wait where they are `slow`."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.gate = asyncio.Event()

        @self.job("load", key="{name}", max_queued=9, concurrency=2, retry=JobRetry(max_attempts=1))
        async def load(payload: Load, job: Job[dict[str, str]]) -> dict[str, str]:
            job.log.info("lifting", name=payload.name)
            await job.step("lift", str)
            if payload.name == "slow":
                await self.gate.wait()
            if payload.name != "good":
                raise OperationError("TOO_HEAVY", f"{payload.name} does\x1bnot lift")
            return {"lifted": payload.name}

        @self.job("play")
        async def play(payload: lab_pb2.PlayRequest, job: Job[lab_pb2.PlayResult]) -> lab_pb2.PlayResult:
            return lab_pb2.PlayResult(text=payload.script)

        self.load: JobQueue[Load, dict[str, str]] = load
        self.play: JobQueue[Any, Any] = play

    async def ended(self, *names: str) -> list[str]:
        """Jobs with these payloads, once they have ended."""
        refs = [await self.load.create(Load(name)) for name in names]
        await asyncio.gather(*(ref.wait() for ref in refs), return_exceptions=True)
        await self.catch_up()
        return [ref.name for ref in refs]


@pytest.fixture
async def dock(tmp_path: Path) -> AsyncIterator[Dock]:
    found = Dock(tmp_path / "data")
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


@pytest.fixture
def run(dock: Dock) -> Run:
    return functools.partial(command, dock, "jobs")


def words(text: str) -> list[list[str]]:
    """The words of each line, but for how long ago something was."""
    ago = re.compile(r"\d+ d \d+ h|\d+ h \d+ min|\d+ min \d+ s|\d+\.\d s")
    return [ago.sub("AGO", line).split() for line in text.splitlines()]


async def test_jobs_are_listed_for_people_and_for_programs(dock: Dock, run: Run) -> None:
    good, bad = await dock.ended("good", "bad")
    done = await run("ls")
    assert (done.code, done.err) == (0, "")
    assert words(done.out) == [
        ["NAME", "QUEUE", "STATE", "ATTEMPT", "AGE", "WHAT"],
        [bad, "load", "DEAD", "1", "AGO", "bad", "OperationError:", "bad", r"does\u001bnot", "lift", "(TOO_HEAVY)"],
        [good, "load", "COMPLETED", "1", "AGO", "good"],
    ]
    done = await run("ls", "--filter", "state=COMPLETED", "--json")
    (found,) = done.json
    assert (found["name"], found["queue"], found["state"], found["key"]) == (good, "queues/load", "COMPLETED", "good")
    assert found["create_time"] == "2026-01-01T00:00:00Z"
    assert "last_error" not in found
    assert words((await run("dead")).out)[1][0] == bad
    done = await run("dead", "--filter", "key=good")
    assert (done.out, done.err) == ("", "no jobs match the filter\n")


async def test_what_a_queued_job_waits_for_is_in_the_list(dock: Dock, run: Run) -> None:
    refs = [await dock.load.create(Load("slow")) for _ in range(2)]
    refs.append(await dock.load.create(Load("later"), delay=60))
    await dock.catch_up()
    states = [line[2:4] for line in words((await run("ls", "--order", "oldest")).out)[1:]]
    assert states == [["ACTIVE", "1"], ["QUEUED", "blocked"], ["QUEUED", "delayed"]]


async def test_the_steps_of_an_operation_show_its_jobs(dock: Dock) -> None:
    names: list[str] = []

    @dock.plays
    async def handler(request: Any, op: Any) -> Any:
        good = await dock.load.create(Load("good"))
        await good.wait()
        played = await dock.play.create(lab_pb2.PlayRequest(script="x"), delay=60)
        names.extend([good.name, played.name])
        await op.step("look", str)
        return await op.attach(played)

    operation = (await dock.begin()).operation
    await dock.catch_up()
    done = await command(dock, "steps", operation.name)
    assert (done.code, done.err) == (0, "")
    _, *jobs = done.out.splitlines()
    assert jobs == [
        f"completed  {names[0]} of load", f"queued     {names[1]} of play, the operation ends with it"
    ]  # fmt: skip
    (step,) = (await command(dock, "steps", operation.name, "--json")).json
    assert step["step"] == "look"


async def test_a_list_says_that_there_is_more(dock: Dock, run: Run) -> None:
    names = await dock.ended("good", "good", "good")
    done = await run("ls", "--limit", "2")
    assert [line[0] for line in words(done.out)[1:]] == names[:0:-1]
    assert done.err == "there are more than 2: --limit N or --all shows them\n"
    done = await run("ls", "--all", "--order", "oldest", "--json")
    assert [job["name"] for job in done.json] == names


async def test_all_that_is_known_of_a_job(dock: Dock, run: Run) -> None:
    good, bad = await dock.ended("good", "bad")
    done = await run("get", bad)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"name           {bad}",
        "queue          load",
        "state          DEAD",
        "key            bad",
        "create         2026-01-01T00:00:00Z",
        "end            2026-01-01T00:00:00Z",
        'payload        {"name": "bad"}',
        r"error          OperationError: bad does\u001bnot lift (TOO_HEAVY)",
        r"attempt 1: failed, after 0.0 s, OperationError: bad does\u001bnot lift (TOO_HEAVY)",
    ]
    (found,) = (await run("get", good.removeprefix("jobs/"), "--json")).json
    assert (found["payload"], found["result"]) == ({"name": "good"}, {"lifted": "good"})
    assert [(attempt["attempt"], attempt["outcome"]) for attempt in found["attempts"]] == [(1, "COMPLETED")]


async def test_protobuf_messages_are_shown_in_their_own_fields(dock: Dock, run: Run) -> None:
    ref = await dock.play.create(lab_pb2.PlayRequest(script="hello"))
    await ref.wait()
    (found,) = (await run("get", ref.name, "--json")).json
    assert found["payload"] == {"@type": "type.googleapis.com/lab.v1.PlayRequest", "script": "hello"}
    assert found["result"] == {"@type": "type.googleapis.com/lab.v1.PlayResult", "text": "hello"}


async def test_logs_and_steps(dock: Dock, run: Run) -> None:
    (name,) = await dock.ended("good")
    done = await run("logs", name)
    assert (done.out, done.err) == ('2026-01-01T00:00:00Z  info   1  lifting  name="good"\n', "")
    assert (await run("logs", name, "--level", "warn")).err == "no lines\n"
    done = await run("steps", name)
    assert done.out == "completed  lift: 1 try, 0.0 s, attempt 1\n"
    assert (await run("steps", name, "--json")).json[0]["step"] == "lift"


async def test_jobs_are_retried_and_cancelled(dock: Dock, run: Run) -> None:
    (bad,) = await dock.ended("bad")
    done = await run("retry", bad, "--fresh")
    assert (done.code, done.out) == (0, f"{bad} is QUEUED ready\n")
    await asyncio.gather(dock.load.job(bad).wait(), return_exceptions=True)
    assert (await dock.jobs())[0].attempt == 2
    done = await run("retry", bad, "--from-step", "lift")
    assert (done.code, done.out) == (0, f"{bad} is QUEUED ready\n")
    await asyncio.gather(dock.load.job(bad).wait(), return_exceptions=True)
    done = await run("retry", bad, "--from-step", "lfit")
    assert (done.code, "'lfit' is none of the steps that the job has come to" in done.err) == (6, True)
    slow = await dock.load.create(Load("slow"))
    waits = await dock.load.create(Load("slow"))
    await dock.catch_up()
    done = await run("cancel", waits.id, slow.name, "--reason", "enough", "--json")
    assert [(job["state"], job["cancel_reason"]) for job in done.json] == [
        ("CANCELLED", "enough"), ("CANCELLING", "enough"),
    ]  # fmt: skip


async def test_dead_letters_are_replayed_and_dismissed_singly_and_in_bulk(dock: Dock, run: Run) -> None:
    names = await dock.ended(*["bad"] * 3, "worse")
    done = await run("replay", names[0])
    assert (done.code, done.out) == (0, f"{names[0]} is QUEUED ready\n")
    await asyncio.gather(dock.load.job(names[0]).wait(), return_exceptions=True)
    done = await run("replay", "--filter", "key=bad")
    assert (done.code, done.out) == (0, "3 dead letters replayed\n")
    for name in names[:3]:
        await asyncio.gather(dock.load.job(name).wait(), return_exceptions=True)
    assert [job.attempt for job in await dock.jobs()] == [3, 2, 2, 1]
    assert (await run("dismiss", names[0])).out == f"{names[0]} is DISMISSED\n"
    assert (await run("dismiss", "--filter", "key=worse", "--json")).json == [{"count": 1}]
    assert (await run("dismiss", "--all")).out == "2 dead letters dismissed\n"
    assert (await run("dismiss", "--all")).out == "0 dead letters dismissed\n"
    assert (await run("dead")).err == "no jobs match the filter\n"


async def test_which_dead_letters_are_meant_must_be_said(dock: Dock, run: Run) -> None:
    for arguments in ((), ("--all", "--filter", "key=x"), ("x", "--all")):
        done = await run("dismiss", *arguments)
        assert (done.code, done.out) == (2, "")
        assert "say which dead letters: give names, or --filter, or --all" in done.err


async def test_queues_are_shown_paused_and_resumed(dock: Dock, run: Run) -> None:
    await dock.ended("bad")
    for _ in range(2):
        await dock.load.create(Load("slow"))
    await dock.catch_up()
    done = await run("pause", "load")
    assert (done.code, done.out) == (0, "load is paused\n")
    shown = (await run("queues")).out
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    assert words(shown) == [
        ["QUEUE", "READY", "BLOCKED", "DELAYED", "ACTIVE", "STALE", "DEAD", "SLOTS"],
        ["load", "0", "1", "0", "1", "0", "1", "1/2", "paused"],
        ["play", "0", "0", "0", "0", "0", "0", "0/16"],
    ]
    first, _ = (await run("queues", "--json")).json
    assert (first["name"], first["paused"], first["counts"]["dead"]) == ("queues/load", True, 1)
    assert (first["settings"]["key"], first["settings"]["when_full"]) == ("{name}", "REJECT")
    assert (await run("resume", "queues/load")).out == "load is resumed\n"
    assert "paused" not in (await run("queues")).out


async def test_a_narrow_terminal_shows_all_of_the_queues(dock: Dock) -> None:
    await dock.ended("bad")
    terminal = Terminal(dock.harness.address, 40)
    try:
        await terminal.run("jobs", "queues")
        assert await terminal.ended() == 0
    finally:
        await terminal.close()
    assert terminal.lines == [
        "load",
        "  ready 0, blocked 0, delayed 0,",
        "  active 0, stale 0, dead 1, slots 0/2",
        "play",
        "  ready 0, blocked 0, delayed 0,",
        "  active 0, stale 0, dead 0, slots 0/16",
    ]


async def test_a_narrow_terminal_leaves_the_word_before_a_job_out(dock: Dock, run: Run) -> None:
    (name,) = await dock.ended("bad")
    terminal = Terminal(dock.harness.address, 70)
    try:
        await terminal.run("jobs", "ls")
        assert await terminal.ended() == 0
    finally:
        await terminal.close()
    _, row = terminal.lines
    assert row.split()[0] == name.removeprefix("jobs/")
    assert (await run("get", row.split()[0])).code == 0, "commands take it as it stands there"


async def test_workers_say_what_they_run(dock: Dock, run: Run) -> None:
    ref = await dock.load.create(Load("slow"))
    await dock.catch_up()
    first, second = words((await run("workers")).out)
    assert (first[0], first[2:]) == ("workers/1", ["pid", f"{os.getpid()},", "for", "AGO,", "1", "running"])
    assert second == [ref.name, "load,", "attempt", "1,", "for", "AGO"]
    (found,) = (await run("workers", "--json")).json
    assert [run["job"] for run in found["runs"]] == [ref.name]


async def test_a_wrong_name_is_said(dock: Dock, run: Run) -> None:
    done = await run("get", "x")
    assert (done.code, done.out) == (6, "")
    assert "'jobs/x' is not of the form jobs/{id}, where {id} is the UUID that `longshore jobs ls` shows" in done.err
    # A UUID of another version is one to a reader.
    for id in ("00000000-0000-0000-0000-000000000000", "01890000-0000-7000-8000-000000000000"):
        assert await run("get", id) == (6, "", f"error: jobs/{id} does not exist, or does no more. (JOB_NOT_FOUND)\n")
    for name, hint in (("nope", "There is 'load', 'play'."), ("lod", "Did you mean 'load'?")):
        problem = f"error: This server has no queues/{name}. {hint} (QUEUE_NOT_FOUND)\n"
        assert await run("pause", name) == (6, "", problem)
