"""Fuzzed chunk sequences against a model: one upload, sent by both of its faces in any order, cut off anywhere.

The model knows the bytes, how many of them the server has acknowledged, and how many it may have at most: what a call
has sent that was cut off, or is still open, may have come or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import google_crc32c
import grpc
from google.bytestream import bytestream_pb2, bytestream_pb2_grpc
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import transfers_service_pb2 as pb
from tests.answers import refusals
from tests.conftest import detail, refused
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, commit, header

T = TypeVar("T")
SIZES = st.lists(st.integers(0, 3000), max_size=8)
PARTS = st.lists(st.tuples(st.integers(1, 63), SIZES), min_size=1, max_size=4, unique_by=lambda part: part[0])
FACES = st.sampled_from(["Upload", "Write"])


class World:
    """A server, and the one upload that the model is about. All of it blocks: hypothesis knows no asyncio."""

    def __init__(self, data: Path) -> None:
        self._runner = asyncio.Runner()
        self._data = data
        self.uploads = 0

    def __enter__(self) -> Self:
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.lab.stop())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _start(self) -> None:
        self.lab = BytesLab(self._data)
        await self.lab.start()

        @self.lab.plays
        async def handler(request: Any, op: Any) -> PlayResult:
            got = await op.transfer.completed()
            return PlayResult(text=got.sha256)

    async def begin(self) -> str:
        """A new upload."""
        self.uploads += 1
        self.key = f"files/{self.uploads}"
        return (await self.lab.begin(key=self.key)).operation.upload.name

    def call(self, face: str) -> Any:
        """A call, with nothing sent."""
        if face == "Upload":
            return self.lab.transfers.Upload()
        return bytestream_pb2_grpc.ByteStreamStub(self.lab.channel).Write()

    async def query(self, face: str, name: str) -> tuple[int, bool]:
        """How much is committed, and whether that is all."""
        if face == "Upload":
            grant = await self.lab.transfers.QueryUpload(pb.QueryUploadRequest(name=name))
            return grant.committed_size, grant.state == grant.STATE_COMMITTED
        stub: Any = bytestream_pb2_grpc.ByteStreamStub(self.lab.channel)
        found = await stub.QueryWriteStatus(bytestream_pb2.QueryWriteStatusRequest(resource_name=name))
        return found.committed_size, found.complete


def requests(face: str, name: str, data: bytes, offset: int, sizes: list[int], *, finish: bool = False) -> list[Any]:
    """What a call of a face sends of `data`: from `offset` on, in chunks of these sizes."""
    pieces, at = [], offset
    for size in sizes:
        pieces.append((at, data[at : at + size]))
        at += size
    if face == "Upload":
        return [header(name), *(chunk(*piece) for piece in pieces), *([commit(data[:at])] if finish else [])]
    made = [bytestream_pb2.WriteRequest(write_offset=at, data=piece) for at, piece in pieces or [(offset, b"")]]
    made[0].resource_name, made[-1].finish_write = name, finish
    return made


async def send(call: Any, sent: list[Any], *, close: bool) -> int:
    """Send it; with `close`, to the end: how much is committed."""
    async with refusals(call):
        for request in sent:
            await call.write(request)
        if not close:
            return 0
        await call.done_writing()
        answer = await call
    return int((answer.upload if isinstance(answer, pb.UploadResponse) else answer).committed_size)


def machine(world: World) -> Any:
    """The state machine over one server."""

    class Faces(RuleBasedStateMachine):
        """Each rule is one call, or the death of the server."""

        @initialize(number=st.integers(0, 2**32))
        def begin(self, number: int) -> None:
            self.data = random.Random(number).randbytes(1 << 20)
            self.name = world.run(world.begin())
            self.low = self.high = 0
            self.finished = False
            self.crashes = 0
            self.held: Any = None

        def settle(self, face: str) -> None:
            """Take the upload over, so that it is certain how much there is."""
            committed = world.run(self._taken(face))
            assert self.low <= committed <= self.high
            self.low = self.high = committed

        async def _taken(self, face: str) -> int:
            held, self.held = self.held, None
            try:
                committed = await send(world.call(face), requests(face, self.name, self.data, self.low, []), close=True)
            except grpc.aio.AioRpcError as error:
                committed = await self._wrong(error)
            if held is not None:
                code, reason, _ = await refused(held)
                assert (code, reason) == (grpc.StatusCode.ABORTED, "UPLOAD_PREEMPTED")
            return committed

        async def _wrong(self, error: grpc.aio.AioRpcError) -> int:
            """The committed size in a refusal of an offset."""

            async def again() -> None:
                raise error

            code, reason, status = await refused(again())
            assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "WRONG_OFFSET")
            return int(detail(status, error_details_pb2.ErrorInfo).metadata["committed_size"])

        @precondition(lambda self: not self.finished)
        @rule(face=FACES, sizes=SIZES)
        def send_and_close(self, face: str, sizes: list[int]) -> None:
            self.settle(face)
            sent = requests(face, self.name, self.data, self.low, sizes)
            self.high += sum(sizes)
            assert world.run(send(world.call(face), sent, close=True)) == self.high
            self.low = self.high

        @precondition(lambda self: not self.finished)
        @rule(face=FACES, sizes=SIZES)
        def send_and_break(self, face: str, sizes: list[int]) -> None:
            self.settle(face)
            sent = requests(face, self.name, self.data, self.low, sizes)
            self.high += sum(sizes)

            async def broken() -> None:
                call = world.call(face)
                await send(call, sent, close=False)
                call.cancel()

            world.run(broken())

        @precondition(lambda self: not self.finished)
        @rule(face=FACES, sizes=SIZES)
        def send_and_hold(self, face: str, sizes: list[int]) -> None:
            self.settle(face)
            sent = requests(face, self.name, self.data, self.low, sizes)
            self.high += sum(sizes)
            self.held = world.call(face)
            world.run(self._hold(sent))

        async def _hold(self, sent: list[Any]) -> None:
            await send(self.held, sent, close=False)
            # It must be there before the next one: what is taken over is the call that came before.
            while not world.lab.engine.transfers.uploads._open[self._uid()].sendings:
                await world.lab.catch_up()

        def _uid(self) -> bytes:
            return bytes.fromhex(self.name.removeprefix("uploads/").replace("-", ""))

        @precondition(lambda self: not self.finished)
        @rule(face=FACES, by=st.sampled_from([-(2**40), -1, 1, 3000, 2**40]))
        def send_elsewhere(self, face: str, by: int) -> None:
            self.settle(face)
            name, offset = self.name, self.low + by
            sent: list[Any] = [header(name), chunk(offset, b"x")]
            if face == "Write":
                sent = [bytestream_pb2.WriteRequest(resource_name=name, write_offset=offset, data=b"x")]

            async def wrong() -> int:
                try:
                    await send(world.call(face), sent, close=True)
                except grpc.aio.AioRpcError as error:
                    return await self._wrong(error)
                raise AssertionError(f"{offset} was accepted instead of {self.low}")

            assert world.run(wrong()) == self.low

        @precondition(lambda self: not self.finished)
        @rule(sizes=SIZES, lost=st.binary(min_size=1, max_size=3000))
        def send_what_was_changed_on_its_way(self, sizes: list[int], lost: bytes) -> None:
            self.settle("Upload")
            sent = requests("Upload", self.name, self.data, self.low, sizes)
            self.high += sum(sizes)
            sent.append(chunk(self.high, lost, crc=google_crc32c.value(lost) ^ 1))
            code, reason, _ = world.run(refused(send(world.call("Upload"), sent, close=True)))
            assert (code, reason) == (grpc.StatusCode.DATA_LOSS, "CHUNK_CORRUPT")
            # What came before it is kept.
            self.low = self.high

        @precondition(lambda self: not self.finished)
        @rule(by=st.sampled_from([-1, 1]))
        def commit_another_size(self, by: int) -> None:
            self.settle("Upload")
            sent = [header(self.name), pb.UploadRequest(commit=pb.UploadCommit(total_size=max(0, self.low + by)))]
            if self.low + by >= 0:
                assert world.run(refused(send(world.call("Upload"), sent, close=True)))[1] == "SIZE_MISMATCH"

        @precondition(lambda self: not self.finished)
        @rule()
        def commit_another_digest(self) -> None:
            self.settle("Upload")
            another = commit(self.data[: self.low], sha256=hashlib.sha256(b"another").digest())
            sent = [header(self.name), another]
            assert world.run(refused(send(world.call("Upload"), sent, close=True)))[1] == "DIGEST_MISMATCH"

        @precondition(lambda self: not self.finished)
        @rule(sizes=SIZES, more=st.integers(1, 3000), part=st.integers(1, 63))
        def send_less_than_is_committed_and_nothing_of_another_part(
            self, sizes: list[int], more: int, part: int
        ) -> None:
            """What has come is kept, and a part of which nothing comes is none."""
            self.settle("Upload")
            sent = requests("Upload", self.name, self.data, self.low, sizes)
            self.high += sum(sizes)
            total = pb.UploadRequest(commit=pb.UploadCommit(total_size=self.high + more))
            assert world.run(refused(send(world.call("Upload"), [*sent, total], close=True)))[1] == "SIZE_MISMATCH"
            self.low = self.high
            empty = [header(self.name, part)]
            assert world.run(send(world.call("Upload"), empty, close=True)) == self.low

        @rule(face=FACES)
        def query(self, face: str) -> None:
            committed, complete = world.run(world.query(face, self.name))
            assert self.low <= committed <= self.high
            assert complete == self.finished
            self.low = committed

        @precondition(lambda self: self.crashes < 3)
        @rule()
        def crash(self) -> None:
            self.held = None
            self.crashes += 1
            world.run(world.lab.restart())

        @precondition(lambda self: not self.finished)
        @rule(face=FACES, sizes=SIZES)
        def finish(self, face: str, sizes: list[int]) -> None:
            self.settle(face)
            sent = requests(face, self.name, self.data, self.low, sizes, finish=True)
            self.high += sum(sizes)
            assert world.run(send(world.call(face), sent, close=True)) == self.high
            self.low = self.high
            self.finished = True

        @precondition(lambda self: not self.finished)
        @rule(parts=PARTS, broken=st.integers(0, 3))
        def finish_in_parts(self, parts: list[tuple[int, list[int]]], broken: int) -> None:
            """In any order, and the call of one of them breaks: the object is all of them, by their numbers."""
            self.settle("Upload")
            begins = {}
            for part, sizes in sorted(parts):
                begins[part], self.high = self.high, self.high + sum(sizes)
            for number, (part, sizes) in enumerate(parts):
                data = self.data[begins[part] : begins[part] + sum(sizes)]
                world.run(self._send_part(part, data, sizes, breaks=number == broken))
            whole = [header(self.name), commit(self.data[: self.high])]
            assert world.run(send(world.call("Upload"), whole, close=True)) == self.high
            self.low = self.high
            self.finished = True

        async def _send_part(self, part: int, data: bytes, sizes: list[int], *, breaks: bool) -> None:
            name, kept = self.name, 0
            if breaks:
                call = world.call("Upload")
                sent = requests("Upload", name, data, 0, sizes)
                await send(call, [header(name, part), *sent[1:]], close=False)
                call.cancel()
                try:
                    await send(world.call("Upload"), [header(name, part), chunk(0, b"")], close=True)
                except grpc.aio.AioRpcError as error:
                    kept = await self._wrong(error)
                assert 0 <= kept <= len(data)
            rest = [chunk(kept, data[kept:])]
            await send(world.call("Upload"), [header(name, part), *rest], close=True)

        @precondition(lambda self: self.finished)
        @rule(face=FACES)
        def finish_again(self, face: str) -> None:
            sent = requests(face, self.name, self.data, self.low, [], finish=True)
            if face == "Upload":
                sent = [header(self.name), commit(self.data[: self.low])]
            assert world.run(send(world.call(face), sent, close=True)) == self.low

        def teardown(self) -> None:
            if not self.finished:
                self.finish("Write", [1])
            stored = (world.lab.data / "stores" / "uploads" / world.key).read_bytes()
            assert hashlib.sha256(stored).digest() == hashlib.sha256(self.data[: self.low]).digest()

    return Faces


def test_any_sequence_of_calls_leaves_what_was_sent(tmp_path: Path) -> None:
    with World(tmp_path / "data") as world:
        run_state_machine_as_test(
            machine(world),
            settings=settings(
                max_examples=20, stateful_step_count=20, deadline=None, database=None, derandomize=True,
                # To look for less takes minutes.
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
        assert world.uploads >= 20
