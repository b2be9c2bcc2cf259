"""What the store does not take of operations: a begin, an end, another try. They end all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Begin, Settle, TryAgain
from tests.conftest import Lab, State, reason_of_end
from tests.server.retrying import RetryHandlers


def refusing(monkeypatch: pytest.MonkeyPatch, kind: type[Any], move: Move | None = None) -> None:
    """The first mutation of a kind breaks, in its batch and alone."""
    applied = kind.apply
    first: list[Any] = []

    def broken(self: Any, tx: Any) -> Any:
        if not first and move in (None, getattr(self, "move", None)):
            first.append(self)
        if any(self is one for one in first):
            raise RuntimeError("a mistake of ours")
        return applied(self, tx)

    monkeypatch.setattr(kind, "apply", broken)


@pytest.mark.parametrize("move", [Move.COMPLETE, Move.FAIL])
async def test_an_end_that_the_store_does_not_take_fails_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, move: Move
) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if move is Move.FAIL:
            raise OperationError("BUSY")
        return lab_pb2.PlayResult()

    refusing(monkeypatch, Settle, move)
    ended = await lab.run()
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "INTERNAL")


async def test_another_try_that_the_store_does_not_take_fails_it(
    make_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab: Lab = await make_lab(services=[RetryHandlers])

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        raise OperationError("BUSY")

    refusing(monkeypatch, TryAgain)
    ended = await lab.run("RetryService/Try")
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "INTERNAL")


async def test_a_begin_that_the_store_does_not_take_fails_it(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab: Lab = await make_lab(concurrency=1)
    may_end = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await may_end.wait()
        return lab_pb2.PlayResult()

    first, second, third = [(await lab.begin()).operation.name for _ in range(3)]
    refusing(monkeypatch, Begin)
    may_end.set()
    assert (await lab.end(first)).state == State.STATE_COMPLETED
    ended = await lab.end(second)
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "INTERNAL")
    assert (await lab.end(third)).state == State.STATE_COMPLETED


@pytest.mark.parametrize("cancels", [False, True], ids=["deadline", "grace"])
async def test_what_is_overdue_is_ended_again_a_minute_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, cancels: bool
) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        return await op.defer()

    name = (await lab.begin("Play" if cancels else "PlayMinute")).operation.name
    await lab.reached(name, "started")
    await lab.catch_up()
    if cancels:
        await lab.operations.Cancel(pb.CancelRequest(name=name))
    refusing(monkeypatch, Settle)
    lab.clock.advance(10 if cancels else 60)
    await lab.clock.armed(60)
    assert (await lab.get(name)).state in (State.STATE_RUNNING, State.STATE_CANCELLING)
    lab.clock.advance(60)
    ended = await lab.end(name)
    assert ended.state == (State.STATE_CANCELLED if cancels else State.STATE_FAILED)
    assert reason_of_end(ended) == ("CANCELLED" if cancels else "DEADLINE_EXCEEDED")
