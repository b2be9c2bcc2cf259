"""Remote stores: S3, and what the others have in common with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import obstore
import pytest

from longshore_server import ObjectError, ObjectInfo, Reason, StoreError
from longshore_server.transfers.stores.remote import PART, RemoteStore
from longshore_server.transfers.stores.s3 import S3Store
from tests.server.transfers.buckets import LocalS3, local_s3

Make = Callable[..., Awaitable[RemoteStore]]
LARGE = bytes(range(256)) * 4096 * 20 + b"end"
"""Three parts."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalS3]:
    with local_s3() as found:
        yield found


@pytest.fixture
def s3(server: LocalS3) -> LocalS3:
    server.clear()
    return server


@pytest.fixture
async def make(s3: LocalS3, tmp_path: Path) -> AsyncIterator[Make]:
    """Starts stores on the one bucket; stops them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options: Any) -> S3Store:
            store = S3Store(**{**s3.settings("/pre/fix"), **options})
            stack.push_async_callback(store.stop)
            await store.start("uploads", tmp_path / "uploads")
            return store

        yield make


@pytest.fixture(params=["s3", "another"])
async def store(request: pytest.FixtureRequest, make: Make, tmp_path: Path) -> RemoteStore:
    """One in S3, and one of a kind that has nothing of its own."""
    if request.param == "s3":
        return await make()
    store = RemoteStore("memory:///")
    await store.start("uploads", tmp_path / "uploads")
    return store


async def adopt(store: RemoteStore, staged: Path, key: str = "a/b", **options: Any) -> ObjectInfo:
    data = LARGE if not staged.exists() else staged.read_bytes()  # noqa: ASYNC240
    return await store.adopt(
        staged, key, size=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data),
        content_type="text/plain", metadata={"By": "caf\u00e9"}, **options,
    )  # fmt: skip


def stage(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


async def read(store: RemoteStore, key: str, *range: int) -> bytes:
    return b"".join([chunk async for chunk in store.open(key, *range)])


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 99_999):
        yield data[start : start + 99_999]


@contextlib.contextmanager
def refused(reason: Reason) -> Iterator[None]:
    with pytest.raises(ObjectError) as caught:
        yield
    assert caught.value.reason is reason


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


async def test_files_of_others_are_objects_of_which_little_is_known(make: Make, s3: LocalS3) -> None:
    store = await make()
    for facts in ({}, {"longshore": "{"}, {"longshore": "[]"}):
        s3.put("pre/fix/theirs", b"theirs", facts)
        info = await store.stat("theirs")
        assert (info.size, info.sha256, info.crc32c, info.metadata) == (6, "", None, {})
        assert info.content_type == "text/html"
    s3.put("elsewhere", b"", {})
    assert [info.key for info in await store.list()] == ["theirs"]


async def test_a_large_object_goes_to_s3_in_parts_and_goes_on_after_a_restart(
    make: Make, s3: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had arrived when the server died is not sent again: by a new store, from what was kept of the old one."""
    staged, kept = stage(tmp_path, "0190", LARGE), []
    sent: list[int] = []

    async def save(state: bytes) -> None:
        kept.append(state)

    async def push(store: Any, *, state: bytes, dies_at: int | None) -> ObjectInfo:
        upload_part = store._client.upload_part

        async def counted(**request: Any) -> Any:
            if request["PartNumber"] == dies_at:
                raise Died
            sent.append(request["PartNumber"])
            return await upload_part(**request)

        store._client.upload_part = counted
        return await adopt(store, staged, overwrite=False, state=state, save=save)

    monkeypatch.setattr("longshore_server.transfers.stores.s3.AT_ONCE", 1)
    with pytest.raises(BaseExceptionGroup) as caught:
        await push(await make(), state=b"", dies_at=2)
    assert caught.group_contains(Died)
    assert (sent, s3.objects, s3.uploads, len(kept)) == ([1], [], 1, 1)
    info = await push(await make(), state=kept[0], dies_at=None)
    assert (sent, s3.objects, s3.uploads, len(kept)) == ([1, 2, 3], ["pre/fix/a/b"], 0, 1)
    assert not staged.exists()
    store = await make()
    assert await read(store, "a/b") == LARGE
    assert info == await store.stat("a/b")
    # And once more, as after a death just before what is done could be recorded.
    assert await adopt(store, staged, overwrite=False, state=kept[0], save=save) == info


class Died(BaseException):
    """What a killed process does: nothing more."""


async def test_an_upload_that_s3_has_forgotten_begins_anew(make: Make, s3: LocalS3, tmp_path: Path) -> None:
    """Buckets may have a rule that removes what nobody completes."""
    store = await make()
    kept = [b'{"upload":"forgotten","part":8388608}']

    async def save(state: bytes) -> None:
        kept.append(state)

    await adopt(store, stage(tmp_path, "0190", LARGE), state=kept[0], save=save)
    assert len(kept) == 2
    assert await read(store, "a/b") == LARGE
    assert s3.uploads == 0


