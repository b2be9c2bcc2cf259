"""Bytes that are refused while they are sent: what is told is the refusal, not what becomes of a write beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from bytes.v1.bytes_longshore import BytesClient
from google.rpc import code_pb2

import longshore_client as lc
from longshore.v1.transfers_service_pb2 import UploadRequest
from longshore_client import Channel
from tests.client.carrying import CHUNK, REQUEST, lab, near, some
from tests.client.conftest import Pauses
from tests.client.fake import status
from tests.server.tracing import Recorder
from tests.server.transfers.bytes_service import BytesLab

__all__ = ["lab", "near"]

DATA = some(3 * CHUNK)


class End(NamedTuple):
    """How a call ends."""

    code: grpc.StatusCode
    details: str
    trailing: grpc.aio.Metadata


def ours(code: grpc.StatusCode, number: int, reason: str) -> End:
    details = status(number, reason, "no").SerializeToString()
    return End(code, "no", grpc.aio.Metadata(("grpc-status-details-bin", details)))


# As grpc.aio ends a call of which a write has failed.
FAILED = End(grpc.StatusCode.INTERNAL, "Internal error from Core", grpc.aio.Metadata())
GATEWAY = End(grpc.StatusCode.PERMISSION_DENIED, "no", grpc.aio.Metadata())
SERVER = ours(grpc.StatusCode.PERMISSION_DENIED, code_pb2.PERMISSION_DENIED, "NO_SCOPE")
BROKEN = ours(grpc.StatusCode.INTERNAL, code_pb2.INTERNAL, "INTERNAL")


class TwiceEnded:
    """A call that takes nothing, and of which two ends are told, the last one to those who wait."""

    def __init__(self, ends: tuple[End, End]) -> None:
        self._ends = ends
        self._now = ends[0]
        self._callbacks: list[Callable[[Any], None]] = []
        self._ending = asyncio.create_task(self._end())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def done(self) -> bool:
        return self._ending.done()

    def cancel(self) -> bool:
        return self._ending.cancel()

    async def code(self) -> grpc.StatusCode:
        return self._now.code

    async def details(self) -> str:
        return self._now.details

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return self._now.trailing

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> None:
        await self._ending
        code, details, trailing = self._now
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)

    async def _end(self) -> None:
        for end in self._ends:
            self._now = end
            for callback in self._callbacks:
                callback(self)


def twice_ended(channel: Channel, ends: tuple[End, End], made: list[TwiceEnded]) -> None:
    """Have a channel that has made no call yet make such calls for uploads."""
    dial = channel.dial

    def dialled() -> Any:
        found: Any = dial()
        found.stream_unary = lambda *_, **__: begin
        return found

    def begin(requests: AsyncIterator[bytes], metadata: object) -> TwiceEnded:
        assert not made, "what is refused is not sent again"
        made.append(TwiceEnded(ends))
        return made[-1]

    channel.dial = dialled  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [(GATEWAY, lc.PermissionDenied), (SERVER, lc.PermissionDenied), (BROKEN, lc.InternalError)],
    ids=["gateway", "server", "server, broken"],
)
@pytest.mark.parametrize("first", ["refused", "failed"])
async def test_a_refusal_is_told_and_not_the_failure_of_a_write_beside_it(
    lab: BytesLab, pauses: Pauses, refusal: End, raised: type[lc.CallError], first: str
) -> None:
    recorder, made = Recorder(), list[TwiceEnded]()
    async with pauses.connect(lab.harness.address, tracer_provider=recorder.provider) as channel:
        twice_ended(channel, (refusal, FAILED) if first == "refused" else (FAILED, refusal), made)
        upload = await BytesClient(channel).upload(REQUEST).transfer(DATA).start()
        with pytest.raises(raised, match="no") as caught:
            await upload.sent()
    assert type(caught.value) is raised
    assert (len(made), pauses) == (1, [])
    (span,) = recorder.named("longshore.v1.TransfersService/Upload")
    assert dict(span.attributes or {})["rpc.grpc.status_code"] == refusal.code.value[0]


async def test_a_write_that_fails_for_no_reason_that_is_known_is_made_good(lab: BytesLab, near: Channel) -> None:
    rpc, made = near.calls.upload, list[TwiceEnded]()

    def begin(requests: AsyncIterator[bytes], **options: Any) -> Any:
        if made:
            return rpc(requests, **options)
        made.append(TwiceEnded((FAILED, FAILED)))
        return made[0]

    near.calls.upload = begin
    upload = await BytesClient(near).upload(REQUEST).transfer(DATA).start()
    assert (await upload.sent()).committed_size == len(DATA)


async def test_a_server_that_refuses_at_once_is_heard_however_often() -> None:
    # In a thread of its own: it refuses while this one is about to send.
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    request = UploadRequest().SerializeToString()

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield request

    async def refused(channel: Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.calls.upload(requests(), metadata=None)
        return caught.value.code()

    try:
        async with lc.connect(f"127.0.0.1:{port}") as channel:
            for _ in range(50):
                codes = await asyncio.gather(*(refused(channel) for _ in range(4)))
                assert set(codes) == {grpc.StatusCode.UNIMPLEMENTED}
    finally:
        await asyncio.to_thread(other.stop(0).wait)
