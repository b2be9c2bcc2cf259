"""The part of `longshore.v1.TransfersService` by which callers fetch bytes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator

from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.auth.identity import Principal
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.ids import uid_text
from longshore_server.rpc.attending import attending
from longshore_server.rpc.authorization import Authorization, Gate
from longshore_server.rpc.boundary import Context, Method, stream, unary
from longshore_server.rpc.wire import set_time
from longshore_server.store.events import varint
from longshore_server.store.transfers import download_grant
from longshore_server.transfers import downloads
from longshore_server.transfers.checksums import CHUNK
from longshore_server.transfers.downloads import Asked, Reading
from longshore_server.transfers.messages import Framing

MAX_USE_ID = 128


class Downloads:
    """Bytes that operations offer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "Download": stream(pb.DownloadRequest, self._download),
            "RevokeDownload": unary(pb.RevokeDownloadRequest, self._revoke),
        }

    async def _download(self, request: pb.DownloadRequest, context: Context) -> AsyncIterator[Iterable[bytes]]:
        async with self.reading(context, request.name, _asked(request), FRAMING) as (live, reading):
            yield [_header(live, reading)]
            async for batch in reading.batches():
                yield batch
            end = pb.DownloadEnd(length=reading.length, crc32c=reading.crc32c)
            yield [pb.DownloadResponse(end=end).SerializeToString()]

    async def _revoke(self, request: pb.RevokeDownloadRequest, context: Context) -> bytes:
        with _named(request.name):
            live, number = await self._find(context.caller, request.name, "cancel")
            record = await self._engine.transfers.downloads.revoke(live.record.uid, number)
        return download_grant(record.uid, record.downloads[number - 1]).SerializeToString()

    @contextlib.asynccontextmanager
    async def reading(
        self, context: Context, name: str, asked: Asked, framing: Framing, *, field: str = "name"
    ) -> AsyncIterator[tuple[Live, Reading]]:
        """Begin the download that has this name, for a call whose caller may see it and that sends messages of this
        form; and its operation.

        Raises `ServiceError`: INVALID_NAME (of `field`), TOO_MANY_TRANSFERS, and what
        `Downloads.open` of the engine does.
        """
        with _named(name):
            live, number = await self._find(context.caller, name, field=field)
            engine = self._engine
            with engine.transfers.place(context.caller.name):
                async with (
                    # By `end`, which reaches also who takes nothing, and would keep the place otherwise.
                    attending(context, engine.clock, context.end),
                    engine.transfers.downloads.open(live.record, number, asked, framing, context.end) as reading,
                ):
                    yield live, reading

    async def _find(
        self, caller: Principal, name: str, gate: Gate = "observe", *, field: str = "name"
    ) -> tuple[Live, int]:
        uid, number = downloads.parse(name, field)
        return await self._authorization.find(caller, f"operations/{uid_text(uid)}", gate), number


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Who asks for a download is told nothing of its operation, not even that there is none."""
    try:
        yield
    except ServiceError as error:
        if error.reason is not Reason.OPERATION_NOT_FOUND:
            raise
        raise downloads.not_found(name) from None


def _asked(request: pb.DownloadRequest) -> Asked:
    """Raises `ServiceError` (INVALID_ARGUMENT)."""
    for field in ("offset", "limit"):
        if getattr(request, field) < 0:
            raise invalid(field, "must not be negative")
    if len(request.use_id) > MAX_USE_ID:
        raise invalid("use_id", f"must have at most {MAX_USE_ID} characters")
    if len(request.if_sha256) not in (0, 32):
        raise invalid("if_sha256", "must have 32 bytes, or none")
    return Asked(request.offset, request.limit, request.use_id, request.if_sha256)


def _header(live: Live, reading: Reading) -> bytes:
    info, download = reading.info, reading.download
    shown = download._replace(
        size=info.size, content_type=download.content_type or info.content_type, sha256=bytes.fromhex(info.sha256),
        crc32c=info.crc32c,
    )  # fmt: skip
    header = pb.DownloadHeader(download=download_grant(live.record.uid, shown), length=reading.length)
    set_time(header.store_time, info.updated)
    return pb.DownloadResponse(header=header).SerializeToString()


_WHOLE = b"\x12" + varint(CHUNK)


def _before(offset: int, size: int) -> bytes:
    """What `DownloadResponse(chunk=...)` has before its data, in bytes."""
    sized = _WHOLE if size == CHUNK else b"\x12" + varint(size)
    before = b"\x08" + varint(offset) + sized
    return b"\x12" + varint(len(before) + size + 5) + before


def _after(crc32c: int) -> bytes:
    return b"\x1d" + crc32c.to_bytes(4, "little")


FRAMING = Framing(_before, _after)
