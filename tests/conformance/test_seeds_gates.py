"""What seeds 1 and 2 say of the gates of a contract, each in its words: a test for every sentence, named after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from acme.orders.v1.orders_longshore import ProcessHandle
from acme.orders.v1.orders_pb2 import ApproveOrder
from seeds.v1.variants_pb2 import VariantRequest

import longshore_client as lc
from longshore_server import ContractError, Server
from tests.conformance.shop import ORDER, Shop, Variants
from tests.server.contracts import method, refusal


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path) as found:
        yield found


async def watch(handle: Any) -> Any:
    """The first event."""
    async for event in handle.watch():
        return event
    raise AssertionError("the watch ended without an event")


async def same(shop: Shop, caller: str, handle: ProcessHandle) -> ProcessHandle:
    """Another caller's handle on the same operation."""
    return (await shop.orders(caller)).process.attach(handle.name)


def test_the_capabilities_are_declared_in_the_contract_before_the_operation_references_them() -> None:
    said = refusal(method(options='call { all_of: "orders.write" }'))
    assert "option call: capability 'orders.write' is not declared by the service" in said


@pytest.mark.parametrize("caller", ["reader", "stranger", "nobody"])
async def test_call_starts_the_operation(shop: Shop, caller: str) -> None:
    orders = await shop.orders(caller)
    with pytest.raises(lc.CallError) as caught:
        await orders.process(ORDER)
    wanted = lc.Unauthenticated if caller == "nobody" else lc.PermissionDenied
    assert type(caught.value) is wanted
    assert caught.value.metadata.get("gate", "call") == "call"
    assert not shop.service.seen
    assert (await (await shop.orders("writer")).process(ORDER)).created


@pytest.mark.parametrize("call", [lc.OperationHandle.get, lc.OperationHandle.wait, watch], ids=["get", "wait", "watch"])
async def test_observe_gates_get_wait_and_watch(shop: Shop, call: Any) -> None:
    shop.service.ship.set()
    handle = await shop.begin()
    assert await call(await same(shop, "reader", handle)) is not None
    # To who may not observe it there is no such operation, though this one may start others.
    for caller in ("writer", "stranger"):
        with pytest.raises(lc.NotFound):
            await call(await same(shop, caller, handle))
    with pytest.raises(lc.Unauthenticated):
        await call(await same(shop, "nobody", handle))


async def test_cancel_gates_cancellation(shop: Shop) -> None:
    handle = await shop.begin()
    with pytest.raises(lc.PermissionDenied) as caught:
        await (await same(shop, "reader", handle)).cancel()
    assert caught.value.metadata["gate"] == "cancel"
    assert (await handle.get()).state is lc.State.RUNNING
    assert (await handle.cancel()).state is lc.State.CANCELLING


async def test_control_gates_named_post_start_signals(shop: Shop) -> None:
    handle = await shop.begin()
    with pytest.raises(lc.PermissionDenied) as caught:
        await (await same(shop, "reader", handle)).signal("approve", ApproveOrder(by="eve"))
    assert caught.value.metadata["gate"] == "control"
    assert (await handle.signal("approve", ApproveOrder(by="ada"))).number == 1
    (pending,) = (await handle.get()).pending_signals
    assert pending.name == "approve"


async def test_if_there_are_no_signals_control_can_be_omitted(shop: Shop) -> None:
    handle = await (await shop.variants()).short(VariantRequest())
    assert (await handle.get()).state in (lc.State.PENDING, lc.State.RUNNING)


def test_where_there_are_signals_it_cannot() -> None:
    assert "control" in refusal(method(options='signals { name: "approve" payload_type: "Other" }'))


async def test_control_may_be_shown_to_make_the_four_gates_explicit(shop: Shop) -> None:
    explicit = (await shop.variants()).explicit
    assert (await explicit(VariantRequest())).created
    handle: Any = await explicit(VariantRequest())
    with pytest.raises(lc.InvalidArgument) as caught:
        await handle.signal("approve", ApproveOrder(by="ada"))
    assert caught.value.reason == "UNKNOWN_SIGNAL"


async def test_if_observe_is_omitted_it_defaults_to_call(shop: Shop) -> None:
    handle = await (await shop.variants("writer")).short(VariantRequest())
    assert isinstance(await watch(handle), lc.Accepted)
    with pytest.raises(lc.NotFound):
        await watch((await shop.variants("reader")).short.attach(handle.name))


async def test_an_explicit_empty_observe_list_makes_watching_available_to_authenticated_callers(shop: Shop) -> None:
    handle = await (await shop.variants("writer")).public(VariantRequest())
    assert isinstance(await watch((await shop.variants("stranger")).public.attach(handle.name)), lc.Accepted)
    with pytest.raises(lc.Unauthenticated):
        await watch((await shop.variants("nobody")).public.attach(handle.name))


async def test_cancel_true_declares_that_it_can_be_cancelled_and_the_gate_alone_does_not(shop: Shop) -> None:
    handle = await (await shop.variants()).fixed(VariantRequest())
    with pytest.raises(lc.FailedPrecondition) as caught:
        await handle.cancel()
    assert caught.value.reason == "NOT_CANCELLABLE"


def test_a_service_that_does_not_follow_its_regenerated_contract_is_refused() -> None:
    """Seed 1 rebuilds the SDK after a change of the contract, seed 2 regenerates the facade."""

    class Forgotten(Variants):
        """The contract has a new operation, and no handler for it yet."""

        explicit = None  # type: ignore[assignment]

    with pytest.raises(ContractError, match="Explicit"):
        Server(Forgotten())
