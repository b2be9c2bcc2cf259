"""Uploads where several things happen at once, or something that must not happen does."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore_server.clock import SECOND
from longshore_server.transfers import files, staging
from longshore_server.transfers.sending import OVERHEAD
from longshore_server.transfers.staging import StagedPart
from longshore_server.transfers.threads import in_thread
from tests.conftest import reason_of_end, refused, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, chunks, commit, header, send
from tests.server.transfers.uploading import DATA, State, sending, staged, stored, waiting


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def query(lab: BytesLab, name: str) -> Any:
    return await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))


async def test_who_goes_while_its_file_is_opened_leaves_it_closed(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await waiting(lab)
    name = operation.upload.name

    here, over = asyncio.Event(), asyncio.Event()
    begin = lab.engine.transfers.uploads._begin

    async def slow(function: Any, *arguments: Any) -> Any:
        await in_thread(function, *arguments)
        here.set()
        await asyncio.Event().wait()  # until the caller goes

    async def begins(*arguments: Any) -> Any:
        try:
            return await begin(*arguments)
        finally:
            over.set()

    await query(lab, name)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(files, "in_thread", slow)
        patch.setattr(lab.engine.transfers.uploads, "_begin", begins)
        call = lab.transfers.Upload()
        await call.write(header(name))
        await here.wait()
        assert descriptors() == before + 1
        call.cancel()
        await over.wait()
    assert descriptors() == before
    done = await send(lab.transfers, header(name), chunks(DATA), commit(DATA))
    assert done.state == State.STATE_COMMITTED


async def test_a_commit_under_way_is_not_overtaken_by_the_expiry(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    here, on = asyncio.Event(), threading.Event()
    loop, digests = asyncio.get_running_loop(), StagedPart.digests

    def hashes(part: StagedPart) -> staging.Digests:
        loop.call_soon_threadsafe(here.set)
        on.wait()
        return digests(part)

    monkeypatch.setattr(StagedPart, "digests", hashes)
    committing = asyncio.ensure_future(send(lab.transfers, header(name), chunks(DATA), commit(DATA)))
    await here.wait()
    lab.clock.advance(3601)
    await lab.catch_up_beside()
    on.set()
    assert (await committing).state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA


async def test_only_bytes_give_an_upload_more_time(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunk(0, b"abc"))
    due = lab.clock.now() + 3600 * SECOND
    lab.clock.advance(1000)
    got = await send(lab.transfers, header(name, total=10_000), chunk(3, b""))
    assert (got.total_size, got.expire_time.ToMicroseconds()) == (10_000, due)
    got = await send(lab.transfers, header(name), chunk(3, b"d"))
    assert got.expire_time.ToMicroseconds() == due + 1000 * SECOND


async def test_a_total_that_is_less_than_what_has_come_is_refused(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunk(0, b"abc"))
    code, reason, _ = await refused(send(lab.transfers, header(name, total=2), chunk(3, b"d")))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIZE_MISMATCH")


async def test_the_parts_of_an_upload_tell_of_it_together(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    await asyncio.gather(*(send(lab.transfers, header(name, part), chunk(0, bytes(100))) for part in range(20)))
    await send(lab.transfers, header(name), commit(bytes(2000)))
    told = [event for event in await lab.events(operation.name) if event.WhichOneof("event") == "transfer"]
    assert len(told) == 2  # the first bytes, and the end


async def test_empty_chunks_wait_for_the_disk_as_well(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end to what is waiting they would fill the memory of a server whose disk is slow."""
    operation = await waiting(lab)
    name = operation.upload.name
    here, on = asyncio.Event(), threading.Event()
    loop, write = asyncio.get_running_loop(), StagedPart.write

    def writes(part: StagedPart, pieces: Any) -> None:
        loop.call_soon_threadsafe(here.set)
        on.wait()
        write(part, pieces)

    monkeypatch.setattr(StagedPart, "write", writes)
    call = lab.transfers.Upload()
    await call.write(header(name))
    await call.write(chunk(0, b"a"))
    await here.wait()
    (entry,) = lab.engine.transfers.uploads._open.values()
    (at_server,) = entry.sendings.values()
    try:
        empty = at_server._turns.ahead // OVERHEAD
        more = [asyncio.ensure_future(at_server.write(b"", None)) for _ in range(empty)]
        await lab.catch_up_beside()
        assert not more[-1].done()
    finally:
        on.set()
    await asyncio.gather(*more)
    await call.write(commit(b"a"))
    assert (await call).upload.state == State.STATE_COMMITTED


