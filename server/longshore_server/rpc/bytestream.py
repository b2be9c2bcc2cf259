"""`google.bytestream.ByteStream`: the same uploads and downloads for stock clients, by that interface's own rules."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.lifecycle import UploadState
from longshore_server.rpc.boundary import Context, Method, decode, stream, unary
from longshore_server.rpc.downloads import Downloads
from longshore_server.rpc.receiving import Requests, receiving
from longshore_server.rpc.transfers import LOOK, Uploads
from longshore_server.store.events import varint
from longshore_server.store.mutations.transfer import upload_refusal
from longshore_server.store.transfers import MAX_CHUNK, upload_name
from longshore_server.transfers.downloads import Asked
from longshore_server.transfers.messages import Framing
from longshore_server.transfers.sending import Sending

SERVICE = "google.bytestream.ByteStream"

if TYPE_CHECKING:
    from google.bytestream.bytestream_pb2 import (
        QueryWriteStatusRequest,
        QueryWriteStatusResponse,
        ReadRequest,
        WriteRequest,
        WriteResponse,
    )
else:
    # Others may have a copy of this file in the same process. One that says exactly the same is the same; of any other
    # protobuf takes the first alone, whoever brings it, and refuses ours. All have these messages.
    with contextlib.suppress(TypeError):
        import google.bytestream.bytestream_pb2  # noqa: F401 - registers them
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteRequest, WriteResponse = (
        GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"google.bytestream.{name}"))
        for name in (
            "QueryWriteStatusRequest", "QueryWriteStatusResponse", "ReadRequest", "WriteRequest", "WriteResponse",
        )
    )  # fmt: skip


class ByteStream:
    """Read, Write and QueryWriteStatus."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._uploads = Uploads(engine)
        self._downloads = Downloads(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "Read": stream(ReadRequest, self._read),
            "Write": receiving(self._write, self._sends, self._engine),
            "QueryWriteStatus": unary(QueryWriteStatusRequest, self._query),
        }

    async def _read(self, request: ReadRequest, context: Context) -> AsyncIterator[Iterable[bytes]]:
        if request.read_limit < 0:
            raise invalid("read_limit", "must not be negative")
        name, asked = request.resource_name, Asked(request.read_offset, request.read_limit, use_id="", sha256=b"")
        async with self._downloads.reading(context, name, asked, FRAMING, field="resource_name") as (_, reading):
            async for batch in reading.batches():
                yield batch

    async def _write(self, requests: Requests, context: Context) -> bytes:
        """Takes bytes until the caller has closed its side."""
        first = await _next(requests)
        if first is None:
            raise invalid("resource_name", "must be in the first request, and there is none")
        live = await self._find(context, first.resource_name)
        upload = live.record.upload
        assert upload is not None
        if upload.ended_well:
            return await self._again(live, first.write_offset)
        async with self._engine.transfers.uploads.sending(live.record, 0, None) as sending:
            finished = await self._receive(first, requests, context, live, sending)
        if finished and await _next(requests) is not None:
            raise invalid("finish_write", "was said before: nothing may follow, and what is written stays finished")
        return WriteResponse(committed_size=sending.position).SerializeToString()

    async def _sends(self, first: bytes, context: Context) -> tuple[bytes, int]:
        live = await self._find(context, decode(WriteRequest, first).resource_name)
        return live.record.uid, 0

    async def _receive(
        self, first: WriteRequest, requests: Requests, context: Context, live: Live, sending: Sending
    ) -> bool:
        """Whether the caller has finished it; if not, all that has come is durable."""
        uploads, looked = self._engine.transfers.uploads, sending.position
        request: WriteRequest | None = first
        while request is not None:
            if request.resource_name not in ("", first.resource_name):
                raise invalid("resource_name", "must be that of the first request, or empty")
            # Who writes has not been told of any bound, and only has that of gRPC.
            for start in range(0, len(request.data) or 1, MAX_CHUNK):
                data = request.data[start : start + MAX_CHUNK]
                await uploads.write(live.record, sending, request.write_offset + start, data, None)
            if sending.position - looked >= LOOK:
                looked = sending.position
                await context.still()
            if request.finish_write:
                await context.still()
                await uploads.commit(live.record.uid, sending, sending.position, b"")
                return True
            request = await _next(requests)
        await sending.settle()
        return False

    async def _again(self, live: Live, offset: int) -> bytes:
        """A call for an upload that is complete: whoever may have written these bytes is told that they are there."""
        assert live.record.upload is not None
        name, size = upload_name(live.record.uid), live.record.upload.committed
        if not 0 <= offset <= size:
            raise ServiceError(
                Reason.WRONG_OFFSET, f"{name} is complete and has {size} bytes; none of them is at {offset}.",
                resource=name, metadata={"committed_size": str(size)},
            )  # fmt: skip
        await self._engine.transfers.uploads.commit(live.record.uid, None, size, b"")
        return WriteResponse(committed_size=size).SerializeToString()

    async def _query(self, request: QueryWriteStatusRequest, context: Context) -> bytes:
        live = await self._find(context, request.resource_name)
        upload = (await self._engine.transfers.uploads.query(live.record.uid)).upload
        assert upload is not None
        if upload.state is UploadState.FAILED:
            # There is no word for it in the answer, and what was counted is counted no more.
            raise upload_refusal(live.record.uid, upload)
        # Others may send more parts, but not here.
        size = upload.committed if upload.ended_well else upload.parts[0]
        complete = upload.state is UploadState.COMMITTED
        return QueryWriteStatusResponse(committed_size=size, complete=complete).SerializeToString()

    async def _find(self, context: Context, name: str) -> Live:
        return await self._uploads.find(context.caller, name, field="resource_name")


async def _next(requests: Requests) -> WriteRequest | None:
    data = await anext(requests, None)
    return None if data is None else decode(WriteRequest, data)


# `ReadResponse(data=...)` in bytes.
FRAMING = Framing(before=lambda _, size: b"\x52" + varint(size), after=lambda _: b"")
