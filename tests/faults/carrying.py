"""Callers that send bytes and fetch them again while everything breaks, and write down what they were told.

They are stock stubs, and go on as anybody has to: ask how much is durable, and send from there on.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self, TypeVar

import google_crc32c
import grpc
from torture.v1.carried_pb2 import CarryRequest, CarryResult

from longshore.v1 import operation_pb2, operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as bytes_pb2
from tests.faults.calls import reason_of
from tests.faults.process import OPTIONS

T = TypeVar("T")
SERVICE = "torture.v1.CarriedService"
State = operation_pb2.UploadGrant.State
LATER = frozenset({"SERVER_DRAINING", "STORE_UNAVAILABLE", "STORE_FULL"})
PASSING = frozenset({"UPLOAD_PREEMPTED", "WRONG_OFFSET", "CHUNK_CORRUPT"})
"""Whoever asks again how much is durable can go on."""
FINAL = {
    "abort": frozenset({"UPLOAD_ABORTED"}),
    "cancel": frozenset({"UPLOAD_ABORTED"}),
    "lapse": frozenset({"UPLOAD_EXPIRED"}),
    "rival": frozenset({"UPLOAD_EXPIRED", "OBJECT_EXISTS"}),
}
"""What may be the end of an upload, by its fate."""


class Body:
    """Bytes of any number, made as they are read: no stretch of a few MiB comes twice at a chunk's border."""

    def __init__(self, seed: str, size: int) -> None:
        self.size = size
        # Prime: what is lost or sent twice shifts all that follows.
        self._block = random.Random(seed).randbytes(1_048_583) * 2
        self.sha256 = hashlib.sha256()
        for at in range(0, size, 1 << 20):
            self.sha256.update(self.read(at, min(1 << 20, size - at)))

    def read(self, at: int, count: int) -> bytes:
        """At most 1 MiB from `at` on."""
        start = at % 1_048_583
        return self._block[start : start + count]


