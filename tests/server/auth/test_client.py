"""The Python client, the command line and `longshore serve`, with tokens and certificates."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509
from gates.v1 import gates_pb2
from gates.v1.gates_longshore import GatesClient

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_client import Completed, PermissionDenied, Retry, Unauthenticated, connect, tls
from tests.server.auth.conftest import ALL, Guarded, Metadata
from tests.server.auth.identities import Authority, bearer
from tests.warm import longshore

Make = Callable[..., Awaitable[Guarded]]
ROOT = Path(__file__).parents[3]
PATHS = os.pathsep.join(
    [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "tests" / "contracts"), str(ROOT / "examples" / "orders")]
)


def token_of(sent: Metadata) -> str:
    return sent[0][1].removeprefix("Bearer ")


async def test_a_token_goes_with_every_call(guarded: Guarded) -> None:
    ada, blind = guarded.token("ada", *ALL), guarded.token("ada", "gates.start")
    await guarded.learn()
    async with connect(guarded.harness.address, token=token_of(ada)) as channel:
        operation = await GatesClient(channel).gated(gates_pb2.GatesRequest(done=True))
        assert (await operation.wait()).text == "secret"
        assert isinstance([event async for event in operation.watch()][-1], Completed)
    async with connect(guarded.harness.address, token=token_of(blind)) as channel:
        with pytest.raises(PermissionDenied) as caught:
            await GatesClient(channel).both(gates_pb2.GatesRequest())
        assert (caught.value.reason, caught.value.metadata["gate"]) == ("CAPABILITY_MISSING", "call")
    async with connect(guarded.harness.address) as channel:
        with pytest.raises(Unauthenticated) as missing:
            await GatesClient(channel).open(gates_pb2.GatesRequest())
        assert missing.value.reason == "CREDENTIALS_MISSING"


async def test_a_watch_goes_on_with_the_next_token(guarded: Guarded) -> None:
    short, long = guarded.token("ada", *ALL, seconds=100), guarded.token("ada", *ALL, seconds=1000)
    await guarded.learn()
    tokens = [short]
    retry = Retry(initial_delay=0.001)
    async with connect(guarded.harness.address, token=lambda: token_of(tokens[0]), retry=retry) as channel:
        operation = await GatesClient(channel).open(gates_pb2.GatesRequest())
        waiting = asyncio.ensure_future(operation.wait())
        seen: list[Any] = []
        reached = asyncio.Event()

        async def follow() -> None:
            async for event in operation.watch():
                seen.append(event)
                reached.set()

        following = asyncio.ensure_future(follow())
        await reached.wait()
        tokens[0] = long
        guarded.clock.advance(100)
        await operation.cancel()
        await guarded.clock.armed(10)
        guarded.clock.advance(10)
        await following
        with pytest.raises(Exception, match="cancelled"):
            await waiting
    assert [type(event).__name__ for event in seen][-2:] == ["Cancelling", "Cancelled"]


async def test_a_token_that_ends_without_another_is_an_error(guarded: Guarded) -> None:
    short = guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    async with connect(guarded.harness.address, token=token_of(short)) as channel:
        operation = await GatesClient(channel).open(gates_pb2.GatesRequest())
        waiting = asyncio.ensure_future(operation.wait())
        for seconds in (15, 15, 15, 15, 15, 15, 10):  # the server looks at who waits
            await guarded.clock.armed(seconds)
            guarded.clock.advance(seconds)
        with pytest.raises(Unauthenticated) as caught:
            await waiting
    assert caught.value.reason == "CREDENTIALS_EXPIRED"


LOCAL = (
    "localhost:50051", "LOCALHOST", "127.0.0.1:50051", "127.8.8.8:1", "[::1]:50051", "::1", "unix:/run/orders.sock",
    "unix:///run/orders.sock", "unix-abstract:orders", "dns:localhost:50051", "dns:///localhost:50051",
    "ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:50051",
)  # fmt: skip
REMOTE = (
    "orders.acme.example:50051", "10.0.0.7:50051", "0.0.0.0:50051", "[2001:db8::1]:50051", "2001:db8::1",
    "127.example:1", "localhost.example:50051", "127.0.0.1.example", "dns:///orders.example:50051",
    "dns://localhost/orders.example:50051", "ipv4:127.0.0.1:1,10.0.0.7:2", "unix.example:50051", "xds:///localhost", "",
)  # fmt: skip


@pytest.mark.parametrize("target", LOCAL)
async def test_a_token_goes_to_this_machine_without_tls(target: str) -> None:
    await connect(target, token="t").close()


@pytest.mark.parametrize("target", REMOTE)
async def test_a_token_goes_to_another_machine_with_tls_only(target: str) -> None:
    with pytest.raises(ValueError, match="in plain text: pass credentials=tls"):
        connect(target, token="t")
    with pytest.raises(ValueError, match="in plain text"):
        connect(target, token=lambda: "t")
    await connect(target, token="t", credentials=tls()).close()
    await connect(target).close()


class Secure(NamedTuple):
    guarded: Guarded
    authority: Authority
    flags: tuple[str, ...]


@pytest.fixture
async def secure(make_guarded: Make, tmp_path: Path) -> Secure:
    """A server with TLS that knows certificates."""
    authority = Authority(tmp_path / "pki")
    served, bob = authority.server(), authority.issue("bob", x509.DNSName("bob.example"))
    identities = tmp_path / "identities.toml"
    identities.write_text('[[identity]]\nsan = "DNS:bob.example"\nprincipal = "bob"\ncapabilities = ["gates.start"]\n')
    guarded = await make_guarded(
        tls_cert=served.certificate, tls_key=served.key, tls_client_ca=authority.certificate,
        tls_identities=identities,
    )  # fmt: skip
    flags = ("--tls-ca", authority.certificate, "--tls-client-cert", bob.certificate, "--tls-client-key", bob.key)
    return Secure(guarded, authority, tuple(map(str, flags)))


async def test_the_client_speaks_tls(secure: Secure) -> None:
    _, ca, _, certificate, _, key = secure.flags
    credentials = tls(ca, certificate=certificate, key=key)
    async with connect(secure.guarded.harness.address, credentials=credentials) as channel:
        operation = await GatesClient(channel).bare(gates_pb2.GatesRequest(done=True))
        assert (await operation.wait()).text == "secret"
    with pytest.raises(ValueError, match="belong together"):
        tls(ca, key=key)


async def run(address: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """A command of the command line: its exit code, what it prints and what it says."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *longshore(), *arguments, stdout=pipe, stderr=pipe,
        env={**os.environ, "PYTHONPATH": PATHS, "LONGSHORE_SERVER": address, **environment},
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_line_says_who_it_is(guarded: Guarded, tmp_path: Path) -> None:
    ada, blind = token_of(guarded.token("ada", *ALL)), token_of(guarded.token("eve", "gates.start"))
    await guarded.learn()
    address = guarded.harness.address
    code, _, err = await run(address, "ls")
    assert (code, err) == (
        6, ("error: The call carries no credentials: send the metadata `authorization: Bearer TOKEN`; give a token by "
        "--token or LONGSHORE_TOKEN\n"),
    )  # fmt: skip
    call = ("call", "GatesService/Gated", "-d", '{"done": true}')
    code, out, _ = await run(address, *call, "--wait", LONGSHORE_TOKEN=ada)
    assert (code, '"secret"' in out) == (0, True)
    (tmp_path / "token").write_text(f"{ada}\n")
    code, out, _ = await run(address, "ls", "--token", f"@{tmp_path / 'token'}", "--json")
    assert (code, out.count("operations/")) == (0, 1)
    name = (await guarded.operations.List(pb.ListRequest(), metadata=(("authorization", f"Bearer {ada}"),))).operations[
        0
    ]
    for command in ("get", "watch", "wait", "cancel"):
        code, _, err = await run(address, command, name.name, "--token", blind)
        assert (code, "There is no operations/" in err) == (6, True), err
    code, out, _ = await run(address, "ls", "--token", blind, "--json")
    assert (code, out) == (0, "")
    code, _, err = await run(address, *call, "--wait", "--token", blind)
    assert code == 6
    for wrong, problem in (("@/nothing", "--token: /nothing cannot be read"), ("t\u00f6ken", "only printable ASCII")):
        code, _, err = await run(address, "ls", "--token", wrong)
        assert (code, problem in err) == (2, True)


