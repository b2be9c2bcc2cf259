"""`longshore recurring`, `debounce` and `task` as a user meets them."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from tests.cli.test_cli import Done, Run, command
from tests.client.instances_server import Served, served
from tests.server.instances.laboratory import Gate

__all__ = ["served"]

_ADD = ("debounce", "add")


@pytest.fixture
def run(served: Served) -> Run:
    server: Any = served.world
    return functools.partial(command, server)


async def test_a_recurring_from_its_start_to_its_end(run: Run) -> None:
    name = "recurrings/token-refresher/instances/a"
    active, ended = f"{name} is ACTIVE\n", f"{name} is TERMINATED\n"
    assert await run("recurring", "start", "token-refresher/a", "-d", '{"value": 6}') == Done(0, active, "")
    assert await run("recurring", "trigger", name) == Done(0, active, "")
    assert await run("recurring", "state", "token-refresher/a") == Done(0, '{"value": 8, "note": ""}\n', "")
    assert (await run("recurring", "pause", name)).out == f"{name} is PAUSED\n"
    assert (await run("recurring", "resume", name, "--json")).json == [
        {"name": name, "changed": True, "status": "ACTIVE"}
    ]
    got = await run("recurring", "get", name)
    assert got.out.splitlines()[1] == "status          ACTIVE"
    assert "run count       2" in got.out.splitlines()
    assert await run("recurring", "terminate", name, "--reason", "no\x1bneed") == Done(0, ended, "")
    (shown,) = (await run("recurring", "get", name, "--json")).json
    assert (shown["status"], shown["stop_reason"], shown["run_count"]) == ("TERMINATED", "no\x1bneed", 2)
    listed = await run("recurring", "ls", "token-refresher", "--status", "terminated")
    assert listed.out.splitlines()[1].split()[:2] == ["a", "TERMINATED"]
    assert r"no\u001bneed" in listed.out
    # As tables write it, too.
    assert await run("recurring", "ls", "token-refresher", "--status", "PAUSED") == Done(0, "", "no instances\n")


async def test_the_start_of_what_exists_says_that_nothing_given_is_used(run: Run) -> None:
    name = "recurrings/token-refresher/instances/a"
    start = ("recurring", "start", "token-refresher/a", "-d")
    await run(*start, '{"value": 6}')
    existed = "it existed already: nothing of what was given is used\n"
    assert await run(*start, '{"value": 9}') == Done(0, f"{name} is ACTIVE\n", existed)
    assert (await run(*start, '{"value": 9}', "--json")).json == [{"name": name, "created": False, "status": "ACTIVE"}]
    assert (await run("recurring", "state", name)).json[0]["value"] == 7
    # Another generation of what has ended begins with what is given.
    await run("recurring", "terminate", name)
    assert await run(*start, '{"value": 9}') == Done(0, f"{name} is ACTIVE\n", "")


async def test_a_purge_is_done_where_there_is_nothing(run: Run) -> None:
    name = "recurrings/token-refresher/instances/a"
    purge = ("recurring", "terminate", name, "--purge")
    await run("recurring", "start", name, "-d", "{}")
    assert await run(*purge) == Done(0, f"{name} is purged\n", "")
    assert await run(*purge) == Done(0, "", f"there is no {name}: nothing to purge\n")
    assert (await run(*purge, "--json")).json == [{"name": name, "changed": False, "status": "NOT_FOUND"}]
    # To end what there is not may be a slip of the pen.
    assert (await run("recurring", "terminate", name)).code == 6


async def test_what_the_server_defines_and_when_that_runs(run: Run) -> None:
    tables = {
        "recurring": """\
DEFINITION       WHEN                              ATTEMPTS  CALL         STATE
failing          every 1 h                                1               Token
greeter          every 1 h                                1               lab.v1.PlayResult
pulse            every 0.25 s from begin to begin         1               Token
report           0 9 * * 1-5 Europe/Vienna                1  reports.run  Token
token-refresher  every 30 min                             2               Token
""",
        "debounce": """\
DEFINITION  WHEN                              ATTEMPTS  STATE  EVENT
plain       after 5 min                              1  dict   dict
quiet       after 1 h 30 min of quiet or 1 d         1  dict   dict
strict      after 5 min or 2 events                  1  Ping   Ping
webhooks    after 5 min or 3 events                  1  Batch  Ping
""",
        "task": """\
