"""What a handler does with the bytes that its caller sends: waits for them, follows them, reads them, goes without."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import pytest
from lab.v1.lab_pb2 import PlayProgress, PlayResult

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as tpb
from longshore.v1.operation_pb2 import OperationSnapshot
from longshore_server import ByteProgress, Code, OperationError, ReceivedObject, TransferError
from tests.conftest import Crash, reason_of_end, result_of, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, commit, header, send, upload

DATA = bytes(range(256)) * 40
State = OperationSnapshot.State


async def test_a_handler_gets_the_object_with_everything_that_is_known_of_it(lab: BytesLab) -> None:
    got: list[ReceivedObject] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        got.append(await op.transfer.completed())
        return PlayResult(text=json.dumps(asdict(await op.transfer.completed())))

    operation = (await lab.begin(key="in/a.pdf", content_type="application/pdf", metadata={"by": "ada"})).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    result = result_of(await lab.end(operation.name))
    wanted = ReceivedObject(
        store="uploads", key="in/a.pdf", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest(),
        crc32c=google_crc32c.value(DATA), content_type="application/pdf", metadata={"by": "ada"},
    )  # fmt: skip
    assert got == [wanted]
    assert json.loads(result.text) == asdict(wanted)
    stored = await lab.server.stores["uploads"].stat("in/a.pdf")
    assert (stored.size, stored.sha256, stored.content_type) == (wanted.size, wanted.sha256, wanted.content_type)


async def test_a_handler_waits_until_the_object_is_in_its_store_and_no_shorter(lab: BytesLab) -> None:
    seen: list[str] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(text="waits"))
        received = await op.transfer.completed()
        pieces = [piece async for piece in lab.server.stores["uploads"].open(received.key)]
        seen.append(hashlib.sha256(b"".join(pieces)).hexdigest())
        return PlayResult()

    operation = (await lab.begin()).operation
    await lab.reached(operation.name, "progress")
    sent = await send(lab.transfers, header(operation.upload.name), chunk(0, DATA))
    assert sent.committed_size == len(DATA)
    await lab.catch_up()
    assert (await lab.get(operation.name)).state == State.STATE_RUNNING
    assert seen == []
    await send(lab.transfers, header(operation.upload.name), commit(DATA))
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED
    assert seen == [hashlib.sha256(DATA).hexdigest()]


async def test_updates_tell_each_change_to_who_is_quick_and_the_last_to_who_is_slow(lab: BytesLab) -> None:
    quick: list[ByteProgress] = []
    slow: list[ByteProgress] = []
    go, told = asyncio.Event(), asyncio.Event()

    async def follow(op: Any) -> None:
        async for update in op.transfer.updates():
            quick.append(update)
            told.set()

    async def sleep_over(op: Any) -> None:
        async for update in op.transfer.updates():
            slow.append(update)
            await go.wait()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await asyncio.gather(follow(op), sleep_over(op))
        return PlayResult()

    operation = (await lab.begin()).operation
    for offset in (0, 1000, 2000):
        await told.wait()
        told.clear()
        total = [header(operation.upload.name, total=3000 if offset == 1000 else None)]
        await send(lab.transfers, total, chunk(offset, DATA[offset : offset + 1000]))
    await told.wait()
    go.set()
    await send(lab.transfers, header(operation.upload.name), commit(DATA[:3000]))
    await lab.end(operation.name)
    counts = [update.transferred for update in quick]
    assert [count for count, after in zip(counts, [*counts[1:], -1], strict=True) if count != after] == [
        0, 1000, 2000, 3000,
    ]  # fmt: skip
    assert quick[0] == ByteProgress(0, None)
    assert {update.total for update in quick if update.transferred >= 2000} == {3000}
    assert slow == [ByteProgress(0, None), ByteProgress(3000, 3000)]


async def test_the_object_is_read_as_a_stream_from_any_offset(lab: BytesLab) -> None:
    data = DATA * 300  # three blocks of a store

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        for offset in (0, 1, len(data) - 1, len(data)):
            found = [piece async for piece in op.transfer.open(offset)]
            assert b"".join(found) == data[offset:]
            assert all(len(piece) <= 1 << 20 for piece in found)
        for wrong in (-1, len(data) + 1, "1", 1.5):
            with pytest.raises(ValueError, match=f"cannot begin at {wrong!r}: the object has {len(data)} bytes"):
                await anext(op.transfer.open(wrong))
        async with contextlib.aclosing(op.transfer.open()) as pieces:
            await anext(pieces)
        return PlayResult(text="read")

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, data, 1 << 18)
    assert result_of(await lab.end(operation.name)).text == "read"


async def test_an_empty_object_is_an_object(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        assert [piece async for piece in op.transfer.open()] == []
        return PlayResult(number=received.size, text=received.sha256)

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, b"")
    result = result_of(await lab.end(operation.name))
    assert (result.number, result.text) == (0, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("way", ["another object", "no object"])
async def test_bytes_that_are_not_those_that_were_sent_are_told(lab: BytesLab, way: str) -> None:
    """Another operation, or the service itself, may have done something to the key meanwhile."""

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.completed()
        store = lab.server.stores["uploads"]
        await (store.put("k", b"x" * len(DATA)) if way == "another object" else store.delete("k"))
        async for _piece in op.transfer.open():
            pass
        return PlayResult()

    operation = (await lab.begin(key="k")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    ended = await lab.end(operation.name)
    wanted = (Code.DATA_LOSS, "OBJECT_CORRUPT") if way == "another object" else (Code.NOT_FOUND, "OBJECT_NOT_FOUND")
    assert (ended.error.code, reason_of_end(ended)) == wanted


@pytest.mark.parametrize("offset", [0, 1, 15])
async def test_no_byte_of_another_object_is_given(lab: BytesLab, offset: int) -> None:
    pieces: list[bytes] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.completed()
        await lab.server.stores["uploads"].put("k", b"another's")
        pieces.extend([piece async for piece in op.transfer.open(offset)])
        return PlayResult()

    operation = (await lab.begin(key="k")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    assert reason_of_end(await lab.end(operation.name)) == "OBJECT_CORRUPT"
    assert pieces == []


@pytest.mark.parametrize("until", ["opened", "checked"])
async def test_no_byte_of_an_object_that_had_the_key_for_a_moment_is_given(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """It came before the object was opened, and had gone by then, or when the key was looked at again."""
    pieces: list[bytes] = []
    store = lab.server.stores["uploads"]
    stat, open = store.stat, store.open
    opened = asyncio.Event()

    async def looks(key: str) -> Any:
        if opened.is_set() and until == "checked":
            await store.put(key, DATA)
        return await stat(key)

    async def opens(key: str, offset: int) -> Any:
        opened.set()
        if until == "opened":
            await store.put(key, b"another's")
        async for piece in open(key, offset):
            yield piece

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.completed()
        if until == "checked":
            await store.put("k", b"another's")
        monkeypatch.setattr(store, "stat", looks)
        monkeypatch.setattr(store, "open", opens)
        pieces.extend([piece async for piece in op.transfer.open(1)])
        return PlayResult()

    operation = (await lab.begin(key="k")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    assert reason_of_end(await lab.end(operation.name)) == "OBJECT_CORRUPT"
    assert pieces == []


async def test_a_handler_that_is_run_again_finds_what_has_come(lab: BytesLab) -> None:
    """Before the bytes, and after them."""
    crash, again = Crash(lab), asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        if op.attempt == 2:
            again.set()
        received = await op.transfer.completed()
        await crash.here(op)
        return PlayResult(number=received.size, text=str(op.attempt))

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    await crash.happen()
    result = result_of(await lab.end(operation.name))
    assert (result.number, result.text) == (len(DATA), "2")
    waits = (await lab.begin(key="other")).operation
    await send(lab.transfers, header(waits.upload.name), chunk(0, DATA[:5000]))
    again.clear()
    await lab.restart()
    await again.wait()
    rest = [chunk(5000, DATA[5000:]), commit(DATA)]
    await send(lab.transfers, header(waits.upload.name), rest)
    result = result_of(await lab.end(waits.name))
    assert (result.number, result.text) == (len(DATA), "2")


async def failing(lab: BytesLab, type: str = "Upload") -> tuple[Any, list[BaseException]]:
    """An operation whose handler lets through what `completed` raises; and what that is."""
    caught: list[BaseException] = []
    begun = asyncio.Event()

    async def handler(_: Any, op: Any) -> PlayResult:
        begun.set()
        try:
            await op.transfer.completed()
        except BaseException as error:
            caught.append(error)
            raise
        return PlayResult()

    lab.handlers.handler = handler
    operation = (await lab.begin(type)).operation
    await begun.wait()
    return operation, caught


async def expire(lab: BytesLab, name: str) -> None:
    await send(lab.transfers, header(name), chunk(0, b"a beginning"))
    await lab.clock.armed(60)
    lab.clock.advance(60)


async def abort(lab: BytesLab, name: str) -> None:
    await lab.transfers.AbortUpload(tpb.AbortUploadRequest(name=name))


async def spoil(lab: BytesLab, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await send(lab.transfers, header(name), chunk(0, DATA), commit(DATA, sha256=bytes(32)))


async def fall_short(lab: BytesLab, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await send(lab.transfers, header(name), chunk(0, DATA), commit(DATA + b"more"))


@pytest.mark.parametrize(
    ("type", "fail", "reason"),
    [
        ("Small", expire, "UPLOAD_EXPIRED"),
        ("Upload", abort, "UPLOAD_ABORTED"),
        ("Strict", spoil, "DIGEST_MISMATCH"),
        ("Strict", fall_short, "SIZE_MISMATCH"),
        ("Again", abort, "UPLOAD_ABORTED"),
    ],
)
async def test_an_upload_that_fails_raises_and_fails_the_operation(
    lab: BytesLab, type: str, fail: Any, reason: str
) -> None:
    """With exactly that, and at once where there are more attempts: another one would only meet it again."""
    operation, caught = await failing(lab, type)
    await fail(lab, operation.upload.name)
    ended = await lab.end(operation.name)
    assert (ended.state, ended.error.code, reason_of_end(ended)) == (
        State.STATE_FAILED, Code.FAILED_PRECONDITION, reason,
    )  # fmt: skip
    assert ended.upload.reason == reason
    assert ended.attempt == 1
    (error,) = caught
    assert isinstance(error, TransferError)
    assert isinstance(error, OperationError)
    assert (error.reason, error.domain, error.final) == (reason, "longshore", True)
    assert error.message.startswith(f"{operation.upload.name} has failed: ")
    assert ended.error.message == error.message


async def test_a_handler_may_go_on_without_the_bytes(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        updates = [update async for update in op.transfer.updates()]
        try:
            await op.transfer.completed()
        except TransferError as error:
            return PlayResult(text=error.reason, number=updates[-1].transferred)
        return PlayResult()

    operation = (await lab.begin()).operation
    await send(lab.transfers, header(operation.upload.name), chunk(0, b"abc"))
    await abort(lab, operation.upload.name)
    ended = await lab.end(operation.name)
    assert ended.state == State.STATE_COMPLETED
    assert result_of(ended) == PlayResult(text="UPLOAD_ABORTED", number=3)


@pytest.mark.parametrize("type", ["Upload", "Plain", "Again"])
async def test_a_cancelled_operation_is_cancelled_and_not_failed_by_its_upload(lab: BytesLab, type: str) -> None:
    """The request gives the upload up, so that whoever waits for it need not be interrupted; no clock has to move."""
    operation, caught = await failing(lab, type)
    answered = await lab.operations.Cancel(pb.CancelRequest(name=operation.name, reason="not needed"))
    assert answered.upload.reason == "UPLOAD_ABORTED"
    ended = await lab.end(operation.name)
    assert (ended.state, reason_of_end(ended)) == (State.STATE_CANCELLED, "CANCELLED")
    assert ended.error.message == "not needed"
    (error,) = caught
    assert isinstance(error, TransferError)
    assert error.reason == "UPLOAD_ABORTED"


async def test_a_handler_whose_contract_says_nothing_of_bytes_is_told(lab: BytesLab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        if request.DESCRIPTOR.name == "PlayRequest":
            with pytest.raises(RuntimeError, match=r"the contract of lab\.v1\.LabService/Play declares no transfer"):
                _ = op.transfer
            return PlayResult(text="told")
        for wait in (op.transfer.completed(), anext(op.transfer.updates()), anext(op.transfer.open())):
            with pytest.raises(RuntimeError, match=r"Offer has callers send nothing"):
                await wait
        return PlayResult(text="told too")

    assert result_of(await lab.end((await super(BytesLab, lab).begin()).operation.name)).text == "told"
    assert result_of(await lab.end((await lab.begin("Offer")).operation.name)).text == "told too"


async def test_who_waits_for_bytes_is_interrupted_like_any_other(lab: BytesLab) -> None:
    """A stop of the server ends the wait, and leaves nothing that the operation would remember."""
    operation, caught = await failing(lab)
    await lab.restart(crash=False)
    assert isinstance(caught[0], asyncio.CancelledError)
    await turns()
    await upload(lab.transfers, operation.upload.name, DATA)
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED


async def test_a_stop_gives_no_time_to_who_waits_for_bytes(tmp_path: Path) -> None:
    lab = BytesLab(tmp_path / "data", drain=30.0)
    await lab.start()
    operation, caught = await failing(lab)
    await asyncio.wait_for(lab.restart(crash=False), 60)  # whose clock stands still
    assert isinstance(caught[0], asyncio.CancelledError)
    await upload(lab.transfers, operation.upload.name, DATA)
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED
    await lab.stop()


async def test_a_controller_sees_the_upload_of_a_deferred_operation(lab: BytesLab) -> None:
    deferred = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        result = await op.defer()
        deferred.set()
        return result

    operation = (await lab.begin()).operation
    await deferred.wait()
    await upload(lab.transfers, operation.upload.name, DATA)
    control = operation_control_service_pb2_grpc.OperationControlServiceStub(lab.channel)
    seen = await control.GetOperation(cpb.GetOperationRequest(name=operation.name))
    assert seen.upload.committed_size == len(DATA)
    assert seen.upload.digests.sha256 == hashlib.sha256(DATA).digest()
    own = await lab.server.operations.control(operation.name)
    await own.complete(PlayResult(text="by its controller"))
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED
