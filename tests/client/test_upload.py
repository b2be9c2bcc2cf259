"""Sending bytes: what can be sent, what is told meanwhile, and what is refused before and after the start."""

from __future__ import annotations

import asyncio
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_longshore import BytesClient
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayRequest, PlayResult

import longshore_client as lc
from longshore.v1.transfers_service_pb2 import QueryUploadRequest
from longshore_client import Channel, SendProgress, UploadState
from longshore_client.sources import Digest
from longshore_server import OperationError
from tests.client.carrying import CHUNK, MB, REQUEST, lab, near, pieces, some, stored
from tests.server.transfers.bytes_service import BytesLab

__all__ = ["lab", "near"]

SIZES = [0, 1, CHUNK + 1, 5 * MB]
SOURCES = ["bytes", "bytearray", "memoryview", "path", "file", "memory file", "async iterator", "iterable", "pipe"]


class Pipe(io.BytesIO):
    """A binary file that cannot go back."""

    def seekable(self) -> bool:
        return False


def source_of(kind: str, data: bytes, folder: Path) -> Any:
    path = folder / "source"
    path.write_bytes(data)
    return {
        "bytes": lambda: data, "bytearray": lambda: bytearray(data), "memoryview": lambda: memoryview(data),
        "path": lambda: path, "file": lambda: path.open("rb"), "memory file": lambda: io.BytesIO(data),
        "async iterator": lambda: pieces(data), "pipe": lambda: Pipe(data),
        "iterable": lambda: [data[at : at + 99_999] for at in range(0, len(data), 99_999)],
    }[kind]()  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_sent_is_what_is_stored(
    lab: BytesLab, near: Channel, tmp_path: Path, kind: str, size: int
) -> None:
    data = some(size)
    source = source_of(kind, data, tmp_path)
    upload = await BytesClient(near).upload(REQUEST).transfer(source).start()
    result = await upload.wait()
    assert (result.number, result.text) == (size, hashlib.sha256(data).hexdigest())
    sent = await upload.sent()
    assert (sent.state, sent.committed_size, sent.sha256) == (UploadState.COMMITTED, size, result.text)
    assert await stored(lab) == data
    if kind == "file":
        # It is the caller's, and stays open.
        source.close()


