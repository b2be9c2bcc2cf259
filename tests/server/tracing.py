"""What the tests of traces share: a laboratory that keeps its spans, calls that are traced, and what spans say."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1 import lab_pb2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
TYPE = Lab.TYPE


class Asked(Sampler):
    """Takes what has a sampled parent or none, and counts how often it was asked."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._inner = ParentBased(ALWAYS_ON)

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> Any:
        self.names.append(name)
        return self._inner.should_sample(parent_context, trace_id, name, *args, **kwargs)

    def get_description(self) -> str:
        return "asked"


class Recorder:
    """A provider of tracers, and the spans that have ended."""

    def __init__(self) -> None:
        self.sampler = Asked()
        self.provider = TracerProvider(sampler=self.sampler)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("a handler")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


class TracedLab(Lab):
    recorder: Recorder


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[TracedLab]:
    found = TracedLab(tmp_path / "data")
    found.recorder = Recorder()
    found.server.tracer_provider = found.recorder.provider
    await found.start()
    yield found
    await found.stop()


def packed() -> AnyMessage:
    input = AnyMessage()
    input.Pack(lab_pb2.PlayRequest())
    return input


async def start(lab: Lab, metadata: Any = SAMPLED) -> str:
    """Start an operation in the name of a caller that traces. Returns its name."""
    response = await lab.operations.Start(pb.StartRequest(type=TYPE, input=packed()), metadata=metadata)
    return str(response.operation.name)


async def over(lab: Lab, name: str) -> Any:
    """Its snapshot once it has ended, and so has the span of its last attempt."""
    snapshot = await lab.end(name)
    await lab.catch_up()
    return snapshot


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """The trace, the span and its parent, in hexadecimal; empty: none."""
    assert span.context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent is not None else ""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def chain(*spans: ReadableSpan) -> list[str]:
    """The parents of spans each of which is the child of the one before, all of one trace."""
    assert len({ids(span)[0] for span in spans}) == 1
    for before, after in itertools.pairwise(spans):
        assert ids(after)[2] == ids(before)[1], f"{after.name} is no child of {before.name}"
    return [ids(spans[0])[2]]
