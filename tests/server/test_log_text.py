"""The log of the process as people read it: whose line it is."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import Job, Server
from longshore_server.telemetry import logs
from longshore_server.testing import Harness
from tests.conftest import Lab
from tests.server.instances.laboratory import Token


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What `longshore serve` writes to standard error."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    root.handlers.clear()  # `configure` would close those of pytest
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("text", "info")
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


async def test_lines_of_an_operation_name_it(lab: Lab, written: io.StringIO) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        op.log.info("reserved", count=3)
        raise LookupError("no such order")

    name = (await lab.run()).name
    text = written.getvalue()
    assert f"reserved  count=3  [{name}]" in text
    # Before the trace, which is long.
    assert f"handler of {name} raised  [{name}]\nTraceback" in text


async def test_lines_of_jobs_and_instances_name_them(tmp_path: Path, written: io.StringIO) -> None:
    server = Server()
    plain = logging.getLogger("shop")

    @server.job("reserve")
    async def reserve(payload: str, job: Job[None]) -> None:
        job.log.warn("stock is low", sku=payload)  # noqa: G010
        plain.info("by way of logging")

    @server.recurring("refresh", every="1h", state=Token, log_level="info")
    async def refresh(ctx: Any) -> None:
        ctx.log.info("refreshed", value=7)
        plain.info("by way of logging")

    harness = Harness(server, tmp_path / "data")
    await harness.start()
    job = await reserve.create("A1")
    await job.wait()
    await refresh.start("a", Token())
    await harness.stop()
    text = written.getvalue()
    instance = "recurrings/refresh/instances/a"
    assert f"stock is low  sku='A1'  [jobs/{job.id}]\n" in text
    assert f"refreshed  value=7  [{instance}]\n" in text
    assert text.count(f"by way of logging  [jobs/{job.id}]\n") == 1
    assert text.count(f"by way of logging  [{instance}]\n") == 1


def test_callers_who_go_while_they_are_answered_are_no_errors(written: io.StringIO) -> None:
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.error("ExecuteBatchError raised in core by servicer method [/lab.v1.LabService/Watch]", exc_info=OSError())
    assert written.getvalue() == ""
    grpc.error("Unexpected [ValueError] raised by servicer method [/lab.v1.LabService/Watch]")
    assert "Unexpected [ValueError]" in written.getvalue()


async def test_instances_that_nothing_defines_are_counted(tmp_path: Path, written: io.StringIO) -> None:
    server = Server()

    @server.recurring("refresh", every="1h", state=Token)
    async def refresh(ctx: Any) -> None: ...

    harness = Harness(server, tmp_path / "data")
    await harness.start()
    await refresh.start("a", Token())
    await harness.stop()
    later = Server()
    later.recurring("other", every="1h", state=Token)(refresh.handler)
    harness = Harness(later, tmp_path / "data")
    await harness.start()
    await harness.stop()
    said = "nothing defines the recurring 'refresh' any more: 1 instance of it will go on once something does"
    assert said in written.getvalue()
