"""When credentials end: what was opened with them ends, and the operation goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from gates.v1 import gates_pb2, gates_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import State
from tests.server.auth.callers import UNAUTHENTICATED, Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata, start

LONG = Duration(seconds=3000)


def run(guarded: Guarded, name: str, sent: Metadata) -> Any:
    request = start("Open")
    return guarded.operations.Run(pb.RunRequest(type=request.type, input=request.input), metadata=sent)


def start_and_wait(guarded: Guarded, name: str, sent: Metadata) -> Any:
    request = start("Open")
    request.wait.CopyFrom(LONG)
    return guarded.operations.Start(request, metadata=sent)


WAITS: dict[str, Callable[[Guarded, str, Metadata], Any]] = {
    "Run": run,
    "Watch": lambda guarded, name, sent: guarded.operations.Watch(
        pb.WatchRequest(name=name, heartbeat_interval=Duration(seconds=300)), metadata=sent
    ),
    "a filtered Watch": lambda guarded, name, sent: guarded.operations.Watch(
        pb.WatchRequest(name=name, event_types=[operation_pb2.EVENT_TYPE_OUTPUT], conflate=True), metadata=sent
    ),
    "Wait": lambda guarded, name, sent: guarded.operations.Wait(pb.WaitRequest(name=name), metadata=sent),
    "a Wait of its own time": lambda guarded, name, sent: guarded.operations.Wait(
        pb.WaitRequest(name=name, timeout=LONG), metadata=sent
    ),
    "Start with wait": start_and_wait,
    "WaitOperation": lambda guarded, name, sent: operations_pb2_grpc.OperationsStub(guarded.channel).WaitOperation(
        operations_pb2.WaitOperationRequest(name=name, timeout=LONG), metadata=sent
    ),
    "the typed RPC with longshore-wait": lambda guarded, name, sent: gates_pb2_grpc.GatesServiceStub(
        guarded.channel
    ).Open(gates_pb2.GatesRequest(), metadata=(*sent, ("longshore-wait", "50m"))),
    "the typed stream": lambda guarded, name, sent: gates_pb2_grpc.GatesServiceStub(guarded.channel).OpenAndWatch(
        gates_pb2.GatesRequest(), metadata=sent
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WAITS)
async def test_a_watch_ends_with_the_credentials_that_opened_it(kind: str, guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL)
    short = guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    call = WAITS[kind](guarded, operation.name, short)

    async def follow() -> Any:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            return [message async for message in call]
        return await call

    following = asyncio.ensure_future(follow())
    # A heartbeat of 15 s, or a look at who waits, comes six times before the end at 90 + 10 s.
    beats = 0 if kind == "Watch" else 6
    for _ in range(beats):
        await guarded.clock.armed(15)
        guarded.clock.advance(15)
    await guarded.clock.armed(10 if beats else 100)
    guarded.clock.advance((10 if beats else 100) - 0.001)
    assert not following.done()
    guarded.clock.advance(0.001)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await following
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "The credentials have expired: call again with new ones."
    assert (await guarded.get(operation.name, ada)).state == State.STATE_RUNNING, "the operation goes on"


def health_watch(guarded: Guarded, sent: Metadata) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), metadata=sent)


STREAMS: dict[str, Callable[[Guarded, str, Metadata], Any]] = {
    "Run": WAITS["Run"],
    "Watch": lambda guarded, name, sent: guarded.operations.Watch(pb.WatchRequest(name=name), metadata=sent),
    "the typed stream": WAITS["the typed stream"],
    "Health.Watch": lambda guarded, name, sent: health_watch(guarded, sent),
}


async def refused_stream(call: Any) -> tuple[str, str]:
    """What ends a stream: its code, and the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_stream_of_a_revoked_token_ends_by_the_next_heartbeat(kind: str, make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated")
    ada = guarded.token("ada", *ALL)
    kept = guarded.tokens.read_bytes()
    bob = guarded.token("bob", *ALL)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    # Several wake at the same moment: those that do not look themselves go by what the one finds that does.
    calls = [STREAMS[kind](guarded, operation.name, sent) for sent in (ada, bob, bob)]
    following = [asyncio.ensure_future(refused_stream(call)) for call in calls]
    await guarded.silent(3)
    guarded.clock.advance(15)
    await guarded.silent(3)
    await guarded.looked()
    assert not any(future.done() for future in following), "nothing has changed"
    guarded.tokens.write_bytes(kept)
    guarded.clock.advance(15)
    message = "The token is not known here: it was revoked, or is another server's."
    assert await asyncio.gather(*following[1:]) == [("UNAUTHENTICATED", message)] * 2
    await guarded.clock.armed(15)
    assert not following[0].done(), "who is still known goes on"
    calls[0].cancel()
    await asyncio.wait(following)


async def test_a_busy_stream_of_a_revoked_token_ends_without_a_silence(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", *ALL))
    more = asyncio.Event()

    async def handler(request: Any, op: Any) -> Any:
        await more.wait()
        await op.progress(gates_pb2.GatesProgress(text="secret"))
        return gates_pb2.GatesResult(text="secret")

    guarded.handlers.handler = handler
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name), metadata=ada)
    following = asyncio.ensure_future(refused_stream(watch))
    await guarded.silent(1)
    guarded.tokens.write_text("")
    guarded.clock.advance(1)
    more.set()
    assert (await following)[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize("change", [("eve", *ALL), ("ada", "gates.start")])
async def test_a_stream_ends_when_its_token_means_less(change: tuple[str, ...], guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name), metadata=ada)
    following = asyncio.ensure_future(refused_stream(watch))
    await guarded.silent(1)
    name, *capabilities = change
    said = guarded.tokens.read_text().replace('"ada"', f'"{name}"')
    guarded.tokens.write_text(re.sub(r"capabilities = .*", f"capabilities = {capabilities}", said))
    guarded.clock.advance(15)
    assert await following == ("UNAUTHENTICATED", "The credentials stand for somebody else, or for less, than before.")


async def test_a_watch_of_health_ends_with_the_credentials_that_opened_it(make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated")
    short = guarded.token("ada", seconds=10)
    await guarded.learn()
    watch = health_watch(guarded, short)
    await watch.read()
    await guarded.clock.armed(10)
    guarded.clock.advance(10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "The credentials have expired: call again with new ones."


async def test_a_watch_of_health_that_anyone_may_have_needs_no_timer(guarded: Guarded) -> None:
    before = guarded.clock.pending
    watch = health_watch(guarded, ())
    await watch.read()
    assert guarded.clock.pending == before
    watch.cancel()


async def test_credentials_that_last_longer_than_the_operation_change_nothing(guarded: Guarded) -> None:
    short = guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    operation = await guarded.begin("Open", short, done=True)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=0), metadata=short)
    assert [message.event.WhichOneof("event") async for message in watch][-1] == "completed"