DEFINITION  ATTEMPTS  STATE  EVENT
order              1  Token  Ping | Pong
""",
    }
    for kind, table in tables.items():
        assert await run(kind, "definitions") == Done(0, table, "")
    assert (await run("task", "definitions", "--json")).json == [
        {"name": "tasks/order", "state_type": "Token", "event_type": "Ping | Pong", "timeout": 3600.0}
    ]
    found = {each["name"]: each for each in (await run("recurring", "definitions", "--json")).json}
    schedules = {name.partition("/")[2]: each["schedule"] for name, each in found.items()}
    usual = {"overlap": "SKIP", "misfire": "ONCE", "start_immediately": True}
    assert schedules["report"] == {"cron": "0 9 * * 1-5", "zone": "Europe/Vienna", **usual}
    assert schedules["pulse"] == {
        "every": 0.25, "fixed_rate": True, "overlap": "QUEUE", "misfire": "ALL", "start_immediately": True,
    }  # fmt: skip
    retry = found["recurrings/token-refresher"]["retry"]
    assert (retry["max_attempts"], retry["backoff"], retry["initial_delay"]) == (2, "CONSTANT", 30.0)
    windows = {each["name"]: each["window"] for each in (await run("debounce", "definitions", "--json")).json}
    assert windows["debounces/quiet"] == {"flush_after": 5400.0, "trailing": True, "max_wait": 86400.0}
    assert windows["debounces/strict"] == {"flush_after": 300.0, "max_events": 2}


async def test_all_instances_of_a_kind_are_listed(run: Run) -> None:
    assert await run("recurring", "ls") == Done(0, "", "no instances\n")
    for name in ("token-refresher/a", "greeter/z", "token-refresher/b"):
        await run("recurring", "start", name, "-d", "{}")
    await run("recurring", "pause", "token-refresher/b")
    rows = [line.split()[:2] for line in (await run("recurring", "ls")).out.splitlines()]
    assert rows == [
        ["NAME", "STATUS"], ["greeter/z", "ACTIVE"], ["token-refresher/a", "ACTIVE"], ["token-refresher/b", "PAUSED"],
    ]  # fmt: skip
    paused = await run("recurring", "ls", "--status", "paused", "--json")
    assert [found["name"] for found in paused.json] == ["recurrings/token-refresher/instances/b"]
    # As it stands there it is a name.
    assert (await run("recurring", "get", rows[1][0])).code == 0
    await run("debounce", "add", "webhooks/a", "-d", "{}")
    assert (await run("debounce", "ls")).out.splitlines()[1].split()[0] == "webhooks/a"


async def test_a_run_that_fails_is_told(run: Run, served: Served) -> None:
    served.failures = 2
    done = await run("recurring", "start", "token-refresher/a", "-d", "{}")
    assert (done.code, done.out) == (1, "recurrings/token-refresher/instances/a is ACTIVE\n")
    assert done.err.startswith("its handler has failed: ")
    assert done.err.endswith(" (HANDLER_ERROR); it runs again at 2026-01-01T00:00:30Z\n")
    assert "2026-01-01T00:00:30Z" in (await run("recurring", "ls", "token-refresher")).out
    await served.world.advance(30)
    assert "HANDLER_ERROR" in (await run("recurring", "ls", "token-refresher")).out
    assert "(HANDLER_ERROR)" in (await run("recurring", "get", "token-refresher/a")).out
    (shown,) = (await run("recurring", "get", "token-refresher/a", "--json")).json
    assert (shown["status"], shown["last_error"]["reason"]) == ("FAILED", "HANDLER_ERROR")


@pytest.mark.parametrize(
    ("verb", "before"),
    [
        (("debounce", "flush", "strict/a"), (*_ADD, "strict/a", "-d", '{"number": 1}')),
        (
            ("debounce", "add", "strict/a", "-d", '{"number": 2}'),
            ("debounce", "add", "strict/a", "-d", '{"number": 1}'),
        ),
        (("task", "send", "order/a", "-d", '{"@type": "Pong", "text": "fail"}'), ()),
        (("recurring", "start", "failing/a", "-d", "{}"), ()),
        (("recurring", "trigger", "failing/a"), ("recurring", "start", "failing/a", "-d", "{}", "--no-wait")),
    ],
)
async def test_who_waits_for_a_handler_is_told_what_it_failed_with(
    run: Run, verb: tuple[str, ...], before: tuple[str, ...]
) -> None:
    if before:
        assert (await run(*before)).code == 0
    done = await run(*verb)
    kind, name = verb[0], verb[2]
    assert (done.code, done.out) == (1, f"{kind}s/{name.replace('/', '/instances/')} is FAILED\n")
    assert done.err.startswith("its handler has failed: ")
    assert f"_ERROR); once it can succeed, let it go on with: longshore {kind} resume {name}" in done.err
    # Who does not wait has been served: it is accepted.
    if verb[1] != "start":
        assert (await run(*verb, "--no-wait")).code == 0
    again = await run(*verb, "--json")
    assert (again.code, again.err, again.json[0]["status"]) == (1, "", "FAILED")
    assert again.json[0]["last_error"]["reason"].endswith("_ERROR")


async def test_a_paused_instance_says_what_becomes_of_what_it_is_asked(run: Run) -> None:
    paused = {
        ("recurring", "start", "token-refresher/a", "-d", "{}"): ("recurring", "trigger", "token-refresher/a"),
        (*_ADD, "webhooks/a", "-d", '{"number": 1}'): ("debounce", "flush", "webhooks/a"),
        ("task", "send", "order/a", "-d", '{"@type": "Pong"}'): ("task", "trigger", "order/a"),
    }
    for begin, trigger in paused.items():
        kind, _, name = trigger
        await run(*begin)
        await run(kind, "pause", name)
        line = f"{kind}s/{name.replace('/', '/instances/')} is PAUSED\n"
        resume = f"; let it go on with: longshore {kind} resume {name}\n"
        assert await run(*trigger) == Done(1, line, f"it was not run{resume}")
        assert (await run(*trigger, "--no-wait")).code == 1
        if kind != "recurring":
            assert await run(*begin) == Done(0, line, f"what it has accepted waits{resume}")


async def test_a_paused_instance_says_that_what_is_due_waits_until_it_is_resumed(run: Run, served: Served) -> None:
    name, due = "recurrings/token-refresher/instances/a", "2026-01-01T00:00:30Z"
    resume = "let it go on with: longshore recurring resume token-refresher/a\n"
    served.failures, served.held = 1, Gate()
    started = asyncio.ensure_future(run("recurring", "start", name, "-d", "{}"))
    await served.held.reached.wait()
    await run("recurring", "pause", name)
    served.held.opened.set()
    done = await started
    assert (done.code, done.out) == (1, f"{name} is PAUSED\n")
    assert done.err.endswith(f" (HANDLER_ERROR); it is paused, and does not run again at {due} unless you {resume}")
    assert f"retry           {due}; not before it is resumed" in (await run("recurring", "get", name)).out.splitlines()
    assert due not in (await run("recurring", "ls", "token-refresher")).out
    existed = "it existed already: nothing of what was given is used\n"
    assert await run("recurring", "start", name, "-d", "{}") == Done(
        0, f"{name} is PAUSED\n", f"{existed}it does not run; {resume}"
    )
    await run("recurring", "resume", name)
    assert f"retry           {due}" in (await run("recurring", "get", name)).out.splitlines()
    assert due in (await run("recurring", "ls", "token-refresher")).out


async def test_who_waits_too_long_is_told_how_not_to(run: Run, served: Served) -> None:
    served.held = Gate()
    done = await run("recurring", "start", "token-refresher/a", "-d", "{}", "--timeout", "0.05")
    assert (done.code, done.out) == (4, "")
    assert done.err.endswith("has not ended within 0.05 s; it goes on; --no-wait does not wait for it\n")
    assert (await run("recurring", "trigger", "token-refresher/a", "--no-wait")).code == 0
    served.held.opened.set()


async def test_a_debounce(run: Run, served: Served) -> None:
    name = "debounces/webhooks/instances/a"
    add = ("debounce", "add", "webhooks/a", "-d", '{"number": 3}', "--id", "x")
    (added,) = (await run(*add, "--json")).json
    assert added == {
        "name": name, "created": True, "duplicate": False, "event_count": 1, "flush_time": "2026-01-01T00:05:00Z",
        "status": "ACTIVE",
    }  # fmt: skip
    assert (await run(*add)).err == "this event had been accepted before\n"
    assert (await run("debounce", "state", name)).json == [{"numbers": [3]}]
    assert (await run("debounce", "flush", name, "--json")).json[0]["flushed"] is True
    assert served.batches == [[3]]
    await run("debounce", "add", name, "-d", "-", stdin='{"number": 4}')
    assert (await run("debounce", "clear", name, "--json")).json[0]["discarded_events"] == 1
    assert "0 events, 0 dead letters" in (await run("debounce", "ls", "webhooks")).out
    await run(*_ADD, name, "-d", "{}")
    assert "1 event, 0 dead letters" in (await run("debounce", "ls", "webhooks")).out


async def test_a_task(run: Run) -> None:
    name = "tasks/order/instances/a"
    send = ("task", "send", "order/a", "-d", '{"@type": "Pong", "text": "x"}')
    assert await run(*send, "--expected-version", "0") == Done(0, f"{name} is ACTIVE\n", "")
    refused = await run(*send, "--expected-version", "0")
    assert (refused.code, refused.out, "VERSION_MISMATCH" in refused.err) == (6, "", True)
    got = (await run("task", "get", name)).out.splitlines()
    assert "timers          2026-01-01T00:01:00Z, later: 2026-01-01T01:00:00Z" in got
    assert (await run("task", "state", name, "--json")).json == [
        {"state": {"value": 1, "note": "Pong"}, "status": "ACTIVE", "version": 1}
    ]
    assert (await run("task", "trigger", name)).code == 0
    (shown,) = (await run("task", "ls", "order", "--json")).json
    assert (shown["execute_count"], list(shown["timers"])) == (1, [""])


async def test_a_state_that_is_a_message_is_shown_by_what_the_server_says_of_it(run: Run) -> None:
    await run("recurring", "start", "greeter/a", "-d", '{"text": "hi"}')
    assert (await run("recurring", "state", "greeter/a")).json == [
        {"@type": "type.googleapis.com/lab.v1.PlayResult", "text": "hi"}
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("recurring", "get", "token-refresher/none"), 6, "there is no recurrings/token-refresher/instances/none"),
        (("recurring", "trigger", "token-refresher/none"), 6, "there is no recurrings/token-refresher/instances/none"),
        (("recurring", "get", "nothing/a"), 6, "Nothing here defines recurrings/nothing. There is 'failing', "),
        (("debounce", "ls", "webhook"), 6, "Nothing here defines debounces/webhook. Did you mean 'webhooks'?"),
        (("task", "get", "order"), 2, "NAME: 'order' is not of the form DEFINITION/ID"),
        (("task", "get", "order/"), 2, "NAME: 'order/' is not of the form DEFINITION/ID"),
        (("task", "send", "order/a", "-d", "{"), 2, "-d is not JSON"),
        (("task", "send", "order/a", "-d", "{}"), 6, "must say which of Ping, Pong it is"),
        (("debounce", "ls", "webhooks", "--status", "none"), 2, "'none' is not one of 'active', 'paused'"),
    ],
)
async def test_what_is_refused(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = await run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


async def test_what_its_handlers_have_logged(run: Run, served: Served) -> None:
    served.failures = 1
    await run("recurring", "start", "token-refresher/a", "-d", "{}")
    await served.world.advance(30)
    done = await run("recurring", "logs", "token-refresher/a")
    assert done == Done(
        0,
        "2026-01-01T00:00:00Z  warn   1/1:1  no token  left=0\n"
        "2026-01-01T00:00:30Z  info   1/1:2  refreshed  value=1\n",
        "",
    )
    assert (await run("recurring", "logs", "token-refresher/a", "--level", "warn", "--json")).json == [
        {
            "number": 1, "time": "2026-01-01T00:00:00Z", "attempt": 1, "level": "warn", "step": "",
            "message": "no token", "data": {"left": 0}, "run": "1/1",
        },
    ]  # fmt: skip
    assert (await run("recurring", "logs", "token-refresher/a", "--limit", "1")).out == done.out.splitlines(True)[1]
    assert (await run("debounce", "logs", "webhooks/none")).err.startswith("error: there is no debounces/webhooks/")
    await run("task", "send", "order/a", "-d", '{"@type": "Ping"}')
    assert (await run("task", "logs", "order/a")).err == "no lines\n"
