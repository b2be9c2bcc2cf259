"""Traces by OpenTelemetry: what a call causes belongs to its caller's trace, also after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Crash, Lab, State, refused, turns
from tests.server.tracing import (
    PARENT,
    SAMPLED,
    TRACE,
    TYPE,
    UNSAMPLED,
    Recorder,
    TracedLab,
    attributes,
    chain,
    ids,
    lab,
    over,
    packed,
    start,
)

__all__ = ["lab"]


async def test_call_attempt_step_and_the_handlers_own_span_are_one_chain_from_the_caller(lab: TracedLab) -> None:
    record = lab.recorder

    def reserve() -> str:
        with record.tracer.start_as_current_span("inside the step"):
            return "reserved"

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        with record.tracer.start_as_current_span("own"):
            await op.step("reserve", reserve)
        with record.tracer.start_as_current_span("after the step"):
            return lab_pb2.PlayResult()

    name = await start(lab)
    await over(lab, name)
    call, attempt = record.one("longshore.v1.OperationsService/Start"), record.one(f"attempt {TYPE}")
    own, step, inside = (record.one(name) for name in ("own", "step reserve", "inside the step"))
    assert ids(call)[0] == TRACE
    assert chain(call, attempt, own, step, inside) == [PARENT]
    assert chain(attempt, record.one("after the step"))
    assert (call.kind, attempt.kind, step.kind) == (SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.INTERNAL)
    assert attributes(call) == {
        "rpc.system": "grpc", "rpc.service": "longshore.v1.OperationsService", "rpc.method": "Start",
        "rpc.grpc.status_code": 0,
    }  # fmt: skip
    assert attributes(attempt) == {
        "longshore.operation": name, "longshore.type": TYPE, "longshore.attempt": 1, "longshore.outcome": "complete",
    }  # fmt: skip
    assert attributes(step) == {"longshore.step": "reserve"}
    assert {span.status.status_code for span in (call, attempt, step)} == {StatusCode.UNSET}


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_attempts_after_a_restart_belong_to_the_callers_trace(lab: TracedLab, crash: bool) -> None:
    began, ran = asyncio.Event(), []

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("once", lambda: ran.append(op.attempt))
        if op.attempt == 1:
            began.set()
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    name = await start(lab)
    await began.wait()
    await lab.restart(crash=crash)
    await over(lab, name)
    first, second = lab.recorder.named(f"attempt {TYPE}")
    call = lab.recorder.one("longshore.v1.OperationsService/Start")
    assert chain(call, first) == chain(call, second) == [PARENT]
    assert (attributes(first)["longshore.outcome"], attributes(second)["longshore.outcome"]) == (
        "interrupt",
        "complete",
    )
    assert (attributes(first)["longshore.attempt"], attributes(second)["longshore.attempt"]) == (1, 2)
    # What is recorded is not run, and so is not traced, again.
    assert chain(first, lab.recorder.one("step once"))
    assert ran == [1]


async def test_children_of_a_handler_carry_on(lab: TracedLab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script != "child":
            with lab.recorder.tracer.start_as_current_span("ordering"):
                child = await lab.server.operations.start(
                    "lab.v1.LabService/PlayOn", lab_pb2.PlayRequest(script="child")
                )
            await child.wait()
        return lab_pb2.PlayResult()

    await over(lab, await start(lab))
    parent = lab.recorder.one(f"attempt {TYPE}")
    assert chain(parent, lab.recorder.one("ordering"), lab.recorder.one("attempt lab.v1.LabService/PlayOn"))
    assert ids(parent)[0] == TRACE


async def test_every_way_to_start_carries_the_trace(lab: TracedLab) -> None:
    request = lab_pb2.PlayRequest()
    await lab.lab.Play(request, metadata=SAMPLED)
    await lab.lab.Play(request, metadata=(*SAMPLED, ("longshore-wait", "30s")))
    async for _ in lab.lab.PlayLive(request, metadata=SAMPLED):
        pass
    async for _ in lab.operations.Run(pb.RunRequest(type=TYPE, input=packed()), metadata=SAMPLED):
        pass
    name = await start(lab)
    await lab.end(name)
    again = await lab.operations.Retry(pb.RetryRequest(name=name), metadata=SAMPLED)
    await over(lab, again.operation.name)
    attempts = [span for span in lab.recorder.spans if span.name.startswith("attempt ")]
    calls = {ids(span)[1]: span.name for span in lab.recorder.spans if ids(span)[2] == PARENT}
    assert {ids(span)[0] for span in attempts} == {TRACE}
    assert sorted(calls[ids(span)[2]] for span in attempts) == sorted(
        [
            *["lab.v1.LabService/Play"] * 2, "lab.v1.LabService/PlayLive", "longshore.v1.OperationsService/Run",
            "longshore.v1.OperationsService/Start", "longshore.v1.OperationsService/Retry",
        ]
    )  # fmt: skip


async def test_what_the_services_own_code_starts_belongs_to_what_is_current_there(lab: TracedLab) -> None:
    alone = await lab.server.operations.start(TYPE, lab_pb2.PlayRequest())
    await over(lab, alone.name)
    assert ids(lab.recorder.one(f"attempt {TYPE}"))[2] == ""
    with lab.recorder.tracer.start_as_current_span("host") as host:
        inside = await lab.server.operations.start(TYPE, lab_pb2.PlayRequest())
    await over(lab, inside.name)
    second = lab.recorder.named(f"attempt {TYPE}")[1]
    assert second.parent is not None
    assert second.parent.span_id == host.get_span_context().span_id


@pytest.mark.parametrize(
    "traceparent",
    [
        "", "nonsense", "00", f"00-{TRACE}-{PARENT}", f"00-{TRACE.upper()}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-0g", f"00_{TRACE}_{PARENT}_01", f"01-{TRACE}-{PARENT}-01more",
        f"00-{TRACE[:-1]} -{PARENT}-01", f"00-{TRACE[:-1]}_-{PARENT}-01",
    ],
)  # fmt: skip
async def test_a_traceparent_that_is_none_counts_as_absent(lab: TracedLab, traceparent: str) -> None:
    await over(lab, await start(lab, (("traceparent", traceparent),)))
    call = lab.recorder.one("longshore.v1.OperationsService/Start")
    assert ids(call)[2] == ""
    assert ids(call)[0] != TRACE
    assert chain(call, lab.recorder.one(f"attempt {TYPE}"))


async def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known(lab: TracedLab) -> None:
    await over(lab, await start(lab, (("traceparent", f"cc-{TRACE}-{PARENT}-09-what the future brings"),)))
    assert ids(lab.recorder.one("longshore.v1.OperationsService/Start"))[::2] == (TRACE, PARENT)


async def test_what_the_caller_does_not_sample_is_not_sampled_and_the_sampler_is_asked_once(lab: TracedLab) -> None:
    seen = []
    crash = Crash(lab)

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("a", lambda: seen.append(trace.get_current_span().get_span_context()))
        with lab.recorder.tracer.start_as_current_span("own"):
            pass
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = await start(lab, UNSAMPLED)
    await crash.happen()
    await over(lab, name)
    assert {ids(span)[0] for span in lab.recorder.spans}.isdisjoint({TRACE})
    assert {span.name for span in lab.recorder.spans} == {"longshore.v1.OperationsService/Wait"}, "the test's own"
    assert lab.recorder.sampler.names.count("own") == 2, "whoever makes spans of their own asks for these"
    asked = [name for name in lab.recorder.sampler.names if "attempt" in name or "step" in name or "Start" in name]
    assert asked == ["longshore.v1.OperationsService/Start"]
    # What the handler calls is told of the caller's decision, and in which trace it was made.
    (context,) = seen
    assert (f"{context.trace_id:032x}", context.trace_flags.sampled) == (TRACE, False)


async def test_a_failed_attempt_tells_why_and_is_followed_by_the_next(lab: TracedLab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("charge", charge)

    def charge() -> None:
        raise ValueError("the card was torn")

    await over(lab, await start(lab))
    attempt, step = lab.recorder.one(f"attempt {TYPE}"), lab.recorder.one("step charge")
    assert (attempt.status.status_code, attempt.status.description) == (StatusCode.ERROR, "HANDLER_ERROR")
    assert attributes(attempt)["longshore.outcome"] == "fail"
    for span in (attempt, step):
        (event,) = span.events
        assert (event.attributes or {})["exception.message"] == "the card was torn"
    assert step.status.status_code is StatusCode.ERROR


async def test_a_typed_error_is_the_reason_of_its_attempt(lab: TracedLab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        raise OperationError("CARD_TORN", "The card was torn.")

    await over(lab, await start(lab))
    status = lab.recorder.one(f"attempt {TYPE}").status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "CARD_TORN")


async def test_a_handed_over_and_a_cancelled_attempt_are_no_failures(lab: TracedLab) -> None:
    began = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script == "defer":
            return await op.defer()
        began.set()
        await op.cancelled.wait()
        raise asyncio.CancelledError

    ref = await lab.server.operations.start(TYPE, lab_pb2.PlayRequest(script="defer"))
    await lab.catch_up()
    deferred = lab.recorder.one(f"attempt {TYPE}")
    name = await start(lab)
    await began.wait()
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (await over(lab, name)).state == State.STATE_CANCELLED
    cancelled = lab.recorder.named(f"attempt {TYPE}")[1]
    outcomes = [attributes(span)["longshore.outcome"] for span in (deferred, cancelled)]
    assert outcomes == ["hand over", "cancel"]
    assert {span.status.status_code for span in (deferred, cancelled)} == {StatusCode.UNSET}
    assert ref.name


async def test_the_span_of_a_call_has_the_code_that_it_ended_with(lab: TracedLab, caplog: Any) -> None:
    await refused(lab.operations.Get(pb.GetRequest(name="operations/nope")))

    async def broken(*_: Any) -> None:
        raise ValueError("broken")

    lab.engine.find = broken
    await refused(lab.operations.Wait(pb.WaitRequest(name="operations/nope")))
    # A refusal is on its way before the call is over.
    await lab.harness.running.listener.stop(1.0)
    call = lab.recorder.one("longshore.v1.OperationsService/Get")
    assert (attributes(call)["rpc.grpc.status_code"], call.status.status_code) == (5, StatusCode.UNSET)
    call = lab.recorder.one("longshore.v1.OperationsService/Wait")
    assert (attributes(call)["rpc.grpc.status_code"], call.status.status_code) == (13, StatusCode.ERROR)


async def test_a_watch_that_its_caller_leaves_ends_its_span(lab: TracedLab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await gate.wait()
        return lab_pb2.PlayResult()

    name = await start(lab)
    watch = lab.operations.Watch(pb.WatchRequest(name=name))
    await watch.read()
    watch.cancel()
    while lab.engine.watches.count:  # or it would be told of the end before it has left
        await turns()
    gate.set()
    await over(lab, name)
    await lab.harness.running.listener.stop(1.0)
    span = lab.recorder.one("longshore.v1.OperationsService/Watch")
    assert (attributes(span)["rpc.grpc.status_code"], span.status.status_code) == (1, StatusCode.UNSET)


async def test_a_server_that_is_started_inside_a_span_is_not_part_of_it(tmp_path: Path) -> None:
    record, lab = Recorder(), Lab(tmp_path / "data")
    lab.server.tracer_provider = record.provider
    with record.tracer.start_as_current_span("main"):
        await lab.start()
    try:
        await over(lab, await start(lab))
        assert chain(record.one("longshore.v1.OperationsService/Start"), record.one(f"attempt {TYPE}")) == [PARENT]
        await over(lab, await start(lab, ()))
        assert ids(record.named("longshore.v1.OperationsService/Start")[1])[2] == ""
    finally:
        await lab.stop()
