"""Remote stores: S3, and what the others have in common with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore_server import ObjectError, ObjectInfo, Reason, StoreError
from longshore_server.transfers.stores.remote import PART, RemoteStore
from longshore_server.transfers.stores.s3 import S3Store
from tests.server.transfers.buckets import LocalS3
from tests.server.transfers.stores.pushing import LARGE, Make, adopt, stage, stream
from tests.server.transfers.stores.staged import read, refused

# The first test of Azure installs it.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(params=["s3", "az", "gs", "memory"])
async def store(
    request: pytest.FixtureRequest, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RemoteStore:
    """One of every kind, and one that has nothing of its own."""
    if request.param == "s3":
        return await make()
    store = RemoteStore("memory:///")
    if request.param != "memory":
        for name, value in request.getfixturevalue(request.param).items():
            monkeypatch.setenv(name, value)
        store = RemoteStore(f"{request.param}://bucket/{secrets.token_hex(8)}/fix")
    await store.start("uploads", tmp_path / "uploads")
    return store


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("data", [b"", b"hello", bytes(PART), LARGE], ids=["empty", "small", "one part", "large"])
async def test_an_object_comes_back_with_everything(
    store: RemoteStore, tmp_path: Path, data: bytes, overwrite: bool
) -> None:
    metadata = {"By": "caf\u00e9 \U0001f600", "empty": "", "UPPER": " spaces ", "quote": '"\\'}
    put = await store.put("a/b.txt", stream(data), content_type="text/plain", metadata=metadata, overwrite=overwrite)
    assert put == await store.stat("a/b.txt")
    assert (put.size, put.content_type, put.metadata) == (len(data), "text/plain", metadata)
    assert (put.sha256, put.crc32c) == (hashlib.sha256(data).hexdigest(), google_crc32c.value(data))
    assert put.updated > 0
    assert await read(store, "a/b.txt") == data
    assert list((tmp_path / "uploads" / "incoming").iterdir()) == []
    assert [info.key for info in await store.list()] == ["a/b.txt"]


async def test_a_part_of_an_object_can_be_read(store: RemoteStore) -> None:
    await store.put("small", b"0123456789")
    assert await read(store, "small", 3) == b"3456789"
    assert await read(store, "small", 3, 4) == b"3456"
    assert await read(store, "small", 8, 100) == b"89"
    assert await read(store, "small", 3, 0) == b""
    assert await read(store, "small", 10) == await read(store, "small", 11) == b""
    await store.put("large", LARGE)
    assert await read(store, "large", PART - 1, PART + 2) == LARGE[PART - 1 : 2 * PART + 1]
    async for chunk in store.open("large"):
        assert len(chunk) <= 1 << 20


async def test_bytes_of_two_objects_are_never_mixed(store: RemoteStore) -> None:
    await store.put("key", LARGE)
    async with contextlib.aclosing(store.open("key")) as chunks:
        await anext(chunks)
        await store.put("key", LARGE[::-1])
        with refused(Reason.OBJECT_NOT_FOUND):
            async for _ in chunks:
                pass


async def test_what_is_put_without_a_content_type_has_none(store: RemoteStore) -> None:
    await store.put("key", b"x")
    assert (await store.stat("key")).content_type == ""


async def test_keys_may_be_anything_that_is_a_key(store: RemoteStore) -> None:
    for key in ("a b/%25 \u00e9", "q'(*)!?#&=+;:,@$~[]{}|^`\"<>", ".hidden/..x", "a" * 255 + "/" + "b" * 255):
        await store.put(key, key.encode())
        assert await read(store, key) == key.encode()
        assert [info.key for info in await store.list()] == [key]
        assert await store.delete(key)


@pytest.mark.parametrize("data", [b"second", LARGE], ids=["small", "large"])
async def test_an_object_that_may_not_be_overwritten_is_kept(store: RemoteStore, s3: LocalS3, data: bytes) -> None:
    await store.put("key", b"first", overwrite=False)
    with refused(Reason.OBJECT_EXISTS):
        await store.put("key", data, overwrite=False)
    assert await read(store, "key") == b"first"
    assert s3.uploads == 0
    assert [info.key for info in await store.list()] == ["key"]


@pytest.mark.parametrize("size", [10, len(LARGE)], ids=["small", "large"])
async def test_one_of_two_that_may_not_overwrite_wins(store: Any, s3: LocalS3, size: int) -> None:
    if isinstance(store, S3Store):
        # The S3 of the test looks, and then writes: only one at a time it does as the real one.
        turn, complete = asyncio.Lock(), store._client.complete_multipart_upload

        async def one_by_one(**request: Any) -> Any:
            async with turn:
                return await complete(**request)

        store._client.complete_multipart_upload = one_by_one
    puts = [store.put("key", bytes([n]) * size, overwrite=False) for n in range(3)]
    ends = await asyncio.gather(*puts, return_exceptions=True)
    won = [end for end in ends if isinstance(end, ObjectInfo)]
    assert len(won) == 1
    assert [end.reason for end in ends if isinstance(end, ObjectError)] == [Reason.OBJECT_EXISTS] * 2
    assert hashlib.sha256(await read(store, "key")).hexdigest() == won[0].sha256
    assert s3.uploads == 0


async def test_the_list_has_the_order_of_keys_and_pages(store: RemoteStore) -> None:
    expected = sorted(["a", "a-b", "b/c", "b/c-d", "b/cc/x", "b/d/y", "b-a", "b.a/z", "c", "\u00e9/x"], key=str.encode)
    for key in expected:
        await store.put(key, key.encode())
    for limit in (1, 3, 100):
        pages, after = [], ""
        while page := await store.list(after=after, limit=limit):
            assert len(page) <= limit
            pages += [(info.key, info.size) for info in page]
            after = page[-1].key
        assert pages == [(key, len(key.encode())) for key in expected]
    for prefix in ("b", "b/", "b/c", "b/cc", "b/cc/x", "z", "\u00e9"):
        for after in ("", *expected):
            wanted = [key for key in expected if key.startswith(prefix) and key.encode() > after.encode()]
            assert [info.key for info in await store.list(prefix, after, 2)] == wanted[:2]


async def test_a_copy_has_everything_of_the_object(store: RemoteStore) -> None:
    source = await store.put("a/b", b"x" * 10, content_type="text/plain", metadata={"a": "b"})
    for target, overwrite in (("c", True), ("d", False), ("c", True), ("a/b", True)):
        copied = await store.copy("a/b", target, overwrite=overwrite)
        assert (copied.sha256, copied.content_type, copied.metadata) == (
            source.sha256, source.content_type, source.metadata,
        )  # fmt: skip
        assert await read(store, target) == b"x" * 10
    with refused(Reason.OBJECT_EXISTS):
        await store.copy("a/b", "c", overwrite=False)
    with refused(Reason.OBJECT_NOT_FOUND):
        await store.copy("absent", "c")


async def test_what_is_deleted_is_gone(store: RemoteStore) -> None:
    await store.put("a/b", b"x")
    assert await store.delete("a/b")
    assert not await store.delete("a/b")
    with refused(Reason.OBJECT_NOT_FOUND):
        await store.stat("a/b")
    with refused(Reason.OBJECT_NOT_FOUND):
        await read(store, "a/b")
    await store.put("a", b"the folder is gone with its last object")


@pytest.mark.parametrize("store", ["s3", "az", "gs"], indirect=True)
@pytest.mark.parametrize("key", ["a/b.c_d-e", "a/\u00e9 b"])
async def test_anybody_can_fetch_from_a_presigned_url_without_a_key(store: RemoteStore, key: str) -> None:
    await store.put(key, b"hello", content_type="text/plain")
    if store._url.startswith("az:") and not key.isascii():
        with refused(Reason.NOT_SUPPORTED):
            await store.presign(key, 60)
        return
    url = await store.presign(key, 60)

    def fetch() -> tuple[bytes, str | None]:
        with urllib.request.urlopen(url) as answer:
            return answer.read(), answer.headers["Content-Type"]

    assert await asyncio.to_thread(fetch) == (b"hello", "text/plain")


@pytest.mark.parametrize("key", ["", "../a", "a//b", ".longshore/x", "a\\b"])
async def test_a_key_that_is_none_is_refused_by_every_method(store: RemoteStore, tmp_path: Path, key: str) -> None:
    staged = stage(tmp_path, "staged", b"x")
    for call in (
        lambda: store.put(key, b"x"), lambda: adopt(store, staged, key), lambda: store.stat(key),
        lambda: anext(store.open(key)), lambda: store.delete(key), lambda: store.presign(key, 1.0),
        lambda: store.copy("key", key), lambda: store.copy(key, "key"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^must"):
            await call()


@pytest.mark.parametrize("data", [b"hello", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("overwrite", [True, False])
async def test_an_adoption_can_be_repeated_when_it_is_done(
    store: RemoteStore, tmp_path: Path, data: bytes, overwrite: bool
) -> None:
    """The server died after it, before it could say so: with the staged file removed, or just before that."""
    staged = stage(tmp_path, "0190", data)
    done = await adopt(store, staged, overwrite=overwrite)
    assert not staged.exists()
    stage(tmp_path, "0190", data)
    assert await adopt(store, staged, overwrite=overwrite) == done
    assert await read(store, "a/b") == data
    with refused(Reason.OBJECT_CORRUPT):
        await adopt(store, tmp_path / "gone", "absent")


async def test_only_what_came_from_an_upload_is_deleted_with_it(store: RemoteStore, tmp_path: Path) -> None:
    await adopt(store, stage(tmp_path, "0190.0", b"first"))
    assert not await store.delete("a/b", only="0191")
    await store.put("a/b", b"first")
    assert not await store.delete("a/b", only="0190")
    await adopt(store, stage(tmp_path, "0190.0", b"first"))
    assert await store.delete("a/b", only="0190")


async def test_a_store_that_cannot_be_reached_is_unavailable(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore_server.transfers.stores.remote.RETRIES", {"max_retries": 0})
    monkeypatch.setattr("longshore_server.transfers.stores.s3.RETRIES", {"max_retries": 0})
    with local_closed_port() as endpoint:
        store = await make(endpoint=endpoint)
    staged = stage(tmp_path, "0190", LARGE)
    for call in (
        lambda: store.put("key", b"x"), lambda: adopt(store, staged), lambda: store.stat("key"),
        lambda: anext(store.open("key")), lambda: store.delete("key"), store.list,
    ):  # fmt: skip
        with refused(Reason.STORE_UNAVAILABLE):
            await call()
    assert staged.exists()


@contextlib.contextmanager
def local_closed_port() -> Iterator[str]:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


async def test_a_bucket_that_is_not_there_is_no_missing_object(make: Make, tmp_path: Path) -> None:
    """Else an upload would fail for good because of what an operator can put right."""
    store = await make(url="s3://absent")
    for data in (b"x", LARGE):
        with refused(Reason.STORE_UNAVAILABLE):
            await adopt(store, stage(tmp_path, "0190", data))


async def test_what_cannot_be_used_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    refusals = {
        "az": r"^store uploads: az://x: .*; look at AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in the ",
        "gs": r"^store uploads: gs://x: .*; look at GOOGLE_APPLICATION_CREDENTIALS in the server's environment$",
        "s3": r"^store uploads: s3://x: The config profile \(nobody\) could not be found$",
    }
    for scheme, sentence in refusals.items():
        store = (S3Store if scheme == "s3" else RemoteStore)(f"{scheme}://x")
        with pytest.raises(StoreError, match=sentence):
            await store.start("uploads", tmp_path)
