"""Who calls: in a test whoever the test says, behind the contract's own gates."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from pathlib import Path

import pytest
from gates.v1.gates_longshore import GatesClient
from gates.v1.gates_pb2 import GatesRequest
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayRequest

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operations_service_pb2_grpc import OperationsServiceStub
from longshore_server import Server
from longshore_server.auth.identity import Authenticator, Credentials, Principal
from longshore_server.contract.source import ContractError
from longshore_server.testing import Harness
from tests.server.auth.conftest import ALL, Handlers

DONE = GatesRequest(done=True)


OWN: ContextVar[str] = ContextVar("own", default="nothing")


class OneToken(Authenticator):
    """Knows one caller."""

    sees = ""

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        self.sees = OWN.get()
        return Principal("tom", frozenset(ALL)) if credentials.bearer == "tom's" else None


@pytest.fixture
def longshore_server() -> Server:
    return Server(Handlers(), authenticators=[OneToken()])


async def test_a_principal_passes_the_gates_that_its_capabilities_open(longshore: Harness) -> None:
    ada = longshore.client(GatesClient, principal="ada", capabilities=ALL)
    operation = await ada.gated(DONE)
    await operation.wait()
    eve = longshore.client(GatesClient, principal="eve", capabilities=["gates.start"])
    with pytest.raises(lc.NotFound):
        await eve.gated.attach(operation.name).get()
    sue = longshore.client(GatesClient, principal="sue", capabilities=["gates.see"])
    assert (await sue.gated.attach(operation.name).get()).name == operation.name
    with pytest.raises(lc.PermissionDenied) as refused:
        await sue.gated(DONE)
    assert refused.value.reason == "CAPABILITY_MISSING"


async def test_the_handler_is_told_who_it_is(longshore: Harness) -> None:
    handlers = longshore.server.services[0]
    assert isinstance(handlers, Handlers)
    await (await longshore.client(GatesClient, principal="ada", capabilities=ALL).gated(DONE)).wait()
    assert handlers.seen[0].principal == "ada"


async def test_a_token_is_judged_by_the_servers_own_authenticators(longshore: Harness) -> None:
    operation = await longshore.client(GatesClient, token="tom's").gated(DONE)
    await operation.wait()
    for token, reason in (("eve's", "CREDENTIALS_INVALID"), (None, "CREDENTIALS_MISSING")):
        with pytest.raises(lc.Unauthenticated) as refused:
            await longshore.client(GatesClient, token=token).gated(DONE)
        assert refused.value.reason == reason
    async with longshore.connect(metadata={"authorization": "Bearer tom's"}) as connection:
        assert (await GatesClient(connection).gated.attach(operation.name).get()).name == operation.name


async def test_stock_stubs_call_as_somebody_too(longshore: Harness) -> None:
    async with longshore.channel(principal="ada", capabilities=["gates.see"]) as channel:
        assert not (await OperationsServiceStub(channel).List(pb.ListRequest())).operations


async def test_equal_callers_share_a_channel_and_others_do_not(longshore: Harness) -> None:
    made = [
        longshore.client(lambda channel: channel, principal=name, capabilities=capabilities)
        for name, capabilities in (("ada", ["a", "b"]), ("ada", ["b", "a"]), ("ada", ["a"]), ("bob", ["a", "b"]))
    ]
    assert made[0] is made[1]
    assert len({id(channel) for channel in made}) == 3


async def test_what_cannot_call_is_refused_with_what_to_do(longshore: Harness) -> None:
    with pytest.raises(ValueError, match="say whose, with principal="):
        longshore.connect(capabilities=["gates.see"])
    with pytest.raises(TypeError, match=r"write \['gates.see'\]"):
        longshore.connect(principal="ada", capabilities="gates.see")
    with pytest.raises(ValueError, match="'local' is reserved"):
        longshore.connect(principal="local")
    with pytest.raises(ValueError, match="cannot be a capability"):
        longshore.channel(principal="ada", capabilities=["two words"])


async def test_a_contract_that_says_nothing_of_callers_is_refused_where_they_are_told_apart(tmp_path: Path) -> None:
    from tests.conftest import LabHandlers

    async with Harness(Server(LabHandlers()), tmp_path).serve() as harness:
        assert (await (await harness.client(LabClient).play(PlayRequest())).wait()).text == "played"
        with pytest.raises(ContractError, match="call"):
            harness.client(LabClient, principal="ada")


async def test_nothing_of_the_caller_reaches_the_server_but_its_call(longshore: Harness) -> None:
    OWN.set("the caller's")
    await longshore.client(GatesClient, token="tom's").gated(DONE)
    [authenticator] = longshore.server.authenticators
    assert isinstance(authenticator, OneToken)
    assert authenticator.sees == "nothing"


async def test_a_method_ends_when_its_caller_is_gone(longshore: Harness) -> None:
    client = longshore.client(GatesClient, principal="ada", capabilities=ALL)
    operation = await client.gated(GatesRequest())
    waiting = asyncio.create_task(operation.wait())
    await longshore.settle()
    assert longshore.running.engine.watches.count == 1
    waiting.cancel()
    await longshore.settle()
    assert longshore.running.engine.watches.count == 0
    assert (await operation.get()).state is lc.State.RUNNING
