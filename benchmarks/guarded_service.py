"""The same service with everything on that one in production has: `longshore serve benchmarks.guarded_service:server`.

Here are the gates and rules of its contract, and OpenTelemetry: one call of a hundred is sampled, and its spans are
written as JSON to nowhere by the batch processor of the SDK. Tokens and metrics are options of the command line.
"""

from __future__ import annotations

import os
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from benchmarks import contract
from benchmarks.service import Bench
from longshore_server import Server

SAMPLED = 0.01
"""The share of calls that are traced."""


class Guarded(Bench):
    """The same handler behind `bench.v1.GuardedService/Work`."""

    DESCRIPTOR: ClassVar[ServiceDescriptor] = contract.guarded()


def tracing() -> TracerProvider:
    """What the server's spans go to."""
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(SAMPLED))
    nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # open for as long as the process lives
    exporter = ConsoleSpanExporter(out=nowhere, formatter=lambda span: span.to_json(indent=None))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


server = Server(Guarded(), tracer_provider=tracing())
