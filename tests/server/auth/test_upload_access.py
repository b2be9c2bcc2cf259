"""Uploads of callers who are no longer who they were: nothing is committed for them, however silent they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.bytestream import bytestream_pb2

from longshore.v1 import operation_pb2, transfers_service_pb2_grpc
from longshore_server.clock import SECOND
from longshore_server.rpc import receiving
from tests.answers import answered
from tests.conftest import refused, retry_after, turns
from tests.server.auth.callers import UNAUTHENTICATED, Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata
from tests.server.transfers.sender import chunk, commit, header

DATA = b"a" * 1000
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSFERS")


class Sender:
    """One call that sends what the test says, when it says so."""

    def __init__(self, call: Callable[..., Any], sent: Metadata) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self.call = call(self._read(), metadata=sent)

    async def _read(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put_nowait(request)

    async def answer(self) -> Any:
        return await answered(self.call)


def uploading(guarded: Guarded, sent: Metadata) -> Sender:
    stub: Any = transfers_service_pb2_grpc.TransfersServiceStub(guarded.channel)
    return Sender(stub.Upload, sent)


def writing(guarded: Guarded, sent: Metadata) -> Sender:
    channel: Any = guarded.channel
    call = channel.stream_unary(
        "/google.bytestream.ByteStream/Write", bytestream_pb2.WriteRequest.SerializeToString,
        bytestream_pb2.WriteResponse.FromString,
    )  # fmt: skip
    return Sender(call, sent)


def _write(name: str = "", offset: int = 0, **fields: Any) -> bytestream_pb2.WriteRequest:
    return bytestream_pb2.WriteRequest(resource_name=name, write_offset=offset, **fields)


KINDS: dict[str, tuple[Callable[[Guarded, Metadata], Sender], Callable[[str], list[Any]], Any]] = {
    "Upload": (uploading, lambda name: [header(name), chunk(0, DATA)], commit(DATA)),
    "Write": (
        writing, lambda name: [_write(name, data=DATA)], _write(offset=len(DATA), finish_write=True),
    ),
}  # fmt: skip


async def arrived(guarded: Guarded, size: int) -> None:
    """Return once so many bytes are there."""
    engine = guarded.harness.running.engine
    while engine.transfers.uploads.bytes["exports"] < size:
        await turns(1)


async def upload_of(guarded: Guarded, operation: Any, sent: Metadata) -> Any:
    return (await guarded.get(operation.name, sent)).upload


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["revoked", "expired"])
async def test_a_commit_is_not_taken_from_who_is_not_known_any_more(kind: str, change: str, guarded: Guarded) -> None:
    make, first, last = KINDS[kind]
    (bob,) = await known(guarded, ("bob", *ALL))
    kept = guarded.tokens.read_bytes()
    ada = guarded.token("ada", *ALL, seconds=10)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    sender = make(guarded, ada)
    sender.send(*first(await guarded.take(operation)))
    await arrived(guarded, len(DATA))
    if change == "revoked":
        guarded.tokens.write_bytes(kept)
        await guarded.learn()
    else:
        # Not by the timer of the call: it is at the very moment that the commit is there.
        guarded.clock.never_before(guarded.clock.now() + 11 * SECOND)
    sender.send(last)
    reason = {"revoked": "CREDENTIALS_INVALID", "expired": "CREDENTIALS_EXPIRED"}[change]
    assert (await refused(sender.answer()))[:2] == (UNAUTHENTICATED, reason)
    assert (await upload_of(guarded, operation, bob)).state == operation_pb2.UploadGrant.STATE_OPEN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begun", [True, False])
async def test_a_silent_call_of_a_revoked_token_ends_by_the_next_heartbeat(
    kind: str, begun: bool, guarded: Guarded
) -> None:
    make, first, _ = KINDS[kind]
    (bob,) = await known(guarded, ("bob", *ALL))
    kept = guarded.tokens.read_bytes()
    (ada,) = await known(guarded, ("ada", *ALL))
    senders = []
    for caller in (ada, bob):
        name = await guarded.take(await guarded.begin("Open", caller))
        senders.append(make(guarded, caller))
        senders[-1].send(*(first(name) if begun else ()))
    if begun:
        await arrived(guarded, 2 * len(DATA))
    await guarded.clock.armed(15, 2)
    guarded.clock.advance(15)
    await guarded.clock.armed(15, 2)
    guarded.tokens.write_bytes(kept)
    guarded.clock.advance(15)
    assert (await refused(senders[0].answer()))[:2] == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    await guarded.clock.armed(15)
    assert guarded.harness.running.engine.transfers.count == 1, "who is still known goes on"
    senders[1].call.cancel()


async def test_a_silent_call_ends_with_the_credentials_that_it_was_made_with(guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL, seconds=10)
    await guarded.learn()
    sender = uploading(guarded, ada)
    await guarded.clock.armed(10)
    guarded.clock.advance(10)
    assert (await refused(sender.answer()))[:2] == (UNAUTHENTICATED, "CREDENTIALS_EXPIRED")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_has_its_place_before_its_first_message(kind: str, make_guarded: Make) -> None:
    make, first, last = KINDS[kind]
    guarded = await make_guarded(max_transfers=3, max_transfers_per_owner=2)
    ada, bob = await known(guarded, ("ada", *ALL), ("bob", *ALL))
    name = await guarded.take(await guarded.begin("Open", ada))
    silent = [make(guarded, ada) for _ in range(2)]
    await guarded.clock.armed(15, 2)
    third = make(guarded, ada)
    third.send(*first(name), last, None)
    code, reason, status = await refused(third.answer())
    assert ((code, reason), retry_after(status)) == (EXHAUSTED, 5)
    other = make(guarded, bob)
    other.send(*first(await guarded.take(await guarded.begin("Open", bob))), last, None)
    await other.answer()
    silent[0].call.cancel()
    while guarded.harness.running.engine.transfers.count == 2:
        await turns(1)
    fourth = make(guarded, ada)
    fourth.send(*first(name), last, None)
    await fourth.answer()
    silent[1].call.cancel()


async def test_only_some_refused_calls_may_wait_for_their_first_message(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "POLITE", 2)
    waiting = [uploading(guarded, ()) for _ in range(3)]
    answers = [asyncio.ensure_future(sender.answer()) for sender in waiting]
    done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    (ended,) = done
    assert (await refused(ended))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
    for sender, answer in zip(waiting, answers, strict=True):
        if answer is not ended:
            sender.send(header("uploads/nope"))
            assert (await refused(answer))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
