"""Spans of the calls that send and fetch bytes, our own and with the interceptors of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from bytes.v1.bytes_longshore import BytesClient
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient
from opentelemetry.trace import SpanKind, StatusCode

import longshore_client as lc
from tests.client.carrying import CHUNK, REQUEST, lab, some, stored
from tests.server.tracing import Recorder
from tests.server.transfers.bytes_service import BytesLab

__all__ = ["lab"]

UPLOAD = "longshore.v1.TransfersService/Upload"
DATA = some(5 * CHUNK)


@contextlib.contextmanager
def instrumented(recorder: Recorder) -> Iterator[None]:
    """Every channel that is made has interceptors of somebody else's."""
    instrumentor: Any = GrpcAioInstrumentorClient()
    instrumentor.instrument(tracer_provider=recorder.provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


async def test_an_upload_has_a_span_for_every_call(lab: BytesLab) -> None:
    recorder = Recorder()
    async with lc.connect(lab.harness.address, tracer_provider=recorder.provider) as channel:
        files = BytesClient(channel)
        await (await files.upload(REQUEST).transfer(DATA).start()).wait()
        refused = await files.small(REQUEST).transfer(DATA).start()
        with pytest.raises(lc.ResourceExhausted):
            await refused.sent()
    first, *others = recorder.named(UPLOAD)
    assert (first.kind, first.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    assert others
    assert {span.status.status_code for span in others} == {StatusCode.ERROR}


async def test_the_interceptors_of_others_pass_bytes_on(lab: BytesLab) -> None:
    recorder = Recorder()
    with instrumented(recorder):
        async with lc.connect(lab.harness.address) as channel:
            upload = await BytesClient(channel).upload(REQUEST).transfer(DATA).start()
            await upload.wait()
    assert await stored(lab) == DATA
