"""Bytes that callers send, over the wire: sent, broken off, gone on with, committed, refused."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import pytest
from bytes.v1.bytes_pb2 import BytesRequest
from google.rpc import error_details_pb2
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operation_pb2, transfers_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore_server.clock import SECOND
from longshore_server.engine.engine import Engine
from longshore_server.errors import ServiceError
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.staging import Digests, StagedPart
from longshore_server.transfers.uploads import Uploads
from tests.conftest import Lab, detail, reason_of, reason_of_end, refused, retry_after, status_of, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, chunks, commit, header, send, upload

State = operation_pb2.UploadGrant.State
DATA = bytes(range(256)) * 40  # 10,240 bytes: eleven chunks


def stored(lab: BytesLab, key: str = "files/report.pdf") -> Path:
    """Where the object is."""
    return lab.data / "stores" / "uploads" / key


def staged(lab: BytesLab) -> list[str]:
    """The files of uploads on their way."""
    folder = lab.data / "stores" / "uploads" / ".longshore" / "staging"
    return sorted(path.name for path in folder.iterdir())


async def waiting(lab: BytesLab, type: str = "Upload", **fields: Any) -> Any:
    """An operation whose handler waits for its bytes: its snapshot."""

    async def handler(request: Any, op: Any) -> PlayResult:
        got = await op.transfer.completed()
        return PlayResult(text=f"{got.key} {got.size} {got.sha256}")

    lab.handlers.handler = handler
    return (await lab.begin(type, **fields)).operation


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


WRONG: dict[str, tuple[list[transfers_pb2.UploadRequest], str, str]] = {
    "no header": ([chunk(0, b"x")], "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "nothing": ([], "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an offset beyond": ([chunk(1, b"x")], "OUT_OF_RANGE", "WRONG_OFFSET"),
    "a negative offset": ([chunk(-1, b"x")], "OUT_OF_RANGE", "WRONG_OFFSET"),
    "an offset that was": ([chunk(0, b"abc"), chunk(1, b"bc")], "OUT_OF_RANGE", "WRONG_OFFSET"),
    "a corrupt chunk": ([chunk(0, b"abc"), chunk(3, b"d", crc=7)], "DATA_LOSS", "CHUNK_CORRUPT"),
    "a chunk too large": ([chunk(0, bytes((1 << 20) + 1))], "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an empty message": ([transfers_pb2.UploadRequest()], "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a commit of less": ([chunk(0, b"abc"), commit(b"ab")], "FAILED_PRECONDITION", "SIZE_MISMATCH"),
    "a commit of more": ([chunk(0, b"abc"), commit(b"abcd")], "FAILED_PRECONDITION", "SIZE_MISMATCH"),
    "a commit of others": ([chunk(0, b"abc"), commit(b"abd")], "FAILED_PRECONDITION", "DIGEST_MISMATCH"),
    "half a digest": ([commit(b"", sha256=b"123")], "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a negative size": (
        [transfers_pb2.UploadRequest(commit=transfers_pb2.UploadCommit(total_size=-1))],
        "INVALID_ARGUMENT", "INVALID_ARGUMENT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_refused_and_what_came_before_is_kept(lab: BytesLab, case: str) -> None:
    requests, code, reason = WRONG[case]
    operation = await waiting(lab)
    name = operation.upload.name
    head = [] if case in ("no header", "nothing") else [header(name)]
    got = await refused(send(lab.transfers, head, requests))
    assert (got[0].name, got[1]) == (code, reason)
    kept = sum(len(r.chunk.data) for r in requests if r.WhichOneof("message") == "chunk" and r.chunk.offset == 0)
    kept = 0 if case in ("no header", "a chunk too large") else kept
    now = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert (now.state, now.committed_size) == (State.STATE_OPEN, kept)
    if reason == "WRONG_OFFSET":
        info = detail(got[2], error_details_pb2.ErrorInfo)
        assert info.metadata["committed_size"] == str(kept)
    data = b"abc"[:kept] + DATA
    done = await send(lab.transfers, header(name), chunks(data, offset=kept), commit(data))
    assert done.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == data


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("", "INVALID_ARGUMENT", "INVALID_NAME"),
        ("uploads/", "INVALID_ARGUMENT", "INVALID_NAME"),
        ("uploads/x", "INVALID_ARGUMENT", "INVALID_NAME"),
        ("operations/0190163d-8694-739b-aea5-966c26f8ad91", "INVALID_ARGUMENT", "INVALID_NAME"),
        ("uploads/0190163d-8694-739b-aea5-966c26f8ad91", "NOT_FOUND", "UPLOAD_NOT_FOUND"),
    ],
)
async def test_an_upload_that_is_none(lab: BytesLab, name: str, code: str, reason: str) -> None:
    for call in (
        send(lab.transfers, header(name), chunk(0, b"x")),
        lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name)),
        lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=name)),
    ):
        got = await refused(call)
        assert (got[0].name, got[1]) == (code, reason)


async def test_an_operation_without_bytes_has_no_upload(lab: BytesLab) -> None:
    plain = await Lab.begin(lab)
    assert not plain.operation.HasField("upload")
    got = await refused(send(lab.transfers, header(f"uploads/{plain.operation.uid}")))
    assert got[1] == "UPLOAD_NOT_FOUND"


async def test_too_many_bytes(lab: BytesLab) -> None:
    operation = await waiting(lab, "Small")
    name, limit = operation.upload.name, operation.upload.max_bytes
    assert limit > 0
    cases: list[list[Any]] = [[header(name, total=limit + 1)], [header(name), chunks(bytes(limit + 1))]]
    for requests in cases:
        got = await refused(send(lab.transfers, *requests))
        assert (got[0], got[1]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE")
    now = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    data = bytes(limit)
    done = await send(lab.transfers, header(name), chunks(data, offset=now.committed_size), commit(data))
    assert done.state == State.STATE_COMMITTED


async def test_checksums_may_be_required(lab: BytesLab) -> None:
    operation = await waiting(lab, "Strict")
    name = operation.upload.name
    assert operation.upload.require_checksum
    for requests in ([chunk(0, b"abc", crc=False)], [chunk(0, b"abc"), commit(b"abc", sha256=False)]):
        got = await refused(send(lab.transfers, header(name), requests))
        assert (got[0], got[1]) == (grpc.StatusCode.FAILED_PRECONDITION, "CHECKSUM_REQUIRED")
    assert (await send(lab.transfers, header(name), commit(b"abc"))).state == State.STATE_COMMITTED


async def test_a_mismatch_may_end_it(lab: BytesLab) -> None:
    operation = await waiting(lab, "Strict")
    name = operation.upload.name
    got = await refused(send(lab.transfers, header(name), chunk(0, b"abc"), commit(b"abd")))
    assert got[1] == "DIGEST_MISMATCH"
    now = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert (now.state, now.reason) == (State.STATE_FAILED, "DIGEST_MISMATCH")
    assert (await refused(send(lab.transfers, header(name), chunk(3, b"d"))))[1] == "DIGEST_MISMATCH"
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert reason_of_end(ended) == "DIGEST_MISMATCH"
    await lab.settled()
    assert staged(lab) == []


async def test_an_existing_object_may_be_refused_or_replaced(lab: BytesLab) -> None:
    for data in (b"replaced", DATA):
        operation = await waiting(lab)
        assert (await upload(lab.transfers, operation.upload.name, data)).state == State.STATE_COMMITTED
    operation = await waiting(lab, "Strict")
    got = await refused(send(lab.transfers, header(operation.upload.name), chunk(0, b"x")))
    assert (got[0], got[1]) == (grpc.StatusCode.ALREADY_EXISTS, "OBJECT_EXISTS")
    assert stored(lab).read_bytes() == DATA


async def test_two_that_may_not_replace_one_wins(lab: BytesLab) -> None:
    first, second = await waiting(lab, "Strict"), await waiting(lab, "Strict")
    for each, data in ((first, b"one"), (second, b"two")):
        await send(lab.transfers, header(each.upload.name), chunk(0, data))
    assert (await send(lab.transfers, header(first.upload.name), commit(b"one"))).state == State.STATE_COMMITTED
    got = await refused(send(lab.transfers, header(second.upload.name), commit(b"two")))
    assert (got[0], got[1]) == (grpc.StatusCode.ALREADY_EXISTS, "OBJECT_EXISTS")
    ended = await lab.operations.Wait(pb.WaitRequest(name=second.name))
    assert (reason_of_end(ended), ended.upload.reason) == ("OBJECT_EXISTS", "OBJECT_EXISTS")
    assert stored(lab).read_bytes() == b"one"


async def test_the_expiry_slides_with_the_bytes(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    await lab.clock.armed(3600)
    lab.clock.advance(3000)
    got = await send(lab.transfers, header(name), chunks(DATA[:1000]))
    assert got.expire_time.ToMicroseconds() == lab.clock.now() + 3600 * SECOND
    lab.clock.advance(3000)
    got = await send(lab.transfers, header(name), chunks(DATA[:2000], offset=1000))
    assert got.committed_size == 2000
    lab.clock.advance(3601)
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert reason_of_end(ended) == "UPLOAD_EXPIRED"
    got = await refused(send(lab.transfers, header(name), chunk(2000, b"x")))
    assert (got[0], got[1]) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_EXPIRED")
    await lab.settled()
    assert staged(lab) == []


async def test_an_upload_expires_while_no_server_runs(lab: BytesLab) -> None:
    operation = await waiting(lab)
    await send(lab.transfers, header(operation.upload.name), chunks(DATA[:1000]))
    await lab.harness.crash()
    lab.clock.advance(3601)
    await lab.begin_anew()
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert reason_of_end(ended) == "UPLOAD_EXPIRED"
    await lab.settled()
    assert staged(lab) == []


async def test_an_upload_is_given_up(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    call = lab.transfers.Upload()
    await call.write(header(name))
    await call.write(chunk(0, b"abc"))
    while (await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).committed_size < 3:
        pass
    gone = await lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=name))
    assert (gone.state, gone.reason) == (State.STATE_FAILED, "UPLOAD_ABORTED")
    assert (await refused(call))[1] == "UPLOAD_ABORTED"
    assert await lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=name)) == gone
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert reason_of_end(ended) == "UPLOAD_ABORTED"


@pytest.mark.parametrize("type", ["Upload", "Plain"])
async def test_a_cancel_reaches_a_pending_upload(lab: BytesLab, type: str) -> None:
    operation = await waiting(lab, type)
    name = operation.upload.name
    call = lab.transfers.Upload()
    await call.write(header(name))
    await call.write(chunk(0, b"abc"))
    while (await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).committed_size < 3:
        pass
    await lab.operations.Cancel(pb.CancelRequest(name=operation.name))
    assert (await refused(call))[1] == "UPLOAD_ABORTED"
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert ended.state == operation_pb2.OperationSnapshot.STATE_CANCELLED
    await lab.settled()
    assert staged(lab) == []


async def test_a_key_may_not_escape(lab: BytesLab) -> None:
    for key in ("../x", "a/../../x", "/etc/passwd", "a//b", ".", "a\\b", "a\0b", "", "x" * 300, ".longshore/meta/x"):
        got = await refused(lab.begin(request=BytesRequest(key=key)))
        assert got[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), key


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


async def sending(lab: BytesLab, name: str, data: bytes) -> Any:
    """A call that has sent `data`, which the server has, and sends no more for now."""
    call = lab.transfers.Upload()
    await call.write(header(name))
    await call.write(chunk(0, data))
    while (await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).committed_size < len(data):
        pass
    return call


async def test_a_stop_ends_calls_and_keeps_what_they_have_sent(lab: BytesLab) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    call = await sending(lab, name, b"abc")
    await call.write(chunk(3, b"def"))
    stopped = asyncio.create_task(lab.harness.stop())
    code, reason, _ = await refused(call)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    await stopped
    await lab.begin_anew()
    now = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert now.committed_size in (3, 6)  # the second chunk may have met the stop
    data = b"abcdefghi"
    done = await send(lab.transfers, header(name), chunk(now.committed_size, data[now.committed_size :]), commit(data))
    assert done.state == State.STATE_COMMITTED


async def test_a_commit_whose_store_is_away_is_put_in_its_place_later(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await waiting(lab)
    name = operation.upload.name
    adopt = lab.server.stores["uploads"].adopt

    async def away(*_: Any, **__: Any) -> Any:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "the store is away")

    monkeypatch.setattr(lab.server.stores["uploads"], "adopt", away)
    code, reason, status = await refused(upload(lab.transfers, name, DATA))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert retry_after(status) > 0
    now = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert (now.state, now.committed_size) == (State.STATE_COMMITTING, len(DATA))
    assert (await refused(send(lab.transfers, header(name), chunk(0, b"x"))))[1] == "UPLOAD_COMMITTED"
    assert (await refused(send(lab.transfers, header(name), commit(DATA))))[1] == "STORE_UNAVAILABLE"
    monkeypatch.setattr(lab.server.stores["uploads"], "adopt", adopt)
    lab.clock.advance(1)
    assert (await lab.end(operation.name)).upload.state == State.STATE_COMMITTED
    assert (await send(lab.transfers, header(name), commit(DATA))).state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA


async def test_a_crash_after_the_commit_is_gone_on_with(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = await waiting(lab)
    name = operation.upload.name

    async def away(*_: Any, **__: Any) -> Any:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(lab.server.stores["uploads"], "adopt", away)
        await refused(upload(lab.transfers, name, DATA))
        await lab.harness.crash()
    await lab.begin_anew()
    ended = await lab.operations.Wait(pb.WaitRequest(name=operation.name))
    assert ended.upload.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA
    assert staged(lab) == []


async def test_a_commit_is_repeated_while_the_next_server_recovers(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to put the object in its place, and has not come to that yet."""
    operation = await waiting(lab)
    name, address, recover = operation.upload.name, lab.harness.address, asyncio.Event()
    recovers, commits, asked = Engine.recover, Uploads.commit, asyncio.Event()

    async def away(*_: Any, **__: Any) -> Any:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "the store is away")

    async def waits(engine: Engine, services: Any) -> int:
        await recover.wait()
        return await recovers(engine, services)

    async def asks(uploads: Uploads, *arguments: Any) -> Any:
        asked.set()
        return await commits(uploads, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lab.server.stores["uploads"], "adopt", away)
        await refused(upload(lab.transfers, name, DATA))
        await lab.harness.crash()
    monkeypatch.setattr(Engine, "recover", waits)
    monkeypatch.setattr(Uploads, "commit", asks)
    starting = asyncio.ensure_future(lab.harness.start())
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        await channel.channel_ready()
        transfers = transfers_service_pb2_grpc.TransfersServiceStub(channel)
        sending = asyncio.ensure_future(send(transfers, header(name), commit(DATA)))
        await asked.wait()
        await turns()
        recover.set()
        await starting
        done = await sending
    assert done.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA


