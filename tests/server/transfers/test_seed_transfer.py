"""A test for every sentence of seed 1 about transfer-capable operations that a server can show, named after it.

Those on what a caller's library does, its upload before the start and its callbacks, are with the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bytes.v1 import bytes_longshore, bytes_pb2
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

from longshore.v1 import annotations_pb2, operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as tpb
from longshore_server import ContractError, Job, JobRetry, OperationError, TransferError
from tests.conftest import Crash, reason_of_end, refused, result_of
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import fetch
from tests.server.transfers.sender import chunk, commit, header, send, upload

DATA = b"Dear all,\n" * 3000
STATE = operation_pb2.OperationSnapshot.State
UPLOAD = operation_pb2.UploadGrant.State


@pytest.fixture
async def lab_with_jobs(tmp_path: Path) -> AsyncIterator[BytesLab]:
    """One that has not started: the test declares its queues before."""
    found = BytesLab(tmp_path / "data")
    yield found
    await found.stop()


async def test_use_a_transfer_capable_operation_when_the_workflow_starts_with_caller_sent_bytes(lab: BytesLab) -> None:
    """Such as a document upload that the service stores and then processes."""
    order: list[str] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        order.append("stored" if (await lab.server.stores["uploads"].stat(received.key)).size else "nothing")
        lines = 0
        async for piece in op.transfer.open():
            lines += piece.count(b"\n")
        order.append("processed")
        return PlayResult(number=lines)

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    assert result_of(await lab.end(operation.name)).number == 3000
    assert order == ["stored", "processed"]


async def test_the_operation_remains_the_caller_visible_workflow(lab: BytesLab) -> None:
    """It is started, followed, found, cancelled like any other; that bytes have come is not its end."""
    go = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.completed()
        await op.progress(PlayProgress(text="processing"))
        await go.wait()
        return PlayResult(text="done")

    operation = (await lab.begin()).operation
    done = await upload(lab.transfers, operation.upload.name, DATA)
    assert done.state == UPLOAD.STATE_COMMITTED
    await lab.reached(operation.name, "progress")
    assert (await lab.get(operation.name)).state == STATE.STATE_RUNNING
    (listed,) = (await lab.operations.List(pb.ListRequest(filter="state=RUNNING"))).operations
    assert listed.name == operation.name
    go.set()
    assert result_of(await lab.end(operation.name)).text == "done"


async def test_byte_transfer_progress_is_separate_from_business_progress(lab: BytesLab) -> None:
    """Each is an event of its own kind, and neither takes the place of the other in a snapshot."""

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(text="waiting"))
        await op.transfer.completed()
        await op.progress(PlayProgress(text="stored"))
        return PlayResult()

    operation = (await lab.begin()).operation
    await lab.reached(operation.name, "progress")
    await upload(lab.transfers, operation.upload.name, DATA)
    ended = await lab.end(operation.name)
    events = await lab.events(operation.name)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:3] == ["accepted", "started", "progress"]
    assert kinds[-3:] == ["transfer", "progress", "completed"]
    sent = [event.transfer.upload for event in events if event.HasField("transfer")]
    assert (sent[-1].state, sent[-1].committed_size) == (UPLOAD.STATE_COMMITTED, len(DATA))
    progress = PlayProgress()
    assert ended.progress.Unpack(progress)
    assert progress.text == "stored"
    assert ended.upload == sent[-1]
    only = await lab.events(operation.name, event_types=[operation_pb2.EVENT_TYPE_PROGRESS])
    assert [event.WhichOneof("event") for event in only] == ["progress", "progress", "completed"]


def test_declare_the_transfer_on_the_operation_contract() -> None:
    """Direction, store, key and content type, expiry; beside it who may call and who may observe."""
    descriptor = bytes_longshore.BytesService.DESCRIPTOR
    said = {method.name: method.GetOptions().Extensions[annotations_pb2.operation] for method in descriptor.methods}
    declared, brief = said["Upload"].transfer, said["Small"].transfer
    assert declared.direction == annotations_pb2.TRANSFER_DIRECTION_SEND
    assert (declared.store, declared.key_path, declared.content_type_path) == ("uploads", "key", "content_type")
    assert brief.expiry.seconds == 60
    assert said["Upload"].HasField("call")
    assert said["Upload"].HasField("observe")


async def test_the_store_names_a_service_owned_binding(tmp_path: Path) -> None:
    """One that the service declares: without it there is no server."""
    lab = BytesLab(tmp_path / "data", stores={})
    with pytest.raises(ContractError, match=r"Upload: option transfer\.store: the server has no store of this name"):
        await lab.start()


async def test_key_and_content_type_are_paths_into_the_operation_input(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        return PlayResult(text=f"{received.store} {received.key} {received.content_type}")

    plain = bytes_pb2.FileRequest(file=bytes_pb2.File(key="deep/down.txt"))
    for started, wanted in (
        (await lab.begin(key="incoming/report.pdf", content_type="application/pdf"),
         "uploads incoming/report.pdf application/pdf"),
        (await lab.begin("Plain", plain), "uploads deep/down.txt "),
    ):  # fmt: skip
        await upload(lab.transfers, started.operation.upload.name, DATA)
        assert result_of(await lab.end(started.operation.name)).text == wanted


async def test_callers_attach_the_bytes_before_starting_the_operation(lab: BytesLab) -> None:
    """There is no other way to send any: an upload is made by the start, and belongs to it alone."""
    operation = (await lab.begin("Offer")).operation
    _, reason, _ = await refused(send(lab.transfers, header(f"uploads/{operation.uid}"), commit(b"")))
    assert reason == "UPLOAD_NOT_FOUND"
    assert not operation.HasField("upload")


async def test_operation_progress_is_for_domain_milestones_such_as_stored_queued_or_processed(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        await op.progress(PlayProgress(text=f"Stored {received.size} bytes"))
        await op.progress(PlayProgress(text="queued"))
        await op.progress(PlayProgress(text="processed"))
        return PlayResult()

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    found = []
    for event in await lab.events(operation.name):
        if event.HasField("progress"):
            progress = PlayProgress()
            assert event.progress.value.Unpack(progress)
            found.append(progress.text)
    assert found == ["Stored 30000 bytes", "queued", "processed"]


async def test_transfer_completed_is_the_bridge_from_transport_to_store_backed_processing(lab: BytesLab) -> None:
    """Not before the commit; and whatever way the bytes came: in pieces, over several calls."""
    before: list[bool] = []
    waits = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        waiting = asyncio.ensure_future(op.transfer.completed())
        async for update in op.transfer.updates():
            if update.transferred == len(DATA) and not before:
                before.append(waiting.done())
                waits.set()
        return PlayResult(text=(await waiting).sha256)

    operation = (await lab.begin()).operation
    name = operation.upload.name
    await send(lab.transfers, header(name), chunk(0, DATA[:7000]))
    await send(lab.transfers, header(name), chunk(7000, DATA[7000:]))
    await waits.wait()
    await send(lab.transfers, header(name), commit(DATA))
    assert result_of(await lab.end(operation.name)).text == hashlib.sha256(DATA).hexdigest()
    assert before == [False]


async def test_once_it_resolves_the_staged_bytes_are_durable_in_the_service_store_named_by_the_contract(
    lab: BytesLab,
) -> None:
    """The server dies at this very moment."""
    crash = Crash(lab)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        await crash.here(op)
        found = [piece async for piece in lab.server.stores[received.store].open(received.key)]
        return PlayResult(text=hashlib.sha256(b"".join(found)).hexdigest())

    operation = (await lab.begin(key="incoming/letter.txt")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    await crash.reached.wait()
    assert (lab.data / "stores" / "uploads" / "incoming" / "letter.txt").read_bytes() == DATA
    await crash.happen()
    assert result_of(await lab.end(operation.name)).text == hashlib.sha256(DATA).hexdigest()


async def test_process_them_directly(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        digest = hashlib.sha256()
        async for piece in op.transfer.open():
            digest.update(piece)
        return PlayResult(text=digest.hexdigest())

    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    assert result_of(await lab.end(operation.name)).text == hashlib.sha256(DATA).hexdigest()


async def test_or_hand_over_where_follow_up_work_should_outlive_the_current_process(lab: BytesLab) -> None:
    """Whoever goes on has the object in the store, and what is known of it from the operation."""
    deferred = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        await op.transfer.completed()
        result = await op.defer()
        deferred.set()
        return result

    operation = (await lab.begin(key="later.txt")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    await deferred.wait()
    await lab.restart()
    control = await lab.server.operations.control(operation.name, bytes_longshore.BytesService.upload)
    key = (await control.input()).key
    stored = await lab.server.stores["uploads"].stat(key)
    await control.complete(PlayResult(number=stored.size))
    assert result_of(await lab.end(operation.name)).number == len(DATA)


async def test_or_enqueue_a_private_job_if_follow_up_work_should_retry_or_outlive_the_current_process(
    lab_with_jobs: BytesLab,
) -> None:
    """Here it does both: its first attempt fails, the server dies in its second, and its result is the operation's."""
    lab, second = lab_with_jobs, asyncio.Event()

    @lab.server.job("read", retry=JobRetry(max_attempts=3, initial_delay=0))
    async def read(payload: PlayRequest, job: Job[PlayResult]) -> PlayResult:
        if job.attempt == 1:
            raise OSError("not now")
        if job.attempt == 2:
            second.set()
            await asyncio.Event().wait()
        async with contextlib.aclosing(lab.server.stores["uploads"].open(payload.key)) as chunks:
            return PlayResult(text=hashlib.sha256(b"".join([chunk async for chunk in chunks])).hexdigest())

    @lab.plays
    async def handler(_: Any, op: Any) -> Any:
        received = await op.transfer.completed()
        return await op.attach(await read.create(PlayRequest(key=received.key)))

    await lab.start()
    operation = (await lab.begin()).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    await second.wait()
    await lab.restart()
    assert result_of(await lab.end(operation.name)).text == hashlib.sha256(DATA).hexdigest()


