"""Sending bytes over connections that break, to servers that die: whatever happens, one object, and the right one."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bytes.v1.bytes_longshore import BytesClient

import longshore_client as lc
from longshore.v1.transfers_service_pb2 import QueryUploadRequest, UploadRequest
from longshore_client import Channel, SendProgress
from longshore_client.retry import Timing
from longshore_server import Reason, ServiceError
from tests.client.carrying import CHUNK, MB, REQUEST, Broken, lab, near, pieces, some, stored
from tests.client.conftest import Pauses
from tests.proxy import Damage, How
from tests.server.transfers.bytes_service import BytesLab

__all__ = ["lab", "near"]

DATA = some(4 * MB + 7)


def source_of(kind: str, folder: Path) -> tuple[Any, int]:
    path = folder / "source"
    path.write_bytes(DATA)
    return {"path": (path, 1), "once": (pieces(DATA), 1), "parts": (path, 3)}[kind]


def damages(*how: How) -> Iterator[Damage | None]:
    """Each in its turn, at different places: in the start, in the first bytes, and later."""
    for number, each in enumerate(how):
        yield Damage(each, 300 + 700_001 * number)


@pytest.mark.parametrize("kind", ["path", "once", "parts"])
@pytest.mark.parametrize("how", [How.CUT, How.HALVE, How.DUPLICATE])
async def test_a_broken_connection_is_gone_on_with(lab: BytesLab, tmp_path: Path, how: How, kind: str) -> None:
    told: list[SendProgress] = []
    source, parts = source_of(kind, tmp_path)
    broken = Broken(lab, damages(how, how, how))
    async with broken as channel:
        prepared = BytesClient(channel).upload(REQUEST).transfer(source, parts=parts).on_transfer(told.append)
        result = await (await prepared.start()).wait()
    assert result.number == len(DATA)
    assert await stored(lab) == DATA
    assert broken.proxy.counts == {how: 3}
    # Of a source that comes once the total is told last, and all else may be the same by then.
    assert told == sorted(told, key=lambda each: (each.sent, each.committed, each.total is not None))
    assert told[-1] == (len(DATA),) * 3


async def test_an_outage_is_over_when_the_server_answers_again_not_when_all_is_sent(lab: BytesLab) -> None:
    told: list[str] = []
    back = asyncio.Event()

    class Heard:
        def lost(self, target: str, error: lc.CallError) -> None:
            told.append("lost")

        def back(self, target: str, seconds: float) -> None:
            told.append("back")
            back.set()

    async def source() -> AsyncIterator[bytes]:
        yield DATA[:MB]
        await asyncio.wait_for(back.wait(), 60)
        yield DATA[MB:]

    async with Broken(lab, iter([Damage(How.CUT, MB // 2)])) as channel:
        channel.outage.listener = Heard()
        await (await BytesClient(channel).upload(REQUEST).transfer(source()).start()).sent()
    assert await stored(lab) == DATA
    assert told == ["lost", "back"]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_breaks_the_bytes_are_the_same(lab: BytesLab, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def plan() -> Iterator[Damage | None]:
        for _ in range(5):
            how = chance.choice([How.CUT, How.HALVE, How.DUPLICATE])
            yield Damage(how, chance.randrange(2 * MB), down=chance.random() < 0.2)

    source, parts = source_of(chance.choice(["path", "once", "parts"]), tmp_path)
    async with Broken(lab, plan()) as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(source, parts=parts).start()
        await upload.wait()
    assert await stored(lab) == DATA


async def test_a_connection_that_stalls_is_noticed_and_left(lab: BytesLab) -> None:
    broken = Broken(lab, iter([Damage(How.STALL, MB)]), heartbeat_interval=0.1)
    async with broken as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(DATA).start()
        await upload.wait()
        # On a machine that is busy another one may be silent for as long.
        assert broken.proxy.connections >= 2
    assert await stored(lab) == DATA


async def test_a_server_that_takes_no_more_is_noticed(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    write, stuck = lab.engine.transfers.uploads.write, True

    async def hang(*arguments: Any) -> None:
        nonlocal stuck
        if stuck:
            stuck = False
            await asyncio.Event().wait()
        await write(*arguments)

    monkeypatch.setattr(lab.engine.transfers.uploads, "write", hang)
    pauses = Pauses()
    async with pauses.connect(lab.harness.address, heartbeat_interval=0.1) as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(DATA).start()
        await upload.wait()
    assert pauses, "and left, as often as there was silence on a machine that is busy"
    assert await stored(lab) == DATA


async def test_nothing_that_is_durable_is_sent_again(lab: BytesLab) -> None:
    offsets: list[tuple[int, int]] = []
    broken, half = Broken(lab, iter(())), 8 * CHUNK

    async def cut(call: int, offset: int) -> None:
        if (call, offset) == (1, half):
            await durable(lab, upload.operation.uid, half)
            broken.proxy.cut()

    async with broken as channel:
        channel.calls.upload = recorded(channel, offsets, cut)
        upload = await BytesClient(channel).upload(REQUEST).transfer(DATA).start()
        await upload.wait()
    assert [offset for call, offset in offsets if call == 1][:9] == list(range(0, half + 1, CHUNK))
    assert [offset for call, offset in offsets if call == 2] == list(range(half, len(DATA), CHUNK))
    assert await stored(lab) == DATA


async def nothing(call: int, offset: int) -> None:
    """Happens before a chunk is sent."""


def recorded(channel: Channel, offsets: list[tuple[int, int]], before: Any = nothing) -> Any:
    """The method Upload, with the offset of every chunk noted, by the number of the call; `before` it is sent."""
    rpc, count = channel.calls.upload, 0

    def begin(requests: AsyncIterator[bytes], **options: Any) -> Any:
        nonlocal count
        count += 1
        return rpc(noted(requests, count), **options)

    async def noted(requests: AsyncIterator[bytes], number: int) -> AsyncIterator[bytes]:
        async for request in requests:
            sent = UploadRequest.FromString(request)
            if sent.HasField("chunk"):
                offsets.append((number, sent.chunk.offset))
                await before(*offsets[-1])
            yield request

    return begin


class Halting:
    """The first half of the bytes, and the rest when `go` is set."""

    def __init__(self) -> None:
        self.half, self.go = asyncio.Event(), asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield DATA[: 2 * MB]
        self.half.set()
        await self.go.wait()
        yield DATA[2 * MB :]


async def durable(lab: BytesLab, uid: str, size: int) -> None:
    """Return once so many bytes of an upload are."""
    request = QueryUploadRequest(name=f"uploads/{uid}")
    while (await lab.transfers.QueryUpload(request)).committed_size < size:
        await lab.catch_up()


async def test_a_server_that_dies_is_waited_for(lab: BytesLab, near: Channel) -> None:
    halting = Halting()
    upload = await BytesClient(near).upload(REQUEST).transfer(halting.pieces()).start()
    await halting.half.wait()
    await lab.restart()
    halting.go.set()
    await upload.wait()
    assert await stored(lab) == DATA


@pytest.mark.parametrize("crash", [False, True])
async def test_another_program_goes_on_after_one_that_died(lab: BytesLab, tmp_path: Path, crash: bool) -> None:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    async with lc.connect(lab.harness.address) as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(Halting().pieces()).start()
        await durable(lab, upload.operation.uid, 2 * MB)
    if crash:
        await lab.restart()
    offsets: list[tuple[int, int]] = []
    async with lc.connect(lab.harness.address) as channel:
        channel.calls.upload = recorded(channel, offsets)
        again = await BytesClient(channel).upload.attach(upload.name).upload(path).start()
        assert (await again.wait()).number == len(DATA)
    assert offsets[0] == (1, 2 * MB)
    assert await stored(lab) == DATA


@pytest.mark.parametrize(
    ("source", "parts", "why"),
    [
        (pieces(b""), 1, "bytes that come only once, as from a pipe, cannot go on from there: send a file"),
        (b"short", 1, "there are only 5 to send"),
        (DATA, 16, "it was begun in another number of parts"),
    ],
)
async def test_what_cannot_go_on_is_refused(lab: BytesLab, near: Channel, source: Any, parts: int, why: str) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(Halting().pieces()).start()
    await durable(lab, upload.operation.uid, 2 * MB)
    with pytest.raises(lc.FailedPrecondition, match=why) as caught:
        await upload.operation.upload(source, parts=parts).start()
    assert caught.value.reason == "SOURCE_MISMATCH"


async def test_other_bytes_than_those_before_are_refused_at_the_end(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(Halting().pieces()).start()
    await durable(lab, upload.operation.uid, 2 * MB)
    again = await upload.operation.upload(bytes(len(DATA))).start()
    with pytest.raises(lc.FailedPrecondition) as caught:
        await again.wait()
    assert caught.value.reason == "DIGEST_MISMATCH"


@pytest.mark.parametrize("reason", ["WRONG_OFFSET", "CHUNK_CORRUPT"])
async def test_what_was_damaged_on_its_way_is_sent_again(lab: BytesLab, near: Channel, reason: str) -> None:
    rpc, damaged = near.calls.upload, False

    async def damage(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal damaged
        async for request in requests:
            sent = UploadRequest.FromString(request)
            if sent.chunk.offset == 4 * CHUNK and not damaged:
                damaged = True
                if reason == "WRONG_OFFSET":
                    sent.chunk.offset += 1
                else:
                    sent.chunk.data = bytes(CHUNK)
            yield sent.SerializeToString()

    near.calls.upload = lambda requests, **options: rpc(damage(requests), **options)
    upload = await BytesClient(near).upload(REQUEST).transfer(DATA).start()
    await upload.wait()
    assert damaged
    assert await stored(lab) == DATA


async def test_a_store_that_is_full_is_asked_again_when_it_says(
    lab: BytesLab, near: Channel, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    write, left = lab.engine.transfers.uploads.write, 2

    async def full(*arguments: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise ServiceError(Reason.STORE_FULL, "There is no room.", retry_after=7.0)
        await write(*arguments)

    lab.engine.transfers.uploads.write = full
    upload = await BytesClient(near).upload(REQUEST).transfer(DATA).start()
    await upload.wait()
    assert [pause >= 7 for pause in pauses] == [True, True]
    (warning,) = (record.getMessage() for record in caplog.records if record.name == "longshore_client")
    assert warning == f"{near.target} cannot write, trying again: There is no room. (STORE_FULL)", "it does answer"
    assert await stored(lab) == DATA


async def test_an_answer_that_is_lost_is_asked_for_again(lab: BytesLab, near: Channel) -> None:
    rpc, lost = near.calls.upload, 0

    class Lost:
        def __init__(self, call: Any) -> None:
            self._call = call

        def __getattr__(self, name: str) -> Any:
            return getattr(self._call, name)

        def __await__(self) -> Any:
            return self._answer().__await__()

        async def _answer(self) -> Any:
            nonlocal lost
            answer = await self._call
            if not lost:
                lost += 1
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
            return answer

    near.calls.upload = lambda requests, **options: Lost(rpc(requests, **options))
    upload = await BytesClient(near).upload(REQUEST).transfer(DATA).start()
    assert (await upload.sent()).committed_size == len(DATA)
    assert lost == 1


async def test_a_server_that_never_comes_back_is_given_up(lab: BytesLab) -> None:
    clock = itertools.count()
    retry = lc.Retry(timing=Timing(sleep=lambda seconds: asyncio.sleep(0), monotonic=lambda: next(clock) * 10.0))
    halting = Halting()
    async with lc.connect(lab.harness.address, retry=retry) as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(halting.pieces()).start()
        await halting.half.wait()
        await lab.harness.stop()
        halting.go.set()
        with pytest.raises(lc.Unavailable):
            await upload.sent()
    await lab.begin_anew()
