"""Uploads on a disk that is full, and what has left the process before the disk had it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import transfers_service_pb2 as bytes_pb2
from tests.conftest import refused, retry_after
from tests.faults import trace
from tests.faults.calls import reason_of
from tests.faults.carrying import Body, Carrier, History, Told
from tests.faults.process import HERE, ServerProcess

Ended = operation_pb2.OperationSnapshot.State


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace.build(tmp_path_factory.mktemp("shim"))


@contextlib.asynccontextmanager
async def served(data: Path, environment: dict[str, str]) -> AsyncIterator[ServerProcess]:
    """A server of `carried` that serves, and none after the block."""
    server = ServerProcess(data, "--drain", "0.5", service=HERE / "carried.py", environment=environment)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


async def refusal(caller: Carrier, told: Told) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Why bytes from 200,000 on are refused.

    A client of grpc.aio that still sends takes a refusal for a broken call now and then: that one asks again.
    """
    while True:
        try:
            await caller.upload(told, 0, 200_000, 600_000, commit=False)
        except grpc.aio.AioRpcError as error:
            if not reason_of(error):
                continue
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return await refused(failed)
        raise AssertionError("it was not refused")


async def test_a_full_disk_refuses_bytes_and_stops_nothing_else(tmp_path: Path, shim: Path) -> None:
    """With its reason and when to come again; once there is room it goes on, in the same process."""
    orders = tmp_path / "orders"
    orders.mkdir()
    before, halted, other = (Told(key, key, Body(key, 600_000), chunk=50_000) for key in ("before", "halted", "other"))
    history = History()
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", environment) as server, Carrier(server.address, history) as caller:
        for told in (before, halted, other):
            await caller.start(told)
        await caller.send(before, 0, 600_000, commit=True)
        await caller.send(halted, 0, 200_000)
        await caller.send(other, 0, 600_000)
        (orders / "no-room").touch()
        code, reason, status = await refusal(caller, halted)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
        assert retry_after(status) > 0
        # What needs no room goes on: what is durable is known, complete ones are committed, fetched, ended.
        assert (await caller.query(halted)).committed_size == 200_000
        await caller.commit(other)
        for told in (before, other):
            assert (await caller.end(told)).state == Ended.STATE_COMPLETED
            await caller.fetch(told)
        late = Told("late", "late", Body("late", 0))
        await caller.start(late)
        await caller.commit(late)
        assert (await caller.end(late)).state == Ended.STATE_COMPLETED
        (orders / "no-room").unlink()
        await caller.send(halted, 0, 600_000, commit=True)
        assert (await caller.end(halted)).state == Ended.STATE_COMPLETED
        await caller.fetch(halted)
        assert server.process is not None
        assert server.process.returncode is None
    assert history.wrong == []


async def test_a_disk_that_is_full_for_everything_loses_nothing_of_an_upload(tmp_path: Path, shim: Path) -> None:
    """Neither bytes nor what is recorded of them can be written; an upload that waits goes on once there is room."""
    orders = tmp_path / "orders"
    orders.mkdir()
    told, history = Told("only", "only", Body("only", 600_000), chunk=50_000), History()
    environment = trace.environment(shim, folder=orders)
    async with served(tmp_path / "data", environment) as server, Carrier(server.address, history) as caller:
        await caller.start(told)
        await caller.send(told, 0, 200_000)
        (orders / "full").touch()
        # There is room for the bytes, and none for the record of them: they do not count.
        _, reason, _ = await refusal(caller, told)
        assert reason == "STORE_UNAVAILABLE"
        assert (await caller.query(told)).committed_size == 200_000
        (orders / "no-room").touch()
        _, reason, _ = await refusal(caller, told)
        assert reason == "STORE_FULL"
        (orders / "full").unlink()
        (orders / "no-room").unlink()
        await caller.send(told, 0, 600_000, commit=True)
        assert (await caller.end(told)).state == Ended.STATE_COMPLETED
        await caller.fetch(told)
    assert history.wrong == []


async def acknowledged(folder: Path, shim: Path, weak: str = "") -> tuple[list[trace.Call], list[tuple[bytes, int]]]:
    """The system calls of a server that takes an upload, and every answer that counts bytes, with how many."""
    record, answers = folder / "trace", list[tuple[bytes, int]]()
    told, history = Told("only", "only", Body("only", 40 << 20)), History()

    def note(grant: operation_pb2.UploadGrant) -> None:
        answers.append((grant.SerializeToString(deterministic=True), grant.committed_size))

    async with served(folder / "data", trace.environment(shim, trace=record, weak=weak)) as server:
        async with Carrier(server.address, history) as caller:
            await caller.start(told)
            done = 0
            # The last is long enough for syncs that run while more is written.
            for until in (70_001, 300_007, 5_000_011, 39_000_019):
                await caller.upload(told, 0, done, until, commit=False)
                note(await caller.query(told))
                done = until
            sending = asyncio.create_task(caller.upload(told, 0, done, told.body.size, commit=True))
            await history.reached(history.sent + 500_000)
            note(await caller.transfers.QueryUpload(bytes_pb2.QueryUploadRequest(name=told.name)))
            await sending
            note(told.grants[-1])
        await server.kill()
    return list(trace.read(record)), answers


def unsynced(calls: list[trace.Call], answers: list[tuple[bytes, int]]) -> tuple[list[int], int]:
    """The answers that left before the disk had what they count, by that; and how many were found."""
    written = covered = durable = recorded = 0
    found, early = 0, []
    for call in calls:
        match call.kind, call.file:
            case "W", "u":
                written = max(written, call.offset + len(call.data))
            case "B", "u":
                covered = written
            case "E", "u":
                durable = covered
            case "E", "w":
                # What was durable by now may have been recorded by this.
                recorded = durable
            case "S", _:
                for answer, size in answers:
                    if answer in call.data:
                        found += 1
                        early += [size] if recorded < size else []
    return early, found


async def test_no_byte_is_counted_before_its_sync_and_its_record(tmp_path: Path, shim: Path) -> None:
    calls, answers = await acknowledged(tmp_path, shim)
    early, found = unsynced(calls, answers)
    assert early == []
    assert found >= len(answers)
    assert [size for _, size in answers][:4] == [70_001, 300_007, 5_000_011, 39_000_019]


async def test_bytes_that_are_not_synced_are_found_out(tmp_path: Path, shim: Path) -> None:
    """The same check refuses a server that does not sync them."""
    early, _ = unsynced(*await acknowledged(tmp_path, shim, "BYTES"))
    assert len(early) >= 4
