"""Calls that stay open: there is a bound on each kind, in all and, where it is known who calls, for each caller."""

from __future__ import annotations

import asyncio
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
