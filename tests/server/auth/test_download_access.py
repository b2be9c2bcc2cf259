"""Downloads by callers who say who they are: what they learn, for how long, and how many each may have."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.bytestream import bytestream_pb2
from google.rpc import error_details_pb2

from longshore.v1 import transfers_service_pb2 as pb
from longshore.v1 import transfers_service_pb2_grpc
from tests.conftest import detail, first, refused, turns
from tests.server.auth.callers import NOT_FOUND, UNAUTHENTICATED, Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata

LARGE = 24 << 20
"""More bytes than gRPC takes ahead of a caller who does not read."""


def download(guarded: Guarded, name: str, sent: Metadata) -> Any:
    stub = transfers_service_pb2_grpc.TransfersServiceStub(guarded.channel)
    return stub.Download(pb.DownloadRequest(name=name), metadata=sent)


def read(guarded: Guarded, name: str, sent: Metadata) -> Any:
    channel: Any = guarded.channel
    method = channel.unary_stream(
        "/google.bytestream.ByteStream/Read", bytestream_pb2.ReadRequest.SerializeToString,
        bytestream_pb2.ReadResponse.FromString,
    )  # fmt: skip
    return method(bytestream_pb2.ReadRequest(resource_name=name), metadata=sent)


async def drained(call: Any) -> None:
    """Take all that comes."""
    async for _ in call:
        pass


async def rest(call: Any) -> int:
    """How many bytes there are, to the end."""
    return sum([len(message.chunk.data) async for message in call])


async def test_what_may_not_be_seen_is_refused_like_what_does_not_exist(guarded: Guarded) -> None:
    ada, eve = await known(guarded, ("ada", *ALL), ("eve", *ALL))
    hidden = await guarded.offer(await guarded.begin("Own", ada))
    missing = "downloads/0199d2f0-0000-7000-8000-000000000000.1"
    stub = transfers_service_pb2_grpc.TransfersServiceStub(guarded.channel)
    for ask in (
        lambda name: rest(download(guarded, name, eve)),
        lambda name: stub.RevokeDownload(pb.RevokeDownloadRequest(name=name), metadata=eve),
    ):
        code, _, found = await refused(ask(hidden))
        _, _, nothing = await refused(ask(missing))
        assert code is NOT_FOUND
        assert found.SerializeToString() == nothing.SerializeToString().replace(missing.encode(), hidden.encode())
    assert await rest(download(guarded, hidden, ada)) == 0


async def test_a_download_ends_with_the_credentials_that_opened_it(guarded: Guarded) -> None:
    ada, short = guarded.token("ada", *ALL), guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    name = await guarded.offer(await guarded.begin("Open", ada), LARGE)
    calls = [download(guarded, name, short), download(guarded, name, ada)]
    for call in calls:
        assert (await first(call)).HasField("header")
    guarded.clock.advance(100)
    assert (await refused(rest(calls[0])))[:2] == (UNAUTHENTICATED, "CREDENTIALS_EXPIRED")
    assert await rest(calls[1]) == LARGE


async def test_a_download_of_a_revoked_token_ends(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", *ALL))
    kept = guarded.tokens.read_bytes()
    (bob,) = await known(guarded, ("bob", *ALL))
    name = await guarded.offer(await guarded.begin("Open", ada), LARGE)
    calls = [download(guarded, name, bob), download(guarded, name, ada)]
    for call in calls:
        assert (await first(call)).HasField("header")
    guarded.tokens.write_bytes(kept)
    await guarded.learn()
    assert (await refused(rest(calls[0])))[:2] == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    assert await rest(calls[1]) == LARGE


@pytest.mark.parametrize("change", ["expired", "revoked"])
@pytest.mark.parametrize("face", ["Download", "Read"])
async def test_who_takes_nothing_keeps_no_place_beyond_the_credentials(
    face: str, change: str, guarded: Guarded
) -> None:
    """Nor anything that the call has taken: nobody is there to be told, and it ends all the same."""
    kept = guarded.tokens.read_bytes()
    ada = guarded.token("ada", *ALL, seconds=100 if change == "expired" else None)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    name = await guarded.offer(operation, LARGE)
    call = download(guarded, name, ada) if face == "Download" else read(guarded, name, ada)
    await first(call)
    transfers = guarded.harness.running.engine.transfers
    ((reading,),) = transfers.downloads._open.values()
    sent = -1
    while reading.sent > sent:
        sent = reading.sent
        await guarded.get(operation.name, ada)
    assert (sent < LARGE, transfers.count) == (True, 1)
    if change == "revoked":
        guarded.tokens.write_bytes(kept)
        await guarded.clock.armed(15)
        guarded.clock.advance(15)
    else:
        guarded.clock.advance(100)
    while transfers.count:
        await turns(1)
    reason = {"revoked": "CREDENTIALS_INVALID", "expired": "CREDENTIALS_EXPIRED"}[change]
    assert (await refused(drained(call)))[:2] == (UNAUTHENTICATED, reason)


@pytest.mark.parametrize("scope", ["caller", "server"])
async def test_so_many_transfers_may_be_under_way(scope: str, make_guarded: Make) -> None:
    guarded = await make_guarded(max_transfers=3, max_transfers_per_owner=2)
    ada, bob = await known(guarded, ("ada", *ALL), ("bob", *ALL))
    name = await guarded.offer(await guarded.begin("Open", ada), LARGE)
    calls = [download(guarded, name, sent) for sent in ((ada, ada) if scope == "caller" else (ada, ada, bob))]
    for call in calls:
        assert (await first(call)).HasField("header")
    code, reason, status = await refused(rest(download(guarded, name, ada if scope == "caller" else bob)))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSFERS")
    limit = {"caller": "2", "server": "3"}[scope]
    assert dict(detail(status, error_details_pb2.ErrorInfo).metadata) == {"limit": limit, "scope": scope}
    assert await rest(calls[0]) == LARGE
    assert await rest(download(guarded, name, bob)) == LARGE
    for call in calls:
        call.cancel()
