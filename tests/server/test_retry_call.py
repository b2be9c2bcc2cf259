"""Retry and Delete: an operation that has ended is started once more, or removed."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab, State, detail, fields_of, first, reason_of_end, refused, result_of
from tests.server.retrying import RetryHandlers

CREATED, EXISTING = pb.StartResponse.DISPOSITION_CREATED, pb.StartResponse.DISPOSITION_EXISTING


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


async def retry(lab: Lab, name: str, request_id: str = "") -> pb.StartResponse:
    return await lab.operations.Retry(pb.RetryRequest(name=name, request_id=request_id))


async def echo(request: Any, op: Any) -> lab_pb2.PlayResult:
    if request.script == "fail":
        raise OperationError("BUSY")
    return lab_pb2.PlayResult(text=request.script, number=request.count)


async def test_a_retry_is_a_new_operation_with_the_same_input_and_labels(lab: Lab) -> None:
    lab.plays(echo)
    request = pb.StartRequest(type=Lab.TYPE, labels={"tenant": "acme"})
    request.input.Pack(lab_pb2.PlayRequest(script="fail", count=7))
    old = await lab.end((await lab.operations.Start(request)).operation.name)
    assert reason_of_end(old) == "BUSY"

    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(text=request.script, number=request.count)

    again = await retry(lab, old.name)
    assert again.disposition == CREATED
    new = await lab.end(again.operation.name)
    assert (new.state, result_of(new).text, result_of(new).number) == (State.STATE_COMPLETED, "fail", 7)
    assert new.uid != old.uid
    assert (new.retried_from, dict(new.labels), new.attempt) == (f"operations/{old.uid}", {"tenant": "acme"}, 1)
    assert await lab.get(old.name) == old, "nothing changes what has ended"


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_whatever_has_ended_can_be_retried(lab: Lab, state: str) -> None:
    @lab.plays
    async def handler(request, op):
        if state == "FAILED":
            raise OperationError("BUSY")
        if state == "CANCELLED":
            await op.cancelled.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    if state == "CANCELLED":
        await lab.reached(name, "started")
        await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (await lab.end(name)).state == State.Value(f"STATE_{state}")
    assert (await retry(lab, name)).disposition == CREATED


@pytest.mark.parametrize("type", ["Play", "RetryService/Try"])
async def test_what_has_not_ended_cannot(lab: Lab, type: str) -> None:
    @lab.plays
    async def handler(request, op):
        if type == "Play":
            await asyncio.Event().wait()
        raise OperationError("BUSY")

    name = (await lab.begin(type)).operation.name
    await lab.reached(name, "started" if type == "Play" else "attempt_failed")
    before = lab.tables()
    for call in (retry(lab, name), lab.operations.Delete(pb.DeleteRequest(name=name))):
        assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "OPERATION_RUNNING")
    assert lab.tables() == before


async def test_a_request_id_makes_it_repeatable(lab: Lab) -> None:
    one, two = [(await lab.run(script=script)).name for script in ("one", "two")]
    first = await retry(lab, one, "key")
    again = await retry(lab, one, "key")
    assert (first.disposition, again.disposition) == (CREATED, EXISTING)
    assert again.operation.uid == first.operation.uid
    assert again.operation.request_id == "key"
    code, reason, _ = await refused(retry(lab, two, "key"))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    await lab.restart()
    assert (await retry(lab, one, "key")).operation.uid == first.operation.uid


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("end", ["complete", "before it began"])
async def test_what_the_services_own_code_accepted_is_not_given_to_a_handler(lab: Lab, end: str, restart: bool) -> None:
    control = await lab.server.operations.accept(Lab.TYPE, lab_pb2.PlayRequest())
    if end == "complete":
        await control.started()
        await control.complete(lab_pb2.PlayResult())
    else:
        await lab.operations.Cancel(pb.CancelRequest(name=control.name))
    if restart:
        await lab.restart()
    before = lab.tables()
    code, reason, status = await refused(retry(lab, control.name))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_RETRIABLE")
    assert detail(status, error_details_pb2.ResourceInfo).resource_name == control.name
    assert lab.tables() == before


async def test_what_its_handler_deferred_is_deferred_by_the_handler_again(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return await op.defer()

    name = (await lab.begin()).operation.name
    for _ in range(2):
        await lab.catch_up()
        assert (await lab.get(name)).deferred
        await (await lab.server.operations.control(name)).complete(lab_pb2.PlayResult())
        name = (await retry(lab, name)).operation.name
    await lab.catch_up()
    snapshot = await lab.get(name)
    assert (snapshot.state, snapshot.deferred, snapshot.attempt) == (State.STATE_RUNNING, True, 1)


async def test_its_request_id_may_stand_in_the_metadata(lab: Lab) -> None:
    old = await lab.run()
    request, metadata = pb.RetryRequest(name=old.name), [("longshore-request-id", "key")]
    one = await lab.operations.Retry(request, metadata=metadata)
    assert (one.disposition, one.operation.request_id) == (CREATED, "key")
    request.request_id = "key"
    for again in (lab.operations.Retry(request), lab.operations.Retry(request, metadata=metadata)):
        assert (await again).operation.uid == one.operation.uid


@pytest.mark.parametrize(
    ("key", "value"),
    [("longshore-request-id", "l"), ("longshore-wait", "1s"), ("longshore-label-a", "b"), ("longshore-reqest-id", "k")],
)
async def test_metadata_that_it_would_ignore_is_refused(lab: Lab, key: str, value: str) -> None:
    old = await lab.run()
    before = lab.tables()
    request = pb.RetryRequest(name=old.name, request_id="k")
    code, reason, status = await refused(lab.operations.Retry(request, metadata=[(key, value)]))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", [key])
    assert lab.tables() == before


async def test_the_key_in_the_input_is_that_of_the_old_one(lab: Lab) -> None:
    """The handler sees the input as it was, and the new operation has a key of its own, or none."""
    seen: list[str] = []

    @lab.plays
    async def handler(request, op):
        seen.append(request.request_id)
        return lab_pb2.PlayResult()

    old = await lab.run(request_id="first")
    assert old.request_id == "first"
    new = await lab.end((await retry(lab, old.name)).operation.name)
    assert (new.request_id, new.uid != old.uid) == ("", True)
    assert seen == ["first", "first"]
    assert (await lab.begin(request_id="first")).operation.uid == old.uid


@pytest.mark.parametrize("type", ["PlayNamed", "PlayAgain"])
async def test_a_template_name_then_means_the_new_one(lab: Lab, type: str) -> None:
    gate = asyncio.Event()
    gate.set()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(number=op.attempt)

    old = await lab.run(type, key="a")
    gate.clear()
    again = await retry(lab, old.name)
    assert (again.disposition, again.operation.name) == (CREATED, old.name)
    assert again.operation.uid != old.uid
    assert (await lab.get(old.name)).uid == again.operation.uid
    assert (await lab.get(f"operations/{old.uid}")).state == State.STATE_COMPLETED
    repeated = await retry(lab, f"operations/{old.uid}")
    assert (repeated.disposition, repeated.operation.uid) == (EXISTING, again.operation.uid)
    gate.set()
    assert (await lab.end(old.name)).retried_from == f"operations/{old.uid}"


@pytest.mark.parametrize("crash", [None, True, False], ids=["at once", "after a crash", "after a stop"])
@pytest.mark.parametrize("type", ["PlayNamed", "PlayAgain"])
async def test_a_start_under_a_template_name_finds_the_retry(lab: Lab, type: str, crash: bool | None) -> None:
    """Both have the same input and labels; only an idempotency key tells a retry from a start."""
    gate = asyncio.Event()

    @lab.plays
    async def failing(request, op):
        raise OperationError("BUSY")

    old = await lab.run(type, key="a")
    assert old.state == State.STATE_FAILED

    @lab.plays
    async def patient(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(text="done")

    again = (await retry(lab, old.name, "again")).operation
    if crash is not None:
        await lab.restart(crash=crash)
    for request_id in ("", "key", "key"):
        found = await start_named(lab, type, request_id)
        assert (found.disposition, found.operation.uid) == (EXISTING, again.uid), request_id
    assert (await refused(start_named(lab, type, "again")))[1] == "REQUEST_ID_REUSED"
    repeated = await retry(lab, f"operations/{old.uid}", "again")
    assert (repeated.disposition, repeated.operation.uid) == (EXISTING, again.uid)
    gate.set()
    assert result_of(await lab.end(old.name)).text == "done"
    found = await start_named(lab, type)
    assert found.disposition == (EXISTING if type == "PlayNamed" else CREATED)


async def start_named(lab: Lab, type: str, request_id: str = "") -> pb.StartResponse:
    request = pb.StartRequest(type=f"lab.v1.LabService/{type}", request_id=request_id)
    request.input.Pack(lab_pb2.PlayRequest(key="a"))
    return await lab.operations.Start(request)


async def test_a_retry_finds_no_start_of_the_same_input(lab: Lab) -> None:
    old = await lab.run("PlayAgain", key="a")

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    other = await start_named(lab, "PlayAgain")
    assert other.operation.uid != old.uid
    code, reason, status = await refused(retry(lab, f"operations/{old.uid}"))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_IN_USE")
    assert status.message == f"{old.name} means another operation by now, which has not ended."


async def test_a_retry_takes_no_name_away_from_what_runs(lab: Lab) -> None:
    old = await lab.run("PlayAgain", key="a", script="one")

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    other = await lab.begin("PlayAgain", key="a", script="two")
    assert other.operation.uid != old.uid
    code, reason, _ = await refused(retry(lab, f"operations/{old.uid}"))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_IN_USE")


async def test_a_retry_can_be_retried(lab: Lab) -> None:
    old = await lab.run()
    second = await lab.end((await retry(lab, old.name)).operation.name)
    third = await lab.end((await retry(lab, second.name)).operation.name)
    assert third.retried_from == f"operations/{second.uid}"


async def test_a_retry_is_admitted_like_a_start(make_lab: Any) -> None:
    lab = await make_lab(concurrency=1, queue=0)
    old = await lab.run()

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    await lab.begin()
    code, reason, _ = await refused(retry(lab, old.name))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_OPERATIONS")


async def test_a_deleted_operation_is_gone_with_its_key(lab: Lab) -> None:
    old = await lab.run(request_id="key")
    assert await lab.operations.Delete(pb.DeleteRequest(name=old.name)) == pb.DeleteResponse()
    missing = (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
    assert (await refused(lab.operations.Get(pb.GetRequest(name=old.name))))[:2] == missing
    assert (await refused(lab.operations.Delete(pb.DeleteRequest(name=old.name))))[:2] == missing
    assert (await refused(retry(lab, old.name)))[:2] == missing
    assert (await refused(first(lab.operations.Watch(pb.WatchRequest(name=old.name)))))[:2] == missing
    assert not any(rows for table, rows in lab.tables().items() if table in ("operations", "events", "requests"))
    assert (await lab.begin(request_id="key")).disposition == CREATED


async def test_what_a_deleted_one_was_retried_as_stays(lab: Lab) -> None:
    old = await lab.run()
    new = await lab.end((await retry(lab, old.name)).operation.name)
    await lab.operations.Delete(pb.DeleteRequest(name=old.name))
    found: operation_pb2.OperationSnapshot = await lab.get(new.name)
    assert found.retried_from == f"operations/{old.uid}"