async def test_a_part_may_commit_what_a_broken_call_has_left(lab: BytesLab) -> None:
    """The call that had the first part is taken over by the commit of another part's call."""
    operation = await waiting(lab)
    name = operation.upload.name
    first = await sending(lab, name, b"abc")
    done = await send(lab.transfers, header(name, 1), commit(b"abc"))
    assert done.state == State.STATE_COMMITTED
    assert (await refused(first))[1] in ("UPLOAD_PREEMPTED", "UPLOAD_COMMITTED")
    assert stored(lab).read_bytes() == b"abc"


async def test_parts_that_cannot_be_put_together_leave_nothing_behind(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    for part in range(2):
        await send(lab.transfers, header(name, part), chunk(0, bytes(1000)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, reason, _ = await refused(send(lab.transfers, header(name), commit(bytes(2000))))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    assert [file.rpartition(".")[2] for file in staged(lab)] == ["0", "1"]
    assert (await send(lab.transfers, header(name), commit(bytes(2000)))).state == State.STATE_COMMITTED


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "no space left")


async def test_bytes_that_the_disk_has_lost_end_the_upload(lab: BytesLab) -> None:
    """Nothing that comes after them could make the object whole, and nobody is asked to try for ever."""
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunks(DATA[:3000]))
    (file,) = staged(lab)
    await lab.harness.crash()
    stored(lab, f".longshore/staging/{file}").write_bytes(b"short")
    await lab.begin_anew()
    code, reason, _ = await refused(send(lab.transfers, header(name), chunks(DATA, offset=3000)))
    assert (code, reason) == (grpc.StatusCode.DATA_LOSS, "OBJECT_CORRUPT")
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert reason_of_end(ended) == "OBJECT_CORRUPT"
    await lab.settled()
    assert staged(lab) == []


@pytest.mark.parametrize(("where", "function", "parts"), [(StagedPart, "open", 1), (staging, "join", 2)])
async def test_bytes_that_go_with_their_upload_are_not_lost(
    where: Any, function: str, parts: int, lab: BytesLab, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Given up while a call opens its file, or while its parts are put together."""
    operation = await waiting(lab)
    name = operation.upload.name
    for part in range(parts):
        await send(lab.transfers, header(name, part), chunks(DATA))
    here, on = asyncio.Event(), threading.Event()
    loop, reads = asyncio.get_running_loop(), getattr(where, function)

    def late(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(here.set)
        on.wait()
        return reads(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, function, late)
        calling = asyncio.ensure_future(send(lab.transfers, header(name), commit(DATA * parts)))
        await here.wait()
        await lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=name))
        while staged(lab):
            await lab.catch_up_beside()
        on.set()
        assert (await refused(calling))[1] == "UPLOAD_ABORTED"
    assert [entry.message for entry in caplog.records if entry.name == files.__name__] == []


async def test_a_folder_that_is_away_ends_nothing(lab: BytesLab) -> None:
    """An unmounted disk is no loss: the upload goes on once it is back."""
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunks(DATA[:3000]))
    root = lab.data / "stores" / "uploads"
    root.rename(root.with_name("away"))
    code, reason, _ = await refused(send(lab.transfers, header(name), chunks(DATA, offset=3000)))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    root.with_name("away").rename(root)
    done = await send(lab.transfers, header(name), chunks(DATA, offset=3000), commit(DATA))
    assert done.state == State.STATE_COMMITTED


async def test_a_call_keeps_nothing_of_a_write_that_has_failed(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """But that it has: it may go on to send for as long as it likes."""

    class Kept:
        """Something that a frame holds."""

    name, held = (await waiting(lab)).upload.name, list[weakref.ref[Kept]]()

    def fails(_: StagedPart, chunks: Any) -> None:
        kept = Kept()
        held.append(weakref.ref(kept))
        raise OSError(errno.ENOSPC, "full")

    call = await sending(lab, name, b"abc")
    (upload,) = lab.engine.transfers.uploads._open.values()
    monkeypatch.setattr(StagedPart, "write", fails)
    await call.write(chunk(3, b"def"))
    while upload.sendings[0]._failure is None:
        await turns()
    # The thread that wrote lets go of its frame a moment after it has told.
    while any(kept() is not None for kept in held):
        await turns()
    await call.write(chunk(6, b"ghi"))
    assert (await refused(call))[1] == "STORE_FULL"
