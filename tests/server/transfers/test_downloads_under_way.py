"""Downloads that have begun: what ends them, what does not, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.v1 import operations_service_pb2 as operations
from longshore.v1 import transfers_service_pb2 as pb
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import LocalStore
from longshore_server.transfers.stores.reader import Reader
from tests.conftest import refused, retry_after, turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import BLOCK, CHUNK, Fetch, fetch, offer, offering, pattern, start

LARGE = 24 * BLOCK
"""More than gRPC takes ahead of a caller who does not read."""
PRECONDITION, UNAVAILABLE = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE


async def _nothing(number: int) -> None: ...


class Script(LocalStore):
    """A store that does, before each block and each look at an object, what the test has written."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = 0
        self.given = 0
        self.stats = 0
        self.closed = asyncio.Event()
        self.before_block: Callable[[int], Awaitable[None]] = _nothing
        self.before_stat: Callable[[int], Awaitable[None]] = _nothing

    async def stat(self, key: str) -> ObjectInfo:
        self.stats += 1
        await self.before_stat(self.stats)
        return await super().stat(key)

    @contextlib.asynccontextmanager
    async def reader(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[Reader]:
        self.closed.clear()
        try:
            async with super().reader(key, offset, length) as reader:
                yield ScriptedReader(self, reader)
        finally:
            self.closed.set()


class ScriptedReader(Reader):
    """Has nothing in memory: each block is waited for."""

    def __init__(self, script: Script, inner: Reader) -> None:
        super().__init__()
        self._script = script
        self._inner = inner

    async def _fetch(self) -> memoryview:
        script, room = self._script, memoryview(bytearray(BLOCK))
        size = self._inner.at_once(room)
        if not size and await self._inner.more():
            size = self._inner.at_once(room)
        script.blocks += 1
        script.given += size
        await script.before_block(script.blocks)
        return room[:size]


@pytest.fixture
async def scripted(tmp_path: Any) -> AsyncGenerator[tuple[BytesLab, Script]]:
    """A laboratory whose exports come from a scripted store."""
    store = Script()
    found = BytesLab(tmp_path / "data", stores={"uploads": LocalStore(), "exports": store})
    await found.start()
    try:
        yield found, store
    finally:
        await found.stop()


# What ends one.


async def test_a_revocation_ends_it(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", bytes(LARGE))
    uid = await start(lab)
    name, other = await offer(lab.engine, uid), await offer(lab.engine, uid)
    calls = [Fetch(lab, name), Fetch(lab, name, offset=1), Fetch(lab, other)]
    for call in calls:
        await call.header()
    await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))
    for call in calls[:2]:
        assert (await refused(call.rest()))[:2] == (PRECONDITION, "DOWNLOAD_REVOKED")
        assert 0 < len(call.data) < LARGE - 1
    assert len(await calls[2].rest()) == LARGE


async def test_a_revocation_ends_that_of_an_operation_that_has_ended(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", bytes(LARGE))
    operation = await lab.run("Export", key="key")
    await lab.restart()  # it is in memory no more, but for the call
    name = operation.downloads[0].name
    call = Fetch(lab, name)
    await call.header()
    await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))
    assert (await refused(call.rest()))[1] == "DOWNLOAD_REVOKED"


async def test_the_deletion_of_its_operation_ends_it(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", bytes(LARGE))
    operation = await lab.run("Export", key="key")
    call = Fetch(lab, operation.downloads[0].name)
    await call.header()
    await lab.operations.Delete(operations.DeleteRequest(name=operation.name))
    assert (await refused(call.rest()))[:2] == (grpc.StatusCode.NOT_FOUND, "DOWNLOAD_NOT_FOUND")


async def test_a_stop_of_the_server_ends_it_and_the_next_one_goes_on(lab: BytesLab) -> None:
    data = pattern(LARGE)
    await lab.server.stores["exports"].put("key", data)
    name = await offering(lab)
    call = Fetch(lab, name)
    digest = (await call.header()).download.digests.sha256
    lab.engine.drain()
    code, reason, status = await refused(call.rest())
    assert (code, reason, retry_after(status)) == (UNAVAILABLE, "SERVER_DRAINING", 1)
    assert (await refused(fetch(lab, name)))[:2] == (UNAVAILABLE, "SERVER_DRAINING"), "and none begins"
    await lab.restart(crash=False)
    rest = await fetch(lab, name, offset=call.position, if_sha256=digest)
    assert bytes(call.data) + rest.data == data


@pytest.mark.parametrize("size", [0, 5])
async def test_a_revocation_as_it_begins_ends_it(size: int, scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(size))
    name = await offering(lab)

    async def revoke(_: int) -> None:
        await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))

    store.before_stat = revoke
    assert (await refused(Fetch(lab, name).header()))[1] == "DOWNLOAD_REVOKED"


