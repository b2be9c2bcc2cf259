"""What starting an operation with bytes answers, and what it refuses, by every way to start one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from bytes.v1.bytes_pb2 import BytesRequest, File, FileRequest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore.v1 import annotations_pb2, operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operation_pb2 import UploadGrant
from longshore_server import Reason, ServiceError
from tests.conftest import fields_of, first, reason_of_end, refused
from tests.server.transfers.bytes_service import SERVICE, BytesLab


def packed(request: Message) -> AnyMessage:
    found = AnyMessage()
    found.Pack(request)
    return found


async def start(lab: BytesLab, type: str, request: Message) -> Any:
    return await lab.operations.Start(pb.StartRequest(type=f"{SERVICE}/{type}", input=packed(request)))


async def run(lab: BytesLab, type: str, request: Message) -> Any:
    return await first(lab.operations.Run(pb.RunRequest(type=f"{SERVICE}/{type}", input=packed(request))))


async def typed(lab: BytesLab, type: str, request: Message) -> Any:
    return await getattr(lab.bytes, type)(request)


async def typed_stream(lab: BytesLab, type: str, request: Message) -> Any:
    assert type == "Upload"
    assert isinstance(request, BytesRequest)
    return await first(lab.bytes.UploadAndWatch(request))


Door = Callable[[BytesLab, str, Message], Awaitable[Any]]
DOORS: dict[str, Door] = {"typed": typed, "stream": typed_stream, "Start": start, "Run": run}
KEYS = {
    "none": "", "beside the store": "../secret", "in the middle": "a/../b", "a dot": "./a", "absolute": "/etc/passwd",
    "a folder": "a/", "two slashes": "a//b", "a backslash": "a\\b", "a line": "a\nb", "a zero": "a\0b",
    "the store's own": ".longshore/staging/x", "too long": "a" * 1025, "a long part": "a" * 256,
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("key", KEYS)
async def test_a_key_that_no_store_takes_is_refused_at_every_door(lab: BytesLab, door: str, key: str) -> None:
    before = lab.tables()
    code, reason, status = await refused(DOORS[door](lab, "Upload", BytesRequest(key=KEYS[key])))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["key"])
    assert lab.tables() == before


BAD: dict[str, tuple[str, Message, str]] = {
    "a key further down": ("Plain", FileRequest(file=File(key="../secret")), "file.key"),
    "no message with the key": ("Plain", FileRequest(), "file.key"),
    "a download's key": ("Export", BytesRequest(key="../secret"), "key"),
    "a content type that is too long": ("Upload", BytesRequest(key="a", content_type="t" * 256), "content_type"),
    "a content type in two lines": ("Upload", BytesRequest(key="a", content_type="text\r\nplain"), "content_type"),
    "a content type that is not ASCII": ("Export", BytesRequest(key="a", content_type="t\u00e4xt"), "content_type"),
    "too much metadata": ("Upload", BytesRequest(key="a", metadata={"note": "n" * 5000}), "metadata"),
    "metadata with an empty key": ("Upload", BytesRequest(key="a", metadata={"": "nothing"}), "metadata"),
    "metadata with a key that is not ASCII": ("Upload", BytesRequest(key="a", metadata={"t\u00e4g": "x"}), "metadata"),
}


@pytest.mark.parametrize("door", ["typed", "Start", "Run"])
@pytest.mark.parametrize("case", BAD)
async def test_what_no_object_can_have_is_refused_and_the_field_named(lab: BytesLab, door: str, case: str) -> None:
    type, request, field = BAD[case]
    before = lab.tables()
    code, reason, status = await refused(DOORS[door](lab, type, request))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", [field])
    assert lab.tables() == before


async def test_the_services_own_start_is_refused_like_a_callers(lab: BytesLab) -> None:
    before = lab.tables()
    for begin in (lab.server.operations.start, lab.server.operations.accept):
        with pytest.raises(ServiceError) as caught:
            await begin(f"{SERVICE}/Upload", BytesRequest(key="../secret"))
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert [violation.field for violation in caught.value.violations] == ["key"]
    assert lab.tables() == before


async def test_a_snapshot_shows_the_upload_from_the_start_on(lab: BytesLab) -> None:
    started = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        started.set()
        await op.transfer.completed()

    operation = (await lab.begin(content_type="application/pdf", metadata={"by": "ada"})).operation
    await started.wait()
    grant = operation.upload
    assert (grant.name, grant.state) == (f"uploads/{operation.uid}", UploadGrant.STATE_OPEN)
    assert (grant.committed_size, grant.max_bytes, list(grant.part_sizes)) == (0, 0, [0])
    assert grant.expire_time.ToMicroseconds() == lab.clock.now() + 3600 * 1_000_000
    assert not operation.downloads
    small = (await lab.begin("Small")).operation.upload
    assert (small.max_bytes, small.require_checksum) == (1000, False)
    assert (await lab.begin("Strict")).operation.upload.require_checksum


async def metadata_of(call: Any) -> dict[str, Any]:
    return dict(tuple(await call.initial_metadata()))


async def test_typed_calls_and_their_streams_answer_the_grant_in_their_metadata(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        await op.transfer.completed()

    for call in (lab.bytes.Upload(BytesRequest(key="a")), lab.bytes.UploadAndWatch(BytesRequest(key="a"))):
        told = await metadata_of(call)
        grant = UploadGrant.FromString(told["longshore-grant-bin"])
        assert grant.name == f"uploads/{told['longshore-uid']}"
        assert grant.state == UploadGrant.STATE_OPEN
        call.cancel()
    found = await metadata_of(lab.bytes.Offer(BytesRequest(key="a")))
    assert "longshore-grant-bin" not in found
    assert "longshore-uid" in found


async def test_a_start_that_finds_its_operation_answers_the_grant_as_it_is_now(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        await op.transfer.completed()

    request = BytesRequest(key="a", request_id="once")
    operation = await lab.bytes.Upload(request)
    await lab.operations.Cancel(pb.CancelRequest(name=operation.name))
    await lab.end(operation.name)
    told = await metadata_of(lab.bytes.Upload(request))
    assert told["longshore-disposition"] == "existing"
    grant = UploadGrant.FromString(told["longshore-grant-bin"])
    assert (grant.state, grant.reason) == (UploadGrant.STATE_FAILED, "UPLOAD_ABORTED")


async def test_an_operation_that_offers_at_its_start_shows_the_download(lab: BytesLab) -> None:
    operation = (await lab.begin("Export", key="reports/2031.pdf", content_type="application/pdf")).operation
    (grant,) = operation.downloads
    assert (grant.name, grant.filename) == (f"downloads/{operation.uid}.1", "2031.pdf")
    assert (grant.content_type, grant.HasField("size"), grant.max_uses) == ("application/pdf", False, 0)
    assert not operation.HasField("upload")


async def test_the_catalog_shows_what_a_contract_says_of_bytes(lab: BytesLab) -> None:
    small = (await lab.operations.GetType(pb.GetTypeRequest(type=f"{SERVICE}/Small"))).contract.transfer
    assert (small.direction, small.store) == (annotations_pb2.TRANSFER_DIRECTION_SEND, "uploads")
    assert (small.key_path, small.max_bytes, small.expiry.seconds) == ("key", 1000, 60)
    types = (await lab.operations.ListTypes(pb.ListTypesRequest())).types
    shown = {type.type: type.contract.transfer for type in types if type.contract.HasField("transfer")}
    assert {name.partition("/")[0] for name in shown} == {SERVICE}
    assert shown[f"{SERVICE}/Ticket"].max_uses == 2
    assert shown[f"{SERVICE}/Ticket"].direction == annotations_pb2.TRANSFER_DIRECTION_RECEIVE


async def test_an_operation_that_ends_without_its_bytes_gives_the_upload_up(lab: BytesLab) -> None:
    """Whoever still sends is told so, instead of filling a disk."""
    operation = (await lab.begin()).operation
    snapshot = await lab.end(operation.name)
    assert snapshot.state == operation_pb2.OperationSnapshot.STATE_COMPLETED
    assert (snapshot.upload.state, snapshot.upload.reason) == (UploadGrant.STATE_FAILED, "UPLOAD_ABORTED")


async def test_an_operation_whose_handler_fails_keeps_its_own_reason(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, __: Any) -> Any:
        raise ValueError("its own")

    snapshot = await lab.end((await lab.begin()).operation.name)
    assert reason_of_end(snapshot) == "HANDLER_ERROR"
    assert snapshot.upload.reason == "UPLOAD_ABORTED"
