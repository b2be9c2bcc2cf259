"""Local stores on disks that are full or away, and in processes that die or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore_server import StoreError
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import CHUNK, LocalStore
from tests.server.transfers.stores.staged import adopt, own, read, refused, stage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_disk_that_cannot_write_is_told_and_nothing_is_left(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await store.put("key", b"old")
    write = os.write

    def half(file: int, data: Any) -> int:
        if len(data) < 10:
            raise OSError(number, os.strerror(number))
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with refused(Reason.STORE_UNAVAILABLE if number == errno.EIO else Reason.STORE_FULL):
            await store.put("key", b"x" * 1000)
    assert (own(root, "incoming"), await read(store, "key")) == ([], b"old")
    await store.put("key", b"room again")
    assert await read(store, "key") == b"room again"


class Died(BaseException):
    """What a killed process does: nothing more."""


STEPS = ("open", "mkdir", "fsync", "stat", "rename", "link", "unlink")


class Killer:
    """Counts the calls of the operating system that a change makes, and ends it before or after one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, *, after: bool) -> None:
        self.calls: list[str] = []
        for name in STEPS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name), at, after))

    def _wrap(self, name: str, function: Callable[..., Any], at: int | None, after: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if at is not None and len(self.calls) > at:
                raise Died  # whatever the code does on its way out: a process that is gone does nothing
            self.calls.append(name)
            if len(self.calls) - 1 == at and not after:
                raise Died
            result = function(*args, **kwargs)
            if len(self.calls) - 1 == at:
                if name == "open":
                    os.close(result)
                raise Died
            return result

        return call


@pytest.mark.parametrize("overwrite", [True, False], ids=["overwriting", "not overwriting"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_adoption_goes_on_after_a_crash_at_any_step(tmp_path: Path, overwrite: bool, after: bool) -> None:
    """Killed at each call of the operating system, then repeated by the next server: the object comes into its place
    once, with everything that is known of it, and what was there before is there until then, whole."""
    info, calls = described(b"new bytes"), list[str]()
    step, done = 0, False
    while not done:
        root = tmp_path / f"{step}"
        store = LocalStore()
        await store.start("uploads", root)
        if overwrite:
            await store.put("a/b", b"old", content_type="text/old")
        staged = stage(store, "0190", b"new bytes")
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, step, after=after)
            try:
                store._adopt(staged, info, overwrite)
                done = True
            except Died:
                pass
        calls = killer.calls
        await store.stop()

        store = LocalStore()
        await store.start("uploads", root)
        assert len(own(root, "meta")) == len(await store.list()), calls
        try:
            found = await store.stat("a/b")
        except ObjectError:
            assert not overwrite
        else:
            # Of a file that has a sidecar the store knows everything: they came as one.
            assert (found.size, found.content_type) in ((3, "text/old"), (9, "text/plain")), calls
        again = await adopt(store, staged, b"new bytes", overwrite=overwrite)
        assert again == await store.stat("a/b")
        assert (again.sha256, again.metadata) == (info.sha256, {"By": "caf\u00e9"})
        assert await read(store, "a/b") == b"new bytes"
        assert (own(root, "staging"), own(root, "incoming")) == ([], [])
        assert (len(own(root, "meta")), own(root, "changing")) == (1, []), calls
        await store.stop()
        step += 1
    assert step > 12
    assert {"fsync", "rename", "mkdir"} | (set() if overwrite else {"link"}) <= set(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_deletion_that_a_crash_ended_leaves_nothing_behind(tmp_path: Path, after: bool) -> None:
    """The object is there with all that is known of it, or neither is."""
    step, done, seen = 0, False, set[int]()
    while not done:
        root = tmp_path / f"{step}"
        store = LocalStore()
        await store.start("uploads", root)
        await store.put("a/b", b"data", content_type="text/plain")
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, step, after=after)
            with contextlib.suppress(Died):
                done = store._delete("a/b", "")
        await store.stop()

        store = LocalStore()
        await store.start("uploads", root)
        found = await store.list()
        assert [(await store.stat(info.key)).content_type for info in found] in ([], ["text/plain"])
        assert (len(own(root, "meta")), own(root, "changing")) == (len(found), []), killer.calls
        seen.add(len(found))
        await store.stop()
        step += 1
    assert seen == {0, 1}


def described(data: bytes) -> ObjectInfo:
    return ObjectInfo(
        "a/b", len(data), hashlib.sha256(data).hexdigest(), google_crc32c.value(data), "text/plain",
        {"By": "caf\u00e9"},
    )  # fmt: skip


async def test_everything_is_synced_before_it_is_acknowledged(store: LocalStore, monkeypatch: Any) -> None:
    """In the order that a power loss leaves nothing half: bytes, folders on the way, sidecar, the move, its folder."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def where(file: int) -> str:
        path = Path(f"/proc/self/fd/{file}").readlink().relative_to(store.staging.parents[1])
        return str(path.parent if path.parent.name == "incoming" else path)

    def synced(file: int) -> None:
        done.append(where(file))
        fsync(file)

    def renamed(source: Any, target: Any, **kwargs: Any) -> None:
        done.append("moved")
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    await store.put("a/b/c", b"x")
    incoming, meta = ".longshore/incoming", ".longshore/meta"
    assert done == [incoming, ".", "a", incoming, "moved", meta, "moved", "a/b", incoming]


async def test_what_was_staged_and_is_gone_is_lost_unless_the_key_has_the_same_bytes(store: LocalStore) -> None:
    await store.put("a/b", b"another")
    for key in ("a/b", "absent/key"):
        with refused(Reason.OBJECT_CORRUPT):
            await adopt(store, store.staging / "gone", b"x", key)
    assert (await adopt(store, store.staging / "gone", b"another")).size == 7
    assert await read(store, "a/b") == b"another"


async def test_a_staged_file_of_another_size_is_not_adopted(store: LocalStore) -> None:
    staged = stage(store, "staged", b"more")
    with refused(Reason.OBJECT_CORRUPT):
        await adopt(store, staged, b"mor")


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_folder_that_is_away_is_no_missing_object(store: LocalStore, root: Path, mounted: bool) -> None:
    await store.put("a/b", b"here")
    staged = store.staging / "0190"
    aside = root.with_name("aside")
    await asyncio.to_thread(root.rename, aside)
    if mounted:  # but not that disk
        await asyncio.to_thread(root.mkdir)
    for call in (
        lambda: store.put("key", b"x"), lambda: adopt(store, staged, b"x"), lambda: store.stat("a/b"),
        lambda: anext(store.open("a/b")), lambda: store.delete("a/b"), store.list,
    ):  # fmt: skip
        with refused(Reason.STORE_UNAVAILABLE):
            await call()
    if mounted:
        await asyncio.to_thread(root.rmdir)  # and nothing came into it
    await asyncio.to_thread(aside.rename, root)
    assert await read(store, "a/b") == b"here"


async def test_a_folder_that_goes_away_just_then_is_no_missing_object(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("a/b", b"here")
    real = store._folders.parent

    def parent(key: str, **options: Any) -> Any:
        root.rename(root.with_name("aside"))
        return real(key, **options)

    monkeypatch.setattr(store._folders, "parent", parent)
    with refused(Reason.STORE_UNAVAILABLE):
        await store.stat("a/b")


async def test_only_what_came_from_an_upload_is_deleted_with_it(store: LocalStore) -> None:
    await adopt(store, stage(store, "0190.0", b"first"), b"first")
    assert not await store.delete("a/b", only="0191")
    assert not await store.delete("a/b", only="019")
    await store.put("a/b", b"first")
    assert not await store.delete("a/b", only="0190")
    await adopt(store, stage(store, "0190.whole", b"first"), b"first")
    assert await store.delete("a/b", only="0190")


async def test_a_cancelled_put_leaves_nothing(store: LocalStore, root: Path) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("key", endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert own(root, "incoming") == []
    assert await store.list() == []


async def test_what_was_being_put_when_the_server_died_is_swept(store: LocalStore, root: Path) -> None:
    (root / ".longshore" / "incoming" / "half").write_bytes(b"half")
    stage(store, "0190", b"staged")
    await store.stop()
    await store.start("uploads", root)
    assert (own(root, "incoming"), own(root, "staging")) == ([], ["0190"])


async def test_a_second_server_cannot_have_the_folder(store: LocalStore, root: Path) -> None:
    other = LocalStore(root)
    with pytest.raises(StoreError, match=f"^folder {root} of the store docs is in use by another server"):
        await other.start("docs", root.parent)
    await store.stop()
    await store.stop()
    await other.start("docs", root.parent)
    assert not (root.parent / "docs").exists()
    await other.stop()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"^store uploads: .*file: File exists"):
        await LocalStore(tmp_path / "file").start("uploads", tmp_path)


async def test_memory_stays_flat_whatever_the_size(store: LocalStore, root: Path) -> None:
    """200 MB in, copied and out, with a few MiB in memory."""
    piece, count = bytes(range(256)) * 1024, 800

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    await store.put("warm", piece * 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await store.put("large", endless())
    await store.copy("large", "copy")
    digest = hashlib.sha256()
    async for chunk in store.open("copy"):
        assert len(chunk) <= CHUNK
        digest.update(chunk)
    assert digest.hexdigest() == (await store.stat("large")).sha256
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
