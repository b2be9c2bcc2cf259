"""Unary calls that wait: they end with the credentials that they were made with, as streams do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from gates.v1 import gates_pb2, gates_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from longshore.v1 import operation_control_service_pb2 as control_pb
from longshore.v1 import operation_control_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import State, refused
from tests.server.auth.conftest import ALL, Guarded, Metadata, start

LONG = Duration(seconds=3000)
REVOKED = "The token is not known here: it was revoked, or is another server's."


def start_and_wait(guarded: Guarded, name: str, sent: Metadata) -> Any:
    request = start("Both")
    request.wait.CopyFrom(LONG)
    return guarded.operations.Start(request, metadata=sent)


def typed(guarded: Guarded, name: str, sent: Metadata) -> Any:
    stub = gates_pb2_grpc.GatesServiceStub(guarded.channel)
    return stub.Both(gates_pb2.GatesRequest(), metadata=(*sent, ("longshore-wait", "50m")))


def list_signals(guarded: Guarded, name: str, sent: Metadata) -> Any:
    stub = operation_control_service_pb2_grpc.OperationControlServiceStub(guarded.channel)
    return stub.ListSignals(control_pb.ListSignalsRequest(name=name, wait=LONG), metadata=sent)


WAITS: dict[str, Callable[[Guarded, str, Metadata], Any]] = {
    "Wait": lambda guarded, name, sent: guarded.operations.Wait(pb.WaitRequest(name=name), metadata=sent),
    "Wait with a timeout": lambda guarded, name, sent: guarded.operations.Wait(
        pb.WaitRequest(name=name, timeout=LONG), metadata=sent
    ),
    "Start with wait": start_and_wait,
    "a typed call with longshore-wait": typed,
    "WaitOperation": lambda guarded, name, sent: operations_pb2_grpc.OperationsStub(guarded.channel).WaitOperation(
        operations_pb2.WaitOperationRequest(name=name, timeout=LONG), metadata=sent
    ),
    "ListSignals with wait": list_signals,
}  # fmt: skip


async def answer(call: Awaitable[Any]) -> Any:
    return await call


@pytest.mark.parametrize("kind", WAITS)
async def test_a_wait_of_a_revoked_token_ends_by_the_next_heartbeat(kind: str, guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL, "longshore.provider")
    kept = guarded.tokens.read_bytes()
    bob = guarded.token("bob", *ALL, "longshore.provider")
    await guarded.learn()
    operation = await guarded.begin("Both", ada)
    calls = [WAITS[kind](guarded, operation.name, sent) for sent in (ada, bob, bob)]
    waiting = [asyncio.ensure_future(answer(call)) for call in calls]
    await guarded.clock.armed(15, 3)
    guarded.clock.advance(15)
    await guarded.clock.armed(15, 3)
    assert not any(future.done() for future in waiting), "nothing has changed"
    guarded.tokens.write_bytes(kept)
    guarded.clock.advance(15)
    for future in waiting[1:]:
        code, reason, status = await refused(future)
        assert (code, reason, status.message) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", REVOKED)
    await guarded.clock.armed(15)
    assert not waiting[0].done(), "who is still known goes on"
    assert (await guarded.get(operation.name, ada)).state == State.STATE_RUNNING
    calls[0].cancel()
    await asyncio.wait(waiting)


@pytest.mark.parametrize("kind", [kind for kind in WAITS if kind != "ListSignals with wait"])
async def test_an_end_that_comes_after_the_revocation_is_not_told(kind: str, guarded: Guarded) -> None:
    gate = asyncio.Event()

    async def handler(request: Any, op: Any) -> gates_pb2.GatesResult:
        await gate.wait()
        return gates_pb2.GatesResult(text="secret")

    guarded.handlers.handler = handler
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    operation = await guarded.begin("Both", ada)
    waiting = asyncio.ensure_future(answer(WAITS[kind](guarded, operation.name, ada)))
    await guarded.clock.armed(15)
    guarded.tokens.write_text("")
    guarded.clock.advance(1)
    gate.set()
    assert (await refused(waiting))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_a_wait_without_authentication_looks_at_nobody(make_guarded: Callable[..., Awaitable[Guarded]]) -> None:
    guarded = await make_guarded(tokens=False)
    operation = await guarded.begin("Open", ())
    wait = WAITS["Wait with a timeout"](guarded, operation.name, ())
    waiting = asyncio.ensure_future(answer(wait))
    await guarded.clock.armed(3000)
    assert guarded.clock.timers(15) == 0
    wait.cancel()
    await asyncio.wait([waiting])
