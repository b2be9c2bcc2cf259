"""TLS with real certificates: rotated while streams are open, and the names in those of callers."""

from __future__ import annotations

import ipaddress
import logging
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import ConfigError
from longshore_server.testing.clock import START
from tests.conftest import first, refused
from tests.server.auth.conftest import ALL, Guarded
from tests.server.auth.identities import Authority, Pem

Make = Callable[..., Awaitable[Guarded]]


def copy(source: Pem, target: Pem) -> None:
    """Renew a certificate, as a deployment does: one file after the other."""
    shutil.copyfile(source.certificate, target.certificate)
    shutil.copyfile(source.key, target.key)


def trusting(authority: Authority, pem: Pem | None = None) -> grpc.ChannelCredentials:
    root = authority.certificate.read_bytes()
    if pem is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, pem.key.read_bytes(), pem.certificate.read_bytes())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def served(authority: Authority) -> Pem:
    return authority.server()


async def reached(guarded: Guarded, credentials: grpc.ChannelCredentials) -> bool:
    """Whether a new connection comes about."""
    await guarded.connect(credentials)
    try:
        await guarded.operations.ListTypes(pb.ListTypesRequest())
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return True


async def test_a_certificate_is_renewed_while_a_stream_stays_open(
    make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path
) -> None:
    guarded = await make_guarded(tls_cert=served.certificate, tls_key=served.key)
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    await guarded.connect(trusting(authority))
    operation = await guarded.begin("Open", ada)
    # The first channel stays open under its own name: `connect` closes what it replaces.
    old, guarded._channel = guarded.channel, None
    stream = old.unary_stream(
        "/longshore.v1.OperationsService/Watch", request_serializer=pb.WatchRequest.SerializeToString,
        response_deserializer=pb.WatchResponse.FromString,
    )(pb.WatchRequest(name=operation.name), metadata=ada)  # fmt: skip
    messages = stream.__aiter__()
    assert (await anext(messages)).HasField("snapshot")

    other = Authority(tmp_path / "other", "other")
    copy(other.server(), served)
    assert not await reached(guarded, trusting(authority)), "new connections see the new certificate"
    assert await reached(guarded, trusting(other))

    await guarded.operations.Cancel(pb.CancelRequest(name=operation.name), metadata=ada)
    seen = set()
    while "cancelling" not in seen:
        seen.add((await anext(messages)).event.WhichOneof("event"))
    again: Any = old.unary_unary(
        "/longshore.v1.OperationsService/Get", request_serializer=pb.GetRequest.SerializeToString
    )  # fmt: skip
    await again(pb.GetRequest(name=operation.name), metadata=ada)
    await old.close()


async def test_a_plain_call_to_a_port_with_tls_is_turned_away_and_no_other_is(
    make_guarded: Make, authority: Authority, served: Pem
) -> None:
    guarded = await make_guarded(tls_cert=served.certificate, tls_key=served.key)
    assert await reached(guarded, trusting(authority))
    async with grpc.aio.insecure_channel(guarded.harness.address) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as turned_away:
            await operations_service_pb2_grpc.OperationsServiceStub(plain).ListTypes(pb.ListTypesRequest())
    assert turned_away.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as known:
        await guarded.operations.ListTypes(pb.ListTypesRequest())
    assert known.value.code() is grpc.StatusCode.UNAUTHENTICATED, "the connection with TLS is as it was"


