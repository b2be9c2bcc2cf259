"""What the type checker says about handlers that take bytes and offer some: nothing if it is right, else where."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from __future__ import annotations
from datetime import datetime, timedelta
from typing import Any, assert_type
from bytes.v1.bytes_longshore import BytesService, OfferOperation, UploadOperation
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayProgress, PlayResult
from longshore_server import (
    ByteProgress, LocalStore, ObjectInfo, Offer, Operation, ReceivedObject, Server, Store, Transfer, TransferError
)

async def upload(request: BytesRequest, op: UploadOperation) -> PlayResult:
    assert_type(op.transfer, Transfer)
    async for update in op.transfer.updates():
        assert_type(update, ByteProgress)
        assert_type(update.total, int | None)
    try:
        received = await op.transfer.completed()
    except TransferError as error:
        return PlayResult(text=error.reason)
    assert_type(received, ReceivedObject)
    assert_type(received.metadata, dict[str, str])
    async for piece in op.transfer.open(offset=3):
        assert_type(piece, bytes)
    return PlayResult(text=received.sha256, number=received.size)

async def offer(request: BytesRequest, op: OfferOperation) -> PlayResult:
    one = await op.transfer.offer(request.key, filename="a.pdf", expires_in=60, max_uses=1)
    assert_type(one, Offer)
    assert_type(one.expires, datetime)
    two = await op.transfer.offer("b", store="exports", content_type="", expires_in=timedelta(1), url=True, name="c")
    await op.transfer.revoke(two.name)
    await shared(op)
    return PlayResult()

async def shared(op: Operation[Any, PlayProgress, Any, Any]) -> None:
    assert_type(await op.transfer.completed(), ReceivedObject)

async def controlled(server: Server) -> None:
    control = await server.operations.control("operations/x", BytesService.offer)
    assert_type(await control.offer("key", expires_in=60), Offer)
    await control.revoke("downloads/x.1")
    assert_type(server.stores["uploads"], Store)
    assert_type(await server.stores["uploads"].stat("key"), ObjectInfo)

async def wrong(op: UploadOperation, server: Server) -> None:
    op.transfer.completed().size  # wrong
    await op.transfer.offer(b"key")  # wrong
    await op.transfer.offer("key", "store")  # wrong
    await op.transfer.offer("key", expires_in=datetime(2031, 1, 1))  # wrong
    await op.transfer.revoke(await op.transfer.offer("key"))  # wrong
    for piece in op.transfer.open(): ...  # wrong
    (await op.transfer.completed()).size = 3  # wrong
    op.transfer = op.transfer.open()  # wrong
    Server(stores={"uploads": "s3://bucket"})  # wrong
"""


def test_what_handlers_do_with_bytes_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {int(number) for number in re.findall(rf"^{re.escape(str(file))}:(\d+): error:", done.stdout, re.MULTILINE)}
    wanted = {number for number, line in enumerate(CODE.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wanted, done.stdout + done.stderr
