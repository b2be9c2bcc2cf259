"""Downloads: which bytes are sent, and when they are not."""

from __future__ import annotations

import hashlib
from typing import Any

import google_crc32c
import grpc
import pytest
from google.rpc import error_details_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as operations
from longshore.v1 import transfers_service_pb2 as pb
from tests.conftest import detail, fields_of, first, refused
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import CHUNK, fetch, offer, offering, pattern, start

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, EXHAUSTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED


def facts(status: Any) -> dict[str, str]:
    return dict(detail(status, error_details_pb2.ErrorInfo).metadata)


# Which bytes.


async def test_an_object_is_sent_whole(lab: BytesLab) -> None:
    data = pattern(3 * CHUNK + 1)
    stored = await lab.server.stores["exports"].put("files/a.txt", data, content_type="text/plain")
    operation = (await lab.begin("Export", key="files/a.txt")).operation
    (grant,) = operation.downloads
    assert grant.name == f"downloads/{operation.uid}.1"
    header, sent, chunks = await fetch(lab, grant.name)
    assert sent == data
    assert chunks == [CHUNK, CHUNK, CHUNK, 1]
    assert header.store_time.ToMicroseconds() == stored.updated
    whole = operation_pb2.Digests(sha256=hashlib.sha256(data).digest(), crc32c=google_crc32c.value(data))
    known = operation_pb2.DownloadGrant(size=len(data), content_type="text/plain", digests=whole)
    known.MergeFrom(grant)
    assert header.download == known


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 4 * CHUNK, 8 * CHUNK + 5])
async def test_objects_of_every_size(size: int, lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", pattern(size))
    header, sent, chunks = await fetch(lab, await offering(lab))
    assert sent == pattern(size)
    assert len(chunks) == -(-size // CHUNK)
    assert (header.download.size, header.download.HasField("size")) == (size, True)


@pytest.mark.parametrize("offset", [0, 1, CHUNK, 5 * CHUNK - 1, 5 * CHUNK, 5 * CHUNK + 3])
@pytest.mark.parametrize("limit", [0, 1, CHUNK + 1, 1 << 62])
async def test_a_range(offset: int, limit: int, lab: BytesLab) -> None:
    data = pattern(5 * CHUNK + 3)
    await lab.server.stores["exports"].put("key", data)
    header, sent, _ = await fetch(lab, await offering(lab), offset=offset, limit=limit)
    assert sent == data[offset : offset + limit if limit else None]
    assert header.download.size == len(data)
    assert header.download.digests.sha256 == hashlib.sha256(data).digest(), "of the whole object"


async def test_a_file_that_somebody_put_into_the_store_has_no_digests(lab: BytesLab) -> None:
    (lab.data / "stores" / "exports" / "key").write_bytes(b"by hand")
    header, sent, _ = await fetch(lab, await offering(lab, content_type="text/plain"))
    assert sent == b"by hand"
    assert header.download.size == 7
    assert header.download.content_type == "text/plain"
    assert not header.download.HasField("digests")


async def test_an_operation_that_has_ended_still_offers(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    operation = await lab.run("Export", key="key")
    assert operation.end_time.seconds
    await lab.restart()
    assert (await fetch(lab, operation.downloads[0].name)).data == b"data"


# When there are none.


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("offset", -1), ("limit", -1), ("use_id", "x" * 129), ("if_sha256", b"x" * 31), ("if_sha256", b"x" * 64)],
)
async def test_a_request_that_makes_no_sense(field: str, wrong: Any, lab: BytesLab) -> None:
    name = await offering(lab)
    code, reason, status = await refused(fetch(lab, name, **{field: wrong}))
    assert (code, reason, fields_of(status)) == (INVALID, "INVALID_ARGUMENT", [field])


UID = "0199d2f0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "name",
    ["", "downloads/", f"downloads/{UID}", f"downloads/{UID}.", f"downloads/{UID}.0", f"downloads/{UID}.01",
     f"downloads/{UID}.-1", f"downloads/{UID}.1.1", f"downloads/{UID}.1 ", f"downloads/{UID}.1\n",
     f"downloads/{UID}.\u0661", f"downloads/{UID.upper()}.1", f"downloads/{UID[:-1]}.1", f"downloads/{UID[:-1]}g.1",
     f"downloads/{UID.replace('7000', '4000')}.1", f"downloads/{UID}.{10**9}", f"uploads/{UID}", f"operations/{UID}",
     f"/downloads/{UID}.1", "downloads/../x.1", "x" * 100_000],
)  # fmt: skip
async def test_a_name_of_another_form(name: str, lab: BytesLab) -> None:
    for call in (fetch(lab, name), lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))):
        code, reason, status = await refused(call)
        assert (code, reason, fields_of(status)) == (INVALID, "INVALID_NAME", ["name"])


