"""What callers read when there is no server that they can talk to: one sentence that says what to do."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from acme.orders.v1.orders_longshore import OrdersBlockingClient, OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.rpc import code_pb2

import longshore_client as lc
from longshore_client.advice import advice
from longshore_client.blocking import connect as blocking_connect
from longshore_client.retry import Timing
from tests.client.fake import FakeServer, Refusal, status
from tests.server.auth.identities import Authority

REQUEST = ProcessOrderRequest(order_id="ord_1")
ONCE = lc.Retry(give_up_after=0, timing=Timing(random=lambda: 1.0))
START_ONE = "does not answer: start a server with `longshore serve`, or give connect() the address of another"
NO_ADDRESS = "is no address that can be found: give connect() host:port, without https://, or unix:PATH"


async def said(target: str, **more: Any) -> str:
    """The text of the error of a start, which has no other error in tow."""
    async with lc.connect(target, retry=ONCE, **more) as channel:
        with pytest.raises(lc.CallError) as caught:
            await OrdersClient(channel).process(REQUEST)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


class Doors:
    """A gRPC server that knows no method, behind doors of several kinds."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.ca = authority.certificate
        ours = authority.server()
        key, certificate = ours.key.read_bytes(), ours.certificate.read_bytes()
        self.server = grpc.aio.server()
        self.plain = self.server.add_insecure_port("localhost:0")
        self.tls = self.server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, certificate)]))
        mutual = grpc.ssl_server_credentials([(key, certificate)], self.ca.read_bytes(), require_client_auth=True)
        self.mutual = self.server.add_secure_port("localhost:0", mutual)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    doors = Doors(tmp_path / "pki")
    await doors.server.start()
    yield doors
    await doors.server.stop(None)


@pytest.fixture
async def web() -> AsyncIterator[int]:
    """The port of a server that speaks HTTP/1, as that of metrics does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        # Until the caller hangs up: a close with bytes unread would take the answer back.
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("localhost:1", START_ONE),
        ("unix:/no/such/socket", START_ONE),
        ("http://localhost:1", NO_ADDRESS),
        ("", NO_ADDRESS),
    ],
)
async def test_an_address_without_a_server(target: str, what: str) -> None:
    text = await said(target)
    assert text.partition(": ")[2].startswith(f"{target or 'an empty text'} {what} ("), text
    assert "last error" not in text


@pytest.mark.parametrize("target", ["localhost", "localhost:"])
def test_an_address_without_a_port(target: str) -> None:
    """Not over the wire: the port that gRPC takes is another server's."""
    error = lc.Unavailable("refused", code=lc.Code.UNAVAILABLE)
    text = advice(error, target, contacted=False, credentials=False, token=False)
    assert text.startswith(f"{target} names no port, and gRPC takes 443 then: give connect() host:port, ")
    # Behind TLS that is a port like any other.
    text = advice(error, target, contacted=False, credentials=True, token=False)
    assert text.startswith(f"{target} {START_ONE} (")


async def test_plain_text_to_a_server_that_wants_tls(doors: Doors) -> None:
    text = await said(f"localhost:{doors.tls}")
    assert f"localhost:{doors.tls} closes the connection: it may want TLS, credentials=tls(...) (" in text


async def test_tls_to_a_server_without(doors: Doors) -> None:
    text = await said(f"localhost:{doors.plain}", credentials=lc.tls(doors.ca))
    assert " does not speak TLS: leave out credentials=, or give connect() the port that does (" in text


async def test_a_certificate_that_nobody_trusts(doors: Doors, tmp_path: Path) -> None:
    anew = Authority(tmp_path / "anew").certificate  # of the same name, with another key
    for trusted in (None, anew):
        text = await said(f"localhost:{doors.tls}", credentials=lc.tls(trusted))
        assert " has a certificate that is not trusted: say who signs it, credentials=tls(ca=FILE) (" in text


async def test_a_certificate_of_another_name(doors: Doors) -> None:
    options = [("grpc.ssl_target_name_override", "orders.example")]
    text = await said(f"localhost:{doors.tls}", credentials=lc.tls(doors.ca), options=options)
    assert " has a certificate of another name: give connect() the name that stands in it (" in text


async def test_no_certificate_where_one_is_wanted(doors: Doors) -> None:
    text = await said(f"localhost:{doors.mutual}", credentials=lc.tls(doors.ca))
    assert " it may want a certificate, credentials=tls(certificate=FILE, key=FILE) (" in text


async def test_a_server_of_something_else(doors: Doors, web: int) -> None:
    assert " speaks HTTP/1 and not gRPC: give connect() the port that " in await said(f"127.0.0.1:{web}")
    text = await said(f"localhost:{doors.plain}")
    assert text.startswith(
        f"UNIMPLEMENTED: localhost:{doors.plain} does not know this call, so it is no Longshore server"
    )


async def test_every_kind_of_call_says_so(tmp_path: Path) -> None:
    async with lc.connect("localhost:1", retry=ONCE) as channel:
        operation = OrdersClient(channel).process.attach("operations/x")
        kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "watch": lambda: anext(operation.watch()),
            "wait": operation.wait,
            "cancel": operation.cancel,
            "run": lambda: OrdersClient(channel).process.run(REQUEST, on_progress=print),
            "list": lambda: anext(OrdersClient(channel).process.list()),
            "download": lambda: operation.download(tmp_path / "x"),
            "upload": lambda: operation.upload(b"x").start(),
        }
        for kind, call in kinds.items():
            with pytest.raises(lc.Unavailable, match="start a server with `longshore serve`") as caught:
                await call()
            assert caught.value.message.startswith("failed to connect"), f"{kind}: what gRPC said is still there"


def test_callers_that_block_read_the_same() -> None:
    expected = pytest.raises(lc.Unavailable, match="start a server with `longshore serve`")
    with blocking_connect("localhost:1", retry=ONCE) as channel, expected as caught:
        OrdersBlockingClient(channel).process(REQUEST)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_a_server_that_has_gone_need_not_be_started_elsewhere(server: FakeServer) -> None:
    async with lc.connect(server.address, retry=ONCE) as channel:
        operation = await OrdersClient(channel).process(REQUEST)
        await server.stop()
        with pytest.raises(lc.Unavailable) as caught:
            await operation.get()
    assert f"{server.address} answers no more: see whether the server runs, or wait longer by " in str(caught.value)


async def test_a_server_that_takes_too_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        text = await said(f"{host}:{port}", call_timeout=0.01)
    assert text.endswith(f"{host}:{port} did not answer in time: give it longer by connect(call_timeout=...)")


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        (None, "give connect() token=, or credentials=tls(...) with a certificate, that this server accepts"),
        ("old", "give connect() another token= that this server accepts"),
    ],
)
async def test_a_caller_whom_the_server_does_not_know(server: FakeServer, token: str | None, advice: str) -> None:
    server.service.refuse = [Refusal(status(code_pb2.UNAUTHENTICATED, "CREDENTIALS_INVALID", "Nobody is called so."))]
    text = await said(server.address, token=token)
    assert text == f"CREDENTIALS_INVALID: Nobody is called so: {advice}"


async def test_what_the_server_refuses_it_says_itself(server: FakeServer) -> None:
    server.service.refuse = [Refusal(status(code_pb2.PERMISSION_DENIED, "CAPABILITY_MISSING", "You may not."))]
    assert await said(server.address) == "CAPABILITY_MISSING: You may not."
