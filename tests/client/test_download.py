"""Fetching bytes: into files and chunk by chunk, over connections that break, and never anything that is not whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_longshore import BytesClient
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayResult

import longshore_client as lc
from longshore.v1.transfers_service_pb2 import DownloadResponse
from longshore_client import Channel, OperationHandle, ReceiveProgress
from tests.client.carrying import MB, Broken, lab, near, some
from tests.proxy import Damage, How
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import CHUNK

__all__ = ["lab", "near"]

DATA = some(3 * MB + 7)
Handle = OperationHandle[Any, Any, Any]


async def offering(
    lab: BytesLab, channel: Channel, data: bytes = DATA, type: str = "offer", max_uses: int | None = None
) -> Handle:
    """An operation that has offered these bytes as `report.pdf`, and has ended."""

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await lab.server.stores["exports"].put("reports/1", data, content_type="application/pdf")
        await op.transfer.offer("reports/1", filename="report.pdf", max_uses=max_uses)
        return PlayResult()

    handle: Handle = await getattr(BytesClient(channel), type)(BytesRequest(key="reports/1"))
    await handle.wait()
    return handle


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * MB])
async def test_what_is_offered_is_what_is_fetched(lab: BytesLab, near: Channel, tmp_path: Path, size: int) -> None:
    data = some(size)
    handle = await offering(lab, near, data)
    path = tmp_path / "report.pdf"
    grant = await handle.download(path)
    assert path.read_bytes() == data
    assert (grant.size, grant.filename, grant.content_type) == (size, "report.pdf", "application/pdf")
    assert grant.sha256 == hashlib.sha256(data).hexdigest()
    assert not path.with_name("report.pdf.part").exists()
    assert b"".join([chunk async for chunk in handle.open()]) == data
    await handle.download(str(tmp_path / "by its text"))
    assert (tmp_path / "by its text").read_bytes() == data
    file = io.BytesIO(b"head")
    file.seek(4)
    await handle.download(file, grant.name)
    assert file.getvalue() == b"head" + data


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_pipe_or_a_device_is_written_to_and_stays_what_it_is(
    lab: BytesLab, near: Channel, tmp_path: Path
) -> None:
    handle = await offering(lab, near, DATA[:1000])
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        await handle.download(path)
        assert os.read(reader, 2000) == DATA[:1000]
    finally:
        os.close(reader)
    assert path.is_fifo()
    assert names(tmp_path) == {"data", "pipe"}


async def test_a_folder_is_refused_before_anything_is_fetched(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near)
    told: list[ReceiveProgress] = []
    (tmp_path / "here").mkdir()
    with pytest.raises(IsADirectoryError):
        await handle.download(tmp_path / "here", on_transfer=told.append)
    assert told == []
    assert names(tmp_path) == {"data", "here"}


async def test_what_is_offered_is_listed_and_watched(lab: BytesLab, near: Channel) -> None:
    handle = await offering(lab, near)
    (grant,) = await handle.downloads()
    assert (grant.name, grant.filename, grant.size) == (f"downloads/{handle.uid}.1", "report.pdf", len(DATA))
    seen = [event async for event in handle.watch(types=[lc.Offered])]
    assert [event.download for event in seen if isinstance(event, lc.Offered)] == [grant]


async def test_a_place_in_the_middle_can_be_the_beginning(lab: BytesLab, near: Channel) -> None:
    handle = await offering(lab, near)
    assert b"".join([chunk async for chunk in handle.open(offset=1000)]) == DATA[1000:]
    assert [chunk async for chunk in handle.open(offset=len(DATA))] == []
    with pytest.raises(lc.OutOfRange) as caught:
        [chunk async for chunk in handle.open(offset=len(DATA) + 1)]
    assert caught.value.reason == "OFFSET_OUT_OF_RANGE"


async def test_how_far_it_has_come_is_told(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near)
    told: list[ReceiveProgress] = []
    await handle.download(tmp_path / "x", on_transfer=told.append)
    assert told == sorted(told)
    assert told[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize("how", [How.CUT, How.HALVE, How.DUPLICATE, How.STALL])
async def test_a_broken_connection_is_gone_on_with(lab: BytesLab, near: Channel, tmp_path: Path, how: How) -> None:
    # Two uses at most: all calls of one download are one.
    handle = await offering(lab, near, type="ticket")
    plan = iter([Damage(how, 200 + 700_000 * number, down=True) for number in range(3)])
    options = {"heartbeat_interval": 0.1} if how is How.STALL else {}
    broken = Broken(lab, plan, **options)
    async with broken as channel:
        path = tmp_path / "x"
        await BytesClient(channel).ticket.attach(f"operations/{handle.uid}").download(path, f"downloads/{handle.uid}.1")
    assert path.read_bytes() == DATA
    assert broken.proxy.counts == {how: 3}


async def test_nothing_is_fetched_twice(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near)
    requests = noted(near)
    (tmp_path / "x.part").write_bytes(DATA[:MB])
    await handle.download(tmp_path / "x")
    assert [request.offset for request in requests] == [MB]
    assert (tmp_path / "x").read_bytes() == DATA
    (tmp_path / "x.part").write_bytes(DATA[:MB])
    await handle.download(tmp_path / "x", resume=False)
    assert [request.offset for request in requests] == [MB, 0]
    assert (tmp_path / "x").read_bytes() == DATA


def noted(channel: Channel) -> list[Any]:
    """The requests of the method Download, from here on."""
    requests: list[Any] = []
    rpc = channel.calls.download

    def download(request: Any, **options: Any) -> Any:
        requests.append(request)
        return rpc(request, **options)

    channel.calls.download = download
    return requests


@pytest.mark.parametrize("stale", [bytes(MB), DATA + b"more", bytes(len(DATA))], ids=["other", "longer", "complete"])
async def test_a_part_of_something_else_is_begun_again(
    lab: BytesLab, near: Channel, tmp_path: Path, stale: bytes
) -> None:
    handle = await offering(lab, near)
    (tmp_path / "x.part").write_bytes(stale)
    await handle.download(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert not (tmp_path / "x.part").exists()


async def test_a_part_is_not_gone_on_with_where_nobody_knows_the_digest(
    lab: BytesLab, near: Channel, tmp_path: Path
) -> None:
    handle = await offering(lab, near)
    damaged(near, forget)
    (tmp_path / "x.part").write_bytes(DATA[:MB])
    await handle.download(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def forget(message: Any, count: int) -> None:
    if message.HasField("header"):
        message.header.download.ClearField("digests")


def damaged(channel: Channel, damage: Callable[[Any, int], None]) -> None:
    """Let the messages of the method Download be changed on their way; `damage` gets the number of each."""
    rpc, count = channel.calls.download, 0

    class Damaged:
        def __init__(self, call: Any) -> None:
            self._call = call

        def __getattr__(self, name: str) -> Any:
            return getattr(self._call, name)

        async def __aiter__(self) -> AsyncIterator[DownloadResponse]:
            nonlocal count
            async for message in self._call:
                count += 1
                damage(message, count)
                yield message

    channel.calls.download = lambda request, **options: Damaged(rpc(request, **options))


def once(message: Any, count: int) -> None:
    if count == 3:
        message.chunk.data = bytes(CHUNK)


def moved(message: Any, count: int) -> None:
    if count == 3:
        message.chunk.offset += 1


@pytest.mark.parametrize("damage", [once, moved])
async def test_a_chunk_that_was_damaged_is_fetched_again(
    lab: BytesLab, near: Channel, tmp_path: Path, damage: Any
) -> None:
    handle = await offering(lab, near)
    damaged(near, damage)
    await handle.download(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def end(message: Any, count: int) -> None:
    if message.HasField("end"):
        message.end.crc32c += 1


def whole(message: Any, count: int) -> None:
    if message.HasField("header"):
        message.header.download.digests.sha256 = bytes(32)


@pytest.mark.parametrize("damage", [end, whole])
async def test_what_is_not_whole_is_no_file(lab: BytesLab, near: Channel, tmp_path: Path, damage: Any) -> None:
    handle = await offering(lab, near)
    damaged(near, damage)
    path = tmp_path / "x"
    path.write_bytes(b"before")
    with pytest.raises(lc.DataLoss) as caught:
        await handle.download(path)
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert path.read_bytes() == b"before"
    assert not (tmp_path / "x.part").exists()


async def test_what_is_refused_leaves_the_part_for_later(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near, type="ticket")
    (tmp_path / "x.part").write_bytes(DATA[:MB])
    lab.clock.advance(61)
    with pytest.raises(lc.FailedPrecondition) as caught:
        await handle.download(tmp_path / "x")
    assert caught.value.reason == "DOWNLOAD_EXPIRED"
    assert (tmp_path / "x.part").read_bytes() == DATA[:MB]


async def test_what_is_not_offered_is_not_found(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near)
    for wrong in (2, f"downloads/{handle.uid}.2"):
        with pytest.raises(lc.NotFound) as caught:
            await handle.download(tmp_path / "x", wrong)
        assert caught.value.reason == "DOWNLOAD_NOT_FOUND"


async def test_two_objects_never_become_one_file(lab: BytesLab, near: Channel) -> None:
    store = lab.server.stores["exports"]
    await store.put("reports/1", DATA)
    handle = await BytesClient(near).export(BytesRequest(key="reports/1"))
    broken = Broken(lab, iter([Damage(How.STALL, MB, down=True)]))
    async with broken as channel:
        stream = BytesClient(channel).export.attach(handle.name).open()
        await anext(stream)
        await broken.proxy.stalled.wait()
        await store.put("reports/1", bytes(len(DATA)))
        broken.proxy.go_on()
        with pytest.raises(lc.FailedPrecondition) as caught:
            [chunk async for chunk in stream]
    assert caught.value.reason == "DOWNLOAD_CHANGED"


async def test_a_part_that_becomes_the_file_before_it_is_locked_is_left_alone(
    lab: BytesLab, near: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, path, tries = fcntl.flock, tmp_path / "x", []

    def late(file: Any, how: int) -> None:
        tries.append(how)
        if len(tries) == 1:
            path.with_name("x.part").replace(path)  # as another download that has come to its end
        lock(file, how)

    handle = await offering(lab, near)
    monkeypatch.setattr(fcntl, "flock", late)
    await handle.download(path)
    assert path.read_bytes() == DATA
    assert (len(tries), names(tmp_path)) == (2, {"data", "x"})


async def test_a_file_system_without_locks_does_without(
    lab: BytesLab, near: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    handle = await offering(lab, near)
    monkeypatch.setattr(fcntl, "flock", none)
    await handle.download(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


async def test_beginning_again_after_a_part_of_something_else_is_no_second_use(
    lab: BytesLab, near: Channel, tmp_path: Path
) -> None:
    handle = await offering(lab, near, max_uses=1)
    (tmp_path / "report.pdf.part").write_bytes(bytes(1000))
    await handle.download(tmp_path / "report.pdf", resume=True)
    assert (tmp_path / "report.pdf").read_bytes() == DATA
    with pytest.raises(lc.ResourceExhausted) as caught:
        await handle.download(tmp_path / "again.pdf")
    assert caught.value.reason == "DOWNLOAD_USED_UP"


async def test_two_downloads_into_one_file_are_not_mixed(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    handle = await offering(lab, near)
    path = tmp_path / "report.pdf"

    async def meanwhile(progress: ReceiveProgress) -> None:
        for resume in (False, True):
            with pytest.raises(BlockingIOError, match="another download writes to it"):
                await handle.download(path, resume=resume)

    await handle.download(path, on_transfer=meanwhile)
    assert path.read_bytes() == DATA
    await handle.download(path, resume=True)
    assert path.read_bytes() == DATA


async def test_a_reader_that_leaves_ends_the_call(lab: BytesLab, near: Channel) -> None:
    handle = await offering(lab, near)
    stream = handle.open()
    assert await anext(stream) == DATA[:CHUNK]
    await stream.aclose()
    assert not near.streams


async def test_a_server_that_dies_is_waited_for(lab: BytesLab, near: Channel) -> None:
    handle = await offering(lab, near, some(20 * MB))
    got = bytearray()
    async for chunk in handle.open():
        got += chunk
        if len(got) == CHUNK:
            await lab.restart()
    assert bytes(got) == some(20 * MB)
