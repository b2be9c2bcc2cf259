"""A call that goes on need not look at its caller again, unless somebody has found out that less is known since."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from gates.v1 import gates_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.auth.authentication import Authentication
from tests.server.auth.conftest import ALL, Guarded


class Talking:
    """A handler that reports one progress each time it is told to."""

    def __init__(self, guarded: Guarded) -> None:
        self.more: asyncio.Queue[str] = asyncio.Queue()
        guarded.handlers.handler = self._handle

    async def _handle(self, request: Any, op: Any) -> Any:
        while text := await self.more.get():
            await op.progress(gates_pb2.GatesProgress(text=text))
        return gates_pb2.GatesResult()


async def said(watch: Any) -> str:
    """The kind of the next event, or the code with which there is none."""
    try:
        async for message in watch:
            if message.HasField("event"):
                return str(message.event.WhichOneof("event"))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return ""


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_stream_heeds_what_a_look_that_is_over_has_found(guarded: Guarded, revoked: bool) -> None:
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    talking = Talking(guarded)
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=2), metadata=ada)
    talking.more.put_nowait("open")
    assert await said(watch) == "progress"
    if revoked:
        guarded.tokens.write_text("")
    # The reader is done when this returns, and the next is due in a second: nobody looks when the stream goes on.
    await guarded.learn()
    talking.more.put_nowait("secret")
    assert await said(watch) == ("UNAUTHENTICATED" if revoked else "progress")
    watch.cancel()


async def test_a_stream_that_nothing_has_happened_to_asks_nobody(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    talking = Talking(guarded)
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=2), metadata=ada)
    talking.more.put_nowait("one")
    assert await said(watch) == "progress"
    asked = []
    inner = Authentication.known

    def known(self: Authentication, authorization: str, certificate: bytes) -> Any:
        asked.append(authorization)
        return inner(self, authorization, certificate)

    monkeypatch.setattr(Authentication, "known", known)
    for number in range(3):
        talking.more.put_nowait(f"more {number}")
        assert await said(watch) == "progress"
    assert asked == []
    guarded.clock.advance(1)
    talking.more.put_nowait("after a second")
    assert await said(watch) == "progress"
    assert len(asked) == 1
    watch.cancel()