async def test_half_a_renewal_changes_nothing(
    make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = await make_guarded(tls_cert=served.certificate, tls_key=served.key)
    other = Authority(tmp_path / "other", "other")
    new = other.server()
    shutil.copyfile(new.certificate, served.certificate)
    with caplog.at_level(logging.ERROR):
        assert await reached(guarded, trusting(authority))
        assert await reached(guarded, trusting(authority))
    (line,) = [message for message in caplog.messages if "going on with what it said before" in message]
    assert line.startswith(f"{served.certificate}: it is no certificate for the key {served.key}: ")
    shutil.copyfile(new.key, served.key)
    assert await reached(guarded, trusting(other))


async def test_a_reload_reads_certificates_at_once(
    make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path
) -> None:
    guarded = await make_guarded(tls_cert=served.certificate, tls_key=served.key)
    other = Authority(tmp_path / "other", "other")
    copy(other.server(), served)
    await guarded.harness.running.reload()
    assert await reached(guarded, trusting(other))


async def test_what_is_wrong_with_the_key_does_not_keep_those_who_are_trusted_from_being_read_again(
    make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clients = tmp_path / "clients.pem"
    shutil.copyfile(authority.certificate, clients)
    guarded = await make_guarded(tls_cert=served.certificate, tls_key=served.key, tls_client_ca=clients)
    other = Authority(tmp_path / "other", "other")
    removed, added = (
        grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(), pem.key.read_bytes(), pem.certificate.read_bytes()
        )
        for pem in (authority.issue("removed"), other.issue("added"))
    )
    assert [await reached(guarded, caller) for caller in (removed, added)] == [True, False]
    served.key.write_text("nothing")
    shutil.copyfile(other.certificate, clients)
    with caplog.at_level(logging.INFO):
        await guarded.harness.running.reload()
    assert [await reached(guarded, caller) for caller in (removed, added)] == [False, True]
    said = [line for line in caplog.messages if str(tmp_path) in line]
    assert said[0].startswith(f"{served.certificate}: it is no certificate for the key {served.key}: ")
    assert said[0].endswith("; going on with what it said before")
    assert f"read {clients} again" in said


async def test_a_unix_socket_has_no_tls(make_guarded: Make, served: Pem, tmp_path: Path) -> None:
    guarded = await make_guarded(
        tls_cert=served.certificate, tls_key=served.key, listen=(f"unix:{tmp_path / 's'}", "127.0.0.1:0")
    )
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    assert (await guarded.begin("Open", ada)).owner == "ada"


@pytest.mark.parametrize("wrong", ["missing", "text", "other key", "encrypted", "client ca"])
async def test_wrong_files_refuse_the_start(wrong: str, make_guarded: Make, authority: Authority, served: Pem) -> None:
    settings: dict[str, Any] = {"tls_cert": served.certificate, "tls_key": served.key}
    if wrong == "missing":
        served.key.unlink()
        problem = f"tls_key: {served.key}: No such file or directory"
    elif wrong == "text":
        served.certificate.write_text("nothing")
        problem = f"tls_cert: {served.certificate}: it is no certificate for the key {served.key}: "
    elif wrong == "other key":
        shutil.copyfile(authority.server("second").key, served.key)
        problem = f"tls_cert: {served.certificate}: it is no certificate for the key {served.key}: KEY_VALUES_MISMATCH"
    elif wrong == "encrypted":
        key = ec.generate_private_key(ec.SECP256R1())
        served.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )  # fmt: skip
        problem = f"tls_cert: {served.certificate}: it is no certificate for the key {served.key}: the key is encrypted"
    else:
        settings["tls_client_ca"] = clients = served.key.with_name("clients.pem")
        clients.write_text("nothing")
        problem = f"tls_client_ca: {clients}: it holds no certificates"
    with pytest.raises(ConfigError) as caught:
        await make_guarded(**settings)
    assert str(caught.value).startswith(problem)


WRONG_NAME = 'identity[1].san: it must be one of URI, DNS, EMAIL, IP and a name, like "DNS:a.example"'
IDENTITIES = """
[[identity]]
san = "URI:spiffe://acme/ada"
principal = "ada"
capabilities = ["gates.start", "gates.see"]

[[identity]]
san = "DNS:bob.example"
principal = "bob"
capabilities = []

[[identity]]
san = "EMAIL:eve@acme.example"
principal = "eve"
capabilities = []

[[identity]]
san = "IP:10.0.0.7"
principal = "zoe"
capabilities = []
"""


@pytest.fixture
async def mutual(make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path) -> Guarded:
    """A server that wants certificates of its callers."""
    identities = tmp_path / "identities.toml"
    identities.write_text(IDENTITIES)
    return await make_guarded(
        tls_cert=served.certificate, tls_key=served.key, tls_client_ca=authority.certificate,
        tls_identities=identities,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "principal"),
    [
        (x509.UniformResourceIdentifier("spiffe://acme/ada"), "ada"),
        (x509.DNSName("bob.example"), "bob"),
        (x509.RFC822Name("eve@acme.example"), "eve"),
        (x509.IPAddress(ipaddress.ip_address("10.0.0.7")), "zoe"),
    ],
)
async def test_a_name_in_a_certificate_is_a_principal(
    name: x509.GeneralName, principal: str, mutual: Guarded, authority: Authority
) -> None:
    await mutual.connect(trusting(authority, authority.issue("caller", name, x509.DNSName("also.example"))))
    assert (await mutual.begin("Open", ())).owner == principal


async def test_a_certificate_has_the_capabilities_of_its_principal(mutual: Guarded, authority: Authority) -> None:
    ada = authority.issue("ada", x509.UniformResourceIdentifier("spiffe://acme/ada"))
    await mutual.connect(trusting(authority, ada))
    operation = await mutual.begin("Gated", ())
    code, reason, _ = await refused(mutual.operations.Cancel(pb.CancelRequest(name=operation.name)))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")
    assert mutual.handlers.seen[0].capabilities == {"gates.start", "gates.see"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([x509.DNSName("eve.example")], ("No principal is listed for the names of the client certificate: "
         "DNS:eve.example.")),
        # Names of one kind do not pass for those of another, and the common name is none of them.
        ([x509.DNSName("spiffe://acme/ada")], ("No principal is listed for the names of the client certificate: "
         "DNS:spiffe://acme/ada.")),
        ([x509.UniformResourceIdentifier("bob.example")], ("No principal is listed for the names of the client "
         "certificate: URI:bob.example.")),
        ([], "No principal is listed for the names of the client certificate: it has none."),
        ([x509.DNSName("bob.example"), x509.UniformResourceIdentifier("spiffe://acme/ada")],
         "The names of the client certificate stand for several principals: ada, bob."),
    ],
)  # fmt: skip
async def test_a_certificate_of_nobody_is_refused(
    names: list[x509.GeneralName], message: str, mutual: Guarded, authority: Authority
) -> None:
    await mutual.connect(trusting(authority, authority.issue("caller", *names, common="bob.example")))
    code, reason, status = await refused(mutual.begin("Open", ()))
    assert (code, reason, status.message) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", message)


