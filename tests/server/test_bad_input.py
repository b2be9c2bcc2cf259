"""What a start may not carry: each with a precise status, nothing written, and a server that goes on working."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.contract.rules import MAX_HELD
from tests.conftest import Lab, State, detail, fields_of, refused, result_of, retry_after

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PLAY = "lab.v1.LabService/Play"


@pytest.fixture
async def intact(lab: Lab) -> AsyncIterator[Lab]:
    """A laboratory with one operation in it; after the test its tables must be as they were, and it must work."""
    await lab.end((await lab.begin("PlayNamed", key="before", request_id="r")).operation.name)
    before = lab.tables()
    yield lab
    assert lab.tables() == before
    assert lab.engine.table.live == {}
    assert lab.engine.executor.running == 0
    snapshot = await lab.end((await lab.begin()).operation.name)
    assert snapshot.state == State.STATE_COMPLETED


def pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def start(type: str = PLAY, **fields: Any) -> pb.StartRequest:
    return pb.StartRequest(type=type, **fields)


def named(key: str) -> pb.StartRequest:
    return start("lab.v1.LabService/PlayNamed", input=pack(lab_pb2.PlayRequest(key=key)))


def ruled(title: str, stars: int, tags: tuple[str, ...] = ()) -> pb.StartRequest:
    return start("lab.v1.LabService/PlayByRules", input=pack(lab_pb2.RuledRequest(title=title, stars=stars, tags=tags)))


URL = "type.googleapis.com/"
NOT_UTF8 = b"\x12\x02\xff\xfe"  # PlayRequest.script
WRONG: dict[str, tuple[Callable[[], pb.StartRequest], str, list[str]]] = {
    "no type": (lambda: start(""), "UNKNOWN_TYPE", ["type"]),
    "an unknown type": (lambda: start("no.such.Service/Play"), "UNKNOWN_TYPE", ["type"]),
    "a type's path": (lambda: start(f"/{PLAY}"), "UNKNOWN_TYPE", ["type"]),
    "a streaming twin": (lambda: start("lab.v1.LabService/PlayAndWatch"), "UNKNOWN_TYPE", ["type"]),
    "a type of half a megabyte": (lambda: start("界" * 170_000), "UNKNOWN_TYPE", ["type"]),
    "another message": (lambda: start(input=pack(lab_pb2.PlayResult())), "WRONG_INPUT_TYPE", ["input"]),
    "an unknown message": (lambda: start(input=AnyMessage(type_url=f"{URL}no.such.M")), "WRONG_INPUT_TYPE", ["input"]),
    "an Any without a type": (lambda: start(input=AnyMessage(value=b"\x0a\x00")), "WRONG_INPUT_TYPE", ["input"]),
    "a malformed Any": (
        lambda: start(input=AnyMessage(type_url=f"{URL}lab.v1.PlayRequest", value=b"\x0a\xff")),
        "MALFORMED_REQUEST",
        ["input.value"],
    ),
    "an Any that is not UTF-8": (
        lambda: start(input=AnyMessage(type_url=f"{URL}lab.v1.PlayRequest", value=NOT_UTF8)),
        "MALFORMED_REQUEST",
        ["input.value"],
    ),
    "a negative wait": (lambda: start(wait=Duration(seconds=-1)), "INVALID_ARGUMENT", ["wait"]),
    "a wait of negative nanos": (lambda: start(wait=Duration(nanos=-1)), "INVALID_ARGUMENT", ["wait"]),
    "a wait of too many nanos": (lambda: start(wait=Duration(nanos=10**9)), "INVALID_ARGUMENT", ["wait"]),
    "a wait beyond all time": (lambda: start(wait=Duration(seconds=2**62)), "INVALID_ARGUMENT", ["wait"]),
    "a long request id": (lambda: start(request_id="r" * 129), "INVALID_ARGUMENT", ["request_id"]),
    "a request id long in bytes": (lambda: start(request_id="ü" * 65), "INVALID_ARGUMENT", ["request_id"]),
    "a long request id in the input": (
        lambda: start(input=pack(lab_pb2.PlayRequest(request_id="r" * 129))),
        "INVALID_ARGUMENT",
        ["request_id"],
    ),
    "an empty label key": (lambda: start(labels={"": "v"}), "INVALID_ARGUMENT", ["labels['']"]),
    "an upper-case label": (lambda: start(labels={"Tenant": "v"}), "INVALID_ARGUMENT", ["labels['Tenant']"]),
    "a label that begins with a digit": (lambda: start(labels={"1a": "v"}), "INVALID_ARGUMENT", ["labels['1a']"]),
    "a label with a space": (lambda: start(labels={"a b": "v"}), "INVALID_ARGUMENT", ["labels['a b']"]),
    "a label with a quote": (lambda: start(labels={'a"b': "v"}), "INVALID_ARGUMENT", ["labels['a\"b']"]),
    "a label key of 64": (lambda: start(labels={"k" * 64: "v"}), "INVALID_ARGUMENT", [f"labels['{'k' * 64}']"]),
    "a label value with an umlaut": (lambda: start(labels={"a": "ä"}), "INVALID_ARGUMENT", ["labels['a']"]),
    "a label value with a line end": (lambda: start(labels={"a": "b\n"}), "INVALID_ARGUMENT", ["labels['a']"]),
    "a label value with a NUL": (lambda: start(labels={"a": "\0"}), "INVALID_ARGUMENT", ["labels['a']"]),
    "65 labels": (lambda: start(labels={f"k{n}": "" for n in range(65)}), "INVALID_ARGUMENT", ["labels"]),
    "65 labels of which none may be": (
        lambda: start(labels={f"K{n}": "\n" for n in range(65)}), "INVALID_ARGUMENT", ["labels"],
    ),
    "labels of 4097 bytes": (lambda: start(labels={"k": "v" * 4096}), "INVALID_ARGUMENT", ["labels"]),
    "a label of ten megabytes": (lambda: start(labels={"k": "v" * 10_000_000}), "INVALID_ARGUMENT", ["labels"]),
    "a label key of ten megabytes": (
        lambda: start(labels={"k" * 10_000_000: ""}),
        "INVALID_ARGUMENT",
        ["labels", f"labels['{'k' * 80}']"],
    ),
    "no input where a name is made of it": (
        lambda: start("lab.v1.LabService/PlayNamed"), "INVALID_ARGUMENT", ["key"],
    ),
    "an empty template value": (lambda: named(""), "INVALID_ARGUMENT", ["key"]),
    "a template value of 129 bytes": (lambda: named("x" * 129), "INVALID_ARGUMENT", ["key"]),
    "a template value with a slash": (lambda: named("a/b"), "INVALID_ARGUMENT", ["key"]),
    "a template value with a space": (lambda: named("a b"), "INVALID_ARGUMENT", ["key"]),
    "a template value with an umlaut": (lambda: named("ä"), "INVALID_ARGUMENT", ["key"]),
    "a template value with a line end": (lambda: named("a\n"), "INVALID_ARGUMENT", ["key"]),
    "a title that is too short": (lambda: ruled("ab", 3), "INVALID_ARGUMENT", ["title"]),
    "too many stars": (lambda: ruled("abc", 6), "INVALID_ARGUMENT", ["stars"]),
    "two broken rules": (lambda: ruled("", 0), "INVALID_ARGUMENT", ["title", "stars"]),
    "a broken rule inside a list": (lambda: ruled("abc", 3, ("ok", "")), "INVALID_ARGUMENT", ["tags[1]"]),
    "no input where rules ask for one": (
        lambda: start("lab.v1.LabService/PlayByRules"), "INVALID_ARGUMENT", ["title", "stars"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_a_start_is_refused(intact: Lab, case: str) -> None:
    make, expected, fields = WRONG[case]
    code, reason, status = await refused(intact.operations.Start(make()))
    assert (code, reason) == (INVALID, expected)
    assert fields_of(status) == fields
    assert all(v.description for v in detail(status, error_details_pb2.BadRequest).field_violations)
    assert detail(status, error_details_pb2.ErrorInfo).domain == "longshore"


@pytest.mark.parametrize("case", [case for case in WRONG if "wait" not in case])
async def test_a_run_is_refused_the_same_way(intact: Lab, case: str) -> None:
    make, expected, fields = WRONG[case]
    request = make()
    run = pb.RunRequest(type=request.type, request_id=request.request_id, labels=request.labels)
    if request.HasField("input"):
        run.input.CopyFrom(request.input)
    code, reason, status = await refused(intact.operations.Run(run).read())
    assert (code, reason) == (INVALID, expected)
    assert fields_of(status) == fields


async def test_hundreds_of_broken_rules_are_a_refusal_that_still_fits_into_the_trailers(intact: Lab) -> None:
    title_and_stars = 2
    code, reason, status = await refused(intact.operations.Start(ruled("abc", 3, ("",) * (MAX_HELD - title_and_stars))))
    assert (code, reason) == (INVALID, "INVALID_ARGUMENT")
    told = fields_of(status)
    assert len(told) > 20
    assert told == [f"tags[{number}]" for number in range(len(told))]


async def test_of_more_than_that_only_the_first_is_looked_for(intact: Lab) -> None:
    # A megabyte of them took half a minute in which nobody else was served, and more than a gigabyte of memory.
    code, reason, status = await refused(intact.operations.Start(ruled("abc", 3, ("ok", *("",) * (MAX_HELD - 2)))))
    assert (code, reason) == (INVALID, "INVALID_ARGUMENT")
    assert fields_of(status) == ["tags[1]"]


BYTES = ["Start", "Run", "Get", "List", "Wait", "Watch", "Cancel", "ListTypes", "GetType"]


@pytest.mark.parametrize("method", BYTES)
@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"], ids=["garbage", "cut short", "not UTF-8"]
)
async def test_bytes_that_are_no_request_are_invalid_and_not_unknown(intact: Lab, method: str, data: bytes) -> None:
    path = f"/longshore.v1.OperationsService/{method}"
    if method == "ListTypes" and data.endswith(b"\xfe"):
        data = b"\x12" + data[1:]  # its only text is the second field
    await _refuses_bytes(intact, path, data, method in ("Run", "Watch"))


@pytest.mark.parametrize(
    "path",
    [f"/google.longrunning.Operations/{m}Operation" for m in ("Get", "Cancel", "Delete", "Wait")]
    + ["/google.longrunning.Operations/ListOperations", "/lab.v1.LabService/Play", "/lab.v1.LabService/PlayByRules"]
    + ["/grpc.health.v1.Health/Check"],
)
async def test_bytes_that_are_no_request_elsewhere(intact: Lab, path: str) -> None:
    await _refuses_bytes(intact, path, b"\x0a\xff", False)


@pytest.mark.parametrize("path", ["/lab.v1.LabService/PlayAndWatch", "/lab.v1.LabService/PlayLive"])
async def test_bytes_that_are_no_request_of_a_typed_stream(intact: Lab, path: str) -> None:
    await _refuses_bytes(intact, path, b"\x12\x02\xff\xfe", True)


async def test_bytes_that_are_no_request_to_watch_health(intact: Lab) -> None:
    await _refuses_bytes(intact, "/grpc.health.v1.Health/Watch", b"\x0a\xff", True)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_bytes_that_are_no_request_of_reflection_end_it_after_the_answers_before(
    intact: Lab, version: str
) -> None:
    channel: Any = intact.channel
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    answers = call(iter([b"\x3a\x00", b"\x0a\xff"]))
    assert b"lab.v1.LabService" in await answers.read()
    code, reason, _ = await refused(answers.read())
    assert (code, reason) == (INVALID, "MALFORMED_REQUEST")


async def _refuses_bytes(lab: Lab, path: str, data: bytes, streams: bool) -> None:
    channel: Any = lab.channel
    call = channel.unary_stream(path)(data).read() if streams else channel.unary_unary(path)(data)
    code, reason, _ = await refused(call)
    assert (code, reason) == (INVALID, "MALFORMED_REQUEST")


async def test_an_input_that_is_too_large(intact: Lab) -> None:
    big = lab_pb2.PlayRequest(payload=bytes(4 * 1024 * 1024))
    limit = 0
    for call in (intact.operations.Start(start(input=pack(big))), intact.lab.Play(big)):
        code, reason, status = await refused(call)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE")
        limit = int(detail(status, error_details_pb2.ErrorInfo).metadata["limit"])
        assert limit == 1_000_000
    over = lab_pb2.PlayRequest(payload=bytes(limit - 3))
    assert over.ByteSize() == limit + 1
    _, reason, _ = await refused(intact.lab.Play(over))
    assert reason == "INPUT_TOO_LARGE"


async def test_what_is_too_large_is_not_even_read(intact: Lab) -> None:
    # Ten million bytes may hold a million messages, and nobody else is served while these are made.
    malformed = b"\xff" * 1_000_001
    channel: Any = intact.channel
    packed = AnyMessage(type_url=f"{URL}lab.v1.PlayRequest", value=malformed)
    for call in (
        channel.unary_unary("/lab.v1.LabService/Play")(malformed),
        channel.unary_stream("/lab.v1.LabService/PlayAndWatch")(malformed).read(),
        intact.operations.Start(start(input=packed)),
        intact.operations.Run(pb.RunRequest(type=PLAY, input=packed)).read(),
    ):
        assert (await refused(call))[1] == "INPUT_TOO_LARGE"


async def test_the_largest_input_is_taken(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=len(request.payload))

    largest = lab_pb2.PlayRequest(payload=bytes(1_000_000 - 4))
    assert largest.ByteSize() == 1_000_000
    snapshot = await lab.end((await lab.begin(request=largest)).operation.name)
    assert result_of(snapshot).number == len(largest.payload)


async def test_a_message_beyond_what_the_transport_takes(intact: Lab) -> None:
    """gRPC itself refuses this one, before any code of ours could add details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await intact.lab.Play(lab_pb2.PlayRequest(payload=bytes(14 * 1024 * 1024)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata() or ())


METADATA: dict[str, tuple[list[tuple[str, str]], str]] = {
    "a wait without a unit": ([("longshore-wait", "30")], "longshore-wait"),
    "a wait that is negative": ([("longshore-wait", "-1s")], "longshore-wait"),
    "a wait that is no number": ([("longshore-wait", "soon")], "longshore-wait"),
    "an empty wait": ([("longshore-wait", "")], "longshore-wait"),
    "a wait with other digits": ([("longshore-wait", "1.1234567s")], "longshore-wait"),
    "a request id that is too long": ([("longshore-request-id", "r" * 129)], "request_id"),
    "an empty label": ([("longshore-label-", "v")], "labels['']"),
    "a label that begins with a digit": ([("longshore-label-1", "v")], "labels['1']"),
    "a label given twice": ([("longshore-label-a", "1"), ("longshore-label-a", "2")], "longshore-label-a"),
    "labels of 5000 bytes": ([("longshore-label-a", "v" * 5000)], "labels"),
}


@pytest.mark.parametrize("case", METADATA)
@pytest.mark.parametrize("method", ["Play", "PlayAndWatch"])
async def test_bad_metadata_on_a_typed_call(intact: Lab, method: str, case: str) -> None:
    metadata, field = METADATA[case]
    call = getattr(intact.lab, method)(lab_pb2.PlayRequest(), metadata=metadata)
    code, reason, status = await refused(call if method == "Play" else call.read())
    assert (code, reason) == (INVALID, "INVALID_ARGUMENT")
    assert fields_of(status) == [field]


async def test_a_start_while_the_server_drains(lab: Lab) -> None:
    before = lab.tables()
    lab.engine.drain()
    calls: list[Any] = [lab.operations.Start(start()), lab.lab.Play(lab_pb2.PlayRequest())]
    calls += [lab.operations.Run(pb.RunRequest(type=PLAY)).read()]
    calls += [lab.lab.PlayAndWatch(lab_pb2.PlayRequest()).read(), lab.operations.Start(named("new"))]
    for call in calls:
        code, reason, status = await refused(call)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert retry_after(status) > 0
    assert lab.tables() == before
    await lab.restart(crash=False)
    snapshot = await lab.end((await lab.begin()).operation.name)
    assert snapshot.state == State.STATE_COMPLETED


async def test_a_burst_of_5000_starts_loses_none(make_lab: Any) -> None:
    lab = await make_lab(concurrency=100, queue=1000)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult(number=request.count)

    async def one(number: int) -> str | None:
        try:
            return str((await lab.begin(count=number)).operation.name)
        except grpc.aio.AioRpcError as error:
            code, reason, status = await refused(_raise(error))
            assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_OPERATIONS")
            assert retry_after(status) > 0
            return None

    names = await asyncio.gather(*(one(n) for n in range(5000)))
    gate.set()
    started = [name for name in names if name is not None]
    assert len(started) == 1100
    assert len(set(started)) == len(started)
    for number, name in enumerate(names):
        if name is not None:
            assert result_of(await lab.end(name)).number == number
    assert len(lab.tables()["operations"]) == len(started)


async def _raise(error: Exception) -> None:
    raise error
