"""`longshore signal` as a user meets it, and signals in what the other commands show."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve

from tests.cli.test_cli import Run, command
from tests.conftest import Lab
from tests.server.signalling import LISTEN, lab, send

__all__ = ["lab"]


@pytest.fixture
def run(lab: Lab) -> Run:
    return functools.partial(command, lab)


async def listening(lab: Lab) -> tuple[str, list[Any]]:
    """An operation that ends with a poke, and what it has got until then."""
    got: list[Any] = []

    @lab.plays
    async def handler(request, op):
        async for signal in op.signals():
            got.append((signal.name, MessageToDict(signal.payload)))
            if signal.name == "poke":
                break
        return PlayResult(number=len(got))

    return (await lab.begin(LISTEN)).operation.name, got


async def test_a_signal_is_sent(lab: Lab, run: Run) -> None:
    name, got = await listening(lab)
    done = await run("signal", name.removeprefix("operations/"), "approve", "-d", '{"by": "ada", "amount": 3}')
    assert (done.code, done.err) == (0, "")
    assert done.out == f"approve is signal 1 of {name}\n"
    again = [await run("signal", name, "reject", "-d", "-", "--id", "once", stdin='{"why": "late"}') for _ in range(2)]
    assert [d.out for d in again] == [f"reject is signal 2 of {name}\n"] * 2
    assert [d.err for d in again] == ["", "it had been accepted before\n"]
    await run("signal", name, "poke")
    await lab.end(name)
    assert got == [("approve", {"by": "ada", "amount": "3"}), ("reject", {"why": "late"}), ("poke", {})]


async def test_what_waits_and_what_came_is_shown(lab: Lab, run: Run) -> None:
    @lab.plays
    async def handler(request, op):
        await ended.wait()
        return PlayResult()

    ended = asyncio.Event()
    name = (await lab.begin(LISTEN)).operation.name
    (shown,) = (await run("signal", name, "approve", "-d", '{"by": "ada"}', "--id", "a", "--json")).json
    waiting = {"number": 1, "name": "approve", "signal_id": "a", "accept_time": "2026-01-01T00:00:00Z"}
    assert shown["pending_signals"] == [waiting]
    assert "approve" in (await run("get", name)).out
    ended.set()
    watched = await run("watch", name)
    assert "signal approve from local: by=ada" in watched.err or "signal approve from local: ada" in watched.err
    events = (await run("watch", name, "--type", "signal", "--json")).json
    assert [event["type"] for event in events] == ["signal", "completed"]
    sent = {key: events[0][key] for key in ("name", "payload", "signal_id", "number", "sender")}
    assert sent == {"name": "approve", "payload": {"by": "ada"}, "signal_id": "a", "number": 1, "sender": "local"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("aprove",),
            2,
            "'aprove' is no signal of lab.v1.SignalsService/Listen: it takes approve, reject, poke, few; ",
        ),
        (("approve", "-d", '{"bye": 1}'), 2, "-d does not fit lab.v1.Approve: "),
        (("approve", "-d", "{"), 2, "-d is not JSON: "),
        (("approve", "-d", '{"by": "far too long"}'), 6, "by: "),
        (("approve", "--id", "x" * 129), 6, "signal_id: must not be longer than 128 bytes"),
        (("few", "--id", "used"), 6, "signal_id 'used' was used for another signal of "),
    ],
)
async def test_what_is_wrong_is_said_in_one_sentence(
    lab: Lab, run: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    name, _ = await listening(lab)
    await send(lab, name, payload=Approve(by="x"), id="used")
    done = await run("signal", name, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"error: {words}"), done.err
    assert done.err.count("\n") == 1


async def test_an_operation_that_has_ended_or_takes_none(lab: Lab, run: Run) -> None:
    name, _ = await listening(lab)
    await run("signal", name, "poke")
    await lab.end(name)
    done = await run("signal", name, "poke")
    assert (done.code, done.out) == (6, "")
    assert done.err == f"error: {name} has already ended: it is COMPLETED. (OPERATION_ENDED)\n"
    lab.handlers.handler = None
    done = await run("signal", (await lab.begin()).operation.name, "poke")
    assert (done.code, done.out) == (2, "")
    assert "'poke' is no signal of lab.v1.LabService/Play: it takes none" in done.err
    done = await run("signal", "nope", "poke")
    assert done.code == 6
    assert "`longshore ls` shows what exists" in done.err


async def test_the_types_tell_their_signals(lab: Lab, run: Run) -> None:
    out = (await run("types")).out
    _, _, listen = out.partition("lab.v1.SignalsService/Listen\n")
    # The contract says `Approve`, `lab.v1.Reject` and `google.protobuf.Empty`.
    said = ("approve: lab.v1.Approve", "reject: lab.v1.Reject", "poke: google.protobuf.Empty")
    assert "".join(f"  signal    {one}\n" for one in said) in listen
