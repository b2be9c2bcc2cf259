"""What is not sampled costs next to nothing: the sampler is asked once, at the call, and then no span is made."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext, TraceState

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.telemetry.spans import Spans
from tests.conftest import Crash
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
    over,
    packed,
    start,
)

START = "longshore.v1.OperationsService/Start"


class Told(Sampler):
    """Says `decision`, and keeps what it was asked: names and traces."""

    def __init__(self) -> None:
        self.decision = Decision.DROP
        self.asked: list[tuple[str, int]] = []

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, *_: Any
    ) -> Any:
        self.asked.append((name, trace_id))
        said = {**(attributes or {}), "sampler.said": "yes"}
        return SamplingResult(self.decision, said, TraceState([("vendor", "told")]))

    def get_description(self) -> str:
        return "told"


class ToldLab(TracedLab):
    told: Told


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ToldLab]:
    found = ToldLab(tmp_path / "data")
    found.told, found.recorder = Told(), Recorder()
    found.recorder.provider.sampler = found.told
    found.server.tracer_provider = found.recorder.provider
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all spans that the SDK makes, recorded or not."""
    names: list[str] = []
    inner = Tracer.start_span

    def start_span(self: Tracer, name: str, *args: Any, **kwargs: Any) -> Any:
        names.append(name)
        return inner(self, name, *args, **kwargs)

    monkeypatch.setattr(Tracer, "start_span", start_span)
    return names


def stored(lab: ToldLab, name: str) -> str:
    """What is stored of the trace of an operation."""
    with contextlib.closing(sqlite3.connect(f"file:{lab.data / 'longshore.db'}?mode=ro", uri=True)) as database:
        ((found,),) = database.execute("SELECT trace FROM operations WHERE id = ?", (name.removeprefix("operations/"),))
    return str(found)


def here() -> SpanContext:
    """What is current, as a handler that calls somebody would pass it on."""
    return trace.get_current_span().get_span_context()


@pytest.mark.parametrize("metadata", [(), UNSAMPLED, SAMPLED], ids=["no trace", "unsampled", "sampled"])
async def test_an_unsampled_operation_makes_no_spans(lab: ToldLab, made: list[str], metadata: Any) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("a", lambda: None)
        if request.script == "crash":
            await crash.here(op)
        return lab_pb2.PlayResult()

    input = packed()
    input.Pack(lab_pb2.PlayRequest(script="crash"))
    response = await lab.operations.Start(pb.StartRequest(type=TYPE, input=input), metadata=metadata)
    await crash.happen()
    await over(lab, response.operation.name)
    async for _ in lab.operations.Run(pb.RunRequest(type=TYPE, input=packed()), metadata=metadata):
        pass
    await lab.lab.Play(lab_pb2.PlayRequest(), metadata=(*metadata, ("longshore-wait", "30s")))
    async for _ in lab.lab.PlayLive(lab_pb2.PlayRequest(), metadata=metadata):
        pass
    await lab.catch_up()
    assert made == []
    assert [name.rpartition("/")[2] for name, _ in lab.told.asked] == ["Start", "Wait", "Run", "Play", "PlayLive"]


async def test_only_the_callers_own_word_is_stored_of_what_is_not_sampled(lab: ToldLab) -> None:
    assert stored(lab, await start(lab, ())) == ""
    assert stored(lab, await start(lab, UNSAMPLED)) == UNSAMPLED[0][1]
    changed = stored(lab, await start(lab, SAMPLED))
    # Under an id of our own, and not under the caller's, who has said something else.
    assert (changed[:36], changed[-3:]) == (f"00-{TRACE}-", "-00")
    assert PARENT not in changed


async def test_what_a_handler_calls_is_told_that_nobody_samples_and_of_one_trace(lab: ToldLab) -> None:
    seen: list[SpanContext] = []

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        seen.append(here())
        await op.step("a", lambda: seen.append(here()))
        return lab_pb2.PlayResult()

    await over(lab, await start(lab, ()))
    first, second = seen
    assert first == second
    assert (first.is_valid, first.trace_flags.sampled) == (True, False)
    await over(lab, await start(lab, ()))
    assert seen[2].trace_id != first.trace_id


