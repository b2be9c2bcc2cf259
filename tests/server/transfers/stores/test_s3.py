"""S3 alone: parts, what remains of them, buckets, URLs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import obstore
import pytest

from longshore_server import ObjectError, ObjectInfo, Reason
from longshore_server.transfers.stores.remote import RemoteStore
from tests.server.transfers.buckets import LocalS3
from tests.server.transfers.stores.pushing import LARGE, Make, adopt, stage
from tests.server.transfers.stores.staged import read, refused


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
    assert (sent, s3.objects, s3.uploads, len(kept)) == ([1], [], 1, 2)
    info = await push(await make(), state=kept[-1], dies_at=None)
    assert (sent, s3.objects, s3.uploads, len(kept)) == ([1, 2, 3], ["pre/fix/a/b"], 0, 2)
    assert not staged.exists()
    store = await make()
    assert await read(store, "a/b") == LARGE
    assert info == await store.stat("a/b")
    # And once more, as after a death just before what is done could be recorded.
    assert await adopt(store, staged, overwrite=False, state=kept[-1], save=save) == info


@pytest.mark.parametrize(("objects", "largest", "most"), [(5, 10_000, 8), (1, 4, 1)])
async def test_few_parts_are_in_memory_at_once(
    objects: int, largest: int, most: int, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many objects, and of one that is so large that its parts are too. `largest`: the number of its last part."""
    monkeypatch.setattr("longshore_server.transfers.stores.s3.PART", 1 << 20 if largest == 4 else 8 << 20)
    monkeypatch.setattr("longshore_server.transfers.stores.s3._MOST_PARTS", largest)
    store: Any = await make()
    upload_part, full = store._client.upload_part, asyncio.Event()
    now = seen = 0

    async def counted(**request: Any) -> Any:
        nonlocal now, seen
        now += 1
        seen = max(seen, now)
        if now == most:
            full.set()
        await full.wait()
        try:
            return await upload_part(**request)
        finally:
            now -= 1

    store._client.upload_part = counted
    async with asyncio.TaskGroup() as group:
        for number in range(objects):
            group.create_task(adopt(store, stage(tmp_path, f"{number}", LARGE), f"a/{number}"))
    assert seen == most
    assert [await read(store, f"a/{number}") == LARGE for number in range(objects)] == [True] * objects


@pytest.mark.parametrize("goes_on", [True, False])
async def test_parts_that_a_dead_server_has_begun_and_not_noted_are_found_again(
    goes_on: bool, make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    """It died between the answer of S3 and its own note of that: what it had meant to begin tells which they are."""
    store: Any = await make()
    theirs = await store._client.create_multipart_upload(Bucket="bucket", Key="pre/fix/a/b")
    await store._client.create_multipart_upload(Bucket="bucket", Key="pre/fix/a/b/c")
    staged = stage(tmp_path, "0190", LARGE)
    async with dying(store, staged) as state:
        assert s3.uploads == 3
        fresh: Any = await make()
        if goes_on:
            await adopt(fresh, staged, state=state)
            assert await read(fresh, "a/b") == LARGE
        else:
            await fresh.give_up("a/b", state)
        assert s3.uploads == 2, "those of others are theirs"
        await fresh._client.abort_multipart_upload(Bucket="bucket", Key="pre/fix/a/b", UploadId=theirs["UploadId"])


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("asked", ["never", "at first", "later"])
async def test_where_s3_does_not_say_which_uploads_there_are_objects_arrive_and_none_is_aborted_by_guessing(
    asked: str, goes_on: bool, make: Make, s3: LocalS3, tmp_path: Path
) -> None:
    store: Any = await make()
    await store._client.create_multipart_upload(Bucket="bucket", Key="pre/fix/a/b")
    staged = stage(tmp_path, "0190", LARGE)
    s3.lists_uploads = asked == "at first"
    async with dying(store, staged) as state:
        s3.lists_uploads = asked == "later"
        fresh: Any = await make()
        if goes_on:
            await adopt(fresh, staged, state=state)
            assert await read(fresh, "a/b") == LARGE
        else:
            await fresh.give_up("a/b", state)
        assert s3.uploads == 2, "that of others, and the one of which nobody knows whose it is"


@contextlib.asynccontextmanager
async def dying(store: Any, staged: Path) -> AsyncIterator[bytes]:
    """Within it a server has died after S3 had begun an upload in parts, and before it could note its name. Yields what
    it has kept."""
    kept: list[bytes] = []

    async def save(state: bytes) -> None:
        kept.append(state)

    begin, begun = store._client.create_multipart_upload, asyncio.Event()

    async def dies(**request: Any) -> None:
        await begin(**request)
        begun.set()
        await asyncio.Event().wait()

    store._client.create_multipart_upload = dies
    dead = asyncio.create_task(adopt(store, staged, save=save))
    await asyncio.wait([dead, asyncio.ensure_future(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not dead.done(), dead
    (state,) = kept
    yield state
    dead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dead


async def test_parts_of_what_is_lost_are_removed(make: Make, s3: LocalS3, tmp_path: Path) -> None:
    store: Any = await make()
    upload = (await store._client.create_multipart_upload(Bucket="bucket", Key="pre/fix/a/b"))["UploadId"]
    with refused(Reason.OBJECT_CORRUPT):
        await adopt(store, tmp_path / "gone", state=b'{"upload":"%s","part":8388608}' % upload.encode())
    assert s3.uploads == 0


class Died(BaseException):
    """What a killed process does: nothing more."""


async def test_an_upload_that_s3_has_forgotten_begins_anew(make: Make, s3: LocalS3, tmp_path: Path) -> None:
    """Buckets may have a rule that removes what nobody completes."""
    store = await make()
    kept = [b'{"upload":"forgotten","part":8388608}']

    async def save(state: bytes) -> None:
        kept.append(state)

    await adopt(store, stage(tmp_path, "0190", LARGE), state=kept[0], save=save)
    assert len(kept) == 3
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
            await adopt(store, staged, overwrite=False, state=kept[-1] if kept else b"", save=save)
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


@pytest.mark.parametrize("end", ["repeated", "lost", "given up"])
async def test_what_a_dead_server_has_put_aside_is_removed(end: str, tmp_path: Path) -> None:
    """It died before it could: the next try does so, also where it finds the object in its place, or none to put."""
    store = RemoteStore("memory:///")
    await store.start("uploads", tmp_path / "uploads")
    staged, kept = stage(tmp_path, "large", LARGE), list[bytes]()

    async def save(state: bytes) -> None:
        kept.append(state)

    await adopt(store, staged, overwrite=False, save=save)
    await obstore.put_async(store._bucket, ".longshore/large", b"left")
    if end == "repeated":
        await adopt(store, stage(tmp_path, "large", LARGE), overwrite=False, state=kept[0], save=save)
    elif end == "lost":
        await store.delete("a/b")
        with refused(Reason.OBJECT_CORRUPT):
            await adopt(store, staged, overwrite=False, state=kept[0], save=save)
    else:
        await store.give_up("a/b", kept[0])
    assert not await obstore.list(store._bucket, ".longshore").collect_async()
    await store.give_up("a/b", kept[0])
    assert len(kept) == 1


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
        if len(kept) == last:
            raise ConnectionResetError

    for last in (1, 2):  # noqa: B007 - for `save`
        kept.clear()
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