async def test_an_operation_that_ends_gives_its_upload_up(lab: BytesLab) -> None:
    """Also one whose handler never asked for it."""
    reached = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await reached.wait()
        return PlayResult(text="without")

    operation = (await lab.begin()).operation
    call = await sending(lab, operation.upload.name, b"abc")
    reached.set()
    assert (await refused(call))[1] == "UPLOAD_ABORTED"
    ended = await lab.end(operation.name)
    assert (ended.upload.state, ended.upload.reason) == (State.STATE_FAILED, "UPLOAD_ABORTED")
    await lab.settled()
    assert staged(lab) == []


async def test_parts_together_may_not_be_too_many_bytes(lab: BytesLab) -> None:
    operation = await waiting(lab, "Small")
    name, limit = operation.upload.name, operation.upload.max_bytes
    await send(lab.transfers, header(name, 0), chunk(0, bytes(limit)))
    got = await refused(send(lab.transfers, header(name, 1), chunk(0, b"x")))
    assert (got[0], got[1]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE")
    done = await send(lab.transfers, header(name), commit(bytes(limit)))
    assert done.committed_size == limit


async def test_parts_that_come_at_the_same_time_are_counted_at_the_commit(lab: BytesLab) -> None:
    """Or before it, where one of them is recorded when the other is looked at."""
    operation = await waiting(lab, "Small")
    name, limit = operation.upload.name, operation.upload.max_bytes
    calls = [lab.transfers.Upload() for _ in range(2)]
    for part, call in enumerate(calls):
        await call.write(header(name, part))
        await call.write(chunk(0, bytes(limit)))
    reasons = []
    for call in calls:
        await call.done_writing()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            reasons.append(reason_of(status_of(error)))
    if not reasons:
        reasons.append((await refused(send(lab.transfers, header(name), commit(bytes(2 * limit)))))[1])
    assert reasons == ["UPLOAD_TOO_LARGE"]


async def test_nothing_is_remembered_of_an_upload_that_ends_while_a_call_begins(lab: BytesLab) -> None:
    operation = await waiting(lab)
    seen = (await lab.engine.load(bytes.fromhex(operation.uid.replace("-", "")))).record
    await lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=operation.upload.name))
    with pytest.raises(ServiceError) as caught:
        async with lab.engine.transfers.uploads.sending(seen, 0, None):
            pass
    assert caught.value.reason.name == "UPLOAD_ABORTED"
    assert lab.engine.transfers.uploads.open == 0