async def test_a_transfer_that_fails_is_an_error_that_the_handler_decides_about(lab: BytesLab) -> None:
    """Let through it is the operation's; caught it is what the handler says."""
    caught: list[str] = []

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        try:
            await op.transfer.completed()
        except TransferError as error:
            caught.append(error.reason)
            if request.script == "let through":
                raise
            raise OperationError("NO_DOCUMENT", "the document did not come") from error
        return PlayResult()

    reasons = []
    for script in ("let through", "say it otherwise"):
        operation = (await lab.begin(script=script)).operation
        await lab.transfers.AbortUpload(tpb.AbortUploadRequest(name=operation.upload.name))
        reasons.append(reason_of_end(await lab.end(operation.name)))
    assert caught == ["UPLOAD_ABORTED", "UPLOAD_ABORTED"]
    assert reasons == ["UPLOAD_ABORTED", "NO_DOCUMENT"]


async def test_for_post_transfer_store_access_and_cleanup_see_the_store(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        received = await op.transfer.completed()
        store = lab.server.stores[received.store]
        await store.copy(received.key, "archive/letter.txt")
        assert await store.delete(received.key)
        return PlayResult(text=json.dumps([info.key for info in await store.list()]))

    operation = (await lab.begin(key="incoming/letter.txt")).operation
    await upload(lab.transfers, operation.upload.name, DATA)
    assert json.loads(result_of(await lab.end(operation.name)).text) == ["archive/letter.txt"]


async def test_keep_raw_store_bindings_service_local(lab: BytesLab) -> None:
    """Nothing that a caller can see says where bytes are: not in which store, not under which key."""
    await lab.server.stores["exports"].put("secret/place.txt", DATA)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("secret/place.txt", filename="letter.txt")
        with pytest.raises(TransferError) as caught:
            await op.transfer.offer("secret/elsewhere.txt")
        raise caught.value

    operation = (await lab.begin("Offer", key="of-the-caller")).operation
    ended = await lab.end(operation.name)
    assert reason_of_end(ended) == "OBJECT_NOT_FOUND"
    seen = [ended, *await lab.events(operation.name), (await fetch(lab, ended.downloads[0].name)).header]
    for message in seen:
        data = message.SerializeToString()
        assert b"secret" not in data
        assert b"exports" not in data


async def test_to_receive_stored_bytes_later_expose_a_contract_owned_receive_transfer_grant(lab: BytesLab) -> None:
    """Bytes that one operation took, another one gives."""

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        if op.input.script == "give":
            await op.transfer.offer(op.input.key, store="uploads")
        else:
            await op.transfer.completed()
        return PlayResult()

    taken = (await lab.begin(key="letter.txt")).operation
    await upload(lab.transfers, taken.upload.name, DATA)
    await lab.end(taken.name)
    given = await lab.end((await lab.begin("Offer", key="letter.txt", script="give")).operation.name)
    (grant,) = given.downloads
    assert grant.name.startswith("downloads/")
    assert (await fetch(lab, grant.name)).data == DATA