async def test_who_one_is_and_what_one_wants_to_read_may_stand_before_the_command(guarded: Guarded) -> None:
    ada, eve = token_of(guarded.token("ada", "longshore.provider")), token_of(guarded.token("eve"))
    await guarded.learn()
    for words in (
        ("--token", ada, "--json", "count"),
        ("--json", "count", "--token", ada),
        ("--json", "--token", eve, "count", "--token", ada),
        ("--token", eve, "jobs", "--token", ada, "--json", "queues"),
        ("jobs", "--json", "queues", "--token", ada),
    ):
        done = await run(guarded.harness.address, *words, LONGSHORE_TOKEN="of nobody")
        assert done == (0, "", ""), words


async def test_the_command_line_sends_no_token_to_another_machine_without_tls() -> None:
    code, _, err = await run("orders.invalid:1", "ls", "--token", "t")
    assert (code, "error: --token: it would go to orders.invalid:1 in plain text; give --tls" in err) == (2, True), err
    code, _, err = await run("orders.invalid:1", "ls", LONGSHORE_TOKEN="t")
    assert (code, "in plain text" in err) == (2, True), err
    # With TLS it goes; nobody is there to take it.
    code, _, err = await run("orders.invalid:1", "ls", "--token", "t", "--tls")
    assert (code, "orders.invalid:1 is no address that can be found" in err) == (5, True), err