@pytest.mark.parametrize("drained", [False, True])
async def test_who_does_not_read_holds_up_no_end(drained: bool, scripted: tuple[BytesLab, Script]) -> None:
    """Nor anything that the call has taken; and is told when it does read."""
    lab, store = scripted
    await store.put("key", bytes(LARGE))
    name = await offering(lab)
    call = Fetch(lab, name)
    await call.header()
    given = -1
    while store.given > given:
        given = store.given
        await lab.catch_up()
    assert given < LARGE
    assert lab.engine.transfers.count == 1
    if drained:
        lab.engine.drain()
    else:
        await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))
    await store.closed.wait()
    while lab.engine.transfers.count:
        await turns()
    reason = "SERVER_DRAINING" if drained else "DOWNLOAD_REVOKED"
    assert (await refused(call.rest()))[1] == reason
    assert len(call.data) < LARGE
    (durations,) = [calls for path, calls in lab.harness.running.listener.calls.items() if path.endswith("/Download")]
    assert list(durations) == [(UNAVAILABLE if drained else PRECONDITION).name]


async def test_a_store_that_gives_nothing_holds_up_no_end(scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(3 * BLOCK))
    name, stalled = await offering(lab), asyncio.Event()

    async def before_block(number: int) -> None:
        if number == 2:
            stalled.set()
            await asyncio.Event().wait()

    store.before_block = before_block
    call = Fetch(lab, name)
    await call.header()
    await stalled.wait()
    await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))
    assert (await refused(call.rest()))[1] == "DOWNLOAD_REVOKED"
    await store.closed.wait()
    assert lab.engine.transfers.count == 0


