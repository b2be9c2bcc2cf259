"""The interceptor of opentelemetry-instrumentation-grpc beside us: one span for a call, and calls that stay whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lab.v1 import lab_pb2
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorServer

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, refused
from tests.server.tracing import PARENT, SAMPLED, TYPE, Recorder, TracedLab, chain, over, packed, start


@pytest.fixture
def instrumented() -> Iterator[Recorder]:
    """A process whose gRPC servers have it."""
    recorder, instrumentor = Recorder(), GrpcAioInstrumentorServer()
    instrumentor.instrument(tracer_provider=recorder.provider)
    yield recorder
    instrumentor.uninstrument()


@pytest.fixture
async def intercepted(instrumented: Recorder, tmp_path: Path) -> AsyncIterator[TracedLab]:
    found = TracedLab(tmp_path / "data")
    found.recorder = instrumented
    found.server.tracer_provider = instrumented.provider
    await found.start()
    yield found
    await found.stop()


async def test_the_interceptor_of_others_makes_the_span_of_a_call_and_we_no_second(intercepted: TracedLab) -> None:
    name = await start(intercepted)
    await over(intercepted, name)
    async for _ in intercepted.operations.Run(pb.RunRequest(type=TYPE, input=packed()), metadata=SAMPLED):
        pass
    await intercepted.catch_up()
    unary, streamed = (intercepted.recorder.one(f"/longshore.v1.OperationsService/{m}") for m in ("Start", "Run"))
    first, second = intercepted.recorder.named(f"attempt {TYPE}")
    assert chain(unary, first) == chain(streamed, second) == [PARENT]
    assert not intercepted.recorder.named("longshore.v1.OperationsService/Start")


CALLS: dict[str, Callable[[Lab], Any]] = {
    "unary": lambda lab: lab.operations.Get(pb.GetRequest(name="operations/nope")),
    "stream": lambda lab: lab.operations.Watch(pb.WatchRequest(name="operations/nope")).read(),
    "typed unary": lambda lab: lab.lab.Play(lab_pb2.PlayRequest(), metadata=(("longshore-wait", "soon"),)),
    "typed stream": lambda lab: lab.lab.PlayLive(lab_pb2.PlayRequest(), metadata=(("longshore-nope", "x"),)).read(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_refusal_through_the_interceptor_of_others_keeps_its_details(intercepted: TracedLab, call: str) -> None:
    code, reason, status = await refused(CALLS[call](intercepted))
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    assert reason in ("OPERATION_NOT_FOUND", "INVALID_ARGUMENT")
    assert status.message


async def test_streams_through_the_interceptor_of_others_come_whole_and_end(intercepted: TracedLab) -> None:
    gate = asyncio.Event()

    @intercepted.plays
    async def handler(request: Any, op: Any) -> Any:
        for number in range(20):
            op.progress(lab_pb2.PlayProgress(number=number))
        await gate.wait()
        return lab_pb2.PlayResult()

    name = await start(intercepted)
    left = intercepted.operations.Watch(pb.WatchRequest(name=name))
    await left.read()
    left.cancel()
    events = asyncio.ensure_future(intercepted.events(name))
    await intercepted.reached(name, "progress", 20)
    gate.set()
    assert [event.sequence for event in await events] == list(range(1, 24))
    assert (await intercepted.end(name)).state == State.STATE_COMPLETED


async def test_health_and_reflection_through_the_interceptor_of_others(intercepted: TracedLab) -> None:
    stub: Any = health_pb2_grpc.HealthStub(intercepted.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
    reflection = make_stub(intercepted.channel)
    answers = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert [len(answer.list_services_response.service) > 3 async for answer in answers] == [True]
    await intercepted.harness.running.listener.health.set(serving=False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
