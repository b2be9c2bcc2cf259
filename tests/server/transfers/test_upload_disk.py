"""Uploads on a disk that fails to sync: what it has lost is never acknowledged."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from longshore.v1 import operation_pb2
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from longshore_server.transfers import sending
from tests.conftest import refused, retry_after
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunks, commit, header, send
from tests.server.transfers.uploading import DATA, stored, waiting

State = operation_pb2.UploadGrant.State


@pytest.mark.parametrize("early", [False, True])
async def test_bytes_whose_sync_failed_are_sent_again(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """The kernel tells of a failed sync once, and the next one succeeds without those bytes.

    `early`: it is the sync that only has the disk begin, for which nobody waits.
    """
    name = (await waiting(lab)).upload.name
    await send(lab.transfers, header(name), chunks(DATA[:3000]))
    real, failures = os.fdatasync, [OSError(errno.EIO, "the disk failed")]

    def fdatasync(file: int) -> None:
        if failures:
            raise failures.pop()
        real(file)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    if early:
        monkeypatch.setattr(sending, "SYNC", 1)
    _, reason, status = await refused(send(lab.transfers, header(name), chunks(DATA, offset=3000)))
    assert reason == "STORE_UNAVAILABLE"
    assert retry_after(status) > 0
    assert failures == []
    got = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))
    assert (got.state, got.committed_size) == (State.STATE_OPEN, 3000)
    done = await send(lab.transfers, header(name), chunks(DATA, offset=3000), commit(DATA))
    assert done.state == State.STATE_COMMITTED
    assert stored(lab).read_bytes() == DATA


@pytest.mark.parametrize("fails", ["pwritev", "fdatasync"])
async def test_operators_are_told_of_a_disk_that_is_full(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    operation = await waiting(lab)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        _, reason, _ = await refused(send(lab.transfers, header(operation.upload.name), chunks(DATA)))
        await lab.settled()
    assert reason == "STORE_FULL"
    file = stored(lab, ".longshore/staging") / f"{operation.uid}.0"
    said = [record.message for record in caplog.records if record.name == sending.__name__]
    assert said == [f"{operation.upload.name}: {file} cannot be written: No space left on device"]
    done = await send(lab.transfers, header(operation.upload.name), chunks(DATA), commit(DATA))
    assert done.state == State.STATE_COMMITTED


async def test_what_a_call_could_not_record_is_not_recorded_once_it_is_over(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the upload just then looks at a call whose file is closed, or belongs to the next one."""
    operation = await waiting(lab)
    calls: list[sending.Sending] = []
    begin = sending.Sending.__init__

    def begins(call: sending.Sending, *arguments: Any) -> None:
        begin(call, *arguments)
        calls.append(call)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(sending.Sending, "__init__", begins)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        await refused(send(lab.transfers, header(operation.upload.name), chunks(DATA[:3000])))
        await lab.settled()
    (call,) = calls
    assert await call.record() is None
    got = await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=operation.upload.name))
    assert got.committed_size == 0


@pytest.mark.parametrize("size", [0, 3000])
@pytest.mark.parametrize("left", [False, True])
async def test_the_folder_of_a_file_is_synced_before_anything_of_that_is_recorded_and_not_when_it_is_opened(
    left: bool, size: int, lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes in a file that no folder names are lost with the power. `left`: a server has made it, and died before it
    came to that."""
    operation = await waiting(lab)
    name, data = operation.upload.name, DATA[:size]
    folder = stored(lab, ".longshore/staging")
    if left:
        (folder / f"{operation.uid}.0").touch()
    done: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink() == folder:
            done.append("synced")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    lab.engine.store.writer.on_write = lambda mutation: done.append(type(mutation).__name__)
    await send(lab.transfers, header(name))
    assert done == [], "where hundreds begin at once, nobody else would get at the disk"
    if data:
        await send(lab.transfers, header(name), chunks(data))
        assert set(done[1:]) == {"AdvanceUpload"}
    assert (await send(lab.transfers, header(name), commit(data))).state == State.STATE_COMMITTED
    assert done[0] == "synced"
    assert "synced" not in done[1 : done.index("CommitUpload")], "once is enough"
