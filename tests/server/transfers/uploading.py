"""What tests of uploads share: operations that wait for bytes, calls that send some, and where these are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operation_pb2
from longshore.v1 import transfers_service_pb2 as transfers_pb2
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, header

State = operation_pb2.UploadGrant.State
DATA = bytes(range(256)) * 40  # 10,240 bytes: eleven chunks


def stored(lab: BytesLab, key: str = "files/report.pdf") -> Path:
    """Where the object is."""
    return lab.data / "stores" / "uploads" / key


def staged(lab: BytesLab) -> list[str]:
    """The files of uploads on their way."""
    folder = lab.data / "stores" / "uploads" / ".longshore" / "staging"
    return sorted(path.name for path in folder.iterdir())


async def waiting(lab: BytesLab, type: str = "Upload", **fields: Any) -> Any:
    """An operation whose handler waits for its bytes: its snapshot."""

    async def handler(request: Any, op: Any) -> PlayResult:
        got = await op.transfer.completed()
        return PlayResult(text=f"{got.key} {got.size} {got.sha256}")

    lab.handlers.handler = handler
    return (await lab.begin(type, **fields)).operation


async def sending(lab: BytesLab, name: str, data: bytes) -> Any:
    """A call that has sent `data`, which the server has, and sends no more for now."""
    call = lab.transfers.Upload()
    await call.write(header(name))
    await call.write(chunk(0, data))
    while (await lab.transfers.QueryUpload(transfers_pb2.QueryUploadRequest(name=name))).committed_size < len(data):
        pass
    return call