async def test_the_span_of_what_is_sampled_is_what_the_sampler_was_asked_about(lab: ToldLab, made: list[str]) -> None:
    lab.told.decision = Decision.RECORD_AND_SAMPLE
    await over(lab, await start(lab, ()))
    call, attempt = lab.recorder.one(START), lab.recorder.one(f"attempt {TYPE}")
    assert chain(call, attempt) == [""]
    (asked, again) = [trace for name, trace in lab.told.asked if name != "longshore.v1.OperationsService/Wait"]
    assert f"{asked:032x}" == f"{again:032x}" == ids(call)[0]
    assert attributes(call)["sampler.said"] == "yes"
    assert call.context is not None
    assert call.context.trace_state.get("vendor") == "told"
    assert made.count(START) == 1


async def test_calls_at_once_get_each_its_own_decision(lab: ToldLab) -> None:
    lab.told.decision = Decision.RECORD_AND_SAMPLE
    names = await asyncio.gather(*(start(lab, ()) for _ in range(20)))
    for name in names:
        await over(lab, name)
    calls = lab.recorder.named(START)
    assert len({ids(span)[0] for span in calls}) == 20
    assert {ids(span)[0] for span in calls} == {f"{trace:032x}" for name, trace in lab.told.asked if name == START}


async def test_what_is_recorded_and_not_sampled_ends_at_the_call(lab: ToldLab, made: list[str]) -> None:
    lab.told.decision = Decision.RECORD_ONLY
    await over(lab, await start(lab, ()))
    assert START in made
    assert f"attempt {TYPE}" not in made


async def test_what_the_services_own_code_starts_is_decided_by_each_attempt(lab: ToldLab, made: list[str]) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await crash.here(op)
        return lab_pb2.PlayResult()

    ref = await lab.server.operations.start(TYPE, lab_pb2.PlayRequest())
    await crash.reached.wait()
    assert made == []
    lab.told.decision = Decision.RECORD_AND_SAMPLE
    await crash.happen()
    await over(lab, ref.name)
    attempt = lab.recorder.one(f"attempt {TYPE}")
    assert (ids(attempt)[2], attributes(attempt)["longshore.attempt"]) == ("", 2)


class Foreign(trace.TracerProvider):
    """One that is not the SDK's: its tracers make spans, and that is all that is known of them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return ForeignTracer(self._provider.get_tracer(*args, **kwargs).start_span)


class ForeignTracer(trace.Tracer):
    def __init__(self, start: Callable[..., trace.Span]) -> None:
        self._start = start

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._start(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return trace.use_span(self._start(*args, **kwargs), end_on_exit=True)


async def test_a_provider_that_is_not_the_sdks_is_asked_by_its_spans(tmp_path: Path, made: list[str]) -> None:
    lab = ToldLab(tmp_path / "data")
    lab.told, lab.recorder = Told(), Recorder()
    lab.recorder.provider.sampler = lab.told
    lab.server.tracer_provider = Foreign(lab.recorder.provider)
    await lab.start()
    try:
        await over(lab, await start(lab, ()))
        assert (made.count(START), made.count(f"attempt {TYPE}"), lab.recorder.spans) == (1, 0, [])
        lab.told.decision = Decision.RECORD_AND_SAMPLE
        await over(lab, await start(lab))
        assert chain(lab.recorder.one(START), lab.recorder.one(f"attempt {TYPE}")) == [PARENT]
    finally:
        await lab.stop()


class _Eager(TraceIdRatioBased):
    """A sampler of the program's own, which takes everything."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return ALWAYS_ON.should_sample(*args, **kwargs)


class _Given(RandomIdGenerator):
    def __init__(self) -> None:
        self.id = 0

    def generate_trace_id(self) -> int:
        return self.id


@pytest.mark.parametrize("sampler", [
    TraceIdRatioBased(0.25), ParentBased(TraceIdRatioBased(0.25)), ParentBasedTraceIdRatio(0.25),
    ParentBasedTraceIdRatio(0.0), ParentBasedTraceIdRatio(1.0), ParentBased(_Eager(0.25)), _Eager(0.25),
    ALWAYS_ON, ParentBased(ALWAYS_OFF),
])  # fmt: skip
def test_calls_are_sampled_as_the_sampler_says_of_their_ids(sampler: Sampler, made: list[str]) -> None:
    ids = _Given()
    spans = Spans(TracerProvider(sampler=sampler, id_generator=ids), None)
    bound = TraceIdRatioBased.get_bound_for_rate(0.25)
    for id in (1, bound - 1, bound, (1 << 64) - 1, 1 << 64, 7 << 64 | bound - 1, 7 << 64 | bound, (1 << 128) - 1):
        ids.id = id
        expected = sampler.should_sample(None, id, "a.B/C").decision.is_recording()
        made.clear()
        contextvars.copy_context().run(spans.call, "/a.B/C", lambda: ())
        assert bool(made) is expected, id
