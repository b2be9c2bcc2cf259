"""What the tests of access share: callers whom the server knows, and how it refuses others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from tests.server.auth.conftest import Guarded, Metadata

Make = Callable[..., Awaitable[Guarded]]
UNAUTHENTICATED, NOT_FOUND = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND


async def known(guarded: Guarded, *callers: tuple[str, ...]) -> list[Metadata]:
    """What callers send, each a principal and its capabilities."""
    found = [guarded.token(*caller) for caller in callers]
    await guarded.learn()
    return found