async def test_a_name_that_nothing_has(lab: BytesLab) -> None:
    uid = await start(lab)
    one = await offer(lab.engine, uid)
    for name in (f"downloads/{UID}.1", one.replace(".1", ".2"), one.replace(".1", ".999999999")):
        for call in (fetch(lab, name), lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))):
            code, reason, status = await refused(call)
            assert (code, reason) == (NOT_FOUND, "DOWNLOAD_NOT_FOUND")
            resource = detail(status, error_details_pb2.ResourceInfo)
            assert (resource.resource_type, resource.resource_name) == ("longshore.v1.Download", name)


async def test_an_object_that_is_not_there(lab: BytesLab) -> None:
    name = await offering(lab, key="some/where")
    code, reason, status = await refused(fetch(lab, name))
    assert (code, reason) == (NOT_FOUND, "OBJECT_NOT_FOUND")
    assert b"some/where" not in status.SerializeToString(), "the key is the service's own"
    await lab.server.stores["exports"].put("some/where", b"now")
    assert (await fetch(lab, name)).data == b"now"
    await lab.server.stores["exports"].delete("some/where")
    assert (await refused(fetch(lab, name)))[1] == "OBJECT_NOT_FOUND"


async def test_a_store_that_the_server_has_no_more(lab: BytesLab) -> None:
    name = await offering(lab, store="former")
    assert (await refused(fetch(lab, name)))[:2] == (NOT_FOUND, "OBJECT_NOT_FOUND")


async def test_an_offset_beyond_the_end(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    name = await offering(lab)
    code, reason, status = await refused(fetch(lab, name, offset=5))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
    assert facts(status) == {"size": "4"}


async def test_a_download_that_has_expired(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    name = await offering(lab)
    lab.clock.advance(59.999_999)
    assert (await fetch(lab, name)).data == b"data"
    lab.clock.advance(0.000_001)
    assert (await refused(fetch(lab, name)))[:2] == (PRECONDITION, "DOWNLOAD_EXPIRED")


async def test_an_object_that_has_changed_since_the_first_part_was_fetched(lab: BytesLab) -> None:
    store, name = lab.server.stores["exports"], await offering(lab)
    await store.put("key", b"first")
    header, _, _ = await fetch(lab, name, limit=2)
    digest = header.download.digests.sha256
    assert (await fetch(lab, name, offset=2, if_sha256=digest)).data == b"rst"
    await store.put("key", b"other")
    code, reason, _ = await refused(fetch(lab, name, offset=2, if_sha256=digest))
    assert (code, reason) == (PRECONDITION, "DOWNLOAD_CHANGED")
    (lab.data / "stores" / "exports" / "key").write_bytes(b"first")
    code, reason, _ = await refused(fetch(lab, name, offset=2, if_sha256=digest))
    assert (code, reason) == (PRECONDITION, "DOWNLOAD_CHANGED"), "of what somebody else wrote nothing is known"


async def test_an_object_that_has_changed_since_it_was_offered(lab: BytesLab) -> None:
    store = lab.server.stores["exports"]
    info = await store.put("key", b"first")
    name = await offering(lab, size=info.size, sha256=bytes.fromhex(info.sha256), crc32c=info.crc32c)
    assert (await fetch(lab, name)).data == b"first"
    await store.put("key", b"other")
    assert (await refused(fetch(lab, name)))[:2] == (PRECONDITION, "DOWNLOAD_CHANGED")
    await store.put("key", b"first")
    assert (await fetch(lab, name)).data == b"first"


async def test_what_is_wrong_is_told_in_order(lab: BytesLab) -> None:
    store, uid = lab.server.stores["exports"], await start(lab)
    offered = hashlib.sha256(b"offered").digest()
    name = await offer(lab.engine, uid, sha256=offered, max_uses=1)
    wrong = {"offset": 100, "use_id": "b"}
    await store.put("key", b"offered")
    await fetch(lab, name, use_id="a")

    async def reason(**fields: Any) -> str:
        return (await refused(fetch(lab, name, **{**wrong, **fields})))[1]

    assert await reason(offset=0) == "DOWNLOAD_USED_UP"
    assert await reason() == "OFFSET_OUT_OF_RANGE"
    assert await reason(if_sha256=b"x" * 32) == "DOWNLOAD_CHANGED"
    await store.put("key", b"other")
    assert await reason() == "DOWNLOAD_CHANGED"
    await store.delete("key")
    assert await reason() == "OBJECT_NOT_FOUND"
    lab.clock.advance(60)
    assert await reason() == "DOWNLOAD_EXPIRED"
    await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))
    assert await reason() == "DOWNLOAD_REVOKED"
    assert await reason(offset=-1) == "INVALID_ARGUMENT"


