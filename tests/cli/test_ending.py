"""`longshore stop`, `retry` and `delete`, and what a watch shows of failed attempts and of a stop."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1.operations_service_pb2 import GetRequest, StopRequest
from longshore_server import OperationError
from tests.cli.test_cli import Done, Run, command
from tests.conftest import Lab, State
from tests.server.retrying import RetryHandlers


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


@pytest.fixture
def run(lab: Lab) -> Run:
    return functools.partial(command, lab)


async def until_stopped(request: Any, op: Any) -> PlayResult:
    await op.stopping.wait()
    return PlayResult(text="a part of it")


async def busy(request: Any, op: Any) -> PlayResult:
    raise OperationError("BUSY", "try later")


async def test_stop(lab: Lab, run: Run) -> None:
    lab.plays(until_stopped)
    await lab.begin("PlayNamed", key="a")
    done = await run("stop", "named-a", "--reason", "enough")
    assert (done.code, done.err) in (
        (0, "follow it with: longshore watch operations/named-a\n"),
        (0, ""),  # it has ended already
    )
    assert done.out.startswith("operations/named-a ")
    watched = await run("watch", "named-a")
    assert (watched.code, watched.out) == (0, '{"text": "a part of it"}\n')
    stopping, end = watched.err.splitlines()[-2:]
    assert stopping.strip() == "stopping: enough"
    assert end.startswith("✔ stopped after ")
    shown = await run("watch", "named-a", "--json", "--type", "stopping")
    assert [(event["type"], event.get("reason"), event.get("stopped")) for event in shown.json] == [
        ("stopping", "enough", None),
        ("completed", None, True),
    ]
    (snapshot,) = (await run("get", "named-a", "--json")).json
    assert (snapshot["stopped"], "stop_request_time" in snapshot) == (True, True)
    again = await run("stop", "named-a")
    assert again == Done(0, "operations/named-a has ended: COMPLETED\n", "")


async def test_what_a_watch_shows_of_a_failed_attempt(lab: Lab, run: Run) -> None:
    lab.plays(busy)
    name = (await lab.begin("RetryService/Try")).operation.name
    await lab.reached(name, "attempt_failed")
    (snapshot,) = (await run("get", name, "--json")).json
    assert (snapshot["failures"], "next_attempt_time" in snapshot) == (1, True)
    await lab.operations.Stop(StopRequest(name=name))
    await lab.end(name)
    watched = await run("watch", name)
    assert watched.code == 1
    assert "  attempt 1 ended: try later (BUSY); running again in 10.0 s" in watched.err.splitlines()


async def test_retry(lab: Lab, run: Run) -> None:
    lab.plays(busy)
    old = await lab.run(script="x", count=7)
    lab.handlers.handler = None
    done = await run("retry", old.name)
    assert (done.code, done.err) == (0, f"runs again from the start: operations/{old.uid} had failed\n")
    new = await lab.operations.Get(GetRequest(name=done.out.strip()))
    assert new.retried_from == f"operations/{old.uid}"
    waited = await run("retry", old.name, "--wait")
    said = waited.err.splitlines()
    assert (waited.code, waited.out, len(said)) == (0, '{"text": "played"}\n', 2)
    assert said[1].startswith("operations/")
    watched = await run("retry", old.name, "--watch")
    assert (watched.code, watched.out) == (0, '{"text": "played"}\n')
    one = await run("retry", old.name, "--request-id", "k", "--json")
    two = await run("retry", old.name, "--request-id", "k")
    assert (one.err, two.out.strip()) == ("", one.json[0]["name"])
    assert two.err == "it existed already\n"


async def test_what_has_completed_is_done_again_only_if_that_is_said(lab: Lab, run: Run) -> None:
    name = "operations/named-a"
    old = await lab.run("PlayNamed", key="a")
    for json in ((), ("--json",)):
        refused = await run("retry", name, *json)
        assert (refused.code, refused.out) == (2, "")
        assert f"{name} has completed: give --completed to have it done again" in refused.err
    assert (await lab.get(name)).uid == old.uid
    said = f"runs again from the start: operations/{old.uid} had completed\n"
    assert await run("retry", name, "--completed") == Done(0, f"{name}\n", said)
    assert (await lab.get(name)).retried_from == f"operations/{old.uid}"


async def test_retry_from_the_step_that_failed(lab: Lab, run: Run) -> None:
    ran: list[int] = []

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("once", ran.append, 1)
        if len(ran) == 1:
            raise OperationError("BUSY", "try later")
        return PlayResult(number=len(ran))

    old = await lab.run()
    ran.append(2)
    kept = await run("retry", old.name, "--keep-steps", "--wait")
    assert (kept.code, kept.out) == (0, '{"number": "2"}\n')
    said = f"runs again, without the steps that are done: operations/{old.uid} had failed"
    assert kept.err.splitlines()[0] == said
    anew = await run("retry", old.name, "--wait")
    assert (anew.code, anew.out) == (0, '{"number": "3"}\n')


async def test_delete(lab: Lab, run: Run) -> None:
    names = [(await lab.run("PlayNamed", key=key)).name for key in "abc"]
    assert await run("delete", "named-a") == Done(0, "operations/named-a is deleted\n", "")
    done = await run("delete", *names[1:], "--json")
    assert [line["operation"] for line in done.json] == names[1:]
    gone = await run("delete", "named-a")
    assert (gone.code, gone.out) == (6, "")
    assert gone.err == (
        "error: There is no operations/named-a: it never existed, or it was deleted; `longshore ls` shows what exists\n"
    )


async def test_what_has_not_ended_is_refused_in_one_sentence(lab: Lab, run: Run) -> None:
    lab.plays(until_stopped)
    await lab.reached((await lab.begin("PlayNamed", key="a")).operation.name, "started")
    retried, deleted = await run("retry", "named-a"), await run("delete", "named-a")
    assert (retried.code, deleted.code) == (6, 6)
    assert retried.err == (
        "error: operations/named-a is RUNNING: only what has ended can be started once more. (OPERATION_RUNNING)\n"
    )
    assert deleted.err == (
        "error: operations/named-a is RUNNING: cancel it or wait for its end before deleting it. (OPERATION_RUNNING)\n"
    )
    assert (await lab.get("operations/named-a")).state == State.STATE_RUNNING


@pytest.mark.parametrize("verb", ["stop", "retry", "delete"])
async def test_help_shows_an_example(lab: Lab, run: Run, verb: str) -> None:
    done = await run(verb, "--help")
    assert done.code == 0
    assert f"longshore {verb} orders-process-ord_123" in done.out
    assert (await run(verb)).code == 2