async def test_without_a_certificate_of_the_right_authority_there_is_no_connection(
    mutual: Guarded, authority: Authority, tmp_path: Path
) -> None:
    assert not await reached(mutual, trusting(authority))
    other = Authority(tmp_path / "other", "other")
    forged = other.issue("ada", x509.UniformResourceIdentifier("spiffe://acme/ada"))
    assert not await reached(mutual, trusting(authority, forged))


async def test_a_token_counts_before_the_certificate_and_a_wrong_one_is_not_made_good_by_it(
    mutual: Guarded, authority: Authority
) -> None:
    token = mutual.token("tom", *ALL)
    await mutual.learn()
    ada = authority.issue("ada", x509.UniformResourceIdentifier("spiffe://acme/ada"))
    await mutual.connect(trusting(authority, ada))
    assert (await mutual.begin("Open", token)).owner == "tom"
    assert (await mutual.begin("Open", ())).owner == "ada"
    for wrong in ("Bearer longshore_00000000_x", "Bearer a.b.c", "Basic YTpi"):
        code, _, _ = await refused(mutual.begin("Open", (("authorization", wrong),)))
        assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_connection_outlives_its_certificate_but_calls_do_not(mutual: Guarded, authority: Authority) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=365)
    ada = authority.issue("ada", x509.UniformResourceIdentifier("spiffe://acme/ada"), end=end)
    await mutual.connect(trusting(authority, ada))
    operation = await mutual.begin("Open", ())
    watch = mutual.operations.Watch(pb.WatchRequest(name=operation.name, heartbeat_interval={"seconds": 300}))  # type: ignore[arg-type]
    assert (await first(watch)).HasField("snapshot")
    mutual.clock.advance(end.timestamp() - START / 1e6 - 1)
    assert (await mutual.get(operation.name, ())).owner == "ada"
    mutual.clock.advance(1)
    code, reason, _ = await refused(mutual.get(operation.name, ()))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")


async def test_capabilities_of_names_that_no_contract_declares_are_warned_of(
    make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "identities.toml"
    path.write_text(IDENTITIES.replace("gates.see", "gates.sea"))
    with caplog.at_level(logging.WARNING):
        await make_guarded(
            tls_cert=served.certificate, tls_key=served.key, tls_client_ca=authority.certificate, tls_identities=path
        )
    assert caplog.messages == [f"{path}: no contract of this server declares the capability 'gates.sea'"]


async def test_the_list_of_names_is_read_again(mutual: Guarded, authority: Authority, tmp_path: Path) -> None:
    bob = authority.issue("bob", x509.DNSName("bob.example"))
    await mutual.connect(trusting(authority, bob))
    assert (await mutual.begin("Open", ())).owner == "bob"
    (tmp_path / "identities.toml").write_text(IDENTITIES.replace("bob.example", "robert.example"))
    mutual.clock.advance(1)
    code, _, _ = await refused(mutual.begin("Open", ()))
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('san = "DNS:', 'san = "HOST:'), WRONG_NAME),
        (('"DNS:bob.example"', "7"), WRONG_NAME),
        (("DNS:bob.example", "URI:spiffe://acme/ada"), "identity[1].san: URI:spiffe://acme/ada is there twice"),
        (('principal = "bob"', 'principal = "local"'),
         "identity[1].principal: 'local' is reserved for servers without authentication"),
        (('principal = "bob"\n', ""), "identity[1].principal: it is missing"),
        (("capabilities = []", 'capabilities = [""]'), "identity[1].capabilities: '' cannot be a capability"),
    ],
)  # fmt: skip
async def test_a_wrong_list_of_names_refuses_the_start(
    change: tuple[str, str], problem: str, make_guarded: Make, authority: Authority, served: Pem, tmp_path: Path
) -> None:
    path = tmp_path / "identities.toml"
    path.write_text(IDENTITIES.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        await make_guarded(
            tls_cert=served.certificate, tls_key=served.key, tls_client_ca=authority.certificate, tls_identities=path
        )
    assert str(caught.value) == f"tls_identities: {path}: {problem}"