async def test_the_command_line_speaks_tls(secure: Secure) -> None:
    address = secure.guarded.harness.address
    code, out, err = await run(address, *secure.flags, "types")
    assert (code, "gates.v1.GatesService/Open" in out) == (0, True), err
    code, _, err = await run(address, "types", *secure.flags[:4])
    assert (code, "belong together" in err) == (2, True)
    for flags, problem in (
        ((), "closes the connection: it may want TLS (--tls, or --tls-ca)"),
        (("--tls",), "has a certificate that is not trusted: say who signs it with --tls-ca"),
    ):
        code, _, err = await run(address, "types", *flags)
        assert (code, f"{address} {problem}" in err) == (5, True), err


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`longshore serve` with tokens, on a Unix socket."""
    (tmp_path / "gated.py").write_text(
        "from longshore_server import Server\nfrom tests.server.auth.conftest import Handlers\n"
        "server = Server(Handlers())\n"
    )
    arguments = ("gated:server", "--listen", f"unix:{tmp_path}/s", "--metrics", "", "--tokens", "tokens.toml")
    with subprocess.Popen(
        [sys.executable, "-m", "longshore_client.cli", "serve", *arguments], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": PATHS}, stderr=subprocess.PIPE,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def token(tmp_path: Path) -> str:
    return bearer(tmp_path / "tokens.toml", "ada", *ALL)


def test_a_signal_makes_the_server_read_its_files_again(
    token: str, process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stderr is not None
    assert "serving gates.v1.GatesService" in process.stderr.readline()
    with grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:
        operations: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
        sent = (("authorization", f"Bearer {token}"),)
        assert len(operations.ListTypes(pb.ListTypesRequest(), metadata=sent, timeout=30).types) == 7
        (tmp_path / "tokens.toml").write_text("")
        process.send_signal(signal.SIGHUP)
        assert "read tokens.toml again" in process.stderr.readline()
        assert "everything that says who may call is read again" in process.stderr.readline()
        with pytest.raises(grpc.RpcError) as caught:
            operations.ListTypes(pb.ListTypesRequest(), metadata=sent, timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    process.send_signal(signal.SIGTERM)
    assert "stopping" in process.stderr.read()
    assert process.wait() == 0
