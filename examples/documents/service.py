"""Documents: bytes come in and are kept; what is in them is found out, and an extract of it goes out.

longshore serve examples/documents/service.py:server --listen 127.0.0.1:50051 --data data
longshore upload DocumentsService/Upload notes.md -d '{"key": "notes.md", "content_type": "text/markdown"}'
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from acme.documents.v1.documents_longshore import DocumentsService, UploadOperation
from acme.documents.v1.documents_pb2 import FilesUploadProgress, FilesUploadResult, Picture, UploadRequest
from pictures import PngReader, UnreadableError
from texts import TextReader

from longshore_server import LocalStore, ReceivedObject, Server, Store

EXTRACTS = "extracts"
READ_AS_TEXT = frozenset({"application/json", "application/xml", "application/yaml"})
"""Content types of texts, beside all that begin with `text/`."""


class Documents(DocumentsService[Store]):
    """The handlers of acme.documents.v1.DocumentsService."""

    async def upload(self, request: UploadRequest, op: UploadOperation[Store]) -> FilesUploadResult:
        """Wait for the bytes, read them, offer what was found. Killed anywhere, it goes on where it was."""
        stored = await op.transfer.completed()
        await op.progress(FilesUploadProgress(stage="stored", message=f"{request.key}: {stored.size:,} bytes"))
        # A real service would have the bytes looked at by a virus scanner here, before anybody may fetch anything.
        result = await op.step("read", read, op, stored)
        await op.progress(FilesUploadProgress(stage="read", message=described(result)))
        if result.download:
            # Until here it is the name of the extract in its store, of which callers learn nothing.
            offer = await op.transfer.offer(result.download, store=EXTRACTS, filename=filename(stored, result))
            result.download = offer.name
            await op.progress(FilesUploadProgress(stage="offered", message=offer.filename))
        return result


async def read(op: UploadOperation[Store], stored: ReceivedObject) -> FilesUploadResult:
    """What is in a document; its extract, if there can be one, is in the store of extracts then."""
    result = FilesUploadResult(key=stored.key, size=stored.size, sha256=stored.sha256, crc32c=stored.crc32c)
    kind = stored.content_type.partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind in READ_AS_TEXT:
        text = TextReader()
        await fed(op, text)
        result.text.CopyFrom(await asyncio.to_thread(text.statistics))
        await keep(op, result, ".txt", text.extract(), "text/plain; charset=utf-8")
    elif kind == "image/png":
        picture = PngReader()
        try:
            await fed(op, picture)
            extract = await asyncio.to_thread(picture.extract)
        except UnreadableError as error:
            op.log.info("a picture is kept and not read", why=str(error))
        else:
            result.picture.CopyFrom(Picture(width=picture.width, height=picture.height))
            await keep(op, result, ".png", extract, "image/png")
    return result


async def fed(op: UploadOperation[Store], reader: TextReader | PngReader) -> None:
    """Hand all bytes to a reader, a chunk at a time. It works in a thread, so that others go on meanwhile."""
    async with contextlib.aclosing(op.transfer.open()) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(reader.feed, chunk)


async def keep(
    op: UploadOperation[Store], result: FilesUploadResult, suffix: str, extract: bytes, content_type: str
) -> None:
    """Store an extract under the digest of its document: one that is made again after a crash is the same one."""
    result.download = result.sha256 + suffix
    await op.services.put(result.download, extract, content_type=content_type)


def filename(stored: ReceivedObject, result: FilesUploadResult) -> str:
    """What a person would call the extract."""
    name = stored.key.rpartition("/")[2]
    return f"{name}.extract{result.download[len(result.sha256) :]}"


def described(result: FilesUploadResult) -> str:
    """What was found, in a few words."""
    match result.WhichOneof("content"):
        case "text":
            return f"{result.text.lines:,} lines, {result.text.words:,} words"
        case "picture":
            return f"{result.picture.width} x {result.picture.height} pixels"
        case _:
            return "kept as it is"


@asynccontextmanager
async def lifespan(server: Server) -> AsyncIterator[Store]:
    """Handlers write extracts to a store of the service's own; they get it as `op.services`."""
    yield server.stores[EXTRACTS]


server = Server(Documents(), lifespan=lifespan, stores={"uploads": LocalStore(), EXTRACTS: LocalStore()})
