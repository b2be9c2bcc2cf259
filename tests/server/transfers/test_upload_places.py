"""The places of calls that send bytes: how many there are, and whose they are."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.bytestream.bytestream_pb2 import WriteRequest
from google.bytestream.bytestream_pb2_grpc import ByteStreamStub

from tests.conftest import refused, retry_after, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, commit, header, send, upload
from tests.server.transfers.uploading import DATA, State, sending, waiting


async def test_transfers_under_way_are_bounded(tmp_path: Path) -> None:
    lab = BytesLab(tmp_path / "bounded", max_transfers=1)
    await lab.start()
    try:
        first, second = await waiting(lab), await waiting(lab)
        call = await sending(lab, first.upload.name, b"abc")
        code, reason, status = await refused(send(lab.transfers, header(second.upload.name), chunk(0, b"x")))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSFERS")
        assert retry_after(status) > 0
        await call.done_writing()
        await call
        assert (await upload(lab.transfers, second.upload.name, DATA)).state == State.STATE_COMMITTED
    finally:
        await lab.stop()


@pytest.mark.parametrize("face", ["Upload", "Write"])
async def test_a_call_that_takes_over_has_the_place_of_the_one_before(face: str, tmp_path: Path) -> None:
    lab = BytesLab(tmp_path / "bounded", max_transfers=1)
    await lab.start()
    try:
        name = (await waiting(lab)).upload.name
        other = (await waiting(lab)).upload.name
        stale = await sending(lab, name, DATA[:10])
        if face == "Upload":
            done = await send(lab.transfers, header(name), chunk(10, DATA[10:]), commit(DATA))
            assert done.state == State.STATE_COMMITTED
        else:
            request = WriteRequest(resource_name=name, write_offset=10, data=DATA[10:], finish_write=True)
            assert (await ByteStreamStub(lab.channel).Write(iter([request]))).committed_size == len(DATA)
        assert (await refused(stale))[1] in ("UPLOAD_PREEMPTED", "UPLOAD_COMMITTED")
        while lab.engine.transfers.count:
            await turns()

        stale = await sending(lab, other, DATA[:10])
        for wrong in (header(other, 1), header(name), chunk(10, b"x")):
            assert (await refused(send(lab.transfers, wrong)))[1] in ("TOO_MANY_TRANSFERS", "INVALID_NAME")
        uid = bytes.fromhex(other.removeprefix("uploads/").replace("-", ""))
        with lab.engine.transfers.place_after("local", uid, 0):
            got = await refused(send(lab.transfers, header(other), chunk(10, b"x")))
            assert got[1] == "TOO_MANY_TRANSFERS", "one takes over, and not one more for each that has begun to"
        await send(lab.transfers, header(other), chunk(10, b"x"))
        assert (await refused(stale))[1] == "UPLOAD_PREEMPTED"
    finally:
        await lab.stop()
