"""`examples/documents` in a real process: files of every kind in, what is in them and an extract out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from acme.documents.v1.documents_longshore import DocumentsClient
from acme.documents.v1.documents_pb2 import FilesUploadResult, Picture, TextStatistics, UploadRequest, WordCount
from google.protobuf import text_format

from longshore.v1 import annotations_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_client import Channel, State, connect
from tests.faults.process import Caller, ServerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "documents"
FILES = EXAMPLE / "files"
TYPE = "acme.documents.v1.DocumentsService/Upload"
CONTRACT = """
call { all_of: "documents.write" } observe { all_of: "documents.read" } cancel { all_of: "documents.write" }
cancellation: CANCELLATION_COOPERATIVE
timeout { seconds: 86400 } retention { seconds: 604800 }
transfer {
  direction: TRANSFER_DIRECTION_SEND store: "uploads" key_path: "key" content_type_path: "content_type"
  max_bytes: 1073741824 expiry { seconds: 900 } require_checksum: true
}
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    found = ServerProcess(tmp_path / "data", service=EXAMPLE / "service.py", warm=True)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


@pytest.fixture
async def channel(server: ServerProcess) -> AsyncIterator[Channel]:
    async with connect(server.address) as found:
        yield found


async def test_its_contract_declares_everything(server: ServerProcess) -> None:
    async with Caller(server) as caller:
        type = await caller.operations.GetType(pb.GetTypeRequest(type=TYPE))
    assert type.contract == text_format.Parse(CONTRACT, annotations_pb2.OperationContract())


def words(**counts: int) -> list[WordCount]:
    return [WordCount(word=word, count=count) for word, count in counts.items()]


@pytest.mark.parametrize(
    ("name", "content_type", "content", "extract"),
    [
        (
            "handbook.md", "text/markdown",
            TextStatistics(
                lines=31, words=180, characters=1057,
                most_frequent=words(pilot=6, water=4, berth=3, harbour=3, minutes=3),
            ),
            "# Pilot's handbook",
        ),
        (
            "berths.json", "application/json; charset=utf-8",
            TextStatistics(
                lines=90, words=99, characters=1493,
                most_frequent=words(berth=8, cranes=8, depth=8, goods=8, length=8),
            ),
            "{",
        ),
        ("chart.png", "Image/PNG", Picture(width=360, height=240), "\ufffdPNG\r"),
        ("echo.bin", "", None, None),
        # What says that it is a picture need not be one.
        ("tides.csv", "image/png", None, None),
    ],
)  # fmt: skip
async def test_what_is_in_a_file(
    name: str, content_type: str, content: TextStatistics | Picture | None, extract: str | None,
    server: ServerProcess, channel: Channel, tmp_path: Path,
) -> None:  # fmt: skip
    path, stages = FILES / name, []
    upload = (
        await DocumentsClient(channel).upload(UploadRequest(key=f"in/{name}", content_type=content_type))
        .transfer(path).on_progress(lambda progress: stages.append(progress.stage)).start()
    )  # fmt: skip
    result = await upload.wait(30)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (result.key, result.size, result.sha256) == (f"in/{name}", path.stat().st_size, sha256)
    assert (server.data / "stores" / "uploads" / "in" / name).read_bytes() == path.read_bytes()
    kind = result.WhichOneof("content")
    assert (getattr(result, kind) if kind else None) == content
    if extract is None:
        assert (result.download, stages) == ("", ["stored", "read"])
        return
    assert stages == ["stored", "read", "offered"]
    grant = await upload.operation.download(tmp_path / "extract", result.download)
    assert grant.filename.startswith(f"{name}.extract.")
    fetched = (tmp_path / "extract").read_bytes()
    assert (len(fetched), hashlib.sha256(fetched).hexdigest()) == (grant.size, grant.sha256)
    assert fetched.decode("utf-8", "replace").split("\n")[0] == extract


async def test_a_server_that_dies_while_bytes_come_and_while_they_are_read(
    server: ServerProcess, channel: Channel, tmp_path: Path
) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"".join(b"%08d soundings, taken anew\n" % line for line in range(300_000)))
    half, on = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        data = path.read_bytes()
        yield data[: len(data) // 2]
        half.set()
        await on.wait()
        yield data[len(data) // 2 :]

    request = UploadRequest(key="large.txt", content_type="text/plain")
    stored = asyncio.Event()
    documents = DocumentsClient(channel)
    upload = await documents.upload(request).transfer(pieces()).on_progress(lambda _: stored.set()).start()
    await half.wait()
    await server.kill()
    await server.start()
    on.set()
    await stored.wait()
    await server.kill()
    await server.start()
    result: FilesUploadResult = await upload.wait(60)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (result.text.lines, result.text.words) == (300_000, 900_000)
    snapshot = await upload.operation.get()
    assert (snapshot.state, len(snapshot.downloads)) == (State.COMPLETED, 1)
    # The second kill mostly meets the reading; a server that was quick has ended the operation by then.
    assert snapshot.attempt in (2, 3)
    objects = sorted(
        path.name for store in ("uploads", "extracts") for path in (server.data / "stores" / store).iterdir()
        if path.name != ".longshore"
    )  # fmt: skip
    assert objects == sorted(["large.txt", f"{result.sha256}.txt"]), "one of each, however often it was begun"
    staged = server.data / "stores" / "uploads" / ".longshore" / "staging"
    assert not list(staged.iterdir())
