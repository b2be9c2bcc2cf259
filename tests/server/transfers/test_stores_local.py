"""A local store: plain files that are whole or not there, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore_server import StoreError
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import CHUNK, LocalStore, local


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "uploads"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    made = LocalStore(max_object_bytes=1 << 30)
    await made.start("uploads", root)
    yield made
    await made.stop()


def stage(store: LocalStore, name: str, data: bytes) -> Path:
    """A staged file, as an upload leaves it."""
    path = store.staging / name
    path.write_bytes(data)
    return path


async def adopt(store: LocalStore, staged: Path, data: bytes, key: str = "a/b", **options: Any) -> ObjectInfo:
    return await store.adopt(
        staged, key, size=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data),
        content_type="text/plain", metadata={"By": "caf\u00e9"}, **options,
    )  # fmt: skip


async def read(store: LocalStore, key: str, *range: int) -> bytes:
    return b"".join([chunk async for chunk in store.open(key, *range)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def own(root: Path, folder: str) -> list[str]:
    """The names of what the store keeps for itself."""
    return names(root / ".longshore" / folder)


@contextlib.contextmanager
def refused(reason: Reason) -> Any:
    with pytest.raises(ObjectError) as caught:
        yield caught
    assert caught.value.reason is reason


async def test_an_object_is_a_plain_file_with_what_is_known_of_it(store: LocalStore, root: Path) -> None:
    put = await store.put("a/b.txt", b"hello", content_type="text/plain", metadata={"By": "caf\u00e9"})
    assert (root / "a/b.txt").read_bytes() == b"hello"
    assert put == await store.stat("a/b.txt")
    assert (put.key, put.size, put.content_type, put.metadata) == ("a/b.txt", 5, "text/plain", {"By": "caf\u00e9"})
    assert put.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert put.crc32c == google_crc32c.value(b"hello")
    assert put.updated == (root / "a/b.txt").stat().st_mtime_ns // 1000
    assert own(root, "incoming") == []


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_bytes_files_and_streams_can_be_put(store: LocalStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192 + b"end"  # two chunks and a little
    (tmp_path / "file").write_bytes(data)
    puts = [
        await store.put("bytes", data),
        await store.put("file", tmp_path / "file"),
        await store.put("stream", stream(*(data[i : i + 77_777] for i in range(0, len(data), 77_777)))),
        await store.put("one", stream(data)),
    ]
    for info in puts:
        assert info.sha256 == hashlib.sha256(data).hexdigest()
        assert info.crc32c == google_crc32c.value(data)
        assert await read(store, info.key) == data
    assert (tmp_path / "file").exists()
    assert (await store.put("empty", b"")).size == 0
    assert await read(store, "empty") == b""


async def test_a_part_of_an_object_can_be_read(store: LocalStore) -> None:
    await store.put("key", b"0123456789")
    assert await read(store, "key", 3) == b"3456789"
    assert await read(store, "key", 3, 4) == b"3456"
    assert await read(store, "key", 8, 100) == b"89"
    assert await read(store, "key", 3, 0) == b""
    assert await read(store, "key", 10) == await read(store, "key", 11) == b""
    for range in ((-1,), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            await read(store, "key", *range)


@pytest.mark.parametrize("cached", ["nothing", "half of it", "no telling", "not on this system"])
async def test_it_does_not_matter_what_of_a_file_is_in_memory(
    cached: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 8192 + b"end"
    await store.put("key", data)
    turn, read_now = itertools.count(), os.preadv

    def preadv(file: int, buffers: Sequence[memoryview], offset: int, flags: int) -> int:
        if cached == "no telling":
            raise OSError(errno.EOPNOTSUPP, "not on this file system")
        if cached == "nothing" or next(turn) % 2:
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        return read_now(file, [buffers[0][: len(buffers[0]) // 2]], offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    if cached == "not on this system":
        monkeypatch.delattr(os, "preadv")
        monkeypatch.setattr(local, "_NOWAIT", 0)
    assert await read(store, "key") == data
    assert await read(store, "key", 5, CHUNK + 1) == data[5 : CHUNK + 6]


async def test_a_reader_goes_on_with_the_object_that_it_began(store: LocalStore) -> None:
    await store.put("key", bytes(CHUNK) + b"old")
    async with contextlib.aclosing(store.open("key")) as chunks:
        begun = await anext(chunks)
        await store.put("key", b"new")
        assert begun + b"".join([chunk async for chunk in chunks]) == bytes(CHUNK) + b"old"
    assert await read(store, "key") == b"new"


async def test_a_reader_that_stops_early_closes_its_file(store: LocalStore) -> None:
    await store.put("key", bytes(3 * CHUNK))
    before = len(names(Path("/proc/self/fd")))
    async with contextlib.aclosing(store.open("key")) as chunks:
        await anext(chunks)
        assert len(names(Path("/proc/self/fd"))) == before + 1
    assert len(names(Path("/proc/self/fd"))) == before


async def test_what_is_put_again_takes_the_place_of_what_was_there(store: LocalStore, root: Path) -> None:
    await store.put("key", b"old", content_type="text/plain")
    await store.put("key", b"newer")
    info = await store.stat("key")
    assert (info.size, info.content_type) == (5, "")
    assert len(own(root, "meta")) == 1, "what was known of the old one is forgotten"


async def test_an_object_that_may_not_be_overwritten_is_kept(store: LocalStore, root: Path) -> None:
    await store.put("key", b"first", overwrite=False)
    with refused(Reason.OBJECT_EXISTS):
        await store.put("key", b"second", overwrite=False)
    assert await read(store, "key") == b"first"
    assert (await store.stat("key")).sha256 == hashlib.sha256(b"first").hexdigest()
    assert (len(own(root, "meta")), own(root, "incoming")) == (1, [])


async def test_one_of_two_that_may_not_overwrite_wins(store: LocalStore, root: Path) -> None:
    data = {name: name.encode() * 1000 for name in ("x", "y", "z")}
    staged = [adopt(store, stage(store, name, text), text, overwrite=False) for name, text in data.items()]
    ends = await asyncio.gather(*staged, return_exceptions=True)
    won = [end for end in ends if isinstance(end, ObjectInfo)]
    assert len(won) == 1
    assert [end.reason for end in ends if isinstance(end, ObjectError)] == [Reason.OBJECT_EXISTS] * 2
    assert hashlib.sha256(await read(store, "a/b")).hexdigest() == won[0].sha256
    assert await store.stat("a/b") == won[0]
    assert len(own(root, "staging")) == 2, "those that lost are their callers'"


async def test_of_many_at_one_key_the_last_one_has_it_whole(store: LocalStore, root: Path) -> None:
    await asyncio.gather(*(store.put("key", f"{n}".encode() * 1000, metadata={"n": f"{n}"}) for n in range(20)))
    info = await store.stat("key")
    assert await read(store, "key") == info.metadata["n"].encode() * 1000
    assert len(own(root, "meta")) == 1


@pytest.mark.parametrize(
    "key", ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", "a\\b", "a\0b", "a\nb", "\udc80",
            ".longshore", ".longshore/meta/x", "a" * 256, "a/" * 512 + "a"],
)  # fmt: skip
async def test_a_key_that_is_none_is_refused_by_every_method(store: LocalStore, root: Path, key: str) -> None:
    before = names(root)
    staged = stage(store, "staged", b"x")
    for call in (
        lambda: store.put(key, b"x"), lambda: adopt(store, staged, b"x", key), lambda: store.stat(key),
        lambda: anext(store.open(key)), lambda: store.delete(key), lambda: store.presign(key, 1.0),
        lambda: store.copy("key", key), lambda: store.copy(key, "key"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^(must|.*surrogates)"):
            await call()
    staged.unlink()
    assert names(root) == before


async def test_long_and_deep_keys_are_fine(store: LocalStore) -> None:
    for key in ("a" * 255, "a/" * 511 + "ab", "\u00e9" * 127, " .hidden/..x", "a/.longshore"):
        await store.put(key, key.encode())
        assert await read(store, key) == key.encode()
        assert [info.key for info in await store.list()] == [key]
        assert await store.delete(key)


@pytest.mark.parametrize("link", ["file", "folder"])
async def test_no_link_leads_out_of_the_store(store: LocalStore, root: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    key = "folder/secret" if link == "folder" else "file"
    (root / link).symlink_to(outside if link == "folder" else outside / "secret")
    with refused(Reason.OBJECT_NOT_FOUND):
        await read(store, key)
    with refused(Reason.OBJECT_NOT_FOUND):
        await store.stat(key)
    with refused(Reason.KEY_CONFLICT):
        await store.put(key, b"overwritten")
    assert not await store.delete(key)
    assert await store.list() == []
    assert (outside / "secret").read_bytes() == b"secret"
    assert names(outside) == ["secret"]


async def test_what_is_no_plain_file_is_no_object(store: LocalStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    for key in ("pipe", "folder", "absent", "pipe/x"):
        with refused(Reason.OBJECT_NOT_FOUND):
            await store.stat(key)
        assert not await store.delete(key)
    with refused(Reason.KEY_CONFLICT):
        await store.put("pipe", b"x")
    assert await store.list() == []


async def test_a_key_cannot_be_an_object_and_a_folder(store: LocalStore, root: Path) -> None:
    await store.put("a/b", b"x")
    for overwrite in (True, False):
        with refused(Reason.KEY_CONFLICT):
            await store.put("a", b"x", overwrite=overwrite)
        with refused(Reason.KEY_CONFLICT):
            await store.put("a/b/c", b"x", overwrite=overwrite)
    assert await read(store, "a/b") == b"x"
    assert own(root, "incoming") == []
    await store.delete("a/b")
    await store.put("a", b"the folder is gone with its last object")


async def test_deletion_takes_the_object_and_empty_folders(store: LocalStore, root: Path) -> None:
    await store.put("a/b/c/d", b"x")
    await store.put("a/e", b"x")
    assert await store.delete("a/b/c/d")
    assert not await store.delete("a/b/c/d")
    assert names(root) == [".longshore", "a"]
    assert names(root / "a") == ["e"]
    assert len(own(root, "meta")) == 1
    with refused(Reason.OBJECT_NOT_FOUND):
        await store.stat("a/b/c/d")


async def test_deletions_beside_it_do_not_disturb_what_comes_into_a_folder(store: LocalStore) -> None:
    async def come_and_go(name: str) -> None:
        for _ in range(30):
            await store.put(f"a/b/{name}", name.encode())
            assert await read(store, f"a/b/{name}") == name.encode()
            assert await store.delete(f"a/b/{name}")

    await asyncio.gather(*map(come_and_go, "wxyz"))


async def test_the_list_has_the_order_of_keys_and_pages(store: LocalStore, root: Path) -> None:
    expected = sorted(
        ["a", "a-b", "b/c", "b/c-d", "b/cc/x", "b/d/y", "b-a", "b.a/z", "c", "\u00e9/x", "\U0001f600", "\uffee"],
        key=str.encode,
    )
    for key in expected:
        await store.put(key, key.encode())
    (root / "empty" / "folder").mkdir(parents=True)
    assert [info.key for info in await store.list()] == expected
    assert [info.size for info in await store.list()] == [len(key.encode()) for key in expected]
    for limit in (1, 2, 3, 100):
        pages, after = [], ""
        while page := await store.list(after=after, limit=limit):
            assert len(page) <= limit
            pages += [info.key for info in page]
            after = page[-1].key
        assert pages == expected
    for prefix in ("b", "b/", "b/c", "b/cc", "b/cc/x", "b/cc/x/", "z", "\u00e9"):
        assert [info.key for info in await store.list(prefix)] == [k for k in expected if k.startswith(prefix)]
        for after in expected:
            wanted = [key for key in expected if key.startswith(prefix) and key.encode() > after.encode()]
            assert [info.key for info in await store.list(prefix, after, 2)] == wanted[:2]
    with pytest.raises(ValueError, match="limit"):
        await store.list(limit=0)


async def test_files_of_others_are_objects_of_which_little_is_known(store: LocalStore, root: Path) -> None:
    (root / "theirs").write_bytes(b"theirs")
    assert (await store.stat("theirs")).size == 6
    assert (await store.stat("theirs")).crc32c is None
    await store.put("ours", b"ours", content_type="text/plain")
    (root / "ours").write_bytes(b"changed by somebody")
    info = await store.stat("ours")
    assert (info.size, info.sha256, info.content_type) == (19, "", "")
    sidecar = next((root / ".longshore" / "meta").iterdir())
    await store.put("ours", b"ours")
    sidecar = next((root / ".longshore" / "meta").iterdir())
    sidecar.write_bytes(b'{"key"')
    assert (await store.stat("ours")).sha256 == "", "a sidecar that cannot be read is none"


async def test_a_copy_has_everything_of_the_object(store: LocalStore) -> None:
    await store.put("a/b", b"x" * 10, content_type="text/plain", metadata={"a": "b"})
    copied = await store.copy("a/b", "c")
    source = await store.stat("a/b")
    assert (copied.sha256, copied.content_type, copied.metadata) == (
        source.sha256, source.content_type, source.metadata,
    )  # fmt: skip
    assert await read(store, "c") == b"x" * 10
    with refused(Reason.OBJECT_EXISTS):
        await store.copy("a/b", "c", overwrite=False)
    with refused(Reason.OBJECT_NOT_FOUND):
        await store.copy("absent", "c")
    await store.copy("c", "c")
    assert await read(store, "c") == b"x" * 10


async def test_a_local_store_has_no_urls(store: LocalStore) -> None:
    with refused(Reason.NOT_SUPPORTED):
        await store.presign("key", 60)


async def test_an_object_that_is_too_large_is_refused_whole(store: LocalStore, root: Path) -> None:
    store.max_object_bytes = CHUNK + 1
    await store.put("key", bytes(CHUNK + 1))
    for data in (bytes(CHUNK + 2), stream(*[bytes(CHUNK)] * 2)):
        with pytest.raises(ValueError, match=f"at most {CHUNK + 1} bytes"):
            await store.put("key", data)
    assert (await store.stat("key")).size == CHUNK + 1
    assert own(root, "incoming") == []


async def test_a_description_that_some_store_has_no_room_for_is_refused(store: LocalStore) -> None:
    for description in (
        {"content_type": "x" * 256}, {"content_type": "a\r\nb"}, {"content_type": "\u00e9"},
        {"metadata": {"a": "x" * 1024}}, {"metadata": {"": "x"}}, {"metadata": {"a\n": "x"}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^(must have at most|has the key)"):
            await store.put("key", b"x", **description)


# --- disks that are full, and crashes -------------------------------------------------------------------------


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
        assert len(own(root, "meta")) == 1, calls
        await store.stop()
        step += 1
    assert step > 12
    assert {"fsync", "rename", "mkdir"} | (set() if overwrite else {"link"}) <= set(calls)


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