@dataclass
class Told:
    """One upload: what is to come of it, and what the callers were told of it."""

    id: str
    key: str
    body: Body
    type: str = "Carry"
    splits: tuple[int, ...] = ()
    """Where the second part begins, and those after it."""
    fate: str = "commit"
    """What its caller does with it: see `test_bytes_torture`."""
    chunk: int = 256 << 10
    uid: str = ""
    durable: Counter[int] = field(default_factory=Counter)
    """By part: how much was acknowledged."""
    grants: list[operation_pb2.UploadGrant] = field(default_factory=list)
    """Every answer that said that it is committed."""
    committing: bool = False
    """Whether anybody has said that it is complete."""
    end: operation_pb2.OperationSnapshot | None = None

    @property
    def name(self) -> str:
        return f"uploads/{self.uid}"

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Where each part begins and ends."""
        edges = [0, *self.splits, self.body.size]
        return list(itertools.pairwise(edges))


class History:
    """What all callers were told, and what of it cannot be."""

    def __init__(self) -> None:
        self.uploads: list[Told] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sent = 0
        self._sent = asyncio.Condition()

    def saw(self, told: Told, floor: Counter[int], grant: operation_pb2.UploadGrant) -> None:
        """An answer. `floor`: what had been acknowledged before it was asked for."""
        self.counts["answers"] += 1
        if grant.name != told.name:
            self.wrong.append(f"{told.name}: answered with {grant.name}")
        sizes = Counter(dict(enumerate(grant.part_sizes)))
        if lost := {part: (size, sizes[part]) for part, size in floor.items() if sizes[part] < size}:
            self.wrong.append(f"{told.name} {told.fate}: acknowledged, then less: {lost}")
        told.durable |= sizes
        if grant.state in (State.STATE_COMMITTING, State.STATE_COMMITTED):
            told.grants.append(grant)
        elif any(each.state == State.STATE_COMMITTED for each in told.grants) and told.durable == floor:
            self.wrong.append(f"{told.name}: was committed, and is {grant.state}")

    async def send(self, count: int) -> None:
        """So many bytes are about to leave."""
        async with self._sent:
            self.sent += count
            self._sent.notify_all()

    async def reached(self, count: int) -> None:
        """Return once so many bytes have been sent, whether they have arrived or not."""
        async with self._sent:
            await self._sent.wait_for(lambda: self.sent >= count)


class Carrier:
    """One caller with a connection of its own. `async with` closes it."""

    def __init__(self, address: str, history: History) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(self.channel)
        self.transfers = transfers_service_pb2_grpc.TransfersServiceStub(self.channel)
        self.history = history

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def insist(self, call: Callable[[], Awaitable[T]], *fine: str) -> T | None:
        """Call until there is an answer; None: it was refused with one of these reasons."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if self.again(error) in fine:
                    return None

    def again(self, error: grpc.aio.AioRpcError) -> str:
        """Why a call was refused, by its reason; empty: it broke, and may be repeated."""
        reason = reason_of(error)
        if reason in LATER or not reason:
            self.history.counts["calls broken off"] += 1
            return ""
        self.history.counts[reason] += 1
        return reason

    async def start(self, told: Told) -> None:
        """Its operation is accepted."""
        request = pb.StartRequest(type=f"{SERVICE}/{told.type}", request_id=told.id)
        request.input.Pack(CarryRequest(key=told.key))
        response = await self.insist(lambda: self.operations.Start(request, wait_for_ready=True))
        assert response is not None
        told.uid = response.operation.uid
        self.history.uploads.append(told)

    async def query(self, told: Told) -> operation_pb2.UploadGrant:
        """How much is durable."""
        while True:
            floor = told.durable.copy()
            request = bytes_pb2.QueryUploadRequest(name=told.name)
            try:
                grant = await self.transfers.QueryUpload(request, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                self.refused(told, error)
                continue
            self.history.saw(told, floor, grant)
            return grant

    def refused(self, told: Told, error: grpc.aio.AioRpcError, *fine: str) -> bool:
        """A call was refused, or broke: whether nothing more will come of this upload."""
        reason = self.again(error)
        over = reason in FINAL.get(told.fate, ())
        if reason and not over and reason not in PASSING and reason not in fine:
            self.history.wrong.append(f"{told.name} {told.fate}: refused with {reason}: {error.details()}")
        return over

    async def send(self, told: Told, part: int, until: int, *, commit: bool = False, stale: bool = False) -> None:
        """Send a part up to `until`, from wherever it stands, and commit with that, or until the upload has ended.

        `stale`: or until another call has taken it over.
        """
        while True:
            grant = await self.query(told)
            at = grant.part_sizes[part] if part < len(grant.part_sizes) else 0
            if grant.state != State.STATE_OPEN or (at >= until and not commit):
                return
            try:
                await self.upload(told, part, at, until, commit=commit)
            except grpc.aio.AioRpcError as error:
                # Of a commit whose answer was lost.
                fine = ["UPLOAD_COMMITTED"] if told.committing else []
                if self.refused(told, error, *fine) or (stale and reason_of(error) == "UPLOAD_PREEMPTED"):
                    return

    async def call(self, requests: AsyncIterator[bytes_pb2.UploadRequest]) -> bytes_pb2.UploadResponse | None:
        """An Upload call. None: it broke amid a write, which grpc.aio now and then takes for a cancellation."""
        try:
            return await self.transfers.Upload(requests, wait_for_ready=True)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.history.counts["calls broken off"] += 1
            return None

    async def upload(self, told: Told, part: int, at: int, until: int, *, commit: bool) -> None:
        """One Upload call."""
        floor = told.durable.copy()
        start, _ = told.parts[part]
        self.history.counts["upload calls"] += 1
        self.history.counts["uploads gone on with"] += at > 0

        async def requests() -> AsyncIterator[bytes_pb2.UploadRequest]:
            yield bytes_pb2.UploadRequest(header=bytes_pb2.UploadHeader(upload=told.name, part=part))
            position = at
            while position < until:
                data = told.body.read(start + position, min(told.chunk, until - position))
                chunk = bytes_pb2.UploadChunk(offset=position, data=data, crc32c=google_crc32c.value(data))
                await self.history.send(len(data))
                yield bytes_pb2.UploadRequest(chunk=chunk)
                position += len(data)
            if commit:
                yield committing(told)

        response = await self.call(requests())
        if response is None:
            return
        self.history.saw(told, floor, response.upload)
        if not commit and response.upload.part_sizes[part] < until:
            self.history.wrong.append(
                f"{told.name}: {until} bytes of part {part} were taken, {response.upload} counted"
            )

    async def commit(self, told: Told) -> None:
        """Say that it is complete, until that is answered."""

        async def once() -> bool:
            floor = told.durable.copy()

            async def requests() -> AsyncIterator[bytes_pb2.UploadRequest]:
                yield bytes_pb2.UploadRequest(header=bytes_pb2.UploadHeader(upload=told.name))
                yield committing(told)

            response = await self.call(requests())
            if response is None:
                return False
            self.history.saw(told, floor, response.upload)
            self.history.counts["commits acknowledged"] += 1
            return True

        while True:
            try:
                if await once():
                    return
            except grpc.aio.AioRpcError as error:
                if self.refused(told, error):
                    return

    async def end(self, told: Told) -> operation_pb2.OperationSnapshot:
        """Its operation has ended."""
        snapshot = await self.insist(
            lambda: self.operations.Wait(pb.WaitRequest(name=f"operations/{told.uid}"), wait_for_ready=True)
        )
        assert snapshot is not None
        told.end = snapshot
        return snapshot

    async def abort(self, told: Told) -> None:
        """Give it up."""
        request = bytes_pb2.AbortUploadRequest(name=told.name)
        await self.insist(lambda: self.transfers.AbortUpload(request, wait_for_ready=True))

    async def cancel(self, told: Told) -> None:
        """Ask to cancel its operation."""
        request = pb.CancelRequest(name=f"operations/{told.uid}")
        await self.insist(lambda: self.operations.Cancel(request, wait_for_ready=True))

    async def delete(self, told: Told) -> None:
        """Delete its operation."""
        request = pb.DeleteRequest(name=f"operations/{told.uid}")
        await self.insist(lambda: self.operations.Delete(request, wait_for_ready=True), "OPERATION_NOT_FOUND")

    async def fetch(self, told: Told) -> None:
        """Download what it has become, and compare."""
        assert told.end is not None
        (offer,) = told.end.downloads
        sha256, position, ended = hashlib.sha256(), 0, False
        while not ended:
            request = bytes_pb2.DownloadRequest(name=offer.name, offset=position, if_sha256=offer.digests.sha256)
            self.history.counts["download calls"] += 1
            self.history.counts["downloads gone on with"] += position > 0
            call = self.transfers.Download(request, wait_for_ready=True)
            try:
                async for message in call:
                    # None: it came so damaged that it cannot be read.
                    ended = message is not None and message.HasField("end")
                    if message is not None and not message.HasField("chunk"):
                        continue
                    chunk = bytes_pb2.DownloadChunk(offset=-1) if message is None else message.chunk
                    if google_crc32c.value(chunk.data) != chunk.crc32c or chunk.offset != position:
                        self.history.counts["damaged chunks of downloads"] += 1
                        call.cancel()
                        break
                    sha256.update(chunk.data)
                    position += len(chunk.data)
            except grpc.aio.AioRpcError as error:
                self.refused(told, error)
        self.history.counts["downloads"] += 1
        if (position, sha256.digest()) != (told.body.size, told.body.sha256.digest()):
            self.history.wrong.append(f"{offer.name}: {position} bytes were fetched, and they are others")


def committing(told: Told) -> bytes_pb2.UploadRequest:
    """The commit of all bytes."""
    told.committing = True
    digest = told.body.sha256.digest()
    return bytes_pb2.UploadRequest(commit=bytes_pb2.UploadCommit(total_size=told.body.size, sha256=digest))


def result_of(told: Told) -> CarryResult:
    """Of an operation that has completed."""
    result = CarryResult()
    assert told.end is not None
    assert told.end.result.Unpack(result), told.end
    return result