# Uses.


async def test_a_download_is_fetched_as_often_as_it_may_be(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    uid = await start(lab)
    name, other = await offer(lab.engine, uid, max_uses=2), await offer(lab.engine, uid, max_uses=1)
    for _ in range(2):
        assert (await fetch(lab, name)).header.download.max_uses == 2
    before = lab.tables()
    assert (await refused(fetch(lab, name)))[:2] == (EXHAUSTED, "DOWNLOAD_USED_UP")
    assert lab.tables() == before
    await fetch(lab, other)  # each has its own count


async def test_calls_with_one_use_id_are_one_use_also_after_a_restart(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    name = await offering(lab, max_uses=2)
    for offset in (0, 2):
        await fetch(lab, name, use_id="one", offset=offset)
    await lab.restart()
    assert (await fetch(lab, name, use_id="one", offset=3)).data == b"a"
    await fetch(lab, name, use_id="\u00fc" * 128)
    assert (await refused(fetch(lab, name, use_id="three")))[1] == "DOWNLOAD_USED_UP"
    assert (await refused(fetch(lab, name)))[1] == "DOWNLOAD_USED_UP"
    assert (await fetch(lab, name, use_id="one")).data == b"data"


async def test_a_call_that_is_refused_is_no_use(lab: BytesLab) -> None:
    store, name = lab.server.stores["exports"], await offering(lab, max_uses=1)
    await refused(fetch(lab, name))
    await store.put("key", b"data")
    await refused(fetch(lab, name, offset=5))
    await refused(fetch(lab, name, if_sha256=b"x" * 32))
    assert (await fetch(lab, name)).data == b"data"


async def test_a_use_is_counted_before_the_first_byte_is_sent(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", pattern(CHUNK))
    name = await offering(lab, max_uses=1)
    call = lab.transfers.Download(pb.DownloadRequest(name=name))
    assert (await first(call)).HasField("header")
    call.cancel()
    await lab.restart()
    assert (await refused(fetch(lab, name)))[1] == "DOWNLOAD_USED_UP"


# Taken back.


async def test_a_download_that_is_revoked(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    uid = await start(lab)
    name, other = await offer(lab.engine, uid), await offer(lab.engine, uid)
    revoke = pb.RevokeDownloadRequest(name=name)
    grant = await lab.transfers.RevokeDownload(revoke)
    assert (grant.name, grant.revoked) == (name, True)
    tables = lab.tables()
    assert await lab.transfers.RevokeDownload(revoke) == grant
    assert lab.tables() == tables
    for crash in (False, True):
        assert (await refused(fetch(lab, name)))[:2] == (PRECONDITION, "DOWNLOAD_REVOKED")
        assert (await fetch(lab, other)).data == b"data"
        found = await lab.get(f"operations/{other.partition('/')[2].partition('.')[0]}")
        assert [download.revoked for download in found.downloads] == [True, False]
        await lab.restart(crash=crash)


@pytest.mark.parametrize("known", [True, False])
async def test_a_download_of_an_operation_that_has_ended_is_revoked(known: bool, lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    operation = await lab.run("Export", key="key")
    name = operation.downloads[0].name
    if not known:
        await lab.restart()
    assert (await lab.transfers.RevokeDownload(pb.RevokeDownloadRequest(name=name))).revoked
    assert (await refused(fetch(lab, name)))[:2] == (PRECONDITION, "DOWNLOAD_REVOKED")
    after = await lab.get(operation.name)
    assert after.downloads[0].revoked
    after.downloads[0].revoked = False
    assert after == operation, "it is no part of the operation's revisions"


async def test_a_deleted_operation_offers_nothing(lab: BytesLab) -> None:
    await lab.server.stores["exports"].put("key", b"data")
    operation = await lab.run("Export", key="key")
    await lab.operations.Delete(operations.DeleteRequest(name=operation.name))
    assert (await refused(fetch(lab, operation.downloads[0].name)))[:2] == (NOT_FOUND, "DOWNLOAD_NOT_FOUND")
