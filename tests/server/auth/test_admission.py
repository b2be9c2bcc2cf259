"""Whom a server lets in, and where: health and reflection, authenticators in order, addresses, the provider."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Authenticator, ConfigError, Credentials, Principal, unauthenticated
from longshore_server.auth.identity import LOCAL
from longshore_server.errors import ServiceError
from longshore_server.rpc.authorization import PROVIDER, Authorization
from tests.answers import refusals
from tests.conftest import refused
from tests.server.auth.callers import UNAUTHENTICATED, Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata

# The services that tools expect.


async def check(guarded: Guarded, sent: Metadata = ()) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    return await stub.Check(health_pb2.HealthCheckRequest(), metadata=sent)


async def reflect(guarded: Guarded, sent: Metadata = (), version: str = "v1") -> bytes:
    call: Any = guarded.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    asking = call(iter([b"\x3a\x00"]), metadata=sent)
    async with refusals(asking):
        async for answer in asking:
            return bytes(answer)
    raise AssertionError("no answer")


async def test_health_is_anyones_and_reflection_is_for_who_is_known(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada",))
    assert (await check(guarded)).status == health_pb2.HealthCheckResponse.SERVING
    for version in ("v1", "v1alpha"):
        assert (await refused(reflect(guarded, version=version)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
        assert b"gates.v1.GatesService" in await reflect(guarded, ada, version)


async def test_both_can_be_had_otherwise(make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated", reflection="anyone")
    (ada,) = await known(guarded, ("ada",))
    assert (await refused(check(guarded)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert (await check(guarded, ada)).status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(watch.__aiter__())
    assert caught.value.code() is UNAUTHENTICATED
    assert b"gates.v1.GatesService" in await reflect(guarded)
    off = await make_guarded(reflection="off")
    (bob,) = await known(off, ("bob",))
    nobody: Any = off.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await nobody(metadata=bob).read()  # one that still sends takes a refusal for a broken call
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_authentication_everyone_may_everything(make_guarded: Make) -> None:
    guarded = await make_guarded(tokens=False)
    assert b"gates.v1.GatesService" in await reflect(guarded)
    for type in ("Gated", "Own", "Bare", "Both"):
        operation = await guarded.begin(type, ())
        assert (await guarded.operations.Cancel(pb.CancelRequest(name=operation.name))).cancel_request_time.seconds


# Authenticators.


class Fixed(Authenticator):
    """Knows one word."""

    def __init__(self, word: str, name: str) -> None:
        self.word, self.name, self.asked, self.changed = word, name, 0, False

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        self.asked += 1
        if credentials.authorization == "wrong":
            raise unauthenticated(f"{self.name} says no.")
        return Principal(self.name, frozenset(ALL), method="word") if credentials.authorization == self.word else None

    async def refresh(self, *, force: bool) -> bool:
        return self.changed or force


async def test_authenticators_are_asked_in_order_and_remembered(make_guarded: Make) -> None:
    first, second = Fixed("a", "first"), Fixed("b", "second")
    guarded = await make_guarded(authenticators=[first, second])
    (ada,) = await known(guarded, ("ada", *ALL))

    async def owner(sent: Metadata) -> str:
        return (await guarded.begin("Open", sent)).owner

    a, b, c = ((("authorization", word),) for word in "abc")
    assert [await owner(sent) for sent in (a, b, ada, a, b, ada)] == ["first", "second", "ada"] * 2
    assert (first.asked, second.asked) == (3, 2), "the files come last, and each is asked once"
    assert (await refused(owner(c)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    _, _, status = await refused(owner((("authorization", "wrong"),)))
    assert status.message == "first says no."
    first.changed = True
    guarded.clock.advance(1)
    before = second.asked
    assert await owner(b) == "second"
    assert second.asked == before + 1, "what was remembered is asked again once somebody has changed"


async def test_an_authenticator_that_breaks_is_an_error_and_not_a_way_in(make_guarded: Make) -> None:
    class Broken(Authenticator):
        async def authenticate(self, credentials: Credentials) -> Principal | None:
            raise RuntimeError("secret")

    guarded = await make_guarded(authenticators=[Broken()])
    code, reason, status = await refused(guarded.begin("Open", (("authorization", "x"),)))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in status.message


# Where it listens.


async def test_only_an_authenticated_server_listens_beyond_this_machine(make_guarded: Make) -> None:
    with pytest.raises(ConfigError, match=r"^listen: 0\.0\.0\.0:\d+ can be reached from other machines and nobody has"):
        await make_guarded(tokens=False, listen=("0.0.0.0:0",))
    for settings in ({}, {"tokens": False, "allow_unauthenticated": True}):
        guarded = await make_guarded(listen=("0.0.0.0:0",), **settings)
        assert guarded.harness.address.startswith("0.0.0.0:")
    with pytest.raises(ConfigError, match=r"^allow_unauthenticated: authentication is configured"):
        await make_guarded(allow_unauthenticated=True)


async def test_a_wrong_file_of_tokens_refuses_the_start(make_guarded: Make, tmp_path: Any) -> None:
    (tmp_path / "t.toml").write_text("[[token]]")
    with pytest.raises(ConfigError, match=r"^tokens: .*t\.toml: token\[0\]\.id: it is missing$"):
        await make_guarded(tokens=tmp_path / "t.toml")


# The provider.


async def test_only_the_provider_passes_the_providers_gate(guarded: Guarded) -> None:
    gate = Authorization(guarded.harness.running.engine)
    gate.check_provider(Principal("p", frozenset({PROVIDER})))
    gate.check_provider(LOCAL)
    with pytest.raises(ServiceError) as caught:
        gate.check_provider(Principal("p", frozenset(ALL)))
    assert caught.value.reason.name == "CAPABILITY_MISSING"
    assert caught.value.metadata == {"capability": "longshore.provider"}
