"""Handlers that end in ways that no handler should: their operation ends, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Code, OperationError, Reason, ServiceError
from longshore_server.handler.reports import MAX_UNACKNOWLEDGED, UNACKNOWLEDGED_BYTES
from longshore_server.store.mutations import Report
from tests.conftest import Lab, State, reason_of_end, refused, result_of
from tests.server.retrying import RetryHandlers

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
        lambda: _raise(OperationError("X", code=Code.CANCELLED)),
        lambda: _raise(OperationError("X", metadata={"amount": 12})),  # type: ignore[dict-item]
        lambda: _raise(OperationError("X", details=["no message"])),  # type: ignore[list-item]
        _cancel_itself,
    ],
    ids=["exit", "interrupt", "generator", "panic", "surrogate", "code", "metadata", "details", "cancel"],
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


@pytest.mark.parametrize("code", [1, Code.CANCELLED])
def test_an_error_that_callers_would_take_for_a_cancellation_is_none(code: int) -> None:
    """google.api_core, for one, reads an operation's error of code 1 as its cancellation."""
    with pytest.raises(ValueError, match="and it failed: choose another, such as ABORTED; after a"):
        OperationError("X", code=code)


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
        await asyncio.gather(lab.engine.requests.delete(live), return_exceptions=True)
    assert (await watch)[-1].HasField("completed")
    await lab.engine.requests.delete(live)
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


# Nobody may report more than this before some of it is durable.
HELD = MAX_UNACKNOWLEDGED * UNACKNOWLEDGED_BYTES
# What a queued report has beside the handler's own text: a type's name, the keys and lengths of fields.
ENVELOPE = 100


@pytest.mark.parametrize("size", [10, UNACKNOWLEDGED_BYTES - 100, 1_500_000, 3_900_000])
async def test_reports_that_nobody_awaits_are_bounded_in_bytes(make_lab: Any, size: int) -> None:
    """The handler is told, can wait until there is room again, and what was taken is written."""
    lab: Lab = await make_lab(max_payload=4_000_000)
    taken: list[Any] = []
    held: list[int] = []
    refusals: list[Reason] = []

    def report(op: Any) -> None:
        taken.append(op.progress(lab_pb2.PlayProgress(number=len(taken) + 1, text="x" * size)))

    def flood(op: Any) -> None:
        for _ in range(min(2 * MAX_UNACKNOWLEDGED, 2 * HELD // size)):
            report(op)

    @lab.plays
    async def handler(request, op):
        # Twice, because room that has been taken must come back, all of it.
        for _ in range(2):
            with pytest.raises(ServiceError) as caught:
                flood(op)
            refusals.append(caught.value.reason)
            queue = lab.engine.store.writer._queue
            held.append(sum(len(item.mutation.value) for item in queue if isinstance(item.mutation, Report)))
            await taken[-1]
        report(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    ended = await lab.end(name)
    assert ended.state == State.STATE_COMPLETED, ended.error
    assert refusals == [Reason.TOO_MUCH_UNACKNOWLEDGED] * 2
    count = (len(taken) - 1) // 2
    # Refused no sooner than it must be, and no later; the second time exactly like the first.
    assert len(taken) == 2 * count + 1
    assert count == MAX_UNACKNOWLEDGED or (count + 1) * (size + UNACKNOWLEDGED_BYTES + ENVELOPE) > HELD
    for waiting in held:
        assert count * size < waiting <= HELD + count * ENVELOPE
    assert ended.sequence == len(taken) + 3
    progress = lab_pb2.PlayProgress()
    assert ended.progress.Unpack(progress)
    assert progress.number == len(taken)


async def test_a_handler_that_minds_no_refusal_of_its_reports_fails_and_those_that_were_taken_stay(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for _ in range(2 * MAX_UNACKNOWLEDGED):
            op.progress(lab_pb2.PlayProgress())
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    ended = await lab.end(name)
    assert (ended.state, reason_of_end(ended)) == (State.STATE_FAILED, "HANDLER_ERROR")
    kinds = await lab.kinds(name)
    assert kinds == ["accepted", "started", *["progress"] * MAX_UNACKNOWLEDGED, "failed"]


async def test_an_attempt_that_goes_on_after_its_time_is_shut_out_by_the_next(make_lab: Any) -> None:
    """It does not stop when it is told to. What it still does meets a fence, whatever the other attempt has come to."""
    lab: Lab = await make_lab(services=[RetryHandlers])
    begun, late, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    refusals: list[Reason] = []

    @lab.plays
    async def handler(request, op):
        if op.attempt == 2:
            begun.set()
            await done.wait()
            return lab_pb2.PlayResult(text="second")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await late.wait()
        for use in (
            lambda: op.progress(lab_pb2.PlayProgress()), lambda: op.output("x"), lambda: op.step("s", int),
            lambda: op.sleep(1), op.defer,
        ):  # fmt: skip
            with pytest.raises(ServiceError) as caught:
                await use()
            refusals.append(caught.value.reason)
        done.set()
        return lab_pb2.PlayResult(text="first")

    name = (await lab.begin("RetryService/TryUnless")).operation.name
    # Interrupted after 5 s, settled without the handler 10 s later, and made again after 10 s more.
    for seconds in (5, 10, 10):
        await lab.clock.armed(seconds)
        lab.clock.advance(seconds)
    await begun.wait()
    late.set()
    assert result_of(await lab.end(name)).text == "second"
    assert refusals == [Reason.STALE_ATTEMPT] * 5
    assert await lab.kinds(name) == ["accepted", "started", "attempt_failed", "completed"]
