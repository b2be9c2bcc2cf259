"""An authenticator of somebody's own whose look does not return: it holds nobody up for long, and lets nobody stay."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.auth.identity import Authenticator, Credentials, Principal
from longshore_server.clock import SECOND
from longshore_server.testing.clock import START
from tests.conftest import refused
from tests.server.auth.callers import Make
from tests.server.auth.conftest import ALL, Metadata

ADA: Metadata = (("authorization", "Badge ada"),)


class Badges(Authenticator):
    """Knows whoever shows a badge, for the first minute. From its second look on it returns when it may."""

    def __init__(self) -> None:
        self.looks = 0
        self.may_return = asyncio.Event()
        self.revoked = False

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        if self.revoked or not credentials.authorization.startswith("Badge "):
            return None
        return Principal(credentials.authorization.removeprefix("Badge "), frozenset(ALL), START + 60 * SECOND)

    async def refresh(self, *, force: bool) -> bool:
        self.looks += 1
        if self.looks > 1:
            await self.may_return.wait()
        return True


async def test_streams_go_on_and_end_with_their_credentials(make_guarded: Make, caplog: Any) -> None:
    badges = Badges()
    guarded = await make_guarded(authenticators=[badges])
    bob = guarded.token("bob", *ALL)
    await guarded.learn()
    name = (await guarded.begin("Open", ADA)).name
    silent = pb.WatchRequest(name=name, after_sequence=1, event_types=[operation_pb2.EVENT_TYPE_OUTPUT])
    watches: list[Any] = [guarded.operations.Watch(silent, metadata=sent) for sent in (ADA, bob)]
    reading = [asyncio.ensure_future(_read(watch)) for watch in watches]
    await guarded.clock.armed(15, 2)
    guarded.clock.advance(15)
    await guarded.clock.armed(5)
    assert badges.looks == 2
    assert not any(future.done() for future in reading)
    guarded.clock.advance(5)
    for message in await asyncio.gather(*reading):
        assert message.HasField("heartbeat")
    told = "Badges does not tell whether it has changed: what was known counts until it expires"
    assert caplog.messages.count(told) == 1

    # From now on nobody waits for it, and the file of tokens is looked at all the same.
    guarded.tokens.write_text("")
    reading = [asyncio.ensure_future(_read(watch)) for watch in watches]
    await guarded.clock.armed(15, 2)
    guarded.clock.advance(15)
    assert (await reading[0]).HasField("heartbeat")
    assert (await refused(reading[1]))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    assert (await guarded.get(name, ADA)).name == name
    guarded.clock.advance(24.999)
    assert (await guarded.get(name, ADA)).name == name
    guarded.clock.advance(0.001)
    assert (await refused(_to_the_end(watches[0])))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")
    assert (await refused(guarded.get(name, ADA)))[1] == "CREDENTIALS_EXPIRED"
    assert badges.looks == 2
    badges.may_return.set()


async def test_what_it_says_in_the_end_counts_and_it_is_asked_again(make_guarded: Make) -> None:
    badges = Badges()
    guarded = await make_guarded(authenticators=[badges])
    name = (await guarded.begin("Open", ADA)).name
    guarded.clock.advance(1)
    asking = asyncio.ensure_future(guarded.get(name, ADA))
    await guarded.clock.armed(5)
    guarded.clock.advance(5)
    assert (await asking).name == name
    badges.revoked = True
    assert (await guarded.get(name, ADA)).name == name, "nobody has been told"
    badges.may_return.set()
    await asyncio.sleep(0)
    assert (await refused(guarded.get(name, ADA)))[1] == "CREDENTIALS_INVALID"
    guarded.clock.advance(1)
    await refused(guarded.get(name, ADA))
    assert badges.looks > 2


async def test_a_reload_does_not_wait_for_ever(make_guarded: Make) -> None:
    badges = Badges()
    guarded = await make_guarded(authenticators=[badges])
    await guarded.learn()
    reloading = asyncio.ensure_future(guarded.learn())
    await guarded.clock.armed(5)
    guarded.clock.advance(5)
    await reloading
    badges.may_return.set()


async def _to_the_end(watch: Any) -> None:
    while (await _read(watch)).HasField("heartbeat"):
        pass


async def _read(watch: Any) -> pb.WatchResponse:
    message: pb.WatchResponse = await watch.read()
    return message
