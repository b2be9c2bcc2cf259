"""ByteStream: the second face of uploads and downloads, by the rules of its own interface."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from google.bytestream import bytestream_pb2 as pb
from google.bytestream import bytestream_pb2_grpc
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import transfers_service_pb2
from tests.answers import answered
from tests.conftest import detail, fields_of, refused
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import CHUNK, offer, offering, pattern, start
from tests.server.transfers.sender import chunk, commit, header, send

DATA = bytes(range(256)) * 40
MIB = 1 << 20


def stub(lab: BytesLab) -> Any:
    return bytestream_pb2_grpc.ByteStreamStub(lab.channel)


def requests(name: str, data: bytes, *, offset: int = 0, size: int = 1000, finish: bool = True) -> list[Any]:
    """`data` from `offset` on: named in the first request, finished in the last."""
    starts = range(offset, len(data), size) or [offset]
    made = [pb.WriteRequest(write_offset=at, data=data[at : at + size]) for at in starts]
    made[0].resource_name, made[-1].finish_write = name, finish
    return made


async def write(lab: BytesLab, sent: Iterable[Any]) -> int:
    """One Write call; how much is committed."""
    answer = await answered(stub(lab).Write(iter(sent)))
    return int(answer.committed_size)


async def status(lab: BytesLab, name: str) -> tuple[int, bool]:
    found = await stub(lab).QueryWriteStatus(pb.QueryWriteStatusRequest(resource_name=name))
    return found.committed_size, found.complete


async def read(lab: BytesLab, name: str, **fields: Any) -> bytes:
    return b"".join([m.data async for m in stub(lab).Read(pb.ReadRequest(resource_name=name, **fields))])


async def waiting(lab: BytesLab, type: str = "Upload") -> str:
    """An operation whose handler waits for its bytes: the name of its upload."""

    async def handler(request: Any, op: Any) -> PlayResult:
        got = await op.transfer.completed()
        return PlayResult(text=got.sha256)

    lab.handlers.handler = handler
    return (await lab.begin(type)).operation.upload.name


def stored(lab: BytesLab) -> bytes:
    return (lab.data / "stores" / "uploads" / "files" / "report.pdf").read_bytes()


# Write and QueryWriteStatus.


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 10_240])
async def test_bytes_become_an_object(lab: BytesLab, size: int) -> None:
    name, data = await waiting(lab), DATA[:size]
    assert await write(lab, requests(name, data)) == size
    assert await status(lab, name) == (size, True)
    assert stored(lab) == data
    ended = await lab.end(name.replace("uploads", "operations"))
    result = PlayResult()
    assert ended.result.Unpack(result)
    assert result.text == hashlib.sha256(data).hexdigest()


async def test_messages_as_large_as_grpc_lets_them_be(lab: BytesLab) -> None:
    name, data = await waiting(lab), pattern(3 * MIB + 7)
    assert await write(lab, requests(name, data, size=4 * MIB)) == len(data)
    assert stored(lab) == data


async def test_a_closed_stream_is_told_what_is_committed_and_a_new_one_goes_on(lab: BytesLab) -> None:
    name = await waiting(lab)
    assert await status(lab, name) == (0, False)
    assert await write(lab, requests(name, DATA[:3000], finish=False)) == 3000
    assert await status(lab, name) == (3000, False)
    await lab.restart()
    assert await status(lab, name) == (3000, False)
    assert await write(lab, requests(name, DATA, offset=3000)) == len(DATA)
    assert await status(lab, name) == (len(DATA), True)
    assert stored(lab) == DATA


async def test_empty_data_keeps_a_call_alive_and_finishes_one(lab: BytesLab) -> None:
    name = await waiting(lab)
    sent = [
        pb.WriteRequest(resource_name=name), *requests(name, DATA, finish=False),
        pb.WriteRequest(write_offset=len(DATA)), pb.WriteRequest(write_offset=len(DATA), finish_write=True),
    ]  # fmt: skip
    assert await write(lab, sent) == len(DATA)
    assert await status(lab, name) == (len(DATA), True)
    assert stored(lab) == DATA


@pytest.mark.parametrize("named", ["", "the same"])
async def test_later_requests_name_the_resource_or_none(lab: BytesLab, named: str) -> None:
    name = await waiting(lab)
    later = pb.WriteRequest(resource_name=named and name, write_offset=3, data=b"def", finish_write=True)
    assert await write(lab, [*requests(name, b"abc", finish=False), later]) == 6
    assert stored(lab) == b"abcdef"


@pytest.mark.parametrize("count", [0, 1, 2], ids=["no request", "the first without a name", "the second with another"])
async def test_a_name_that_is_wrong(lab: BytesLab, count: int) -> None:
    name, other = await waiting(lab), await waiting(lab)
    named = requests(name, b"abc", finish=False)
    nameless = pb.WriteRequest(data=b"abc")
    another = pb.WriteRequest(resource_name=other, write_offset=3, data=b"def")
    code, _, got = await refused(stub(lab).Write(iter([[], [nameless], [*named, another]][count])))
    assert (code, fields_of(got)) == (grpc.StatusCode.INVALID_ARGUMENT, ["resource_name"])
    assert await status(lab, name) == (3 if count == 2 else 0, False)
    assert await status(lab, other) == (0, False)


@pytest.mark.parametrize("offsets", [[1], [-1], [0, 2], [0, 4], [0, 0]], ids=str)
async def test_an_offset_that_is_wrong(lab: BytesLab, offsets: list[int]) -> None:
    name = await waiting(lab)
    sent = [pb.WriteRequest(resource_name=name, write_offset=offset, data=b"abc") for offset in offsets]
    code, reason, got = await refused(stub(lab).Write(iter(sent)))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "WRONG_OFFSET")
    committed = 3 * (len(offsets) - 1)
    assert detail(got, error_details_pb2.ErrorInfo).metadata["committed_size"] == str(committed)
    assert await status(lab, name) == (committed, False)


@pytest.mark.parametrize("more", [b"", b"more"])
async def test_nothing_may_follow_the_finish(lab: BytesLab, more: bytes) -> None:
    name = await waiting(lab)
    sent = [*requests(name, DATA), pb.WriteRequest(write_offset=len(DATA), data=more)]
    code, _, got = await refused(stub(lab).Write(iter(sent)))
    assert (code, fields_of(got)) == (grpc.StatusCode.INVALID_ARGUMENT, ["finish_write"])
    assert await status(lab, name) == (len(DATA), True)
    assert stored(lab) == DATA


@pytest.mark.parametrize("offset", [0, 1000, len(DATA)])
async def test_writing_what_is_complete_ends_at_once_and_well(lab: BytesLab, offset: int) -> None:
    name = await waiting(lab)
    await write(lab, requests(name, DATA))
    call = stub(lab).Write()
    await call.write(pb.WriteRequest(resource_name=name, write_offset=offset, data=b"others"))
    # Nobody closes it.
    assert (await call).committed_size == len(DATA)
    assert stored(lab) == DATA


@pytest.mark.parametrize("offset", [-1, len(DATA) + 1])
async def test_writing_beyond_what_is_complete(lab: BytesLab, offset: int) -> None:
    name = await waiting(lab)
    await write(lab, requests(name, DATA))
    sent = [pb.WriteRequest(resource_name=name, write_offset=offset, data=b"x")]
    code, reason, got = await refused(stub(lab).Write(iter(sent)))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "WRONG_OFFSET")
    assert detail(got, error_details_pb2.ErrorInfo).metadata["committed_size"] == str(len(DATA))


async def test_what_never_was(lab: BytesLab) -> None:
    name = "uploads/0190163d-8694-739b-aea5-966c26f8ad91"
    for call in (
        stub(lab).Write(iter(requests(name, b"x"))),
        stub(lab).QueryWriteStatus(pb.QueryWriteStatusRequest(resource_name=name)),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")


@pytest.mark.parametrize(
    "name", ["", "uploads/x", "instance/uploads/0190163d-8694-739b-aea5-966c26f8ad91", "blobs/a/1"]
)
async def test_a_name_of_another_form(lab: BytesLab, name: str) -> None:
    for call in (
        stub(lab).Write(iter(requests(name, b"x"))),
        stub(lab).QueryWriteStatus(pb.QueryWriteStatusRequest(resource_name=name)),
        read(lab, name),
    ):
        code, reason, got = await refused(call)
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_NAME")
        assert fields_of(got) == ["resource_name"]


async def test_one_that_has_failed_says_why(lab: BytesLab) -> None:
    name = await waiting(lab)
    await write(lab, requests(name, b"abc", finish=False))
    await lab.transfers.AbortUpload(transfers_service_pb2.AbortUploadRequest(name=name))
    for call in (
        stub(lab).Write(iter(requests(name, b"abcd", offset=3))),
        stub(lab).QueryWriteStatus(pb.QueryWriteStatusRequest(resource_name=name)),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_ABORTED")


@pytest.mark.parametrize("data", [b"", b"abc"])
async def test_required_checksums_cannot_be_given(lab: BytesLab, data: bytes) -> None:
    name = await waiting(lab, "Strict")
    code, reason, _ = await refused(stub(lab).Write(iter(requests(name, data))))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHECKSUM_REQUIRED")
    assert await status(lab, name) == (0, False)


async def test_too_many_bytes(lab: BytesLab) -> None:
    name = await waiting(lab, "Small")
    code, reason, _ = await refused(stub(lab).Write(iter(requests(name, bytes(1001)))))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE")
    assert await status(lab, name) == (1000, False)


# Both faces of one upload.


async def test_one_face_goes_on_where_the_other_has_ended(lab: BytesLab) -> None:
    name = await waiting(lab)
    await send(lab.transfers, header(name), chunk(0, b"abc"))
    assert await write(lab, requests(name, b"abcdef", offset=3, finish=False)) == 6
    await send(lab.transfers, header(name), chunk(6, b"ghi"), commit(b"abcdefghi"))
    assert await status(lab, name) == (9, True)
    assert stored(lab) == b"abcdefghi"


async def test_a_call_of_one_face_ends_that_of_the_other(lab: BytesLab) -> None:
    name = await waiting(lab)
    stale = stub(lab).Write()
    await stale.write(pb.WriteRequest(resource_name=name, data=b"abc"))
    while await status(lab, name) != (3, False):
        pass
    await send(lab.transfers, header(name), chunk(3, b"def"), commit(b"abcdef"))
    code, reason, _ = await refused(stale)
    assert (code, reason) == (grpc.StatusCode.ABORTED, "UPLOAD_PREEMPTED")
    assert stored(lab) == b"abcdef"


async def test_parts_are_beyond_this_face(lab: BytesLab) -> None:
    """Their bytes are not counted here before the whole is complete, and are not finished by who does not know them."""
    name = await waiting(lab)
    await send(lab.transfers, header(name, 1), chunk(0, b"def"))
    assert await status(lab, name) == (0, False)
    code, reason, _ = await refused(stub(lab).Write(iter(requests(name, b"abc"))))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIZE_MISMATCH")
    assert await status(lab, name) == (3, False)
    await send(lab.transfers, header(name), commit(b"abcdef"))
    assert await status(lab, name) == (6, True)
    assert stored(lab) == b"abcdef"


# Read.


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 7])
async def test_an_object_is_read(lab: BytesLab, size: int) -> None:
    data = pattern(size)
    await lab.server.stores["exports"].put("key", data)
    name = await offering(lab)
    assert await read(lab, name) == data
    messages = [m async for m in stub(lab).Read(pb.ReadRequest(resource_name=name))]
    assert all(0 < len(message.data) <= CHUNK for message in messages)


@pytest.mark.parametrize(("offset", "limit"), [(0, 0), (0, 5), (3, 4), (3, 0), (9, 1), (9, 100), (10, 0), (10, 5)])
async def test_a_range_is_read(offset: int, limit: int, lab: BytesLab) -> None:
    data = b"0123456789"
    await lab.server.stores["exports"].put("key", data)
    wanted = data[offset:][: limit or None]
    assert await read(lab, await offering(lab), read_offset=offset, read_limit=limit) == wanted


@pytest.mark.parametrize("offset", [-(1 << 63), -1, 11, (1 << 63) - 1])
async def test_an_offset_out_of_range(offset: int, lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"0123456789")
    code, reason, got = await refused(read(lab, await offering(lab), read_offset=offset))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
    assert detail(got, error_details_pb2.ErrorInfo).metadata["size"] == "10"


async def test_a_negative_limit(lab: BytesLab) -> None:
    code, _, got = await refused(read(lab, await offering(lab), read_limit=-1))
    assert (code, fields_of(got)) == (grpc.StatusCode.INVALID_ARGUMENT, ["read_limit"])


async def test_what_is_not_offered(lab: BytesLab) -> None:
    uid = await start(lab)
    name = await offer(lab.engine, uid)
    code, reason, _ = await refused(read(lab, name[:-1] + "2"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "DOWNLOAD_NOT_FOUND")
    await lab.transfers.RevokeDownload(transfers_service_pb2.RevokeDownloadRequest(name=name))
    code, reason, _ = await refused(read(lab, name))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DOWNLOAD_REVOKED")


async def test_each_read_is_a_use(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    name = await offering(lab, max_uses=2)
    assert [await read(lab, name), await read(lab, name, read_offset=2)] == [b"data", b"ta"]
    code, reason, _ = await refused(read(lab, name))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DOWNLOAD_USED_UP")


# The file itself, of which there may be others.


def test_the_interface_is_the_public_one() -> None:
    """Names, numbers and options: a stock client knows no others, and a copy that says the same is the same."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    assert (file.name, file.package, file.syntax) == (
        "google/bytestream/bytestream.proto", "google.bytestream", "proto3"
    )  # fmt: skip
    assert file.options == descriptor_pb2.FileOptions(
        go_package="google.golang.org/genproto/googleapis/bytestream;bytestream",
        java_outer_classname="ByteStreamProto", java_package="com.google.bytestream",
    )  # fmt: skip
    kinds = descriptor_pb2.FieldDescriptorProto
    text, number, flag, data = kinds.TYPE_STRING, kinds.TYPE_INT64, kinds.TYPE_BOOL, kinds.TYPE_BYTES
    assert {m.name: [(f.name, f.number, f.type) for f in m.field] for m in file.message_type} == {
        "ReadRequest": [("resource_name", 1, text), ("read_offset", 2, number), ("read_limit", 3, number)],
        "ReadResponse": [("data", 10, data)],
        "WriteRequest": [
            ("resource_name", 1, text), ("write_offset", 2, number), ("finish_write", 3, flag), ("data", 10, data)
        ],
        "WriteResponse": [("committed_size", 1, number)],
        "QueryWriteStatusRequest": [("resource_name", 1, text)],
        "QueryWriteStatusResponse": [("committed_size", 1, number), ("complete", 2, flag)],
    }  # fmt: skip
    assert [
        (m.name, m.input_type, m.client_streaming, m.output_type, m.server_streaming) for m in file.service[0].method
    ] == [
        ("Read", ".google.bytestream.ReadRequest", False, ".google.bytestream.ReadResponse", True),
        ("Write", ".google.bytestream.WriteRequest", True, ".google.bytestream.WriteResponse", False),
        (
            "QueryWriteStatus", ".google.bytestream.QueryWriteStatusRequest", False,
            ".google.bytestream.QueryWriteStatusResponse", False,
        ),
    ]  # fmt: skip
    assert not file.dependency


COPY = """
import re, sys
from pathlib import Path
import google.api.annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
text = Path(sys.argv[1]).read_text()
file = descriptor_pb2.FileDescriptorProto.FromString(eval(re.search(r"AddSerializedFile\\((b'.*')\\)", text)[1]))
if sys.argv[2] == "older":
    file.dependency.append("google/api/annotations.proto")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
from longshore_server.rpc import bytestream
print(bytestream.ReadRequest(resource_name="a").SerializeToString().hex())
"""


@pytest.mark.parametrize("copy", ["the same", "older"])
def test_a_process_that_has_a_copy_already_can_serve_too(copy: str) -> None:
    command = [sys.executable, "-W", "error", "-c", COPY, str(pb.__file__), copy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("0a0161", "")
