"""Who sets OpenTelemetry up, and who does not: a program that does not use it does not load it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.tracing import TYPE

PROGRAM = """
import asyncio, contextlib, pathlib, sys, tempfile
from tests.conftest import Lab
from longshore.v1 import operations_service_pb2 as pb
{head}
@contextlib.asynccontextmanager
async def lifespan(server):
    {lifespan}
    yield

async def main():
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(pathlib.Path(folder), lifespan=lifespan)
        await lab.start()
        try:
            await lab.run()
            await lab.catch_up()
        finally:
            await lab.stop()

asyncio.run(main())
{tail}
"""
SET_UP = """
def set_up():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    global exporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
"""
NAMES = "print(sorted(span.name for span in exporter.get_finished_spans()))"


def run(head: str = "", lifespan: str = "pass", tail: str = "") -> str:
    code = PROGRAM.format(head=head, lifespan=lifespan, tail=tail)
    root = Path(__file__).parents[2]
    path = [str(root / folder) for folder in ("", "tests/contracts", "server", "client", "generated")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{code}"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_program_that_does_not_use_opentelemetry_does_not_load_it() -> None:
    assert run(tail="print([name for name in sys.modules if name.startswith('opentelemetry')])") == "[]"


@pytest.mark.parametrize(
    ("head", "lifespan"), [(f"{SET_UP}\nset_up()", "pass"), (SET_UP, "set_up()")], ids=["module", "lifespan"]
)
def test_a_program_that_sets_opentelemetry_up_is_traced(head: str, lifespan: str) -> None:
    names = run(head, lifespan, NAMES)
    assert f"attempt {TYPE}" in names
    assert "longshore.v1.OperationsService/Start" in names


def test_the_api_alone_traces_nothing() -> None:
    tail = "print('longshore_server.telemetry.spans' in sys.modules)"
    assert run("from opentelemetry import trace", tail=tail) == "False"
