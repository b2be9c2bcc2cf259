"""What callers see of an issuer whose keys cannot be had: nobody can tell who they are, and they may come again."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import first, refused, retry_after
from tests.server.auth.conftest import ALL, Guarded, start
from tests.server.auth.identities import AUDIENCE, ISSUER, signed

SENT = (("authorization", f"Bearer {signed(scope=' '.join(ALL))}"),)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A URL where nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/keys"


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_who_cannot_be_known_now_is_told_to_come_again(
    kind: str, nowhere: str, make_guarded: Callable[..., Awaitable[Guarded]]
) -> None:
    guarded = await make_guarded(jwt_keys=nowhere, jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    request = start("Open")
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "unary": lambda: guarded.operations.Start(request, metadata=SENT),
        "stream": lambda: first(
            guarded.operations.Run(pb.RunRequest(type=request.type, input=request.input), metadata=SENT)
        ),
    }
    code, reason, status = await refused(calls[kind]())
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE")
    assert retry_after(status) == 10
    assert nowhere not in status.message, "where the keys are is no caller's business"
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    assert (await guarded.begin("Open", ada)).owner == "ada", "who is known by other means is not kept out"
