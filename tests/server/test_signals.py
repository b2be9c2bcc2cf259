"""Signals over the wire: what is accepted, what is refused, and what everybody sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, result_of
from tests.server.signalling import LISTEN, SignalHandlers, packed, send


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    found = Lab(tmp_path / "data", services=[SignalHandlers])
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def waiting(lab: Lab) -> str:
    """An operation that never asks for signals."""

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    return (await lab.begin(LISTEN)).operation.name


async def test_a_signal_reaches_the_handler_with_all_that_is_known_of_it(lab: Lab) -> None:
    got = []

    @lab.plays
    async def handler(request, op):
        got.append(await op.next_signal("approve", timeout=3600))
        return PlayResult(number=got[0].payload.amount)

    name = (await lab.begin(LISTEN)).operation.name
    response = await send(lab, name, payload=Approve(by="ada", amount=7), id="one")
    assert (response.number, response.signal_id, response.duplicate) == (1, "one", False)
    assert result_of(await lab.end(name)).number == 7
    (signal,) = got
    assert (signal.name, signal.id, signal.number, signal.sender) == ("approve", "one", 1, "local")
    assert signal.payload == Approve(by="ada", amount=7)
    accepted = response.operation.pending_signals[0].accept_time.ToMicroseconds()
    assert signal.time.timestamp() == accepted / 1_000_000


async def test_what_nobody_consumed_is_in_the_snapshot(lab: Lab) -> None:
    name = await waiting(lab)
    await send(lab, name, id="a")
    await send(lab, name, "poke", Empty(), id="b")
    snapshot = await lab.get(name)
    assert [(s.number, s.name, s.signal_id) for s in snapshot.pending_signals] == [
        (1, "approve", "a"),
        (2, "poke", "b"),
    ]
    await lab.restart()
    assert (await lab.get(name)).pending_signals == snapshot.pending_signals


async def test_a_watch_shows_each_signal(lab: Lab) -> None:
    name = await waiting(lab)
    await send(lab, name, payload=Approve(by="ada", amount=3), id="a")
    event = await lab.reached(name, "signal")
    said = Approve()
    assert event.signal.payload.Unpack(said)
    assert said == Approve(by="ada", amount=3)
    assert (event.signal.name, event.signal.signal_id, event.signal.number) == ("approve", "a", 1)
    assert (event.signal.sender, event.sequence, event.state) == ("local", 3, State.STATE_RUNNING)


async def test_the_server_makes_the_id_that_the_caller_leaves_out(lab: Lab) -> None:
    name = await waiting(lab)
    one, two = await send(lab, name), await send(lab, name)
    assert len(one.signal_id) == len(two.signal_id) == 36
    assert one.signal_id != two.signal_id
    assert [one.number, two.number] == [1, 2]


async def test_a_payload_may_be_left_out(lab: Lab) -> None:
    name = await waiting(lab)
    await lab.operations.Signal(pb.SignalRequest(name=name, signal="approve"))
    event = await lab.reached(name, "signal")
    assert event.signal.payload == packed(Approve())
