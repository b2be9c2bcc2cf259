"""How uploads end without a commit of their callers, over the wire: by time, a cancel, the end of what they are for."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operation_pb2, transfers_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore_server.clock import SECOND
from longshore_server.engine.engine import Engine
from longshore_server.errors import ServiceError
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.uploads import Uploads
from tests.conftest import reason_of_end, refused, retry_after, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, chunks, commit, header, send, upload
from tests.server.transfers.uploading import DATA, State, sending, staged, stored, waiting


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


async def test_nothing_is_remembered_of_an_upload_that_ends_while_a_call_begins(lab: BytesLab) -> None:
    operation = await waiting(lab)
    seen = (await lab.engine.load(bytes.fromhex(operation.uid.replace("-", "")))).record
    await lab.transfers.AbortUpload(transfers_pb2.AbortUploadRequest(name=operation.upload.name))
    with pytest.raises(ServiceError) as caught:
        async with lab.engine.transfers.uploads.sending(seen, 0, None):
            pass
    assert caught.value.reason.name == "UPLOAD_ABORTED"
    assert lab.engine.transfers.uploads.open == 0
