"""Start: idempotency by request id, names made from the input, labels, and the wait for the end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.ids import parse_uid
from tests.conftest import Lab, State, detail, refused, result_of, retry_after, turns

CREATED = pb.StartResponse.DISPOSITION_CREATED
EXISTING = pb.StartResponse.DISPOSITION_EXISTING
ALREADY = grpc.StatusCode.ALREADY_EXISTS


async def start(
    lab: Lab, request_id: str = "", labels: dict[str, str] | None = None, type: str = "Play", **fields: Any
) -> pb.StartResponse:
    packed = AnyMessage()
    packed.Pack(lab_pb2.PlayRequest(**fields))
    return await lab.operations.Start(
        pb.StartRequest(type=f"lab.v1.LabService/{type}", input=packed, request_id=request_id, labels=labels or {})
    )


async def test_the_name_is_the_uid_and_the_uid_a_version_7(lab: Lab) -> None:
    operation = (await lab.begin()).operation
    assert operation.name == f"operations/{operation.uid}"
    uid = parse_uid(operation.uid)
    assert uid is not None
    assert int.from_bytes(uid[:6], "big") == operation.create_time.ToMilliseconds()


async def test_uids_are_in_the_order_of_acceptance_even_over_a_restart_on_a_clock_that_went_back(lab: Lab) -> None:
    uids = [(await lab.begin()).operation.uid for _ in range(20)]
    lab.clock._now -= 3_600_000_000
    await lab.restart()
    uids += [(await lab.begin()).operation.uid for _ in range(20)]
    assert uids == sorted(set(uids))


async def test_what_a_new_operation_looks_like(lab: Lab) -> None:
    started = await start(lab, "key", {"tenant": "acme"}, script="s")
    assert started.disposition == CREATED
    snapshot = await lab.get(started.operation.name, pb.OPERATION_VIEW_FULL)
    request = lab_pb2.PlayRequest()
    assert snapshot.input.Unpack(request)
    assert request.script == "s"
    assert dict(snapshot.labels) == {"tenant": "acme"}
    assert (snapshot.request_id, snapshot.owner, snapshot.parent) == ("key", "local", "")
    assert not (await lab.get(started.operation.name)).HasField("input")


async def test_an_absent_input_is_an_empty_one(lab: Lab) -> None:
    started = await lab.operations.Start(pb.StartRequest(type=Lab.TYPE))
    assert started.disposition == CREATED


async def test_the_same_request_id_with_the_same_input_returns_the_same_operation(lab: Lab) -> None:
    ran = []

    @lab.plays
    async def handler(request, op):
        ran.append(op.uid)
        return lab_pb2.PlayResult()

    one = await start(lab, "key", {"a": "1", "b": "2"}, script="s")
    two = await start(lab, "key", {"b": "2", "a": "1"}, script="s")
    assert (one.disposition, two.disposition) == (CREATED, EXISTING)
    assert one.operation.uid == two.operation.uid
    await lab.end(one.operation.name)
    assert (await start(lab, "key", {"a": "1", "b": "2"}, script="s")).operation.state == State.STATE_COMPLETED
    assert ran == [one.operation.uid]


async def test_a_hundred_starts_of_one_request_id_at_once_are_one_operation(lab: Lab) -> None:
    answers = await asyncio.gather(*(start(lab, "key", script="s") for _ in range(100)))
    assert len({a.operation.uid for a in answers}) == 1
    assert [a.disposition for a in answers].count(CREATED) == 1
    await lab.end(answers[0].operation.name)
    assert lab.engine.executor.running == 0
    assert lab.engine.executor.running_of(Lab.TYPE) == 0


@pytest.mark.parametrize("other", [{"script": "t"}, {"script": "s", "count": 1}, {}], ids=["other", "more", "less"])
async def test_the_same_request_id_with_another_input_is_refused(lab: Lab, other: dict[str, Any]) -> None:
    await start(lab, "key", script="s")
    before = lab.tables()
    code, reason, status = await refused(start(lab, "key", **other))
    assert (code, reason) == (ALREADY, "REQUEST_ID_REUSED")
    assert detail(status, error_details_pb2.ErrorInfo).metadata["request_id"] == "key"
    assert len(lab.tables()["operations"]) == len(before["operations"])
    assert lab.tables()["requests"] == before["requests"]


@pytest.mark.parametrize("labels", [{}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}], ids=str)
async def test_the_same_request_id_with_other_labels_is_refused(lab: Lab, labels: dict[str, str]) -> None:
    await start(lab, "key", {"a": "1"})
    code, reason, _ = await refused(start(lab, "key", labels))
    assert (code, reason) == (ALREADY, "REQUEST_ID_REUSED")


async def test_the_field_the_metadata_and_the_request_are_one_key(lab: Lab) -> None:
    by_field = await lab.lab.Play(lab_pb2.PlayRequest(script="s", request_id="key"))
    by_metadata = await lab.lab.Play(lab_pb2.PlayRequest(script="s"), metadata=[("longshore-request-id", "key")])
    by_start = await start(lab, "key", script="s")
    assert by_field.name == by_metadata.name == by_start.operation.name
    assert by_start.disposition == EXISTING


async def test_a_request_id_belongs_to_its_type(lab: Lab) -> None:
    one = await start(lab, "key")
    two = await start(lab, "key", type="PlayOn")
    assert two.disposition == CREATED
    assert one.operation.uid != two.operation.uid


async def test_a_known_request_id_is_answered_while_the_server_drains_and_a_new_one_is_not(lab: Lab) -> None:
    one = await start(lab, "key", script="s")
    await lab.end(one.operation.name)
    lab.engine.drain()
    two = await start(lab, "key", script="s")
    assert (two.operation.uid, two.disposition) == (one.operation.uid, EXISTING)
    code, reason, status = await refused(start(lab, "other", script="s"))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert retry_after(status) > 0
    code, reason, _ = await refused(start(lab, "key", script="t"))
    assert (code, reason) == (ALREADY, "REQUEST_ID_REUSED")


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_request_id_outlives_the_server(lab: Lab, crash: bool) -> None:
    one = await start(lab, "key", {"a": "1"}, script="s")
    await lab.restart(crash=crash)
    two = await start(lab, "key", {"a": "1"}, script="s")
    assert (two.operation.uid, two.disposition) == (one.operation.uid, EXISTING)
    code, reason, _ = await refused(start(lab, "key", {"a": "2"}, script="s"))
    assert (code, reason) == (ALREADY, "REQUEST_ID_REUSED")


async def test_a_request_id_dies_with_its_operation(lab: Lab) -> None:
    one = await start(lab, "key", script="s")
    await lab.end(one.operation.name)
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    await stub.DeleteOperation(lro.DeleteOperationRequest(name=one.operation.name))
    assert lab.tables()["requests"] == []
    two = await start(lab, "key", script="another")
    assert two.disposition == CREATED
    assert two.operation.uid != one.operation.uid


async def test_a_refused_start_does_not_take_its_request_id(lab: Lab) -> None:
    lab.engine.accepting = False
    await refused(start(lab, "key", script="s"))
    lab.engine.accepting = True
    assert (await start(lab, "key", script="t")).disposition == CREATED


async def test_a_caller_who_goes_away_while_starting_leaves_no_slot_taken(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    calls = [asyncio.ensure_future(start(lab, "key")) for _ in range(5)]
    await turns(3)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await lab.end((await start(lab)).operation.name)).state == State.STATE_COMPLETED
    assert lab.engine.executor.running_of(Lab.TYPE) == 0


async def test_starts_beyond_the_slots_wait_and_beyond_the_queue_are_refused(make_lab: Any) -> None:
    lab = await make_lab(concurrency=2, queue=3)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    started = [await start(lab, f"k{n}") for n in range(5)]
    assert [s.operation.state for s in started] == [State.STATE_RUNNING] * 2 + [State.STATE_PENDING] * 3
    code, reason, status = await refused(start(lab, "k5"))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_OPERATIONS")
    assert retry_after(status) > 0
    assert (await start(lab, "k0")).disposition == EXISTING
    assert (await start(lab, type="PlayOn")).operation.state == State.STATE_RUNNING  # each type has slots of its own
    gate.set()
    for s in started:
        assert (await lab.end(s.operation.name)).state == State.STATE_COMPLETED
    assert (await start(lab, "k5")).disposition == CREATED


async def test_those_that_wait_begin_in_the_order_of_their_acceptance(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1)
    gate, ran = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        ran.append(request.count)
        await gate.wait()
        return lab_pb2.PlayResult()

    names = [(await lab.begin(count=n)).operation.name for n in range(10)]
    gate.set()
    for name in names:
        await lab.end(name)
    assert ran == list(range(10))


async def test_start_with_wait_answers_with_the_end(lab: Lab) -> None:
    started = await lab.operations.Start(pb.StartRequest(type=Lab.TYPE, wait=Duration(seconds=30)))
    assert result_of(started.operation).text == "played"


@pytest.mark.parametrize("wait", [0, 7])
async def test_start_with_wait_answers_when_the_time_is_up(lab: Lab, wait: int) -> None:
    @lab.plays
    async def handler(request, op):
        await op.sleep(3600)

    call = asyncio.ensure_future(
        _answer(lab.operations.Start(pb.StartRequest(type=Lab.TYPE, wait=Duration(seconds=wait))))
    )
    if wait:
        await lab.clock.armed(wait)
        await turns()
        assert not call.done()
        lab.clock.advance(wait)
    assert (await call).operation.state == State.STATE_RUNNING


async def test_a_caller_who_stops_waiting_does_not_stop_the_operation(lab: Lab) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        entered.set()
        await gate.wait()
        return lab_pb2.PlayResult()

    call = lab.operations.Start(pb.StartRequest(type=Lab.TYPE, request_id="k", wait=Duration(seconds=30)))
    waiting = asyncio.ensure_future(_answer(call))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    assert (await lab.end((await start(lab, "k")).operation.name)).state == State.STATE_COMPLETED


async def test_a_wait_ends_when_the_server_drains(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.sleep(3600)

    call = asyncio.ensure_future(
        _answer(lab.operations.Start(pb.StartRequest(type=Lab.TYPE, wait=Duration(seconds=30))))
    )
    await lab.clock.armed(30)
    lab.engine.drain()
    code, reason, status = await refused(call)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert retry_after(status) > 0


async def _answer(call: Any) -> Any:
    return await call