@pytest.mark.parametrize("parts", [2, 4, 64])
@pytest.mark.parametrize("size", [0, 1, 2 * CHUNK, 3 * CHUNK + 7, 5 * MB])
async def test_parts_are_sent_at_the_same_time_and_make_one_object(
    lab: BytesLab, near: Channel, parts: int, size: int
) -> None:
    data = some(size)
    upload = await BytesClient(near).upload(REQUEST).transfer(data, parts=parts).start()
    await upload.wait()
    grant = await upload.sent()
    assert len(grant.part_sizes) == max(1, min(parts, -(-size // CHUNK)) if size else 1)
    assert await stored(lab) == data


async def test_a_file_is_sent_from_where_it_stands(lab: BytesLab, near: Channel) -> None:
    file = io.BytesIO(b"head" + b"body" * 1000)
    file.seek(4)
    await (await BytesClient(near).upload(REQUEST).transfer(file).start()).wait()
    assert await stored(lab) == b"body" * 1000


async def test_both_kinds_of_progress_are_told_and_never_go_back(lab: BytesLab, near: Channel) -> None:
    bytes_told: list[SendProgress] = []
    told: list[str] = []

    async def show(progress: Any) -> None:
        told.append(progress.text)

    data = some(3 * MB)
    prepared = BytesClient(near).upload(REQUEST).transfer(data).on_transfer(bytes_told.append).on_progress(show)
    await (await prepared.start()).wait()
    assert told == [f"stored {3 * MB}"]
    assert bytes_told[0] == (0, 0, 3 * MB)
    assert bytes_told[-1] == (3 * MB, 3 * MB, 3 * MB)
    assert bytes_told == sorted(bytes_told)
    assert all(progress.committed <= progress.sent for progress in bytes_told)


async def test_reports_of_bytes_are_throttled(lab: BytesLab, near: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[SendProgress] = []
    monkeypatch.setattr(type(near), "monotonic", lambda channel: 0.0)
    await (await BytesClient(near).upload(REQUEST).transfer(some(5 * MB)).on_transfer(told.append).start()).wait()
    assert told == [(0, 0, 5 * MB), (5 * MB, 5 * MB, 5 * MB)], "the first, and the last"


async def test_a_total_that_nobody_knows_is_told_at_the_end(lab: BytesLab, near: Channel) -> None:
    told: list[SendProgress] = []
    await (await BytesClient(near).upload(REQUEST).transfer(pieces(some(MB))).on_transfer(told.append).start()).wait()
    assert (told[0].total, told[-1]) == (None, (MB, MB, MB))


@pytest.mark.parametrize("source", ["text", 7, None, [1, 2]])
async def test_what_is_no_bytes_is_refused(lab: BytesLab, near: Channel, source: Any) -> None:
    before = lab.tables()
    with pytest.raises(TypeError):
        await (await BytesClient(near).upload(REQUEST).transfer(source).start()).wait()
    if source != [1, 2]:
        assert lab.tables() == before


@pytest.mark.parametrize("parts", [0, 65, -1])
def test_a_number_of_parts_that_cannot_be_is_refused(parts: int) -> None:
    with pytest.raises(ValueError, match="parts must be 1 to 64"):
        BytesClient(lc.connect()).upload(REQUEST).transfer(b"", parts=parts)


async def test_nothing_is_started_for_a_source_that_cannot_be_sent(
    lab: BytesLab, near: Channel, tmp_path: Path
) -> None:
    before = lab.tables()
    upload = BytesClient(near).upload(REQUEST)
    with pytest.raises(FileNotFoundError):
        await upload.transfer(tmp_path / "missing").start()
    with pytest.raises(IsADirectoryError):
        await upload.transfer(tmp_path).start()
    with pytest.raises(ValueError, match="comes only once"):
        await upload.transfer(pieces(b"data"), parts=2).start()
    assert lab.tables() == before


async def test_a_start_without_its_bytes_is_an_error_before_any_call(lab: BytesLab, near: Channel) -> None:
    before = lab.tables()
    prepared: Any = BytesClient(near).upload(REQUEST)
    with pytest.raises(TypeError):
        await prepared
    with pytest.raises(AttributeError):
        await prepared.start()
    assert lab.tables() == before


async def test_a_start_without_bytes_can_be_wanted_and_the_bytes_come_later(lab: BytesLab, near: Channel) -> None:
    files = BytesClient(near)
    handle = await files.upload(REQUEST).start_without_bytes()
    grant = (await handle.get()).upload
    assert grant is not None
    assert (grant.name, grant.state, grant.committed_size) == (f"uploads/{handle.uid}", UploadState.OPEN, 0)
    upload = await files.upload.attach(handle.name).upload(b"later").start()
    assert (await upload.wait()).number == 5
    assert (await handle.wait()).number == 5


async def test_the_same_key_goes_on_with_the_same_operation(lab: BytesLab, near: Channel) -> None:
    start = BytesClient(near).upload(REQUEST, request_id="nightly-7")
    first = await start.transfer(b"same").start()
    assert (await first.wait()).number == 4
    # What is committed is compared, and not sent again.
    second = await start.transfer(b"same").start()
    assert (second.name, await second.sent()) == (first.name, await first.sent())
    third = await start.transfer(b"else").start()
    with pytest.raises(lc.FailedPrecondition) as caught:
        await third.sent()
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert (await third.wait()).number == 4, "the operation has completed all the same"


async def test_bytes_for_a_type_that_takes_none_are_refused(lab: BytesLab, near: Channel) -> None:
    handle = await LabClient(near).play(PlayRequest())
    with pytest.raises(lc.FailedPrecondition) as caught:
        await handle.upload(b"data").start()
    assert caught.value.reason == "NO_UPLOAD"


async def test_a_refusal_is_raised_at_once_where_the_operation_would_wait_in_vain(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).small(REQUEST).transfer(bytes(1001)).start()
    with pytest.raises(lc.ResourceExhausted) as caught:
        await upload.wait()
    assert caught.value.reason == "UPLOAD_TOO_LARGE"
    assert (await upload.operation.get()).state is lc.State.RUNNING, "nothing is aborted by that"
    with pytest.raises(lc.ResourceExhausted):
        await upload.sent()


async def test_an_operation_that_fails_for_its_bytes_raises_why_they_did_not_come(lab: BytesLab, near: Channel) -> None:
    release = asyncio.Event()

    async def slowly() -> Any:
        yield b"begin"
        await release.wait()

    upload = await BytesClient(near).small(REQUEST).transfer(slowly()).start()
    name = upload.operation.uid
    await lab.reached(upload.name, "started")
    # The first byte is durable, and then nothing comes for a minute.
    while (await lab.transfers.QueryUpload(query(name))).committed_size < 5:
        await lab.catch_up()
    lab.clock.advance(61)
    with pytest.raises(lc.FailedPrecondition) as caught:
        await upload.wait()
    assert caught.value.reason == "UPLOAD_EXPIRED"
    assert isinstance(caught.value.__cause__, lc.OperationFailed)


def query(uid: str) -> Any:
    return QueryUploadRequest(name=f"uploads/{uid}")


async def test_an_operation_that_fails_for_reasons_of_its_own_says_those(lab: BytesLab, near: Channel) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        raise OperationError("OUT_OF_PAPER", "no paper left")

    upload = await BytesClient(near).upload(REQUEST).transfer(never()).start()
    with pytest.raises(lc.OperationFailed) as caught:
        await upload.wait()
    assert caught.value.reason == "OUT_OF_PAPER"


async def never() -> Any:
    """A source that has nothing and does not end."""
    await asyncio.Event().wait()
    yield b""


async def test_an_operation_that_is_cancelled_ends_the_sending(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(never()).start()
    await lab.reached(upload.name, "started")
    await upload.operation.cancel()
    with pytest.raises(lc.OperationCancelled):
        await upload.wait()
    with pytest.raises(lc.FailedPrecondition) as caught:
        await upload.sent()
    assert caught.value.reason == "UPLOAD_ABORTED"


async def test_an_operation_that_needs_no_bytes_completes_without_them(lab: BytesLab, near: Channel) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        return PlayResult(number=1)

    upload = await BytesClient(near).upload(REQUEST).transfer(never()).start()
    assert (await upload.wait()).number == 1


async def test_a_source_that_fails_ends_the_sending_with_its_own_error(lab: BytesLab, near: Channel) -> None:
    async def failing() -> Any:
        yield b"begin"
        raise ConnectionResetError("the camera is gone")

    upload = await BytesClient(near).upload(REQUEST).transfer(failing()).start()
    with pytest.raises(ConnectionResetError, match="camera"):
        await upload.wait()
    assert (await upload.operation.get()).state is lc.State.RUNNING


async def test_a_file_that_shrinks_meanwhile_is_an_error(lab: BytesLab, near: Channel, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(some(5 * MB))

    def shrink(progress: SendProgress) -> None:
        path.write_bytes(b"")

    upload = await BytesClient(near).upload(REQUEST).transfer(path).on_transfer(shrink).start()
    with pytest.raises(OSError, match="has fewer now"):
        await upload.wait()


@pytest.mark.parametrize("which", ["on_transfer", "on_progress"])
async def test_what_a_callback_raises_is_raised_by_wait(lab: BytesLab, near: Channel, which: str) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a mistake")

    prepared = BytesClient(near).upload(REQUEST).transfer(b"data")
    with pytest.raises(ZeroDivisionError):
        await (await getattr(prepared, which)(fail).start()).wait()


async def test_a_wait_that_is_over_leaves_the_sending_alone(lab: BytesLab, near: Channel) -> None:
    go = asyncio.Event()

    async def slowly() -> Any:
        await go.wait()
        yield b"data"

    upload = await BytesClient(near).upload(REQUEST).transfer(slowly()).start()
    with pytest.raises(lc.StillRunning) as caught:
        await upload.wait(timeout=0.01)
    assert caught.value.operation == upload.name
    go.set()
    assert (await upload.wait()).number == 4


async def test_a_digest_of_the_server_that_differs_is_data_loss(
    lab: BytesLab, near: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = type("Wrong", (Digest,), {"sha256": property(lambda self: b"")})
    monkeypatch.setattr("longshore_client.sending.Digest", digest)
    upload = await BytesClient(near).upload(REQUEST).transfer(b"data").start()
    with pytest.raises(lc.DataLoss) as caught:
        await upload.sent()
    assert caught.value.reason == "DIGEST_MISMATCH"


async def test_another_callers_program_takes_the_upload_over(lab: BytesLab, near: Channel) -> None:
    begun = asyncio.Event()

    async def half() -> Any:
        yield b"half"
        begun.set()
        await asyncio.Event().wait()

    first = await BytesClient(near).upload(REQUEST).transfer(half()).start()
    await begun.wait()
    while not (await lab.transfers.QueryUpload(query(first.operation.uid))).committed_size:
        await lab.catch_up()
    async with lc.connect(lab.harness.address) as other:
        second = await BytesClient(other).upload.attach(first.name).upload(b"half and half").start()
        assert (await second.wait()).number == 13
    assert await stored(lab) == b"half and half"
    with pytest.raises(lc.Aborted) as caught:
        await first.sent()
    assert caught.value.reason == "UPLOAD_PREEMPTED"
    assert (await first.wait()).number == 13, "somebody has sent them"


async def test_the_events_of_bytes_are_seen_by_a_watch_and_in_snapshots(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(b"data").start()
    await upload.wait()
    seen = [event async for event in upload.operation.watch(types=[lc.Transfer])]
    last = [event.upload for event in seen if isinstance(event, lc.Transfer)][-1]
    assert (last.state, last.committed_size, last.total_size) == (UploadState.COMMITTED, 4, 4)
    snapshot = await upload.operation.get()
    assert snapshot.upload == await upload.sent() == last
    assert snapshot.upload.sha256 == hashlib.sha256(b"data").hexdigest()


async def test_closing_the_channel_ends_the_sending(lab: BytesLab) -> None:
    async with lc.connect(lab.harness.address) as channel:
        upload = await BytesClient(channel).upload(REQUEST).transfer(never()).start()
        sent = asyncio.create_task(upload.sent())
        await lab.reached(upload.name, "started")
    with pytest.raises(lc.CallCancelled) as caught:
        await sent
    assert caught.value.reason == "CHANNEL_CLOSED"