async def test_parts_that_lose_their_place_to_another_object_are_removed(
    make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    store: Any = await make()
    complete = store._client.complete_multipart_upload

    async def late(**request: Any) -> Any:
        s3.put("pre/fix/a/b", b"theirs", {})
        return await complete(**request)

    async def save(state: bytes) -> None:
        kept.append(state)

    kept: list[bytes] = []
    store._client.complete_multipart_upload = late
    staged = stage(tmp_path, "0190", LARGE)
    for _ in range(2):
        with refused(Reason.OBJECT_EXISTS):
            await adopt(store, staged, overwrite=False, state=kept[0] if kept else b"", save=save)
    assert (await read(store, "a/b"), s3.uploads) == (b"theirs", 0)


async def test_parts_of_an_earlier_server_are_removed_when_another_object_has_their_place(
    make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    store: Any = await make()
    upload = (await store._client.create_multipart_upload(Bucket="bucket", Key="pre/fix/a/b"))["UploadId"]
    await store.put("a/b", b"another")
    assert s3.uploads == 1
    with refused(Reason.OBJECT_EXISTS):
        state = b'{"upload":"%s","part":8388608}' % upload.encode()
        await adopt(store, stage(tmp_path, "0190", LARGE), overwrite=False, state=state)
    assert s3.uploads == 0


async def test_no_large_object_stands_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sends what is conditional in one request: a large object is sent without, and then copied with."""
    store = RemoteStore("memory:///")
    await store.start("uploads", tmp_path / "uploads")
    sent: list[tuple[str, Any]] = []
    put = obstore.put_async

    async def recorded(bucket: Any, key: str, staged: Path, *, mode: Any, **options: Any) -> Any:
        sent.append((key, mode))
        return await put(bucket, key, staged, mode=mode, **options)

    monkeypatch.setattr(obstore, "put_async", recorded)
    await adopt(store, stage(tmp_path, "small", b"x"), "small", overwrite=False)
    await adopt(store, stage(tmp_path, "large", LARGE), "large", overwrite=False)
    await adopt(store, stage(tmp_path, "again", LARGE), "large")
    assert sent == [("small", "create"), (".longshore/large", "overwrite"), ("large", "overwrite")]
    assert not await obstore.list(store._bucket, ".longshore").collect_async(), "nothing is left aside"


async def test_parts_whose_push_is_cancelled_are_removed_unless_it_goes_on(
    make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    store: Any = await make()
    begun = asyncio.Event()

    async def hang(**_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async def save(_: bytes) -> None: ...

    store._client.upload_part = hang
    for left, keeps in ((0, None), (1, save)):
        task = asyncio.create_task(adopt(store, stage(tmp_path, "0190", LARGE), save=keeps))
        begun.clear()
        await begun.wait()
        assert s3.uploads == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert s3.uploads == left


async def test_an_answer_that_is_lost_does_not_fail_what_is_done(make: Make, tmp_path: Path) -> None:
    store: Any = await make()
    complete = store._client.complete_multipart_upload

    async def lost(**request: Any) -> Any:
        await complete(**request)
        raise ConnectionResetError("on the way back")

    store._client.complete_multipart_upload = lost
    info = await adopt(store, stage(tmp_path, "0190", LARGE), overwrite=False)
    assert info == await store.stat("a/b")


async def test_anybody_can_fetch_from_a_presigned_url_without_a_key(make: Make) -> None:
    store = await make()
    await store.put("a/\u00e9 b", b"hello", content_type="text/plain")
    url = await store.presign("a/\u00e9 b", 60)

    def fetch() -> tuple[bytes, str | None]:
        with urllib.request.urlopen(url) as answer:
            return answer.read(), answer.headers["Content-Type"]

    assert await asyncio.to_thread(fetch) == (b"hello", "text/plain")


@pytest.mark.parametrize("seconds", [0, 0.3, 7 * 24 * 3600 + 1])
async def test_a_url_is_good_for_a_second_to_a_week(make: Make, seconds: float) -> None:
    store = await make()
    with pytest.raises(ValueError, match="1 to 604800 seconds"):
        await store.presign("key", seconds)
    assert "X-Amz-Expires=604800" in await store.presign("key", 604_800)


async def test_a_bucket_that_is_not_there_has_to_be_made_by_somebody(make: Make, s3: LocalS3, tmp_path: Path) -> None:
    store: Any = await make()
    store._name = "no-such-bucket"
    with pytest.raises(ObjectError) as caught:
        await adopt(store, stage(tmp_path, "0190", LARGE))
    assert (caught.value.reason, caught.value.lasting) == (Reason.STORE_UNAVAILABLE, True)


async def test_what_is_given_up_leaves_nothing_and_one_that_could_not_be_noted_neither(
    make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    store: Any = await make()
    kept: list[bytes] = []

    async def save(state: bytes) -> None:
        kept.append(state)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await adopt(store, stage(tmp_path, "0190", LARGE), save=save)
    assert await uploads_of(store) == 0

    async def stops(state: bytes) -> None:
        kept.append(state)
        store._send_parts = fails

    async def fails(*_: Any) -> None:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "away")

    with refused(Reason.STORE_UNAVAILABLE):
        await adopt(store, stage(tmp_path, "0190", LARGE), save=stops)
    assert await uploads_of(store) == 1
    for _ in range(2):
        await store.give_up("a/b", kept[-1])
    assert await uploads_of(store) == 0


async def uploads_of(store: Any) -> int:
    """How many multipart uploads the bucket has."""
    return len((await store._client.list_multipart_uploads(Bucket=store._name)).get("Uploads", []))


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


async def test_a_url_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^store uploads: az://x: "):
        await RemoteStore("az://x").start("uploads", tmp_path)
