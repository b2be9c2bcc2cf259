"""Documents of several kinds to a real server that is killed with SIGKILL halfway. No byte may be lost.

make demo
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from acme.documents.v1.documents_longshore import DocumentsClient
from acme.documents.v1.documents_pb2 import FilesUploadProgress, FilesUploadResult, UploadRequest
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from longshore_client import DownloadGrant, LongshoreError, SendProgress, connect

sys.path.append(str(Path(__file__).parents[1]))
from stage import ServerProcess, shown

HERE = Path(__file__).parent
KINDS = {
    ".txt": "text/plain", ".md": "text/markdown", ".csv": "text/csv", ".json": "application/json", ".png": "image/png",
}  # fmt: skip
MB = 1_000_000
LARGE = {"survey.bin": (48 * MB, 12 * MB), "logbook.txt": (9 * MB, 3 * MB), "gauge.csv": (6 * MB, 2 * MB)}
"""Documents that are made on the spot: how many bytes, and how many the caller's line takes in a second."""
ONCE = "gauge.csv"
"""Comes from an instrument, which says everything once."""


class SlowFile(io.FileIO):
    """A file behind a slow line."""

    def __init__(self, path: Path, rate: int) -> None:
        super().__init__(path)
        self._rate = rate

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file does, after a while. Uploads read in a thread."""
        data = super().read(size) or b""
        time.sleep(len(data) / self._rate)
        return data


async def instrument(path: Path, rate: int) -> AsyncIterator[bytes]:
    """What an instrument says, as it says it. Nobody can ask it again."""
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, 1 << 16):
            await asyncio.sleep(len(data) / rate)
            yield data


@dataclass
class Document:
    """One that is sent, and what has become of it."""

    path: Path
    size: int
    sha256: str
    rate: int = 0
    """Bytes a second; 0: as many as go."""
    sent: int = 0
    kept: int = 0
    """Bytes of which the server has said that they are durable."""
    stage: str = ""
    operation: str = ""
    """Name of its operation."""
    result: FilesUploadResult | None = None
    extract: DownloadGrant | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name

    def on_transfer(self, progress: SendProgress) -> None:
        """Bytes have gone."""
        self.sent, self.kept = progress.sent, progress.committed

    def on_progress(self, progress: FilesUploadProgress) -> None:
        """The handler has said something."""
        self.stage = f"{progress.stage:<8} {progress.message}"

    def source(self) -> Path | SlowFile | AsyncIterator[bytes]:
        """Its bytes."""
        if not self.rate:
            return self.path
        return instrument(self.path, self.rate) if self.name == ONCE else SlowFile(self.path, self.rate)


@dataclass
class Board:
    """Where every document stands, and how that looks."""

    documents: list[Document]
    news: str = ""
    half: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once half of all bytes have gone."""
    interrupted: int = 0
    """How many uploads were under way when the server was killed."""
    acknowledged: int = 0
    """How many bytes of these the server had said to be durable by then."""
    lost: int = 0
    """How many of those the next server did not have."""
    _started: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Bytes have gone."""
        if sum(document.sent for document in self.documents) * 2 >= sum(document.size for document in self.documents):
            self.half.set()

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for document in self.documents:
            bar = ProgressBar(
                total=document.size, completed=document.sent, width=36, complete_style="cyan", finished_style="green"
            )
            table.add_row(f"  {document.name:<12}", bar, f"{document.sent / 1000:>7,.0f} kB", document.stage)
        return Group(table, "", f"  {time.monotonic() - self._started:4.1f} s   {self.news}")


def prepare(folder: Path) -> list[Document]:
    """The files of this example, and larger ones that are made here."""
    chance = random.Random(7)
    words = (HERE / "files" / "harbour.txt").read_text("utf-8").split()
    for name, (size, _) in LARGE.items():
        if name.endswith(".bin"):
            data = chance.randbytes(size)
        elif name == ONCE:
            lines = (f"{second:07d},{chance.gauss(2, 1):.2f},swell\n" for second in range(size // 19))
            data = "".join(lines).encode()
        else:
            sentences = (" ".join(chance.choices(words, k=12)) for _ in range(size // 62))
            data = "\n".join(sentences).encode()
        (folder / name).write_bytes(data)
    found = []
    for path in (*sorted((HERE / "files").iterdir()), *(folder / name for name in LARGE)):
        _, rate = LARGE.get(path.name, (0, 0))
        found.append(Document(path, path.stat().st_size, digest_of(path), rate))
    return found


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def send(documents: DocumentsClient, document: Document, board: Board, folder: Path) -> None:
    """One caller: send a document, wait for what was found in it and fetch the extract, whatever the server does."""

    def on_transfer(progress: SendProgress) -> None:
        document.on_transfer(progress)
        board.look()

    request = UploadRequest(key=document.name, content_type=KINDS.get(document.path.suffix, ""))
    prepared = documents.upload(request).transfer(document.source())
    try:
        upload = await prepared.on_transfer(on_transfer).on_progress(document.on_progress).start()
        document.operation = upload.name
        document.result = await upload.wait()
        if document.result.download:
            document.extract = await upload.operation.download(folder / document.name, document.result.download)
    except LongshoreError as error:
        document.failure = str(error)


async def kill_halfway(server: ServerProcess, documents: DocumentsClient, board: Board) -> None:
    """SIGKILL once half of the bytes have gone, then start the server again, and ask it what it has."""
    await board.half.wait()
    before = {document.operation: document.kept for document in board.documents if document.sent < document.size}
    board.interrupted, board.acknowledged = len(before), sum(before.values())
    await server.close(signal.SIGKILL)
    board.news = f"[bold red]SIGKILL[/] with {board.interrupted} uploads under way"
    await asyncio.sleep(1.5)
    await server.open()
    board.news += "; started again, they go on"
    for name, kept in before.items():
        upload = (await documents.upload.attach(name).get()).upload
        board.lost += max(0, kept - upload.committed_size) if upload is not None else kept


async def main() -> int:
    """Run it, and say what became of every document. Exit code 0: every byte is where it belongs."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="longshore-demo-") as name:
        folder = Path(name)
        for part in ("made", "fetched", "data"):
            (folder / part).mkdir()
        board = Board(prepare(folder / "made"))
        console.print(f"\n  {len(board.documents)} documents, one server. Halfway the server is killed.\n")
        server = ServerProcess(HERE / "service.py", folder / "data")
        with shown(board, console):
            await server.open()
            async with connect(server.address) as channel:
                documents = DocumentsClient(channel)
                killer = asyncio.create_task(kill_halfway(server, documents, board))
                async with asyncio.TaskGroup() as callers:
                    for document in board.documents:
                        callers.create_task(send(documents, document, board, folder / "fetched"))
                await killer
            await server.close(signal.SIGTERM)
        return report(console, board, folder)


