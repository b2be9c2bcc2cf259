"""Signals from the Python client to a real server: what handles send, and what watches and snapshots show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from lab.v1.lab_pb2 import PlayRequest, PlayResult
from lab.v1.signals_longshore import SignalsClient
from lab.v1.signals_pb2 import Approve, Reject

import longshore_client as lc
from tests.conftest import Lab
from tests.server.signalling import lab

__all__ = ["lab"]


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[SignalsClient]:
    async with lc.connect(lab.harness.address) as channel:
        yield SignalsClient(channel)


async def test_a_signal_is_sent_and_seen(lab: Lab, client: SignalsClient) -> None:
    @lab.plays
    async def handler(request, op):
        async for signal in op.signals():
            if signal.name == "poke":
                break
        return PlayResult(number=signal.number)

    op = await client.listen(PlayRequest())
    assert await op.signal("approve", Approve(by="ada"), signal_id="once") == lc.SentSignal(1, "once", False)
    assert await op.signal("approve", Approve(by="ada"), signal_id="once") == lc.SentSignal(1, "once", True)
    assert (await op.signal("reject", Reject(why="no"))).number == 2
    assert (await client.listen.attach(op.name).signal("poke")).number == 3
    seen = []
    async for event in op.watch():
        if isinstance(event, lc.Signalled):
            seen.append((event.name, event.payload, event.number, event.sender))
            assert event.signal_id
    assert seen[:2] == [("approve", Approve(by="ada"), 1, "local"), ("reject", Reject(why="no"), 2, "local")]
    assert [name for name, *_ in seen] == ["approve", "reject", "poke"]
    only = [type(event) async for event in op.watch(types=[lc.Signalled])]
    assert only == [lc.Signalled] * 3 + [lc.Completed]


async def test_a_snapshot_names_what_waits(lab: Lab, client: SignalsClient) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    op = await client.listen(PlayRequest())
    assert (await op.get()).pending_signals == ()
    await op.signal("approve", Approve(), signal_id="a")
    await op.signal("poke", signal_id="b")
    waiting = (await op.get()).pending_signals
    assert [(s.number, s.name, s.signal_id) for s in waiting] == [(1, "approve", "a"), (2, "poke", "b")]
    assert waiting[0].accept_time.timestamp() == lab.clock.now() / 1_000_000


async def test_refusals_are_typed(lab: Lab, client: SignalsClient) -> None:
    @lab.plays
    async def handler(request, op):
        await op.next_signal("poke")
        return PlayResult()

    op = await client.listen(PlayRequest())
    with pytest.raises(lc.InvalidArgument) as unknown:
        await op.signal("shout", Approve())  # type: ignore[call-overload]
    assert unknown.value.reason == "UNKNOWN_SIGNAL"
    for wrong, called in ((Reject(), "lab.v1.Reject"), (5, "int")):
        with pytest.raises(TypeError, match=rf"^the signal approve takes lab\.v1\.Approve, not {called}$"):
            await op.signal("approve", wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^the signal shout takes a message, not str$"):
        await op.signal("shout", "loud")  # type: ignore[call-overload]
    with pytest.raises(lc.InvalidArgument) as ruled:
        await op.signal("approve", Approve(by="far too long"))
    assert [violation.field for violation in ruled.value.field_violations] == ["by"]
    for _ in range(2):
        await op.signal("few", Approve())
    # By default it is sent again when there may be room; here the refusal itself is wanted.
    async with lc.connect(lab.harness.address, retry=lc.Retry(busy_for=0)) as hasty:
        with pytest.raises(lc.ResourceExhausted) as many:
            await SignalsClient(hasty).listen.attach(op.name).signal("few", Approve())
    assert (many.value.reason, many.value.retry_after) == ("TOO_MANY_SIGNALS", 1.0)
    await op.signal("approve", Approve(), signal_id="same")
    with pytest.raises(lc.AlreadyExists) as reused:
        await op.signal("approve", Approve(amount=1), signal_id="same")
    assert reused.value.reason == "SIGNAL_ID_REUSED"
    await op.signal("poke")
    await op.wait()
    with pytest.raises(lc.FailedPrecondition) as ended:
        await op.signal("poke")
    assert ended.value.reason == "OPERATION_ENDED"


async def test_a_signal_across_a_restart_is_sent_once(lab: Lab, client: SignalsClient) -> None:
    """The id is the client's own, so that a call whose answer was lost can be made again."""

    @lab.plays
    async def handler(request, op):
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    op = await client.listen(PlayRequest())
    await lab.harness.crash()
    sending = asyncio.ensure_future(op.signal("approve", Approve(amount=5)))
    await lab.harness.start()
    await lab.connect()
    assert (await sending).number == 1
    assert (await op.wait()).number == 5


async def test_a_program_with_an_older_contract_sees_the_rest(lab: Lab) -> None:
    """A signal that its contract does not declare is no reason to end its watch."""

    @lab.plays
    async def handler(request, op):
        await op.next_signal("poke")
        return PlayResult(number=1)

    async with lc.connect(lab.harness.address) as channel:
        old: lc.OperationMethod[PlayRequest, None, None, PlayResult] = lc.OperationMethod(
            channel, "lab.v1.SignalsService/Listen", input_type=PlayRequest, progress_type=None, output_type=None,
            result_type=PlayResult,
        )  # fmt: skip
        op = await old(PlayRequest())
        await SignalsClient(channel).listen.attach(op.name).signal("poke")
        assert [type(event) async for event in op.watch()] == [lc.Accepted, lc.Started, lc.Completed]