def held(lab: BytesLab) -> int:
    """How many open files this process has in the store."""
    files = [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return files.count((lab.data / "stores" / "exports" / "key").absolute())


async def test_a_caller_who_leaves_leaves_nothing_behind(scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(LARGE))
    calls = [Fetch(lab, await offering(lab)) for _ in range(3)]
    for call in calls:
        await call.header()
    assert (lab.engine.transfers.count, held(lab)) == (3, 3)
    for call in calls:
        call.call.cancel()
    while lab.engine.transfers.count:
        await lab.catch_up()
    assert held(lab) == 0
    assert not lab.engine.transfers.downloads._open


# What does not.


async def test_its_expiry_does_not_end_it(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", bytes(LARGE))
    call = Fetch(lab, await offering(lab))
    await call.header()
    lab.clock.advance(3600)
    assert len(await call.rest()) == LARGE


@pytest.mark.parametrize("gone", [True, False])
async def test_another_object_at_its_key_does_not_end_it(gone: bool, lab: BytesLab) -> None:
    store, data = lab.server.stores["exports"], pattern(LARGE)
    await store.put("key", data)
    call = Fetch(lab, await offering(lab))
    await call.header()
    if gone:
        await store.delete("key")
    else:
        await store.put("key", bytes(LARGE))
    assert await call.rest() == data


@pytest.mark.parametrize("number", [2, 4])
async def test_bytes_are_always_those_of_the_object_that_the_header_tells_of(
    number: int, scripted: tuple[BytesLab, Script]
) -> None:
    lab, store = scripted
    await store.put("key", b"first")
    name = await offering(lab)

    async def replace(at: int) -> None:
        # 2: its bytes are open already. 4: those of the second are.
        if at in (2, number):
            await store.put("key", b"other, and longer")

    store.before_stat = replace
    header, data, _ = await fetch(lab, name)
    assert data == b"other, and longer"
    assert header.download.size == len(data)
    assert store.stats == number + 2


async def test_so_they_are_where_that_has_none(scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", b"first")
    name = await offering(lab)

    async def replace(at: int) -> None:
        if at == 2:
            await store.put("key", b"")

    store.before_stat = replace
    header, data, _ = await fetch(lab, name)
    assert (header.length, data) == (0, b"")


async def test_an_object_that_changes_as_it_is_opened_is_not_the_one_that_was_meant(
    scripted: tuple[BytesLab, Script],
) -> None:
    lab, store = scripted
    digest = bytes.fromhex((await store.put("key", b"first")).sha256)
    name = await offering(lab)

    async def replace(at: int) -> None:
        if at == 2:
            await store.put("key", b"other")

    store.before_stat = replace
    assert (await refused(fetch(lab, name, offset=1, if_sha256=digest)))[1] == "DOWNLOAD_CHANGED"


# Stores that are not well.


def spoil(lab: BytesLab, change: Any) -> None:
    """Change an object's file behind the back of its store, as a bad disk would."""
    path = lab.data / "stores" / "exports" / "key"
    before = path.stat()
    with path.open("r+b") as file:
        change(file)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_an_object_whose_bytes_are_not_those_that_were_stored(lab: BytesLab) -> None:
    data = pattern(3 * CHUNK)
    await lab.server.stores["exports"].put("key", data)
    name = await offering(lab)
    spoil(lab, lambda file: (file.seek(CHUNK), file.write(b"!")))
    call = Fetch(lab, name)
    await call.header()
    assert (await refused(call.rest()))[:2] == (grpc.StatusCode.DATA_LOSS, "OBJECT_CORRUPT")
    assert len(call.data) == len(data), "instead of the end"
    assert (await fetch(lab, name, offset=2 * CHUNK)).data == data[2 * CHUNK :], "of a part nobody knows the digest"


async def test_an_object_that_is_shorter_than_it_was(scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(3 * BLOCK))
    name = await offering(lab)

    async def before_block(number: int) -> None:
        if number == 2:
            spoil(lab, lambda file: file.truncate(BLOCK // 2))

    store.before_block = before_block
    call = Fetch(lab, name, offset=BLOCK // 2)
    await call.header()
    assert (await refused(call.rest()))[1] == "OBJECT_CORRUPT"
    assert 0 < len(call.data) < 2.5 * BLOCK, "what was read before"


@pytest.mark.parametrize("at", [1, 2])
async def test_a_store_that_is_away(at: int, scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(2 * BLOCK))
    name = await offering(lab)

    async def fail(number: int) -> None:
        if number == at:
            raise ObjectError(Reason.STORE_UNAVAILABLE, "key: secret host does not answer")

    store.before_block = fail
    code, reason, status = await refused(fetch(lab, name))
    assert (code, reason, retry_after(status)) == (UNAVAILABLE, "STORE_UNAVAILABLE", 5)
    assert b"secret" not in status.SerializeToString()
    assert len((await fetch(lab, name)).data) == 2 * BLOCK


# What they cost.


async def test_no_more_is_read_than_the_caller_takes(scripted: tuple[BytesLab, Script]) -> None:
    lab, store = scripted
    await store.put("key", bytes(LARGE))
    call = Fetch(lab, await offering(lab))
    await call.header()
    before = -1
    while store.given != before:
        before = store.given
        for _ in range(20):
            await turns()
            await lab.catch_up()
    assert store.given <= LARGE / 2, "gRPC's own buffers, and the block that is being sent"
    assert len(await call.rest()) == LARGE


async def test_only_so_many_transfers_are_under_way(tmp_path: Any) -> None:
    lab = BytesLab(tmp_path / "data", max_transfers=2, max_transfers_per_owner=1)
    await lab.start()
    try:
        await lab.server.stores["exports"].put("key", bytes(LARGE))
        name = await offering(lab, max_uses=3)
        calls = [Fetch(lab, name), Fetch(lab, name)]  # the local principal, who is everyone, has no bound of its own
        for call in calls:
            await call.header()
        code, reason, status = await refused(fetch(lab, name))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSFERS")
        assert retry_after(status) == 5
        assert len(await calls[0].rest()) == LARGE
        assert len((await fetch(lab, name)).data) == LARGE, "in the place that is free again; the refusal was no use"
        calls[1].call.cancel()
    finally:
        await lab.stop()
