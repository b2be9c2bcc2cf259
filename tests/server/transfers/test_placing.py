"""Committed uploads on their way to their places: in order, and only while there are their operations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore.v1.operations_service_pb2_grpc import OperationsServiceStub
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.stores import LocalStore
from longshore_server.transfers.uploads import Uploads
from tests.conftest import refused
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import upload
from tests.server.transfers.test_owned import collected
from tests.server.transfers.uploading import DATA, staged, stored, waiting

State = operation_pb2.UploadGrant.State
SECRET = "bucket.internal:9000/prefix"


class Doubtful(LocalStore):
    """A store that can be away: before it has done anything, or only for its answer."""

    away = False
    mute = False
    hold: Callable[[str], Awaitable[None]] | None = None

    def _check(self) -> None:
        if self.away:
            raise ObjectError(Reason.STORE_UNAVAILABLE, f"{SECRET} is away")

    async def adopt(self, staged: Path, key: str, **described: Any) -> Any:
        self._check()
        if self.hold is not None:
            await self.hold(key)
        found = await super().adopt(staged, key, **described)
        if self.mute:
            raise ObjectError(Reason.STORE_UNAVAILABLE, f"{SECRET} has not answered")
        return found

    async def stat(self, key: str) -> Any:
        self._check()
        return await super().stat(key)

    async def delete(self, key: str, *, only: str = "") -> bool:
        self._check()
        return await super().delete(key, only=only)


@pytest.fixture
def store() -> Doubtful:
    return Doubtful()


@pytest.fixture
async def lab(tmp_path: Path, store: Doubtful) -> AsyncIterator[BytesLab]:
    found = BytesLab(tmp_path / "data", stores={"uploads": store, "exports": LocalStore()})
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def committing(lab: BytesLab, store: Doubtful, type: str, data: bytes) -> Any:
    """An operation whose upload is committed and cannot be put in its place."""
    operation = await waiting(lab, type)
    store.away = True
    _, reason, _ = await refused(upload(lab.transfers, operation.upload.name, data))
    assert reason == "STORE_UNAVAILABLE"
    return operation


async def cancelled(lab: BytesLab, name: str) -> None:
    """End it so: its handler waits for the object until its grace is over."""
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    lab.clock.advance(11)
    await lab.end(name)


async def deleted(lab: BytesLab, name: str) -> None:
    await lab.operations.Delete(pb.DeleteRequest(name=name))
    await collected(lab)


async def state(lab: BytesLab, name: str) -> str:
    """Of the upload."""
    return State.Name((await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).state)


async def placed(lab: BytesLab) -> None:
    """Return once nothing is on its way."""
    while tasks := lab.engine.transfers.uploads.placing._tasks:
        await asyncio.wait(tasks)


async def test_garbage_is_only_what_the_deleted_operation_has_put_there(lab: BytesLab, store: Doubtful) -> None:
    """The same bytes, put there by another while the garbage waited for the store, are not."""
    first = await waiting(lab, "Owned")
    await upload(lab.transfers, first.upload.name, DATA)
    await lab.end(first.name)
    store.away = True
    await deleted(lab, first.name)
    assert len(lab.tables()["garbage"]) == 1
    store.away = False
    second = await waiting(lab, "Upload")
    await upload(lab.transfers, second.upload.name, DATA)
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await collected(lab)
    assert lab.tables()["garbage"] == []
    assert stored(lab).read_bytes() == DATA


async def test_a_file_that_somebody_has_put_in_the_place_of_an_owned_object_stays(lab: BytesLab) -> None:
    operation = await waiting(lab, "Owned")
    await upload(lab.transfers, operation.upload.name, DATA)
    await lab.end(operation.name)
    other = stored(lab, "other")
    other.write_bytes(b"somebody's")
    other.replace(stored(lab))
    await deleted(lab, operation.name)
    assert stored(lab).read_bytes() == b"somebody's"


@pytest.mark.parametrize("type", ["Owned", "Upload"])
async def test_the_upload_of_a_deleted_operation_is_put_nowhere(lab: BytesLab, store: Doubtful, type: str) -> None:
    first = await committing(lab, store, type, DATA)
    await cancelled(lab, first.name)
    await deleted(lab, first.name)
    await placed(lab)
    store.away = False
    second = await waiting(lab, "Upload")
    assert (await upload(lab.transfers, second.upload.name, b"second")).state == State.STATE_COMMITTED
    lab.clock.advance(60)
    await collected(lab)
    assert stored(lab).read_bytes() == b"second"
    assert staged(lab) == []
    assert lab.tables()["garbage"] == []


@pytest.mark.parametrize("crash", [False, True])
async def test_an_owned_object_whose_operation_is_deleted_before_it_is_known_to_be_there_goes(
    lab: BytesLab, store: Doubtful, crash: bool
) -> None:
    operation = await waiting(lab, "Owned")
    store.mute = True
    await refused(upload(lab.transfers, operation.upload.name, DATA))
    assert stored(lab).exists()
    await cancelled(lab, operation.name)
    if crash:
        lab.engine.transfers.collector.stop()
    await deleted(lab, operation.name)
    await placed(lab)
    if crash:
        await lab.harness.crash()
        await lab.begin_anew()
    else:
        lab.clock.advance(60)
    await collected(lab)
    assert not stored(lab).exists()
    assert lab.tables()["garbage"] == []
    assert staged(lab) == []


async def test_an_operation_that_is_deleted_while_its_object_is_put_in_place(lab: BytesLab, store: Doubtful) -> None:
    """What is under way goes on, and is garbage then."""
    began, go = asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        began.set()
        await go.wait()

    store.hold = hold
    operation = await waiting(lab, "Owned")
    sending = asyncio.ensure_future(upload(lab.transfers, operation.upload.name, DATA))
    await began.wait()
    await cancelled(lab, operation.name)
    await deleted(lab, operation.name)
    assert len(lab.tables()["garbage"]) == 1
    go.set()
    assert (await refused(sending))[1] == "OPERATION_NOT_FOUND"
    await placed(lab)
    assert stored(lab).exists()
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await collected(lab)
    assert not stored(lab).exists()


@pytest.mark.parametrize("crash", [False, True])
async def test_uploads_to_one_key_come_to_it_in_the_order_of_their_commits(
    lab: BytesLab, store: Doubtful, crash: bool
) -> None:
    # The uids are the other way round: they are not what decides.
    later, earlier = await waiting(lab, "Upload"), await waiting(lab, "Upload")
    store.away = True
    for operation, data in ((earlier, b"old"), (later, b"new")):
        assert (await refused(upload(lab.transfers, operation.upload.name, data)))[1] == "STORE_UNAVAILABLE"
    if crash:
        await lab.harness.crash()
        store.away = False
        await lab.begin_anew()
    else:
        store.away = False
        lab.clock.advance(60)
    await placed(lab)
    assert [await state(lab, each.upload.name) for each in (earlier, later)] == ["STATE_COMMITTED"] * 2
    assert stored(lab).read_bytes() == b"new"


async def test_one_that_comes_while_the_first_waits_for_the_store_has_it_tried_at_once(
    lab: BytesLab, store: Doubtful
) -> None:
    first, second = await committing(lab, store, "Upload", b"old"), await waiting(lab, "Upload")
    store.away = False
    assert (await upload(lab.transfers, second.upload.name, b"new")).state == State.STATE_COMMITTED
    assert await state(lab, first.upload.name) == "STATE_COMMITTED"
    assert stored(lab).read_bytes() == b"new"


async def test_a_slow_store_does_not_hold_up_another(tmp_path: Path, store: Doubtful) -> None:
    lab = BytesLab(tmp_path / "data", stores={"uploads": LocalStore(), "exports": LocalStore(), "slow": store})
    await lab.start()
    try:
        placing = lab.engine.transfers.uploads.placing
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                await stack.enter_async_context(placing._room["slow"])
            operation = await waiting(lab)
            assert (await upload(lab.transfers, operation.upload.name, DATA)).state == State.STATE_COMMITTED
    finally:
        await lab.stop()


async def test_callers_hear_nothing_of_what_the_store_has_answered(
    lab: BytesLab, store: Doubtful, caplog: pytest.LogCaptureFixture
) -> None:
    late, strict = await waiting(lab, "Upload"), await waiting(lab, "Strict", key="files/strict")
    store.away = True
    for operation in (late, strict):
        _, reason, status = await refused(upload(lab.transfers, operation.upload.name, DATA))
        assert reason == "STORE_UNAVAILABLE"
        assert "internal" not in str(status)
        assert "files/" not in str(status)
    assert caplog.text.count(SECRET) == 2
    store.away = False
    stored(lab, "files").mkdir(exist_ok=True)
    stored(lab, "files/strict").touch()
    _, reason, status = await refused(upload(lab.transfers, strict.upload.name, DATA))
    assert reason == "OBJECT_EXISTS"
    assert "files/" not in str(status)
    lab.clock.advance(60)
    await placed(lab)


async def test_what_somebody_has_to_mend_is_an_error_in_the_log(
    lab: BytesLab, store: Doubtful, caplog: pytest.LogCaptureFixture
) -> None:
    async def hold(_: str) -> None:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "NoSuchBucket", lasting=True)

    store.hold = hold
    operation = await waiting(lab)
    assert (await refused(upload(lab.transfers, operation.upload.name, DATA)))[1] == "STORE_UNAVAILABLE"
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"{operation.upload.name} waits until somebody mends the store uploads: NoSuchBucket"
    ]
    store.hold = None
    lab.clock.advance(60)
    await placed(lab)
    assert await state(lab, operation.upload.name) == "STATE_COMMITTED"


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_local_store_that_is_away_at_the_commit(lab: BytesLab, store: Doubtful, mounted: bool) -> None:
    """`mounted`: its folder is there, as of a disk that is not mounted on it."""
    root = stored(lab, "").parent / "uploads"
    aside = root.with_name("aside")

    async def hold(_: str) -> None:
        if not aside.exists():
            root.rename(aside)
            if mounted:
                root.mkdir()

    store.hold = hold
    operation = await waiting(lab)
    assert (await refused(upload(lab.transfers, operation.upload.name, DATA)))[1] == "STORE_UNAVAILABLE"
    store.hold = None
    if mounted:
        root.rmdir()
    aside.rename(root)
    lab.clock.advance(60)
    await placed(lab)
    assert await state(lab, operation.upload.name) == "STATE_COMMITTED"
    assert stored(lab).read_bytes() == DATA


async def test_a_loss_of_acknowledged_bytes_is_told(
    lab: BytesLab, store: Doubtful, caplog: pytest.LogCaptureFixture
) -> None:
    operation = await waiting(lab)

    async def hold(_: str) -> None:
        for name in staged(lab):
            stored(lab, ".longshore/staging").joinpath(name).unlink()

    store.hold = hold
    assert (await refused(upload(lab.transfers, operation.upload.name, DATA)))[1] == "OBJECT_CORRUPT"
    assert any("its bytes are lost" in record.message for record in caplog.records if record.levelno == logging.ERROR)


async def test_garbage_in_a_local_store_that_is_away_is_not_forgotten(lab: BytesLab) -> None:
    operation = await waiting(lab, "Owned")
    await upload(lab.transfers, operation.upload.name, DATA)
    await lab.end(operation.name)
    root = stored(lab, "").parent / "uploads"
    root.rename(root.with_name("aside"))
    await deleted(lab, operation.name)
    assert len(lab.tables()["garbage"]) == 1
    root.with_name("aside").rename(root)
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await collected(lab)
    assert not stored(lab).exists()


async def test_what_is_committed_cannot_be_given_up(lab: BytesLab, store: Doubtful) -> None:
    operation = await committing(lab, store, "Upload", DATA)
    abort = transfers_pb2.AbortUploadRequest(name=operation.upload.name)
    assert (await refused(lab.transfers.AbortUpload(abort)))[1] == "UPLOAD_COMMITTED"
    store.away = False
    lab.clock.advance(60)
    await placed(lab)
    assert (await lab.transfers.AbortUpload(abort)).state == State.STATE_COMMITTED


async def test_an_operation_that_is_deleted_while_the_server_starts_does_not_keep_it_from_that(
    tmp_path: Path, store: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, and its upload was on its way to its place."""
    address, stores = f"unix:{tmp_path}/socket", {"uploads": store, "exports": LocalStore()}
    lab = BytesLab(tmp_path / "data", stores=stores, listen=(address,))
    await lab.start()
    operation = await committing(lab, store, "Upload", DATA)
    await cancelled(lab, operation.name)
    await lab.harness.crash()
    start = Uploads.start

    async def after_a_caller(self: Uploads, pending: Iterable[bytes]) -> None:
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            await OperationsServiceStub(channel).Delete(pb.DeleteRequest(name=operation.name))
        await start(self, pending)

    with monkeypatch.context() as patch:
        patch.setattr(Uploads, "start", after_a_caller)
        await lab.begin_anew()
    assert staged(lab) == []
    await lab.stop()
