"""Bytes that callers send and that are refused, over the wire: each with its reason, and what came before it kept."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from bytes.v1.bytes_pb2 import BytesRequest
from google.rpc import error_details_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from tests.conftest import Lab, detail, reason_of, reason_of_end, refused, status_of
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, chunks, commit, header, send, upload
from tests.server.transfers.uploading import DATA, State, staged, stored, waiting

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


async def test_a_key_may_not_escape(lab: BytesLab) -> None:
    for key in ("../x", "a/../../x", "/etc/passwd", "a//b", ".", "a\\b", "a\0b", "", "x" * 300, ".longshore/meta/x"):
        got = await refused(lab.begin(request=BytesRequest(key=key)))
        assert got[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), key


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
