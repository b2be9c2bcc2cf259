"""What the first seed says of operations with bytes (section 6), as a caller in Python sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_longshore import BytesClient
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayProgress, PlayResult

import longshore_client as lc
from longshore_client import Channel, SendProgress
from tests.client.carrying import MB, REQUEST, lab, near, some, stored
from tests.server.transfers.bytes_service import BytesLab

__all__ = ["lab", "near"]


async def test_the_operation_remains_the_caller_visible_workflow(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(b"a document").start()
    assert upload.name == upload.operation.name
    kinds = [type(event) async for event in upload.operation.watch() if not isinstance(event, lc.Transfer)]
    assert kinds == [lc.Accepted, lc.Started, lc.Progress, lc.Completed]
    assert (await upload.operation.get()).state is lc.State.COMPLETED
    assert await upload.wait() == await upload.operation.wait()


async def test_byte_transfer_progress_is_separate_from_business_progress(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(b"a document").start()
    await upload.wait()
    events = [event async for event in upload.operation.watch(types=[lc.Progress, lc.Transfer])]
    assert [event.value.text for event in events if isinstance(event, lc.Progress)] == ["stored 10"]
    assert [event.upload.committed_size for event in events if isinstance(event, lc.Transfer)][-1] == 10
    snapshot = await upload.operation.get()
    assert snapshot.progress is not None
    assert snapshot.upload is not None
    assert (snapshot.progress.text, snapshot.upload.committed_size) == ("stored 10", 10)


async def test_key_and_content_type_come_from_the_input(lab: BytesLab, near: Channel) -> None:
    await (await BytesClient(near).upload(REQUEST).transfer(b"a document").start()).wait()
    info = await lab.server.stores["uploads"].stat("incoming/report.pdf")
    assert (info.size, info.content_type) == (10, "application/pdf")


async def test_callers_attach_the_bytes_before_starting_the_operation(
    lab: BytesLab, near: Channel, tmp_path: Path
) -> None:
    before = lab.tables()
    prepared = BytesClient(near).upload(REQUEST).transfer(tmp_path / "missing.pdf")
    with pytest.raises(FileNotFoundError):
        await prepared.start()
    assert lab.tables() == before, "and what cannot be attached starts nothing"


async def test_transfer_callbacks_are_for_bars_that_track_bytes(lab: BytesLab, near: Channel) -> None:
    bar: list[SendProgress] = []
    upload = await BytesClient(near).upload(REQUEST).transfer(some(MB)).on_transfer(bar.append).start()
    await upload.wait()
    assert (bar[0], bar[-1]) == ((0, 0, MB), (MB, MB, MB))


async def test_operation_progress_is_for_milestones_of_the_domain(lab: BytesLab, near: Channel) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.transfer.completed()
        for stage in ("stored", "queued", "processed"):
            await op.progress(PlayProgress(text=stage))
        return PlayResult()

    shown: list[str] = []
    prepared = BytesClient(near).upload(REQUEST).transfer(some(MB))
    upload = await prepared.on_progress(lambda progress: shown.append(progress.text)).start()
    await upload.wait()
    assert shown == ["stored", "queued", "processed"]


async def test_wait_gives_the_result_of_the_operation(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(b"a document").start()
    assert await upload.wait() == PlayResult(text=(await upload.sent()).sha256, number=10)


async def test_once_completed_resolves_the_bytes_are_durable_in_the_store(lab: BytesLab, near: Channel) -> None:
    upload = await BytesClient(near).upload(REQUEST).transfer(some(MB)).start()
    await upload.sent()
    await lab.restart()
    assert await stored(lab) == some(MB)


async def test_a_caller_receives_stored_bytes_by_a_grant_and_not_by_the_store(lab: BytesLab, near: Channel) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await lab.server.stores["exports"].put("internal/key", b"stored before")
        await op.transfer.offer("internal/key", filename="report.pdf")
        return PlayResult()

    op = await BytesClient(near).offer(BytesRequest())
    await op.wait()
    (grant,) = await op.downloads()
    assert "internal" not in repr(grant)
    assert b"".join([chunk async for chunk in op.open(grant.name)]) == b"stored before"
