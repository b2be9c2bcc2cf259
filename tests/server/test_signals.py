"""Signals over the wire: what is accepted, what is refused, and what everybody sees of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2
from lab.v1 import signals_pb2_grpc
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult
from lab.v1.signals_pb2 import Approve, Reject

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Reason, ServiceError
from tests.conftest import Crash, Lab, State, detail, fields_of, refused, result_of, retry_after
from tests.server.signalling import AGAIN, LISTEN, SignalHandlers, lab, packed, pending, send

__all__ = ["lab"]
C = grpc.StatusCode


async def waiting(lab: Lab) -> str:
    """An operation that never asks for signals."""

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    return (await lab.begin(LISTEN)).operation.name


async def test_a_signal_reaches_the_handler_with_all_that_is_known_of_it(lab: Lab) -> None:
    got = []

    @lab.plays
    async def handler(request, op):
        got.append(await op.next_signal("approve", timeout=3600))
        return PlayResult(number=got[0].payload.amount)

    name = (await lab.begin(LISTEN)).operation.name
    response = await send(lab, name, payload=Approve(by="ada", amount=7), id="one")
    assert (response.number, response.signal_id, response.duplicate) == (1, "one", False)
    assert result_of(await lab.end(name)).number == 7
    (signal,) = got
    assert (signal.name, signal.id, signal.number, signal.sender) == ("approve", "one", 1, "local")
    assert signal.payload == Approve(by="ada", amount=7)
    accepted = response.operation.pending_signals[0].accept_time.ToMicroseconds()
    assert signal.time.timestamp() == accepted / 1_000_000


async def test_what_nobody_consumed_is_in_the_snapshot(lab: Lab) -> None:
    name = await waiting(lab)
    await send(lab, name, id="a")
    await send(lab, name, "poke", Empty(), id="b")
    snapshot = await lab.get(name)
    assert [(s.number, s.name, s.signal_id) for s in snapshot.pending_signals] == [
        (1, "approve", "a"),
        (2, "poke", "b"),
    ]
    await lab.restart()
    assert (await lab.get(name)).pending_signals == snapshot.pending_signals


async def test_a_watch_shows_each_signal(lab: Lab) -> None:
    name = await waiting(lab)
    await send(lab, name, payload=Approve(by="ada", amount=3), id="a")
    event = await lab.reached(name, "signal")
    said = Approve()
    assert event.signal.payload.Unpack(said)
    assert said == Approve(by="ada", amount=3)
    assert (event.signal.name, event.signal.signal_id, event.signal.number) == ("approve", "a", 1)
    assert (event.signal.sender, event.sequence, event.state) == ("local", 3, State.STATE_RUNNING)


async def test_the_server_makes_the_id_that_the_caller_leaves_out(lab: Lab) -> None:
    name = await waiting(lab)
    one, two = await send(lab, name), await send(lab, name)
    assert len(one.signal_id) == len(two.signal_id) == 36
    assert one.signal_id != two.signal_id
    assert [one.number, two.number] == [1, 2]


async def test_a_payload_may_be_left_out(lab: Lab) -> None:
    name = await waiting(lab)
    await lab.operations.Signal(pb.SignalRequest(name=name, signal="approve"))
    event = await lab.reached(name, "signal")
    assert event.signal.payload == packed(Approve())


# Refusals: each leaves everything as it was.


def request(operation: str, **changes: Any) -> pb.SignalRequest:
    return pb.SignalRequest(**{"name": operation, "signal": "approve", "payload": packed(Approve()), **changes})


@pytest.mark.parametrize(
    ("changes", "reason", "field", "words"),
    [
        (
            {"signal": "aprove"}, "UNKNOWN_SIGNAL", "signal",
            "'aprove' is no signal of lab.v1.SignalsService/Listen: they are approve, reject, poke, few",
        ),
        ({"signal": ""}, "UNKNOWN_SIGNAL", "signal", "is missing: they are approve, reject, poke, few"),
        (
            {"payload": packed(Reject())}, "WRONG_PAYLOAD_TYPE", "payload",
            "signal 'approve' takes lab.v1.Approve, not lab.v1.Reject",
        ),
        ({"payload": AnyMessage()}, "WRONG_PAYLOAD_TYPE", "payload", "takes lab.v1.Approve, not no type"),
        (
            {"payload": AnyMessage(type_url="x/lab.v1.Approve", value=b"\xff")}, "MALFORMED_REQUEST", "payload.value",
            "is not a serialized lab.v1.Approve",
        ),
        ({"signal_id": "é" * 65}, "INVALID_ARGUMENT", "signal_id", "must not be longer than 128 bytes"),
        ({"name": "orders/x"}, "INVALID_NAME", "name", "is not of the form operations/{id}"),
    ],
    ids=["unknown", "missing", "wrong type", "no type", "malformed", "long id", "bad name"],
)  # fmt: skip
async def test_a_signal_is_refused(lab: Lab, changes: dict[str, Any], reason: str, field: str, words: str) -> None:
    name = await waiting(lab)
    before = lab.tables()
    code, found, status = await refused(lab.operations.Signal(request(name, **changes)))
    assert (code, found, fields_of(status)) == (C.INVALID_ARGUMENT, reason, [field])
    assert words in status.message
    assert lab.tables() == before


async def test_the_rules_of_a_payload_are_enforced_with_the_paths_of_the_fields(lab: Lab) -> None:
    name = await waiting(lab)
    before = lab.tables()
    wrong = Approve(by="far too long", others=["ada", ""])
    code, reason, status = await refused(send(lab, name, payload=wrong))
    assert (code, reason, fields_of(status)) == (C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["by", "others[1]"])
    assert lab.tables() == before


async def test_a_type_without_signals_says_so(lab: Lab) -> None:
    name = (await lab.begin()).operation.name
    code, reason, status = await refused(send(lab, name))
    assert (code, reason) == (C.INVALID_ARGUMENT, "UNKNOWN_SIGNAL")
    assert "'approve' is no signal of lab.v1.LabService/Play: it declares none" in status.message


async def test_an_unknown_operation_is_not_found(lab: Lab) -> None:
    code, reason, _ = await refused(send(lab, "operations/nobody"))
    assert (code, reason) == (C.NOT_FOUND, "OPERATION_NOT_FOUND")


async def test_after_the_end_nothing_is_accepted(lab: Lab) -> None:
    name = (await lab.begin(LISTEN)).operation.name
    await lab.end(name)
    before = lab.tables()
    code, reason, status = await refused(send(lab, name))
    assert (code, reason) == (C.FAILED_PRECONDITION, "OPERATION_ENDED")
    assert detail(status, error_details_pb2.ResourceInfo).resource_name == name
    assert lab.tables() == before


async def test_a_payload_larger_than_a_watcher_could_receive_is_refused(make_lab: Any) -> None:
    lab = await make_lab(services=[SignalHandlers], max_payload=1024)
    name = await waiting(lab)
    code, reason, _ = await refused(send(lab, name, "reject", Reject(why="x" * 2000)))
    assert (code, reason) == (C.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE")
    unread = AnyMessage(type_url=packed(Reject()).type_url, value=b"\xff" * 1025)
    code, reason, _ = await refused(lab.operations.Signal(pb.SignalRequest(name=name, signal="reject", payload=unread)))
    assert (code, reason) == (C.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE")
    await send(lab, name, "reject", Reject(why="x" * 1000))


async def test_no_more_wait_than_the_contract_allows(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await go.wait()
        return PlayResult(number=(await op.next_signal("few")).payload.amount)

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, "few", amount=1, id="a")
    await send(lab, name, "few", amount=2)
    before = lab.tables()
    code, reason, status = await refused(send(lab, name, "few"))
    assert (code, reason, retry_after(status)) == (C.RESOURCE_EXHAUSTED, "TOO_MANY_SIGNALS", 1.0)
    assert detail(status, error_details_pb2.ErrorInfo).metadata == {"signal": "few", "limit": "2"}
    assert lab.tables() == before
    # Another name has room of its own; what is accepted already is answered whatever the bound.
    await send(lab, name, "approve")
    assert (await send(lab, name, "few", amount=1, id="a")).duplicate
    go.set()
    assert result_of(await lab.end(name)).number == 1


async def test_the_bound_holds_for_signals_that_come_at_once(lab: Lab) -> None:
    name = await waiting(lab)
    answers = await asyncio.gather(*(send(lab, name, "few") for _ in range(20)), return_exceptions=True)
    refusals = [a for a in answers if isinstance(a, grpc.aio.AioRpcError)]
    assert len(refusals) == 18
    assert {error.code() for error in refusals} == {C.RESOURCE_EXHAUSTED}
    assert await pending(lab, name) == [1, 2]


async def test_a_hundred_wait_where_the_contract_does_not_say(lab: Lab) -> None:
    name = await waiting(lab)
    for _ in range(100):
        await send(lab, name, "poke", Empty())
    _, reason, status = await refused(send(lab, name, "poke", Empty()))
    assert reason == "TOO_MANY_SIGNALS"
    assert detail(status, error_details_pb2.ErrorInfo).metadata["limit"] == "100"


# Ids.


async def test_the_same_id_is_the_same_signal(lab: Lab) -> None:
    name = await waiting(lab)
    answers = await asyncio.gather(*(send(lab, name, id="a", amount=1) for _ in range(5)))
    assert [a.number for a in answers] == [1] * 5
    assert sorted(a.duplicate for a in answers) == [False, True, True, True, True]
    assert {a.signal_id for a in answers} == {"a"}
    assert (await lab.get(name)).sequence == 3
    assert await pending(lab, name) == [1]


async def test_a_duplicate_is_known_after_the_consumption_the_end_and_a_restart(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.next_signal("approve")
        return PlayResult()

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, id="a")
    await lab.end(name)
    await lab.restart()
    answer = await send(lab, name, id="a")
    assert (answer.duplicate, answer.number, answer.operation.state) == (True, 1, State.STATE_COMPLETED)


@pytest.mark.parametrize("signal", [("approve", Approve(amount=2)), ("few", Approve(amount=1)), ("poke", Empty())])
async def test_an_id_that_was_used_for_another_signal_is_refused(lab: Lab, signal: tuple[str, Any]) -> None:
    name = await waiting(lab)
    await send(lab, name, id="a", amount=1)
    before = lab.tables()
    code, reason, _ = await refused(send(lab, name, *signal, id="a"))
    assert (code, reason) == (C.ALREADY_EXISTS, "SIGNAL_ID_REUSED")
    assert lab.tables() == before


async def test_each_operation_has_ids_of_its_own(lab: Lab) -> None:
    one, two = await waiting(lab), await waiting(lab)
    assert not (await send(lab, one, id="a")).duplicate
    assert not (await send(lab, two, id="a", amount=3)).duplicate


# States.


async def test_a_signal_waits_for_an_operation_that_waits_for_its_slot(make_lab: Any) -> None:
    lab = await make_lab(services=[SignalHandlers], concurrency=1)
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        if request.script == "first":
            await go.wait()
            return PlayResult()
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    await lab.begin(LISTEN, script="first")
    name = (await lab.begin(LISTEN)).operation.name
    answer = await send(lab, name, amount=5)
    assert answer.operation.state == State.STATE_PENDING
    go.set()
    assert result_of(await lab.end(name)).number == 5
    assert await lab.kinds(name) == ["accepted", "signal", "started", "completed"]


async def test_a_signal_during_cancelling_is_accepted_and_can_be_consumed(lab: Lab) -> None:
    got = []

    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        got.append((await op.next_signal("approve")).payload.amount)
        raise asyncio.CancelledError

    name = (await lab.begin(LISTEN)).operation.name
    await lab.reached(name, "started")
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (await send(lab, name, amount=4)).operation.state == State.STATE_CANCELLING
    assert (await lab.end(name)).state == State.STATE_CANCELLED
    assert got == [4]


async def test_a_signal_waits_for_the_next_attempt(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            raise RuntimeError("once")
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    name = (await lab.begin(AGAIN)).operation.name
    await lab.reached(name, "attempt_failed")
    assert (await send(lab, name, amount=6)).operation.HasField("next_attempt_time")
    await lab.clock.armed(60)
    lab.clock.advance(60)
    assert result_of(await lab.end(name)).number == 6


async def test_a_signal_while_the_server_drains_is_accepted_and_durable(make_lab: Any) -> None:
    lab = await make_lab(services=[SignalHandlers], drain=30.0)
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await asyncio.Event().wait()
        await go.wait()
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    name = (await lab.begin(LISTEN)).operation.name
    await lab.reached(name, "started")
    lab.engine.drain()
    assert (await send(lab, name, amount=8)).number == 1
    await lab.restart()
    assert await pending(lab, name) == [1]
    go.set()
    assert result_of(await lab.end(name)).number == 8


async def test_a_deferred_operation_keeps_its_signals_for_the_controller(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.defer()
        return PlayResult()

    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    await send(lab, name)
    await lab.restart()
    snapshot = await lab.get(name)
    assert (snapshot.deferred, [s.number for s in snapshot.pending_signals]) == (True, [1])


async def test_a_stream_of_google_operations_repeats_the_last_one_at_a_signal(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.progress(PlayProgress(number=3))
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    stub = signals_pb2_grpc.SignalsServiceStub(lab.channel)
    stream = stub.ListenAndWatch(PlayRequest())
    messages = []
    async for message in stream:
        messages.append(message)
        progress = PlayProgress()
        # However many messages came before it: how quickly the handler begins decides that.
        if not message.done and message.metadata.Unpack(progress) and progress.number and messages.count(message) == 1:
            await send(lab, message.name, amount=9)
    *before, progressed, signalled, end = messages
    assert [m.done for m in before] == [False] * len(before)
    assert (progressed.done, signalled.done, end.done) == (False, False, True)
    assert signalled == progressed
    assert result_of(await lab.end(messages[0].name)).number == 9


async def test_a_watch_can_ask_for_signals_alone(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.next_signal("approve")
        await op.progress(PlayProgress(number=1))
        return PlayResult()

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name)
    events = await lab.events(name, event_types=[operation_pb2.EVENT_TYPE_SIGNAL])
    assert [event.WhichOneof("event") for event in events] == ["signal", "completed"]


# From the service's own code.


async def test_host_code_signals_by_reference(lab: Lab) -> None:
    name = await waiting(lab)
    ref = await lab.server.operations.find(name)
    assert await ref.signal("approve", Approve(by="host")) == 1
    assert await ref.signal("poke", signal_id="p") == 2
    assert await ref.signal("poke", signal_id="p") == 2
    with pytest.raises(TypeError, match=r"signal 'approve' takes lab.v1.Approve, not Reject"):
        await ref.signal("approve", Reject())
    with pytest.raises(ServiceError) as caught:
        await ref.signal("shout")
    assert caught.value.reason is Reason.UNKNOWN_SIGNAL
    event = await lab.reached(name, "signal")
    assert event.signal.sender == "local"


async def test_a_handler_that_is_run_again_signals_once(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if request.script == "target":
            got = [(await op.next_signal("approve")).payload.amount for _ in range(3)]
            return PlayResult(text=str(got))
        ref = await lab.server.operations.find(request.key)
        for amount in (1, 2):
            await ref.signal("approve", Approve(amount=amount))
        await ref.signal("poke")
        await crash.here(op)
        await ref.signal("approve", Approve(amount=3))
        return PlayResult()

    target = (await lab.begin(LISTEN, script="target")).operation.name
    sender = (await lab.begin(LISTEN, key=target)).operation.name
    await crash.happen()
    await lab.end(sender)
    assert result_of(await lab.end(target)).text == "[1, 2, 3]"
    assert [s.name for s in (await lab.get(target)).pending_signals] == ["poke"]
