"""Names made from the input, what happens when one is used again, and what starts take and give in metadata."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, detail, fields_of, refused, result_of, turns

CREATED = pb.StartResponse.DISPOSITION_CREATED
EXISTING = pb.StartResponse.DISPOSITION_EXISTING


async def test_the_name_is_made_from_the_input(lab: Lab) -> None:
    operation = (await lab.begin("PlayNamed", key="A.b_c~1-2")).operation
    assert operation.name == "operations/named-A.b_c~1-2"
    by_uid = await lab.get(f"operations/{operation.uid}")
    assert by_uid.name == operation.name
    assert (await lab.get(operation.name)).uid == operation.uid


@pytest.mark.parametrize("key", ["x", "x" * 128])
async def test_values_of_one_to_128_bytes_are_taken(lab: Lab, key: str) -> None:
    assert (await lab.begin("PlayNamed", key=key)).operation.name == f"operations/named-{key}"


@pytest.mark.parametrize("type", ["PlayNamed", "PlayAgain"])
async def test_the_same_name_with_the_same_input_is_the_same_operation_while_it_lives(lab: Lab, type: str) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    one = await lab.begin(type, key="k")
    two = await lab.begin(type, key="k")
    assert (two.operation.uid, two.disposition) == (one.operation.uid, EXISTING)
    code, reason, status = await refused(lab.begin(type, key="k", count=1))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_IN_USE")
    assert detail(status, error_details_pb2.ResourceInfo).resource_name == one.operation.name
    gate.set()


async def test_on_terminal_return(lab: Lab) -> None:
    one = await lab.begin("PlayNamed", key="k")
    await lab.end(one.operation.name)
    two = await lab.begin("PlayNamed", key="k")
    assert (two.operation.uid, two.disposition) == (one.operation.uid, EXISTING)
    assert two.operation.state == State.STATE_COMPLETED
    _, reason, _ = await refused(lab.begin("PlayNamed", key="k", count=1))
    assert reason == "NAME_IN_USE"


async def test_on_terminal_new(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=request.count)

    one = await lab.begin("PlayAgain", key="k", count=1)
    await lab.end(one.operation.name)
    two = await lab.begin("PlayAgain", key="k", count=2)
    assert two.disposition == CREATED
    assert two.operation.name == one.operation.name
    assert two.operation.uid != one.operation.uid
    assert result_of(await lab.end(two.operation.name)).number == 2
    assert result_of(await lab.get(f"operations/{one.operation.uid}")).number == 1
    await lab.restart()
    assert result_of(await lab.get(two.operation.name)).number == 2
    assert result_of(await lab.get(f"operations/{one.operation.uid}")).number == 1


async def test_a_request_id_that_used_the_name_before_still_finds_its_own_operation(lab: Lab) -> None:
    one = await lab.lab.PlayAgain(lab_pb2.PlayRequest(key="k", request_id="first"))
    first = await lab.end(one.name)
    await lab.begin("PlayAgain", key="k", count=2)
    call = lab.lab.PlayAgain(lab_pb2.PlayRequest(key="k", request_id="first"))
    await call
    assert dict(tuple(await call.initial_metadata()))["longshore-uid"] == first.uid


async def test_a_watch_that_carries_the_uid_of_the_operation_before_is_refused(lab: Lab) -> None:
    one = (await lab.begin("PlayAgain", key="k")).operation
    await lab.end(one.name)
    two = (await lab.begin("PlayAgain", key="k", count=2)).operation
    await lab.end(two.name)
    request = pb.WatchRequest(name=one.name, uid=one.uid, after_sequence=1)
    code, reason, status = await refused(lab.operations.Watch(request).read())
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UID_MISMATCH")
    assert two.uid in status.message
    followed = pb.WatchRequest(name=f"operations/{one.uid}", uid=one.uid, after_sequence=1)
    sequences = [m.event.sequence async for m in lab.operations.Watch(followed)]
    assert sequences == [2, 3]
    assert [m async for m in lab.operations.Watch(pb.WatchRequest(name=two.name, uid=two.uid))]


async def test_a_deleted_name_is_free_again(lab: Lab) -> None:
    one = await lab.begin("PlayNamed", key="k")
    await lab.end(one.operation.name)
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    await stub.DeleteOperation(lro.DeleteOperationRequest(name=one.operation.name))
    two = await lab.begin("PlayNamed", key="k", count=5)
    assert two.disposition == CREATED


async def test_deleting_the_older_of_two_leaves_the_name_to_the_newer(lab: Lab) -> None:
    one = (await lab.begin("PlayAgain", key="k")).operation
    await lab.end(one.name)
    two = (await lab.begin("PlayAgain", key="k")).operation
    await lab.end(two.name)
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    await stub.DeleteOperation(lro.DeleteOperationRequest(name=f"operations/{one.uid}"))
    assert (await lab.get(two.name)).uid == two.uid


async def test_names_at_once_are_one_operation(lab: Lab) -> None:
    answers = await asyncio.gather(*(lab.begin("PlayNamed", key="k") for _ in range(50)))
    assert len({a.operation.uid for a in answers}) == 1
    assert [a.disposition for a in answers].count(CREATED) == 1


# Typed calls.


async def test_a_typed_call_answers_with_the_operation_and_with_metadata(lab: Lab) -> None:
    call = lab.lab.Play(
        lab_pb2.PlayRequest(script="s"),
        metadata=[("longshore-request-id", "k"), ("longshore-label-tenant", "acme"), ("longshore-label-a.b", "c d")],
    )
    operation = await call
    metadata = dict(tuple(await call.initial_metadata()))
    assert metadata["longshore-disposition"] == "created"
    snapshot = await lab.get(operation.name)
    assert metadata["longshore-uid"] == snapshot.uid
    assert int(metadata["longshore-sequence"]) in (1, 2)
    assert dict(snapshot.labels) == {"tenant": "acme", "a.b": "c d"}
    again = lab.lab.Play(
        lab_pb2.PlayRequest(script="s"),
        metadata=[("longshore-request-id", "k"), ("longshore-label-a.b", "c d"), ("longshore-label-tenant", "acme")],
    )
    assert (await again).name == operation.name
    assert dict(tuple(await again.initial_metadata()))["longshore-disposition"] == "existing"


async def test_metadata_of_a_typed_call_is_always_the_progress_type(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if request.count:
            await op.progress(lab_pb2.PlayProgress(number=request.count))
        return lab_pb2.PlayResult()

    for count in (0, 7):
        operation = await lab.lab.Play(lab_pb2.PlayRequest(count=count), metadata=[("longshore-wait", "30s")])
        progress = lab_pb2.PlayProgress()
        assert operation.metadata.Unpack(progress)
        assert progress.number == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), ("0.000001s", 1e-6)]
)
async def test_a_typed_call_waits(lab: Lab, text: str, seconds: float) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    async def play() -> lro.Operation:
        return await lab.lab.Play(lab_pb2.PlayRequest(), metadata=[("longshore-wait", text)])

    call = asyncio.ensure_future(play())
    await lab.clock.armed(seconds)
    lab.clock.advance(seconds)
    assert not (await call).done
    call = asyncio.ensure_future(play())
    await lab.clock.armed(seconds)
    gate.set()
    operation = await call
    assert operation.done
    assert operation.response.Is(lab_pb2.PlayResult.DESCRIPTOR)


@pytest.mark.parametrize("method", ["PlayAndWatch", "PlayLive"])
async def test_a_typed_stream_sends_the_operation_after_every_event(lab: Lab, method: str) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        for number in (1, 2):
            await op.progress(lab_pb2.PlayProgress(number=number))
        return lab_pb2.PlayResult(text="end")

    call = getattr(lab.lab, method)(lab_pb2.PlayRequest(), metadata=[("longshore-label-a", "b")])
    metadata = dict(tuple(await call.initial_metadata()))
    assert metadata["longshore-disposition"] == "created"
    gate.set()
    numbers, last = [], None
    async for operation in call:
        progress = lab_pb2.PlayProgress()
        assert operation.metadata.Unpack(progress)
        numbers.append(progress.number)
        last = operation
        assert operation.name == f"operations/{metadata['longshore-uid']}"
    assert numbers == [*([0] * (len(numbers) - 3)), 1, 2, 2]
    assert last is not None
    assert last.done
    result = lab_pb2.PlayResult()
    assert last.response.Unpack(result)
    assert result.text == "end"
    assert await call.code() is grpc.StatusCode.OK


async def test_a_heartbeat_of_a_typed_stream_repeats_the_last_message(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=1))
        await gate.wait()
        return lab_pb2.PlayResult()

    call: Any = lab.lab.PlayAndWatch(lab_pb2.PlayRequest())
    progress, message = lab_pb2.PlayProgress(), lro.Operation()
    while progress.number != 1:
        message = await call.read()
        message.metadata.Unpack(progress)
    reading = asyncio.ensure_future(_read(call))
    while not reading.done():
        # The server may still be sending the progress: silence counts from there.
        lab.clock.advance(15)
        await turns()
    assert await reading == message
    gate.set()
    while not (message := await call.read()).done:
        pass


async def _read(call: Any) -> lro.Operation:
    message: lro.Operation = await call.read()
    return message


async def test_a_twin_of_an_operation_that_exists_follows_it(lab: Lab) -> None:
    started = await lab.lab.Play(lab_pb2.PlayRequest(request_id="k"), metadata=[("longshore-wait", "30s")])
    call = lab.lab.PlayAndWatch(lab_pb2.PlayRequest(request_id="k"))
    messages = [message async for message in call]
    assert dict(tuple(await call.initial_metadata()))["longshore-disposition"] == "existing"
    assert [(m.name, m.done) for m in messages] == [(started.name, True)]


# Start and Run take the same metadata.


METADATA = [("longshore-request-id", "k"), ("longshore-label-tenant", "acme")]


def start(**fields: Any) -> pb.StartRequest:
    return pb.StartRequest(type=Lab.TYPE, **fields)


async def run(lab: Lab, metadata: list[tuple[str, str]], **fields: Any) -> pb.WatchResponse:
    """The first message of a Run."""
    call: Any = lab.operations.Run(pb.RunRequest(type=Lab.TYPE, **fields), metadata=metadata)
    message: pb.WatchResponse = await call.read()
    call.cancel()
    return message


async def test_a_start_a_run_and_a_typed_call_read_the_same_metadata(lab: Lab) -> None:
    one = await lab.operations.Start(start(), metadata=METADATA)
    assert (one.disposition, one.operation.request_id) == (CREATED, "k")
    assert dict(one.operation.labels) == {"tenant": "acme"}
    two = await lab.operations.Start(start(), metadata=METADATA)
    assert (two.disposition, two.operation.uid) == (EXISTING, one.operation.uid)
    assert (await run(lab, METADATA)).snapshot.uid == one.operation.uid
    typed = await lab.lab.Play(lab_pb2.PlayRequest(), metadata=METADATA)
    assert typed.name == one.operation.name


async def test_fields_and_metadata_may_both_say_the_same_or_different_labels(lab: Lab) -> None:
    one = await lab.operations.Start(start(request_id="k", labels={"tenant": "acme", "a": "b"}), metadata=METADATA)
    assert (one.operation.request_id, dict(one.operation.labels)) == ("k", {"tenant": "acme", "a": "b"})
    two = await run(lab, METADATA, request_id="k", labels={"a": "b"})
    assert two.snapshot.uid == one.operation.uid


async def test_a_start_waits_as_its_metadata_says(lab: Lab) -> None:
    waited = await lab.operations.Start(start(), metadata=[("longshore-wait", "30s")])
    assert waited.operation.state == State.STATE_COMPLETED
    request = start()
    request.wait.seconds = 30
    waited = await lab.operations.Start(request, metadata=[("longshore-wait", "0.5m")])
    assert waited.operation.state == State.STATE_COMPLETED


DIFFERENT: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "request id": ({"request_id": "l"}, ("longshore-request-id", "k")),
    "label": ({"labels": {"tenant": "acme"}}, ("longshore-label-tenant", "ajax")),
    "empty label": ({"labels": {"tenant": ""}}, ("longshore-label-tenant", "ajax")),
}


@pytest.mark.parametrize("case", DIFFERENT)
@pytest.mark.parametrize("method", ["Start", "Run"])
async def test_fields_and_metadata_that_differ_are_refused(lab: Lab, method: str, case: str) -> None:
    fields, sent = DIFFERENT[case]
    before = lab.tables()
    call = lab.operations.Start(start(**fields), metadata=[sent]) if method == "Start" else run(lab, [sent], **fields)
    code, reason, status = await refused(call)
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", [sent[0]])
    assert lab.tables() == before


@pytest.mark.parametrize("method", ["Start", "Run", "Play", "PlayAndWatch"])
async def test_a_key_beside_the_input_and_another_inside_are_refused(lab: Lab, method: str) -> None:
    """Also a key in the metadata, and the same twice is one key."""

    def call(key: str) -> Any:
        input, metadata = lab_pb2.PlayRequest(request_id="inside"), [("longshore-request-id", key)]
        if method in ("Start", "Run"):
            fields = start(request_id=key)
            fields.input.Pack(input)
            return (
                lab.operations.Start(fields) if method == "Start" else run(lab, [], input=fields.input, request_id=key)
            )
        called = getattr(lab.lab, method)(input, metadata=metadata)
        return called if method == "Play" else called.read()

    before = lab.tables()
    code, reason, status = await refused(call("beside"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert fields_of(status) == ["request_id"]
    assert all(word in status.message for word in ("'inside'", "'beside'", "longshore-request-id"))
    assert lab.tables() == before
    await call("inside")
    assert [row.request_id for row in (await lab.operations.List(pb.ListRequest())).operations] == ["inside"]


@pytest.mark.parametrize("wait", ["29s", "0s"])
async def test_waits_that_differ_are_refused(lab: Lab, wait: str) -> None:
    request = start()
    request.wait.seconds = 30
    _, reason, status = await refused(lab.operations.Start(request, metadata=[("longshore-wait", wait)]))
    assert (reason, fields_of(status)) == ("INVALID_ARGUMENT", ["longshore-wait"])


@pytest.mark.parametrize("key", ["longshore-reqest-id", "longshore-wait"])
@pytest.mark.parametrize("method", ["Start", "Run", "Play", "PlayAndWatch"])
async def test_metadata_that_a_start_would_ignore_is_refused(lab: Lab, method: str, key: str) -> None:
    """What follows an operation to its end does not wait for it."""
    before = lab.tables()
    calls: dict[str, Any] = {
        "Start": lambda: lab.operations.Start(start(), metadata=[(key, "1s")]),
        "Run": lambda: run(lab, [(key, "1s")]),
        "Play": lambda: lab.lab.Play(lab_pb2.PlayRequest(), metadata=[(key, "1s")]),
        "PlayAndWatch": lambda: lab.lab.PlayAndWatch(lab_pb2.PlayRequest(), metadata=[(key, "1s")]).read(),
    }
    if key == "longshore-wait" and method in ("Start", "Play"):
        await calls[method]()
        return
    _, reason, status = await refused(calls[method]())
    assert (reason, fields_of(status)) == ("INVALID_ARGUMENT", [key])
    assert lab.tables() == before
