"""Bytes that callers send, over the wire: sent, broken off, gone on with, committed."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import google_crc32c
import grpc
import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore_server.clock import SECOND
from longshore_server.transfers.staging import ALIKE, JOINED, Digests, StagedPart
from tests.conftest import refused
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, chunks, commit, header, send, upload
from tests.server.transfers.uploading import DATA, State, staged, stored, waiting


async def test_an_upload_is_granted_with_the_start(lab: BytesLab) -> None:
    operation = await waiting(lab)
    grant = operation.upload
    assert grant.name == f"uploads/{operation.uid}"
    assert (grant.state, grant.committed_size, grant.max_chunk_bytes) == (State.STATE_OPEN, 0, 1 << 20)
    assert grant.expire_time.ToMicroseconds() == operation.create_time.ToMicroseconds() + 3600 * SECOND
    assert list(grant.part_sizes) == [0]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 10_240])
async def test_bytes_become_an_object(lab: BytesLab, size: int) -> None:
    operation, data = await waiting(lab), DATA[:size]
    done = await upload(lab.transfers, operation.upload.name, data)
    assert (done.state, done.committed_size, done.total_size) == (State.STATE_COMMITTED, size, size)
    assert done.digests.sha256 == hashlib.sha256(data).digest()
    assert done.digests.crc32c == google_crc32c.value(data)
    assert not done.HasField("expire_time")
    assert stored(lab).read_bytes() == data
    assert staged(lab) == []
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    result = PlayResult()
    assert ended.result.Unpack(result)
    assert result.text == f"files/report.pdf {size} {hashlib.sha256(data).hexdigest()}"
    assert ended.upload == done


async def test_the_checksums_of_equal_chunks_make_that_of_the_object(lab: BytesLab) -> None:
    operation, data = await waiting(lab), random.Random(1).randbytes((ALIKE + 3) * JOINED + 1)
    done = await upload(lab.transfers, operation.upload.name, data, size=JOINED)
    assert done.digests.crc32c == google_crc32c.value(data)
    assert done.digests.sha256 == hashlib.sha256(data).digest()


async def test_single_bytes_are_chunks_too(lab: BytesLab) -> None:
    operation, data = await waiting(lab), DATA[:2000]
    done = await upload(lab.transfers, operation.upload.name, data, size=1)
    assert done.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == data


async def test_what_is_acknowledged_is_gone_on_with_from_another_connection_and_server(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    got = await send(lab.transfers, header(name), chunks(DATA[:3000]))
    assert (got.state, got.committed_size) == (State.STATE_OPEN, 3000)
    channel, other = await lab.connection()
    async with channel:
        got = await send(other, header(name), chunks(DATA[:5500], offset=3000))
    assert got.committed_size == 5500
    await lab.restart()
    got = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert (got.state, got.committed_size) == (State.STATE_OPEN, 5500)
    done = await send(lab.transfers, header(name), chunks(DATA, offset=5500), commit(DATA))
    assert done.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA


async def test_what_was_never_acknowledged_is_cut_off_after_a_crash(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunks(DATA[:3000]))
    (file,) = staged(lab)
    path = stored(lab, ".longshore/staging") / file
    await lab.harness.crash()
    path.write_bytes(path.read_bytes() + b"never acknowledged")
    await lab.begin_anew()
    done = await send(lab.transfers, header(name), chunks(DATA, offset=3000), commit(DATA))
    assert done.digests.sha256 == hashlib.sha256(DATA).digest()
    assert stored(lab).read_bytes() == DATA


async def test_the_last_call_has_the_upload(lab: BytesLab) -> None:
    """A call that still holds it is ended, and what it had sent by then is kept."""
    operation = await waiting(lab)
    name = operation.upload.name
    stale = lab.transfers.Upload()
    await stale.write(header(name))
    for request in chunks(DATA[:4000]):
        await stale.write(request)
    # Counted while it goes on: the server has all of it.
    while (await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).committed_size < 4000:
        pass
    done = await send(lab.transfers, header(name), chunks(DATA, offset=4000), commit(DATA))
    assert done.state == State.STATE_COMMITTED
    code, reason, _ = await refused(stale)
    assert (code, reason) == (grpc.StatusCode.ABORTED, "UPLOAD_PREEMPTED")
    assert stored(lab).read_bytes() == DATA


async def test_who_goes_while_it_takes_over_leaves_the_part_to_the_last_call(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that one has sent is still being written: the next call waits for it, and does not cut it off."""
    operation = await waiting(lab)
    name, uploads = operation.upload.name, lab.engine.transfers.uploads
    here, on, gone, third = asyncio.Event(), threading.Event(), asyncio.Event(), asyncio.Event()
    loop, write, begin, taken = asyncio.get_running_loop(), StagedPart.write, uploads._begin, asyncio.Event()
    take_over = uploads._take_over

    def writes(part: StagedPart, pieces: Any) -> None:
        loop.call_soon_threadsafe(here.set)
        on.wait()
        write(part, pieces)

    async def begins(*arguments: Any) -> Any:
        try:
            found = await begin(*arguments)
        except asyncio.CancelledError:
            gone.set()
            raise
        if gone.is_set():
            third.set()
        return found

    async def takes_over(*arguments: Any) -> None:
        (third if gone.is_set() else taken).set()
        await take_over(*arguments)

    async def held() -> AsyncIterator[transfers_pb2.UploadRequest]:
        yield header(name)
        yield chunk(0, DATA[:3000])
        await third.wait()

    monkeypatch.setattr(StagedPart, "write", writes)
    monkeypatch.setattr(uploads, "_begin", begins)
    monkeypatch.setattr(uploads, "_take_over", takes_over)
    first = asyncio.ensure_future(lab.transfers.Upload(held()))
    await here.wait()
    second = lab.transfers.Upload(iter([header(name)]))
    await taken.wait()
    second.cancel()
    await gone.wait()
    last = asyncio.ensure_future(send(lab.transfers, header(name), chunks(DATA, offset=3000), commit(DATA)))
    await third.wait()
    on.set()
    assert (await last).state == State.STATE_COMMITTED
    assert (await refused(first))[1] == "UPLOAD_PREEMPTED"
    assert stored(lab).read_bytes() == DATA


