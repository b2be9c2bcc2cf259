"""What the type checker says about code that sends bytes: only where the contract has callers send some, and typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bytes.v1.bytes_longshore import BytesClient

from longshore_client import OperationMethod, UploadMethod, connect

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from __future__ import annotations
from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_type
from bytes.v1.bytes_longshore import BytesClient
from bytes.v1.bytes_pb2 import BytesRequest, FileRequest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult
from longshore_client import OperationHandle, SendProgress, UploadGrant

async def pieces() -> AsyncIterator[bytes]:
    yield b""

async def show(progress: PlayProgress) -> None: ...
def bar(progress: SendProgress) -> None: ...
def other(progress: PlayResult) -> None: ...

async def right(files: BytesClient, lab: LabClient, path: Path) -> None:
    prepared = files.upload(BytesRequest(key="a"), request_id="once")
    upload = await prepared.transfer(path, parts=4).on_transfer(bar).on_progress(show).start()
    assert_type(await upload.wait(timeout=3), PlayResult)
    assert_type(await upload.sent(), UploadGrant)
    assert_type((await upload.operation.get()).progress, PlayProgress | None)
    for source in (b"", bytearray(), [b"a", b"b"], pieces()):
        await files.plain(FileRequest()).transfer(source).start()
    with path.open("rb") as file:
        await files.upload(BytesRequest()).transfer(file).start()
    handle = await prepared.start_without_bytes()
    assert_type(await handle.wait(), PlayResult)
    again = await files.upload.attach(handle.name).upload(path).on_progress(show).start()
    assert_type(await again.wait(), PlayResult)
    assert_type((await (await lab.play(PlayRequest())).downloads())[0].size, int | None)
    await (await files.export(BytesRequest())).download(path)

async def wrong(files: BytesClient, lab: LabClient, path: Path) -> None:
    lab.play(PlayRequest()).transfer(path)  # wrong
    files.export(BytesRequest()).transfer(path)  # wrong
    await files.upload(BytesRequest())  # wrong
    await files.upload(BytesRequest()).start()  # wrong
    await files.upload.run(BytesRequest())  # wrong
    files.upload(FileRequest())  # wrong
    files.upload(BytesRequest()).transfer(7)  # wrong
    files.upload(BytesRequest()).transfer(path).on_transfer(show)  # wrong
    files.upload(BytesRequest()).transfer(path).on_progress(other)  # wrong
"""


def test_bytes_go_only_with_what_the_contract_says(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {int(number) for number in re.findall(rf"^{re.escape(str(file))}:(\d+): error:", done.stdout, re.MULTILINE)}
    wanted = {number for number, line in enumerate(CODE.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wanted, done.stdout + done.stderr


def test_a_type_whose_callers_send_bytes_is_started_with_them() -> None:
    files = BytesClient(connect())
    assert [type(method) for method in (files.upload, files.strict, files.export)] == [
        UploadMethod, UploadMethod, OperationMethod,
    ]  # fmt: skip
