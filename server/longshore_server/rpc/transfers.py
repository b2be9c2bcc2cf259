"""`longshore.v1.TransfersService`: the bytes that callers send."""

from __future__ import annotations

import contextlib

from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.auth.identity import Principal
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.ids import parse_uid
from longshore_server.rpc.authorization import Authorization, Gate
from longshore_server.rpc.boundary import Context, Method, decode, unary
from longshore_server.rpc.receiving import Requests, receiving
from longshore_server.store.mutations.transfer import upload_refusal
from longshore_server.store.record import OperationRecord
from longshore_server.store.transfers import upload_grant
from longshore_server.transfers.sending import Sending

SERVICE = "longshore.v1.TransfersService"
LOOK = 1 << 20
"""After so many bytes it is looked at again who sends them."""


class Uploads:
    """Upload, QueryUpload and AbortUpload."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "Upload": receiving(self.upload, self._sends, self._engine),
            "QueryUpload": unary(pb.QueryUploadRequest, self.query),
            "AbortUpload": unary(pb.AbortUploadRequest, self.abort),
        }

    async def upload(self, requests: Requests, context: Context) -> bytes:
        """Takes bytes until the caller has closed its side, or has committed."""
        request = await _next(requests)
        if request is None or request.WhichOneof("message") != "header":
            raise invalid("header", "must come first, and say what is uploaded")
        header = request.header
        live = await self.find(context.caller, header.upload, field="header.upload")
        total = header.total_size if header.HasField("total_size") else None
        if total is not None and total < 0:
            raise invalid("header.total_size", "must not be negative")
        upload = live.record.upload
        if upload is not None and upload.ended_well:
            return await self._again(requests, live)
        uploads = self._engine.transfers.uploads
        async with contextlib.AsyncExitStack() as stack:
            try:
                sending = await stack.enter_async_context(uploads.sending(live.record, header.part, total))
            except ServiceError as error:
                if error.reason is not Reason.UPLOAD_COMMITTED:
                    raise
                # By another call, while this one waited for its turn.
                return await self._again(requests, live)
            return _answer(await self._receive(requests, context, live, sending))

    async def _sends(self, first: bytes, context: Context) -> tuple[bytes, int]:
        header = decode(pb.UploadRequest, first).header
        live = await self.find(context.caller, header.upload, field="header.upload")
        return live.record.uid, header.part

    async def _receive(self, requests: Requests, context: Context, live: Live, sending: Sending) -> OperationRecord:
        uploads, looked = self._engine.transfers.uploads, sending.position
        while (request := await _next(requests)) is not None:
            match request.WhichOneof("message"):
                case "chunk":
                    chunk = request.chunk
                    crc32c = chunk.crc32c if chunk.HasField("crc32c") else None
                    await uploads.write(live.record, sending, chunk.offset, chunk.data, crc32c)
                    if sending.position - looked >= LOOK:
                        looked = sending.position
                        await context.still()
                case "commit":
                    await context.still()
                    return await uploads.commit(live.record.uid, sending, *_checked(request.commit))
                case "header":
                    raise invalid("header", "must come first, and only once")
                case _:
                    raise invalid("message", "must be a header, a chunk or a commit")
        await sending.settle()
        return live.record

    async def _again(self, requests: Requests, live: Live) -> bytes:
        """A call for an upload that is committed: as good as new for who only repeats the commit."""
        request = await _next(requests)
        if request is not None:
            if request.WhichOneof("message") != "commit":
                assert live.record.upload is not None
                raise upload_refusal(live.record.uid, live.record.upload)
            total, sha256 = _checked(request.commit)
            return _answer(await self._engine.transfers.uploads.commit(live.record.uid, None, total, sha256))
        return _answer(live.record)

    async def query(self, request: pb.QueryUploadRequest, context: Context) -> bytes:
        """How much of it is durable."""
        live = await self.find(context.caller, request.name)
        record = await self._engine.transfers.uploads.query(live.record.uid)
        return _grant(record)

    async def abort(self, request: pb.AbortUploadRequest, context: Context) -> bytes:
        """Gives it up."""
        live = await self.find(context.caller, request.name, "cancel")
        return _grant(await self._engine.transfers.uploads.abort(live.record.uid))

    async def find(self, caller: Principal, name: str, gate: Gate = "call", *, field: str = "name") -> Live:
        """The operation that has this upload, for a caller who passes `gate`.

        Raises `ServiceError`: INVALID_NAME, UPLOAD_NOT_FOUND, CAPABILITY_MISSING or NOT_THE_OWNER.
        """
        prefix, _, id = name.partition("/")
        uid = parse_uid(id)
        if prefix != "uploads" or uid is None:
            raise invalid(field, f"{name[:200]!r} is not of the form uploads/{{uid}}", reason=Reason.INVALID_NAME)
        return await self._authorization.sender(caller, uid, name, gate)


async def _next(requests: Requests) -> pb.UploadRequest | None:
    data = await anext(requests, None)
    return None if data is None else decode(pb.UploadRequest, data)


def _checked(commit: pb.UploadCommit) -> tuple[int, bytes]:
    if commit.total_size < 0:
        raise invalid("commit.total_size", "must not be negative")
    if len(commit.sha256) not in (0, 32):
        raise invalid("commit.sha256", f"must have 32 bytes, not {len(commit.sha256)}")
    return commit.total_size, commit.sha256


def _grant(record: OperationRecord) -> bytes:
    assert record.upload is not None
    return upload_grant(record.uid, record.upload).SerializeToString()


def _answer(record: OperationRecord) -> bytes:
    assert record.upload is not None
    return pb.UploadResponse(upload=upload_grant(record.uid, record.upload)).SerializeToString()