async def test_a_commit_can_be_repeated(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    done = await upload(lab.transfers, name, DATA)
    assert await send(lab.transfers, header(name), commit(DATA)) == done
    assert await send(lab.transfers, header(name), commit(DATA, sha256=False)) == done
    assert await send(lab.transfers, header(name)) == done
    for request, wanted in (
        (commit(DATA[:-1]), "SIZE_MISMATCH"),
        (commit(DATA, sha256=bytes(32)), "DIGEST_MISMATCH"),
        (chunk(0, b"more"), "UPLOAD_COMMITTED"),
    ):
        code, reason, _ = await refused(send(lab.transfers, header(name), request))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, wanted)
    await lab.restart()
    assert await send(lab.transfers, header(name), commit(DATA)) == done


async def test_two_that_commit_at_once_are_both_answered(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose answer was lost repeats the commit while the first one is still under way."""
    operation = await waiting(lab)
    name = operation.upload.name
    await send(lab.transfers, header(name), chunks(DATA))
    here, on, waits = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, uploads = asyncio.get_running_loop(), lab.engine.transfers.uploads
    real, begin = StagedPart.digests, uploads._begin

    def digests(part: StagedPart) -> Digests:
        loop.call_soon_threadsafe(here.set)
        on.wait()
        return real(part)

    async def begins(*arguments: Any) -> Any:
        if here.is_set():
            waits.set()
        return await begin(*arguments)

    monkeypatch.setattr(StagedPart, "digests", digests)
    monkeypatch.setattr(uploads, "_begin", begins)
    first = asyncio.ensure_future(send(lab.transfers, header(name), commit(DATA)))
    await here.wait()
    second = asyncio.ensure_future(send(lab.transfers, header(name), commit(DATA)))
    await waits.wait()
    on.set()
    done = await first
    assert done.state == State.STATE_COMMITTED
    assert await second == done


async def test_parts_are_sent_at_the_same_time(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    parts = [DATA[:5000], b"", DATA[5000:7001], DATA[7001:]]
    got = await asyncio.gather(
        *(send(lab.transfers, header(name, part), chunks(data)) for part, data in enumerate(parts))
    )
    assert {each.state for each in got} == {State.STATE_OPEN}
    done = await send(lab.transfers, header(name), commit(DATA))
    assert done.digests.sha256 == hashlib.sha256(DATA).digest()
    assert list(done.part_sizes) == [len(part) for part in parts]
    assert stored(lab).read_bytes() == DATA
    assert staged(lab) == []


async def test_byte_progress_is_told_at_most_once_a_second_and_at_the_end(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    size = 0
    for _ in range(3):
        for _ in range(5):
            await send(lab.transfers, header(name), chunk(size, bytes(100)))
            size += 100
        lab.clock.advance(1)
    await send(lab.transfers, header(name), commit(bytes(size)))
    events = [m.event async for m in lab.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=0))]
    told = [e.transfer.upload for e in events if e.WhichOneof("event") == "transfer"]
    assert [(each.state, each.committed_size) for each in told] == [
        (State.STATE_OPEN, 100), (State.STATE_OPEN, 600), (State.STATE_OPEN, 1100), (State.STATE_COMMITTED, 1500),
    ]  # fmt: skip
