"""Typed errors: what a handler puts into its error reaches callers as messages of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from lab.v1 import errors_longshore, errors_pb2, lab_pb2

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab, LabHandlers, detail

TYPE = "lab.v1.ErrorsService/Break"
DECLINED = errors_pb2.ProviderFailure(provider="bank", operation="charge", retryable=True)


class ErrorsHandlers(errors_longshore.ErrorsService):
    """Its operation runs what the test has written for the laboratory."""

    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def break_(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[ErrorsHandlers])
    return found


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[errors_longshore.ErrorsClient]:
    async with lc.connect(lab.harness.address) as channel:
        yield errors_longshore.ErrorsClient(channel)


async def test_details_reach_every_caller_as_messages(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        raise OperationError("BANK_DOWN", "The bank does not answer.", details=[DECLINED])

    name = (await lab.operations.Start(pb.StartRequest(type=TYPE))).operation.name
    ended = await lab.end(name)
    assert detail(ended.error, errors_pb2.ProviderFailure) == DECLINED
    assert detail(ended.error, error_details_pb2.ErrorInfo).reason == "BANK_DOWN"
    *_, last = await lab.events(name)
    assert last.failed.error == ended.error
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    operation = await stub.GetOperation(lro.GetOperationRequest(name=name))
    assert operation.error == ended.error
    await lab.restart()
    assert (await lab.get(name)).error == ended.error


async def test_the_client_gives_them_back_as_messages_of_the_contract(
    lab: Lab, client: errors_longshore.ErrorsClient
) -> None:
    link = error_details_pb2.Help(links=[error_details_pb2.Help.Link(url="https://bank.example")])

    @lab.plays
    async def handler(request, op):
        raise OperationError("BANK_DOWN", details=[DECLINED, link, StringValue(value="undeclared")])

    with pytest.raises(lc.OperationFailed) as caught:
        await client.break_.run(lab_pb2.PlayRequest())
    assert caught.value.messages == (DECLINED, link, StringValue(value="undeclared"))
    match caught.value.messages:
        case (errors_pb2.ProviderFailure(provider=provider), *_):
            assert provider == "bank"
        case _:
            raise AssertionError(caught.value.messages)
    assert caught.value.detail(errors_pb2.ProviderFailure) == DECLINED
    assert caught.value.detail(errors_pb2.PersistenceFailure) is None


async def test_the_catalog_shows_what_failures_may_carry(lab: Lab) -> None:
    kind = await lab.operations.GetType(pb.GetTypeRequest(type=TYPE))
    assert list(kind.contract.errors) == ["ProviderFailure", "lab.v1.PersistenceFailure"]
    assert [m.DESCRIPTOR.full_name for m in lab.engine.types[TYPE].details] == [
        "lab.v1.ProviderFailure", "lab.v1.PersistenceFailure",
    ]  # fmt: skip


def test_what_a_program_does_not_know_is_left_out_of_the_messages() -> None:
    from google.protobuf.any_pb2 import Any as AnyMessage

    known = AnyMessage()
    known.Pack(DECLINED)
    unknown = AnyMessage(type_url="type.googleapis.com/elsewhere.v1.Thing", value=b"\x08\x01")
    broken = AnyMessage(type_url=known.type_url, value=b"\xff")
    error = lc.OperationFailed("m", details=[unknown, broken, known])
    assert error.messages == (DECLINED,)
    assert error.details == (unknown, broken, known)
