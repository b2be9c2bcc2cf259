"""Deploys: a server on the data of an earlier one whose contract was another, through real restarts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import NonDeterministicError
from longshore_server.contract import compatibility
from tests.conftest import reason_of_end
from tests.server.deploying import (
    AMOUNT,
    RENAMED,
    SIGNAL,
    TYPE,
    UNSIGNALLED,
    Shop,
    kind,
    refusable,
    refusal_of,
    root,
    shop,
)

__all__ = ["shop"]


async def test_a_signal_stays_until_those_that_may_wait_for_it_have_ended(shop: Shop) -> None:
    names = [await shop.buy(key, cash=True) for key in "ab"]
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    await clock.armed(60, len(names))
    assert await shop.refusal((SIGNAL, ""), crash=True) == refusal_of(UNSIGNALLED, "2 operations")
    await shop.deploy()
    for name in names:
        await shop.approve(name)
        ended = await shop.operations.Wait(pb.WaitRequest(name=name))
        assert ended.state == ended.STATE_COMPLETED
    await shop.deploy((SIGNAL, ""))


async def test_a_removed_method_is_refused_with_counts(shop: Shop) -> None:
    for key in "abc":
        await shop.buy(key)
    found = await shop.refusal(('    name: "Buy"', '    name: "Purchase"'))
    assert found == (
        f"operations of types that this server does not serve have not ended: 3 of {TYPE}. Serve the types again until "
        "they have, or cancel them with the version that does"
    )


async def test_every_version_with_live_operations_is_compared(shop: Shop) -> None:
    """The oldest one has a field that the second has reserved, and that nobody may give another meaning."""
    old = await shop.buy("old", amount=1)
    await shop.deploy((AMOUNT, "reserved_range { start: 12 end: 13 }"))
    await shop.buy("new")
    assert len(shop.stored()) == 2
    renamed = AMOUNT.replace("amount", "total")
    assert await shop.refusal((AMOUNT, renamed)) == refusal_of(RENAMED)
    version = await shop.deploy((AMOUNT, "reserved_range { start: 12 end: 13 }"))
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    assert clock.timers(10) == 0
    await shop.operations.Cancel(pb.CancelRequest(name=old))
    # The attempt that was begun again by the start may still be reading its input, and has its grace only then.
    await clock.armed(10)
    clock.advance(10)
    await shop.operations.Wait(pb.WaitRequest(name=old))
    await shop.deploy((AMOUNT, renamed))
    assert version is not shop.deployed


async def test_of_two_deploys_each_operation_is_compared_with_what_it_began_under(shop: Shop) -> None:
    tip = 'field { name: "tip" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }'
    tipped, (_, reserved) = (AMOUNT, f"{AMOUNT} {tip}"), (AMOUNT, "reserved_range { start: 7 end: 8 }")
    await shop.buy("first", amount=1)
    await shop.deploy(tipped, crash=True)
    await shop.buy("second", amount=2, tip=1)
    await shop.buy("third", amount=3, tip=1)
    where = "shop.v1.Input.tip"
    assert await shop.refusal((AMOUNT, f"{AMOUNT} {tip.replace('tip', 'bonus')}"), crash=True) == refusal_of(
        f"{where} (number 7) is now called 'bonus'; call it 'tip' again, or give 'bonus' a number of its own",
        "2 operations",
    )
    assert await shop.refusal((AMOUNT, f"{AMOUNT} {tip.replace('INT32', 'INT64')}")) == refusal_of(
        kind(where, "int32", "int64"), "2 operations"
    )
    assert await shop.refusal() == refusal_of(
        f"{where} (number 7) is gone; give it back, or write `reserved 7;` where its data may be forgotten",
        "2 operations",
    )
    assert await shop.refusal((AMOUNT, f"{AMOUNT.replace('INT32', 'INT64')} {tip}")) == refusal_of(
        kind("shop.v1.Input.amount", "int32", "int64"), "3 operations"
    )
    found = await shop.refusal((AMOUNT, f"{AMOUNT} {tip}"), ('    name: "Buy"', '    name: "Purchase"'))
    assert f"have not ended: 3 of {TYPE}." in found
    await shop.deploy((AMOUNT, f"{AMOUNT} {reserved}"))
    assert len(shop.stored()) == 3


async def test_a_signal_that_a_deploy_in_between_has_brought_stays_while_it_waits(shop: Shop) -> None:
    """The operation was started under a contract that had not heard of it."""
    added = refusable("Approval")
    name = await shop.buy()
    await shop.deploy(added)
    await shop.buy("later")
    for _ in range(2):
        await shop.operations.Signal(pb.SignalRequest(name=name, signal="refuse"))
    gone = UNSIGNALLED.replace("approve", "refuse")
    assert await shop.refusal() == refusal_of(gone, "2 operations")
    await shop.deploy(added)
    clock: Any = shop.harness.clock  # type: ignore[union-attr]
    await shop.operations.Cancel(pb.CancelRequest(name="operations/buy-later"))
    await clock.armed(10)
    clock.advance(10)
    await shop.operations.Wait(pb.WaitRequest(name="operations/buy-later"))
    assert await shop.refusal() == refusal_of(gone)


UNREADABLE = f"signal 'refuse' cannot be read any more: a shop.v1.Approval was sent, and {TYPE} declares "
RETYPED = root("the payload of signal 'refuse'", "shop.v1.Approval", "shop.v1.Unused")


@pytest.mark.parametrize("consumed", [False, True])
async def test_a_signal_that_a_deploy_in_between_has_brought_stays_what_it_is(shop: Shop, consumed: bool) -> None:
    """Also once it is consumed: a re-run reads it again."""
    await shop.bring(consumed=consumed)
    assert await shop.refusal(refusable("Unused"), crash=True) == refusal_of(RETYPED)
    assert await shop.refusal() == refusal_of(UNSIGNALLED.replace("approve", "refuse"))
    version = await shop.deploy(refusable("Approval"), listen=True)
    assert await version.heard.get() == version.message("Approval", by="ada")


@pytest.mark.parametrize("consumed", [False, True])
@pytest.mark.parametrize(
    ("edits", "now"),
    [([refusable("Unused")], "shop.v1.Unused for it"), ([], "no signal of this name")],
    ids=["another type", "gone"],
)
async def test_a_signal_that_cannot_be_read_any_more_is_given_to_nobody(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, edits: list[tuple[str, str]], now: str, consumed: bool
) -> None:
    """Should a server have started all the same."""
    name = await shop.bring(consumed=consumed)
    monkeypatch.setattr(compatibility, "compare_signal", lambda *_: None)
    version = await shop.deploy(*edits, listen=True)
    await shop.harness.settle()  # type: ignore[union-attr]
    assert version.heard.empty()
    ended = await shop.operations.Wait(pb.WaitRequest(name=name))
    assert (ended.state, reason_of_end(ended)) == (ended.STATE_FAILED, "NON_DETERMINISTIC")
    assert ended.error.message == f"{UNREADABLE}{now} now."


async def test_a_signal_that_cannot_be_read_any_more_is_given_to_no_controller(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await shop.bring(consumed=False)
    monkeypatch.setattr(compatibility, "compare_signal", lambda *_: None)
    control = await (await shop.deploy(refusable("Unused"))).server.operations.control(name)
    with pytest.raises(NonDeterministicError, match=re.escape(f"{UNREADABLE}shop.v1.Unused for it now")):
        await anext(control.signals())


async def test_what_is_stored_is_a_contract_that_anybody_can_read(shop: Shop) -> None:
    """A set of files that stands for itself: in dependency order, with all that the messages are made of."""
    (stored,) = shop.stored()
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(stored).file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.v1.Input"))(key="a", amount=3)
    assert message == message.FromString(shop.deployed.message("Input", key="a", amount=3).SerializeToString())
    assert pool.FindMethodByName("shop.v1.Shop.Buy").input_type.full_name == "shop.v1.Input"
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("shop.v1.Unused")