def report(console: Console, board: Board, folder: Path) -> int:
    """The final table: what was found in each document, and whether all digests agree."""
    table = Table(
        "document", "bytes", "SHA-256", "found", "extract", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    table.columns[1].justify = table.columns[4].justify = "right"
    wrong = 0
    for document in board.documents:
        good = sound(document, folder)
        wrong += not good
        mark = f"[green]✔[/] [dim]{document.sha256[:6]}[/]" if good else "[red]✘[/]"
        extract = f"{document.extract.size:,}" if document.extract is not None else ""
        found = document.failure or contents(document.result)
        table.add_row(document.name, f"{document.size:,}", mark, found, extract)
    facts = Table.grid(padding=(0, 3))
    facts.add_row("uploads under way at the kill", f"[bold]{board.interrupted}[/]")
    facts.add_row("of their bytes acknowledged", f"[bold]{board.acknowledged:,}[/]", "[dim]not sent again[/]")
    facts.add_row("of those lost", f"[bold]{board.lost:,}[/]")
    facts.add_row("documents that are not what was sent", f"[bold]{wrong}[/]")
    console.print("", Padding(Group(table, "", facts), (0, 2)))
    good = not (wrong or board.lost) and board.interrupted > 0
    console.print("\n  [green]✔ every byte is where it belongs[/]\n" if good else "\n  [red]✘ this should not be[/]\n")
    return 0 if good else 1


def sound(document: Document, folder: Path) -> bool:
    """Whether the same bytes were sent, are in the store, and were reported; and the extract is what was offered."""
    if document.result is None:
        return False
    stored = folder / "data" / "stores" / "uploads" / document.name
    extract = document.extract is None or digest_of(folder / "fetched" / document.name) == document.extract.sha256
    return extract and document.sha256 == document.result.sha256 == digest_of(stored)


def contents(result: FilesUploadResult | None) -> str:
    """What the service has found in a document."""
    if result is None or result.WhichOneof("content") is None:
        return "bytes"
    if result.HasField("picture"):
        return f"{result.picture.width} x {result.picture.height} pixels"
    return f"{result.text.lines:,} lines, {result.text.words:,} words"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
