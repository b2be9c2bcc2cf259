"""Handlers that end in ways that no handler should: their operation ends, and nothing else does."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab, State, reason_of_end, refused

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class PanicError(BaseException):
    """Stands for what extensions raise past `Exception`."""


def _raise(error: BaseException) -> Any:
    raise error


def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize(
    "end",
    [
        lambda: _raise(SystemExit(3)),
        lambda: _raise(KeyboardInterrupt()),
        lambda: _raise(GeneratorExit()),
        lambda: _raise(PanicError()),
        lambda: _raise(OperationError("X", "\ud800")),
        lambda: _raise(OperationError("X", metadata={"amount": 12})),  # type: ignore[dict-item]
        lambda: _raise(OperationError("X", details=["no message"])),  # type: ignore[list-item]
        _cancel_itself,
    ],
    ids=["exit", "interrupt", "generator", "panic", "surrogate", "metadata", "details", "cancel"],
)
async def test_whatever_a_handler_raises_ends_its_operation(lab: Lab, end: Any) -> None:
    @lab.plays
    async def handler(request, op):
        end()
        await asyncio.Event().wait()

    ended = await lab.end((await lab.begin("PlayThrough")).operation.name)
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "HANDLER_ERROR")
    lab.handlers.handler = None
    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_a_handler_runs_in_a_context_of_its_own(lab: Lab) -> None:
    seen: list[str] = []

    @lab.plays
    async def handler(request, op):
        seen.append(tenant.get())
        tenant.set(request.script)
        for number in range(20):
            await op.progress(lab_pb2.PlayProgress(number=number))
        return await op.step("work", lambda: lab_pb2.PlayResult(text=tenant.get()))

    names = [(await lab.begin(script=f"tenant-{n}")).operation.name for n in range(20)]
    for number, name in enumerate(names):
        result = lab_pb2.PlayResult()
        (await lab.end(name)).result.Unpack(result)
        assert result.text == f"tenant-{number}"
    assert seen == ["nobody"] * 20


async def test_a_delete_in_the_midst_of_the_end_leaves_no_ghost(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    live = await lab.engine.find(name)
    watch = asyncio.ensure_future(lab.events(name))
    gate.set()
    while not live.record.terminal:
        # In the very batch of the end, or before it: refused either way.
        await asyncio.gather(lab.engine.delete(live), return_exceptions=True)
    assert (await watch)[-1].HasField("completed")
    await lab.engine.delete(live)
    assert lab.engine.table.get(live.record.uid) is None
    code, reason, _ = await refused(lab.operations.Get(pb.GetRequest(name=name)))
    assert reason == "OPERATION_NOT_FOUND", code


async def test_what_is_cancelled_while_it_waits_frees_its_place(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1, queue=2)

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    await lab.begin()
    for _ in range(5):
        waiting = [(await lab.begin()).operation.name for _ in range(2)]
        for name in waiting:
            snapshot = await lab.operations.Cancel(pb.CancelRequest(name=name))
            assert snapshot.state == State.STATE_CANCELLED
