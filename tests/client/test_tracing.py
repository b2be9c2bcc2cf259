"""Spans of the client's calls, and what the server hears of them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.rpc import code_pb2
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayRequest, PlayResult
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import longshore_client as lc
from tests.client.conftest import Pauses
from tests.client.fake import FakeServer, Refusal, status
from tests.conftest import Lab
from tests.server.tracing import Recorder, TracedLab, attributes, chain, ids

TYPE = Lab.TYPE
START = "longshore.v1.OperationsService/Start"
RUN = "longshore.v1.OperationsService/Run"
WATCH = "longshore.v1.OperationsService/Watch"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def traced(tmp_path: Path, recorder: Recorder) -> AsyncIterator[TracedLab]:
    """A server whose spans go where the client's go."""
    found = TracedLab(tmp_path / "traced")
    found.recorder = recorder
    found.server.tracer_provider = recorder.provider
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def client(traced: TracedLab) -> AsyncIterator[LabClient]:
    async with lc.connect(traced.harness.address, tracer_provider=traced.recorder.provider) as channel:
        yield LabClient(channel)


async def settled(lab: TracedLab) -> None:
    """Return once the server is through with every call."""
    await lab.catch_up()
    await lab.harness.running.listener.stop(1.0)


async def test_one_trace_from_the_callers_own_span_to_the_step(traced: TracedLab, client: LabClient) -> None:
    @traced.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.step("reserve", lambda: None)
        return PlayResult()

    record = traced.recorder
    with record.tracer.start_as_current_span("checkout"):
        await client.play.run(PlayRequest())
    await settled(traced)
    sent, received = sorted(record.named(START), key=lambda span: span.kind is SpanKind.SERVER)
    assert (sent.kind, received.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert chain(record.one("checkout"), sent, received, record.one(f"attempt {TYPE}"), record.one("step reserve"))
    assert attributes(sent) == {
        "rpc.system": "grpc", "rpc.service": "longshore.v1.OperationsService", "rpc.method": "Start",
        "rpc.grpc.status_code": 0,
    }  # fmt: skip


async def test_a_run_with_callbacks_is_one_trace_too(traced: TracedLab, client: LabClient) -> None:
    await client.play.run(PlayRequest(), on_progress=lambda _: None)
    await settled(traced)
    sent, received = sorted(traced.recorder.named(RUN), key=lambda span: span.kind is SpanKind.SERVER)
    assert chain(sent, received, traced.recorder.one(f"attempt {TYPE}"))
    assert (attributes(sent)["rpc.grpc.status_code"], sent.status.status_code) == (0, StatusCode.UNSET)


async def test_a_refused_call_tells_the_code(traced: TracedLab, client: LabClient, recorder: Recorder) -> None:
    with pytest.raises(lc.NotFound):
        await client.play.attach("operations/nope").get()
    with pytest.raises(lc.NotFound):
        async for _ in client.play.attach("operations/nope").watch():
            pass
    await settled(traced)
    sent = [span for span in recorder.spans if span.kind is SpanKind.CLIENT]
    assert [attributes(span)["rpc.grpc.status_code"] for span in sent] == [5, 5]
    assert {span.status.status_code for span in sent} == {StatusCode.ERROR}
    assert {"There is no operations/nope" in (span.status.description or "") for span in sent} == {True}


async def test_a_watch_that_is_left_ends_its_span(traced: TracedLab, client: LabClient, recorder: Recorder) -> None:
    gate = asyncio.Event()

    @traced.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await gate.wait()
        return PlayResult()

    op = await client.play(PlayRequest())
    async with contextlib.aclosing(op.watch()) as events:
        await anext(events)
    sent = next(span for span in recorder.named(WATCH) if span.kind is SpanKind.CLIENT)
    assert attributes(sent)["rpc.grpc.status_code"] == 1
    gate.set()
    await op.wait()


async def test_a_call_that_its_caller_cancels_ends_its_span(traced: TracedLab, client: LabClient) -> None:
    running, gate = asyncio.Event(), asyncio.Event()

    @traced.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        running.set()
        await gate.wait()
        return PlayResult()

    call = asyncio.ensure_future(client.play.run(PlayRequest()))
    await running.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (sent,) = (span for span in traced.recorder.named(START) if span.kind is SpanKind.CLIENT)
    assert attributes(sent)["rpc.grpc.status_code"] == 1
    gate.set()


async def test_every_try_has_a_span_of_its_own(server: FakeServer, pauses: Pauses, recorder: Recorder) -> None:
    server.service.refuse = [Refusal(status(code_pb2.UNAVAILABLE, "SERVER_STARTING", "soon")) for _ in range(2)]
    async with pauses.connect(server.address, tracer_provider=recorder.provider) as channel:
        with recorder.tracer.start_as_current_span("checkout"):
            await OrdersClient(channel).process(ProcessOrderRequest(order_id="o"))
    tries = recorder.named(START)
    assert [attributes(span)["rpc.grpc.status_code"] for span in tries] == [14, 14, 0]
    assert all(chain(recorder.one("checkout"), span) for span in tries)


async def test_what_is_not_sampled_says_so_to_the_server(traced: TracedLab, recorder: Recorder) -> None:
    silent = Recorder()
    silent.provider.sampler = ALWAYS_OFF
    async with lc.connect(traced.harness.address, tracer_provider=silent.provider) as channel:
        seen = [event async for event in (await LabClient(channel).play(PlayRequest())).watch()]
    assert isinstance(seen[-1], lc.Completed)
    await settled(traced)
    assert silent.spans == recorder.spans == []


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[None]:
    """A process whose gRPC channels have the interceptor of opentelemetry-instrumentation-grpc."""
    instrumentor = GrpcAioInstrumentorClient()
    instrumentor.instrument(tracer_provider=recorder.provider)
    yield
    instrumentor.uninstrument()


@pytest.mark.usefixtures("instrumented")
async def test_the_interceptor_of_others_comes_in_between_and_breaks_nothing(
    traced: TracedLab, recorder: Recorder
) -> None:
    async with lc.connect(traced.harness.address, tracer_provider=recorder.provider) as channel:
        client = LabClient(channel)
        op = await client.play(PlayRequest())
        seen = [event async for event in op.watch()]
        assert [event.sequence for event in seen] == [1, 2, 3]
        with pytest.raises(lc.NotFound) as caught:
            await client.play.attach("operations/nope").get()
        assert caught.value.reason == "OPERATION_NOT_FOUND"
        with pytest.raises(lc.NotFound) as caught:
            async for _ in client.play.attach("operations/nope").watch():
                pass
        assert caught.value.reason == "OPERATION_NOT_FOUND"
    await settled(traced)
    sent, received = sorted(recorder.named(START), key=lambda span: span.kind is SpanKind.SERVER)
    assert chain(sent, recorder.one(f"/{START}"), received, recorder.one(f"attempt {TYPE}"))
    assert ids(sent)[2] == ""


def test_a_caller_that_does_not_use_opentelemetry_does_not_load_it() -> None:
    code = """
import asyncio, sys
import longshore_client

async def main():
    retry = longshore_client.Retry(give_up_after=0, first_contact=0)
    async with longshore_client.connect("unix:/nowhere/at/all", retry=retry) as channel:
        channel.calls

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
