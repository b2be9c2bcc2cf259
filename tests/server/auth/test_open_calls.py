"""Calls that stay open: there is a bound on each kind, in all and, where it is known who calls, for each caller."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.rpc import standard
from longshore_server.store.mutations import Nothing
from tests.conftest import detail, refused, retry_after, turns
from tests.server.auth.callers import Make, known
from tests.server.auth.conftest import ALL, Guarded
from tests.server.auth.test_revoked_waits import WAITS, answer

EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")


def facts(status: Any) -> dict[str, str]:
    return dict(detail(status, error_details_pb2.ErrorInfo).metadata)


async def freed(guarded: Guarded, count: int) -> None:
    """Return once no more calls than that are open."""
    while guarded.harness.running.engine.watches.count > count:
        await turns(1)


@pytest.mark.parametrize("kind", WAITS)
async def test_a_wait_takes_the_place_of_a_watch(kind: str, make_guarded: Make) -> None:
    guarded = await make_guarded(max_watches=3, max_watches_per_owner=2)
    ada, bob = await known(guarded, ("ada", *ALL, "longshore.provider"), ("bob", *ALL, "longshore.provider"))
    operation = await guarded.begin("Both", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name), metadata=ada)
    await watch.read()
    open = [WAITS[kind](guarded, operation.name, ada), WAITS[kind](guarded, operation.name, bob)]
    waiting = [asyncio.ensure_future(answer(call)) for call in open]
    await guarded.clock.armed(15, 3)
    await guarded.harness.running.engine.store.writer.submit(Nothing())  # the starts are durable
    before = len((await guarded.operations.List(pb.ListRequest(), metadata=ada)).operations)
    for sent in (ada, bob):
        code, reason, status = await refused(answer(WAITS[kind](guarded, operation.name, sent)))
        assert ((code, reason), retry_after(status)) == (EXHAUSTED, 5)
        assert facts(status) == {"limit": "3", "scope": "server"}
    open[1].cancel()
    await freed(guarded, 2)
    _, _, status = await refused(answer(WAITS[kind](guarded, operation.name, ada)))
    assert facts(status) == {"limit": "2", "scope": "caller"}
    after = len((await guarded.operations.List(pb.ListRequest(), metadata=ada)).operations)
    assert after == before, "nothing was started"
    open[0].cancel()
    await freed(guarded, 1)
    waiting.append(asyncio.ensure_future(answer(WAITS[kind](guarded, operation.name, ada))))
    await guarded.clock.armed(15, 2)
    for future in waiting:
        future.cancel()
    await asyncio.wait(waiting)


async def test_so_many_watches_of_health_may_be_open(make_guarded: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "OPEN", 2)
    guarded = await make_guarded()
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for watch in watches:
        await watch.read()
    code, reason, status = await refused(stub.Watch(health_pb2.HealthCheckRequest()).read())
    assert ((code, reason), retry_after(status)) == (EXHAUSTED, 5)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    watches[0].cancel()
    health = guarded.harness.running.listener.health
    while health._places.count == 2:
        await turns(1)
    await stub.Watch(health_pb2.HealthCheckRequest()).read()


@pytest.mark.parametrize("reflection", ["anyone", "authenticated"])
async def test_so_many_streams_of_reflection_may_be_open(
    reflection: str, make_guarded: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "OPEN", 2)
    guarded = await make_guarded(reflection=reflection)
    (ada,) = await known(guarded, ("ada",))
    channel: Any = guarded.channel
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    streams = [call(metadata=ada) for _ in range(2)]
    for stream in streams:
        await stream.write(b"\x3a\x00")
        assert b"gates.v1.GatesService" in await stream.read()
    code, reason, status = await refused(call(metadata=ada).read())
    assert ((code, reason), retry_after(status)) == (EXHAUSTED, 5)
    await streams[0].done_writing()
    assert await streams[0].read() is grpc.aio.EOF
    again = call(metadata=ada)
    await again.write(b"\x3a\x00")
    assert b"gates.v1.GatesService" in await again.read()


@pytest.mark.parametrize("asked", [False, True], ids=["ever", "any more"])
async def test_a_stream_of_reflection_on_which_nothing_is_asked_ends(asked: bool, make_guarded: Make) -> None:
    """Else whoever says nothing, and so is nobody, keeps everyone from their places."""
    guarded = await make_guarded(reflection="anyone")
    stream, before = reflect(guarded.channel), guarded.clock.pending
    await guarded.clock.armed(60)
    if asked:
        guarded.clock.advance(59)
        await stream.write(b"\x3a\x00")
        await stream.read()
        await guarded.clock.armed(60)
        assert guarded.clock.pending == before + 1
    reading = asyncio.ensure_future(stream.read())
    guarded.clock.advance(60)
    assert await reading is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


def watch_health(channel: Any, metadata: Any = ()) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata)


def reflect(channel: Any) -> Any:
    return channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()


async def refused_for_its_caller(call: Any) -> None:
    code, reason, status = await refused(call.read())
    assert ((code, reason), retry_after(status)) == (EXHAUSTED, 5)
    assert facts(status) == {"limit": "1", "scope": "caller"}


@pytest.mark.parametrize("begin", [watch_health, reflect])
async def test_a_machine_has_its_share_over_however_many_connections(
    begin: Any, make_guarded: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(standard, "SHARE", 1)
    guarded = await make_guarded(reflection="anyone", listen=("127.0.0.1:0", f"unix:{tmp_path}/s"))
    tcp, other = guarded.harness.running.addresses
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        first, second, third = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for address in (tcp, tcp, other)
        ]
        open = [begin(channel) for channel in (first, third)]  # a call that nobody keeps is cancelled
        for call in open:
            if begin is reflect:
                await call.write(b"\x3a\x00")
            assert await call.read()
        await refused_for_its_caller(begin(second))


async def test_a_caller_who_is_known_has_its_share_of_the_watches_of_health(
    make_guarded: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "SHARE", 1)
    guarded = await make_guarded(health="authenticated")
    callers = await known(guarded, ("ada",), ("bob",))
    watches = [watch_health(guarded.channel, caller) for caller in callers]
    for watch in watches:
        await watch.read()
    await refused_for_its_caller(watch_health(guarded.channel, callers[0]))
