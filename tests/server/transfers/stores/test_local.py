"""A local store: plain files that are whole or not there, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import CHUNK, LocalStore, local
from tests.server.transfers.stores.staged import adopt, names, own, read, refused, stage, stream


async def test_an_object_is_a_plain_file_with_what_is_known_of_it(store: LocalStore, root: Path) -> None:
    put = await store.put("a/b.txt", b"hello", content_type="text/plain", metadata={"By": "caf\u00e9"})
    assert (root / "a/b.txt").read_bytes() == b"hello"
    assert put == await store.stat("a/b.txt")
    assert (put.key, put.size, put.content_type, put.metadata) == ("a/b.txt", 5, "text/plain", {"By": "caf\u00e9"})
    assert put.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert put.crc32c == google_crc32c.value(b"hello")
    assert put.updated == (root / "a/b.txt").stat().st_mtime_ns // 1000
    assert own(root, "incoming") == []


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


NONE: list[tuple[Callable[[Any], Any], str]] = [
    (lambda store: store.put(5, b"new"), "the key of an object is a text, not 5"),
    (lambda store: store.put("key", 5), "data is bytes, a pathlib.Path or an async iterator of bytes, not int"),
    (lambda store: store.put("key", "new"), "data is bytes, a pathlib.Path or an async iterator of bytes, not str"),
    (lambda store: store.put("key", b"new", content_type=5), "content_type: 5 is no text"),
    (lambda store: store.put("key", b"new", metadata="a=b"), "metadata: 'a=b' is no dict of texts"),
    (lambda store: store.put("key", b"new", metadata={"a": 5}), "metadata: {'a': 5} is no dict of texts"),
    (lambda store: store.put("key", b"new", metadata={5: "a"}), "metadata: {5: 'a'} is no dict of texts"),
    (lambda store: store.stat(5), "the key of an object is a text, not 5"),
    (lambda store: store.open("key", "1").__anext__(), "offset and length are whole numbers, not '1' and None"),
    (lambda store: store.list(limit="5"), "limit is a whole number, not '5'"),
    (lambda store: store.copy(5, "other"), "the key of an object is a text, not 5"),
    (lambda store: store.delete(None), "the key of an object is a text, not None"),
]


@pytest.mark.parametrize(("call", "sentence"), NONE)
async def test_what_is_no_argument_changes_nothing(
    store: LocalStore, root: Path, call: Callable[[Any], Any], sentence: str
) -> None:
    before = await store.put("key", b"old", content_type="text/plain")
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        await call(store)
    assert await store.stat("key") == before
    assert own(root, "incoming") == []
