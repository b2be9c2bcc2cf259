"""`examples/approvals` in real processes: an order waits for a signal or a reviewer, whatever becomes of its server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from acme.approvals.v1 import approvals_pb2_grpc
from acme.approvals.v1.approvals_pb2 import ApproveOrder, OrderProgress, OrderRequest, OrderResult

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import reason_of_end
from tests.faults.process import Caller, ServerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "approvals"
State = operation_pb2.OperationSnapshot.State


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    found = ServerProcess(tmp_path, "--concurrency", "1", service=EXAMPLE / "service.py", warm=True)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


async def order(caller: Caller, amount: int, review_time: float = 0, id: str = "7") -> str:
    """Start an order by its own RPC, and return its name."""
    stub: Any = approvals_pb2_grpc.ApprovalsServiceStub(caller.channel)
    request = OrderRequest(order_id=id, amount=amount)
    if review_time:
        request.review_time.FromMilliseconds(int(review_time * 1000))
    return str((await stub.Order(request)).name)


async def reached(caller: Caller, name: str, step: str) -> None:
    """Return once its progress is at this step."""
    call = caller.operations.Watch(pb.WatchRequest(name=name, after_sequence=0), wait_for_ready=True)
    async for message in call:
        progress = OrderProgress()
        if message.event.progress.value.Unpack(progress) and progress.step == step:
            call.cancel()
            return
    raise AssertionError(f"{name} ended before {step}")


async def deferred(caller: Caller) -> None:
    """Return once the handler has handed its order over: only then is the one slot free for another order."""
    await caller.end(await order(caller, 1, id="next"))


async def review(server: ServerProcess, *arguments: str) -> tuple[int | None, str, str]:
    """What the reviewer's own process says: exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE / "review.py"), server.address, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


def result_of(snapshot: Any) -> OrderResult:
    result = OrderResult()
    assert snapshot.result.Unpack(result), snapshot
    return result


async def signal(caller: Caller, name: str) -> None:
    request = pb.SignalRequest(name=name, signal="approve", signal_id="only")
    request.payload.Pack(ApproveOrder(by="ada"))
    await caller.operations.Signal(request, wait_for_ready=True)


async def test_what_costs_little_waits_for_nobody(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, 100)
        assert result_of(await caller.end(name)) == OrderResult(order_id="7")
        assert await review(server, "list") == (0, "", "")


async def test_a_signal_lets_an_order_go_on_across_a_crash(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, 200_000)
        await reached(caller, name, "review")
        await server.kill()
        await server.start()
        await signal(caller, name)
        snapshot = await caller.end(name)
        assert result_of(snapshot).approved_by == "ada"
        assert snapshot.attempt == 2
        assert not snapshot.pending_signals


@pytest.mark.parametrize(("amount", "step"), [(200_000, "review"), (2_000_000, "board")])
async def test_a_reviewer_approves_from_another_process(server: ServerProcess, amount: int, step: str) -> None:
    async with Caller(server) as caller:
        name = await order(caller, amount)
        await reached(caller, name, step)
        if step == "board":
            await deferred(caller)
        await server.kill()
        await server.start()
        code, output, _ = await review(server, "list")
        assert (code, output.split("\t")[0]) == (0, name)
        assert await review(server, "approve", name, "grace") == (0, f"{name}\tCOMPLETED\n", "")
        snapshot = await caller.end(name)
        assert result_of(snapshot) == OrderResult(order_id="7", approved_by="grace")
        assert snapshot.deferred == (step == "board")
        # Deferred, it was not run again.
        assert (snapshot.attempt == 1) == snapshot.deferred
        refusal = f"error: {name} has already ended: it is COMPLETED.\n"
        assert await review(server, "reject", name, "late") == (1, "", refusal)


async def test_a_reviewer_rejects(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, 2_000_000)
        await reached(caller, name, "board")
        assert await review(server, "reject", name, "too dear") == (0, f"{name}\tFAILED\n", "")
        snapshot = await caller.end(name)
        assert (reason_of_end(snapshot), snapshot.error.message) == ("REJECTED", "too dear")


async def test_the_time_of_a_review_runs_out(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, 200_000, review_time=0.2)
        snapshot = await caller.end(name)
        assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_FAILED, "NOT_APPROVED")


async def test_a_cancel_request_reaches_an_order_that_the_board_decides(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        name = await order(caller, 2_000_000)
        await reached(caller, name, "board")
        await deferred(caller)
        await caller.operations.Cancel(pb.CancelRequest(name=name, reason="no need"))
        assert await review(server, "approve", name, "grace") == (0, f"{name}\tCANCELLED\n", "")
