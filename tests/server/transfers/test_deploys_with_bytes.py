"""Deploys of contracts that say something else of bytes than those under which operations live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2_grpc
from longshore.v1.operation_pb2 import UploadGrant
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.stores import LocalStore
from tests.conftest import refused
from tests.server.deploying import Shop, refusal_of
from tests.server.transfers.sender import chunk, commit, header, send, upload

DATA = bytes(range(256)) * 20


def said(text: str) -> tuple[str, str]:
    """The edit that makes the contract say this of bytes."""
    return "control {} ", f"control {{}} transfer {{ {text} }} "


SENDS = said('direction: TRANSFER_DIRECTION_SEND store: "one" key_path: "key"')
OFFERS = said('direction: TRANSFER_DIRECTION_RECEIVE store: "one" key_path: "key"')
OTHER_STORE = said('direction: TRANSFER_DIRECTION_SEND store: "two" key_path: "key"')
STRICTER = said(
    'direction: TRANSFER_DIRECTION_SEND store: "two" key_path: "card" max_bytes: 10 require_checksum: true '
    "expiry { seconds: 1 } refuse_existing: true delete_with_operation: true on_mismatch: ON_MISMATCH_DROP"
)
SET_BACK = "set it back, or declare another method with the new one"
TAKEN = (
    "option transfer.direction is not TRANSFER_DIRECTION_SEND any more: nobody would take the bytes that callers send; "
    + SET_BACK
)
GIVEN = (
    "option transfer.direction is TRANSFER_DIRECTION_SEND only now: nobody can send the bytes of operations that began "
    "without; " + SET_BACK
)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path / "data")
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [([SENDS], [], TAKEN), ([SENDS], [OFFERS], TAKEN), ([], [SENDS], GIVEN), ([OFFERS], [SENDS], GIVEN)],
    ids=["no bytes", "the other way", "bytes", "the one way"],
)
async def test_whether_callers_send_bytes_may_not_change_under_them(
    shop: Shop, before: Any, after: Any, problem: str
) -> None:
    await shop.deploy(*before)
    await shop.buy()
    assert await shop.refusal(*after) == refusal_of(problem)


@pytest.mark.parametrize(
    ("before", "after"), [([], [OFFERS]), ([OFFERS], []), ([SENDS], [OTHER_STORE]), ([SENDS], [STRICTER])]
)
async def test_all_else_may_change(shop: Shop, before: Any, after: Any) -> None:
    """What an upload was granted stays as it was granted."""
    await shop.deploy(*before)
    name = await shop.buy("a")
    version = await shop.deploy(*after)
    if before == [SENDS]:
        grant = (await shop.operations.Get(pb.GetRequest(name=name))).upload
        transfers = transfers_service_pb2_grpc.TransfersServiceStub(shop.channel)
        await send(transfers, header(grant.name), chunk(0, DATA, crc=False), commit(DATA, sha256=False))
        assert (await version.server.stores["one"].stat("a")).size == len(DATA)
        assert [info.key for info in await version.server.stores["two"].list()] == []


async def test_a_store_with_bytes_of_live_operations_may_not_go(shop: Shop) -> None:
    await shop.deploy(SENDS)
    for key in "ab":
        await shop.buy(key)
    found = await shop.refusal(OTHER_STORE, stores=["two"])
    assert found == (
        "DATA/longshore.db: there are bytes in stores that this server does not have: of 2 operations in 'one'. "
        "Declare the stores again until those operations have ended, or cancel them with the version that does"
    )
    await shop.deploy(OTHER_STORE)


async def test_a_store_with_offers_of_live_operations_may_not_go(shop: Shop) -> None:
    await shop.deploy(OFFERS)
    name = await shop.buy()
    assert ": of 1 operation in 'one'. Declare" in await shop.refusal(stores=["two"])
    version = await shop.deploy()
    version.finish = True
    await shop.operations.Cancel(pb.CancelRequest(name=name))


async def test_a_store_that_an_object_is_on_its_way_to_may_not_go(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when its operation has ended."""

    async def away(*_: Any, **__: Any) -> Any:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "the store is away")

    version = await shop.deploy(SENDS)
    name = await shop.buy()
    grant = (await shop.operations.Get(pb.GetRequest(name=name))).upload
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "adopt", away)
        transfers = transfers_service_pb2_grpc.TransfersServiceStub(shop.channel)
        _, reason, _ = await refused(upload(transfers, grant.name, DATA))
        assert reason == "STORE_UNAVAILABLE"
        control = await version.server.operations.control(name)
        await control.complete(version.message("Result"))
        assert ": of 1 operation in 'one'. Declare" in await shop.refusal(OTHER_STORE, stores=["two"])
    await shop.deploy(OTHER_STORE)
    ended = await shop.operations.Get(pb.GetRequest(name=name))
    assert ended.upload.state in (UploadGrant.STATE_COMMITTING, UploadGrant.STATE_COMMITTED)
