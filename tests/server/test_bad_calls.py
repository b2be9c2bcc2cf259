"""What reads, watches and cancels may not carry, and what happens to calls that nobody serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.rpc.listing import Query
from longshore_server.rpc.paging import make_token
from tests.conftest import Lab, State, detail, fields_of, refused

C = grpc.StatusCode
UNKNOWN = "operations/01890000-0000-7000-8000-000000000000"
NAME = "operations/named-known"


@pytest.fixture
async def intact(lab: Lab) -> AsyncIterator[Lab]:
    """A laboratory with one ended operation; after the test its tables must be as they were, and it must work."""
    await lab.end((await lab.begin("PlayNamed", key="known")).operation.name)
    before = lab.tables()
    yield lab
    assert lab.tables() == before
    snapshot = await lab.end((await lab.begin()).operation.name)
    assert snapshot.state == State.STATE_COMPLETED


def by_name(lab: Lab, name: str) -> dict[str, Any]:
    """Every call that takes an operation's name."""
    stub: Any = lro_grpc.OperationsStub(lab.channel)
    return {
        "Get": lab.operations.Get(pb.GetRequest(name=name)),
        "Wait": lab.operations.Wait(pb.WaitRequest(name=name)),
        "Watch": lab.operations.Watch(pb.WatchRequest(name=name)).read(),
        "Cancel": lab.operations.Cancel(pb.CancelRequest(name=name)),
        "GetOperation": stub.GetOperation(lro.GetOperationRequest(name=name)),
        "WaitOperation": stub.WaitOperation(lro.WaitOperationRequest(name=name)),
        "CancelOperation": stub.CancelOperation(lro.CancelOperationRequest(name=name)),
        "DeleteOperation": stub.DeleteOperation(lro.DeleteOperationRequest(name=name)),
    }


BAD_NAMES = {
    "empty": "",
    "no collection": "named-known",
    "another collection": "jobs/named-known",
    "an empty id": "operations/",
    "two slashes": "operations/a/b",
    "a trailing slash": "operations/named-known/",
    "a leading slash": "/operations/named-known",
    "upper case": "Operations/named-known",
    "an id of 1025 characters": "operations/" + "x" * 1025,
    "a megabyte that is not ASCII": "界" * 350_000,
}


@pytest.mark.parametrize("case", BAD_NAMES)
async def test_a_name_of_another_form(intact: Lab, case: str) -> None:
    for method, call in by_name(intact, BAD_NAMES[case]).items():
        code, reason, status = await refused(call)
        assert (code, reason) == (C.INVALID_ARGUMENT, "INVALID_NAME"), method
        assert fields_of(status) == ["name"]


NOT_THERE = {
    "an unknown uid": UNKNOWN,
    "an unknown name": "operations/named-unknown",
    "a name with a NUL": "operations/named-known\0",
    "a name with a wildcard": "operations/named-%",
    "a name with a quote": "operations/named-known' OR '1'='1",
    "a uid in upper case": UNKNOWN.upper().replace("OPERATIONS", "operations").replace("7000", "7ABC"),
    "a long name that is not ASCII": "operations/" + "界" * 1000,
}


@pytest.mark.parametrize("case", NOT_THERE)
async def test_an_unknown_name(intact: Lab, case: str) -> None:
    name = NOT_THERE[case]
    for method, call in by_name(intact, name).items():
        code, reason, status = await refused(call)
        assert (code, reason) == (C.NOT_FOUND, "OPERATION_NOT_FOUND"), method
        about = detail(status, error_details_pb2.ResourceInfo)
        assert about.resource_type == "longshore.v1.Operation"
        assert name.startswith(about.resource_name.rstrip("…"))


CALLS: dict[str, tuple[Callable[[Lab], Any], grpc.StatusCode, str, list[str]]] = {
    "resume beyond the end": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, after_sequence=4)).read(),
        C.OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE", [],
    ),
    "resume at the end of all numbers": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, after_sequence=2**63 - 1)).read(),
        C.OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE", [],
    ),
    "resume before the beginning": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, after_sequence=-1)).read(),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["after_sequence"],
    ),
    "another operation's uid": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, uid=UNKNOWN[11:])).read(),
        C.FAILED_PRECONDITION, "UID_MISMATCH", [],
    ),
    "a uid that is none": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, uid="界" * 5000)).read(),
        C.FAILED_PRECONDITION, "UID_MISMATCH", [],
    ),
    "an unspecified event type": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, event_types=[3, 0])).read(),  # type: ignore[list-item]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["event_types[1]"],
    ),
    "an event type that does not exist": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, event_types=[99])).read(),  # type: ignore[list-item]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["event_types[0]"],
    ),
    "more event types than there could be": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, event_types=[3] * 65)).read(),  # type: ignore[list-item]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["event_types"],
    ),
    "a heartbeat below a second": (
        lambda lab: lab.operations.Watch(
            pb.WatchRequest(name=NAME, heartbeat_interval=Duration(nanos=999_999_000))
        ).read(),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["heartbeat_interval"],
    ),
    "a heartbeat above five minutes": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, heartbeat_interval=Duration(seconds=301))).read(),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["heartbeat_interval"],
    ),
    "a negative heartbeat": (
        lambda lab: lab.operations.Watch(pb.WatchRequest(name=NAME, heartbeat_interval=Duration(seconds=-1))).read(),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["heartbeat_interval"],
    ),
    "a run with a bad heartbeat": (
        lambda lab: lab.operations.Run(pb.RunRequest(type=Lab.TYPE, heartbeat_interval=Duration())).read(),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["heartbeat_interval"],
    ),
    "a run with a bad event type": (
        lambda lab: lab.operations.Run(pb.RunRequest(type=Lab.TYPE, event_types=[0])).read(),  # type: ignore[list-item]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["event_types[0]"],
    ),
    "a run with too many event types": (
        lambda lab: lab.operations.Run(pb.RunRequest(type=Lab.TYPE, event_types=[3] * 65)).read(),  # type: ignore[list-item]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["event_types"],
    ),
    "a negative wait": (
        lambda lab: lab.operations.Wait(pb.WaitRequest(name=NAME, timeout=Duration(seconds=-1))),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["timeout"],
    ),
    "a view that does not exist": (
        lambda lab: lab.operations.Get(pb.GetRequest(name=NAME, view=7)),  # type: ignore[arg-type]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["view"],
    ),
    "a list with a view that does not exist": (
        lambda lab: lab.operations.List(pb.ListRequest(view=7)),  # type: ignore[arg-type]
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["view"],
    ),
    "a cancel reason of 1025 bytes": (
        lambda lab: lab.operations.Cancel(pb.CancelRequest(name=NAME, reason="ü" * 513)),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["reason"],
    ),
    "a negative page size": (
        lambda lab: lab.operations.List(pb.ListRequest(page_size=-1)),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["page_size"],
    ),
    "a page token of nowhere": (
        lambda lab: lab.operations.List(pb.ListRequest(page_token="bm93aGVyZQ==")),
        C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", ["page_token"],
    ),
    "a page token that is no base64": (
        lambda lab: lab.operations.List(pb.ListRequest(page_token="ü!")),
        C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", ["page_token"],
    ),
    "types with a negative page size": (
        lambda lab: lab.operations.ListTypes(pb.ListTypesRequest(page_size=-1)),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["page_size"],
    ),
    "types with a foreign page token": (
        lambda lab: lab.operations.ListTypes(pb.ListTypesRequest(page_token="x")),
        C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", ["page_token"],
    ),
    "a type that is not served": (
        lambda lab: lab.operations.GetType(pb.GetTypeRequest(type="no.such.Service/Play")),
        C.NOT_FOUND, "TYPE_NOT_FOUND", [],
    ),
    "operations of another collection": (
        lambda lab: lro_grpc.OperationsStub(lab.channel).ListOperations(lro.ListOperationsRequest(name="projects/x")),
        C.INVALID_ARGUMENT, "INVALID_NAME", ["name"],
    ),
    "operations with a negative page size": (
        lambda lab: lro_grpc.OperationsStub(lab.channel).ListOperations(lro.ListOperationsRequest(page_size=-1)),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["page_size"],
    ),
    "a negative wait of a stock client": (
        lambda lab: lro_grpc.OperationsStub(lab.channel).WaitOperation(
            lro.WaitOperationRequest(name=NAME, timeout=Duration(seconds=-1))
        ),
        C.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["timeout"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
async def test_a_call_is_refused(intact: Lab, case: str) -> None:
    call, code, reason, fields = CALLS[case]
    found_code, found_reason, status = await refused(call(intact))
    assert (found_code, found_reason) == (code, reason)
    if fields:
        assert fields_of(status) == fields
    if code is C.FAILED_PRECONDITION:
        failure = detail(status, error_details_pb2.PreconditionFailure)
        assert failure.violations[0].type == reason
    if reason == "TYPE_NOT_FOUND":
        assert detail(status, error_details_pb2.ResourceInfo).resource_type == "longshore.v1.OperationType"


FILTERS = {
    "an unknown field": "caller=me",
    "an owner compared by order": "owner<me",
    "a reason compared by has": "reason:*",
    "an unknown state": "state=ASLEEP",
    "a state in lower case": "state=running",
    "a state compared by order": "state>RUNNING",
    "a type compared by order": 'type<"a"',
    "a time that is none": "create_time>yesterday",
    "a time compared by has": 'create_time:"2026-01-01"',
    "a label without a key": "labels.=x",
    "a label with a bad key": "labels.A=x",
    "OR": "state=RUNNING OR state=PENDING",
    "NOT": "NOT state=RUNNING",
    "parentheses": "(state=RUNNING)",
    "a comparison without a value": "state=",
    "a word alone": "RUNNING",
    "an AND too many": "state=RUNNING AND",
    "an AND first": "AND state=RUNNING",
    "two without AND": "state=RUNNING type=a",
    "a quote that does not end": 'type="a',
    "seventeen comparisons": " AND ".join(["state=RUNNING"] * 17),
    "4097 characters": "state=RUNNING" + " " * 4090 + "x",
    "four thousand characters that are not ASCII": "界" * 4000,
    "two operators": "state==RUNNING",
}


@pytest.mark.parametrize("case", FILTERS)
async def test_a_bad_filter(intact: Lab, case: str) -> None:
    calls: list[Any] = [intact.operations.List(pb.ListRequest(filter=FILTERS[case]))]
    stub: Any = lro_grpc.OperationsStub(intact.channel)
    calls.append(stub.ListOperations(lro.ListOperationsRequest(filter=FILTERS[case])))
    for call in calls:
        code, reason, status = await refused(call)
        assert (code, reason) == (C.INVALID_ARGUMENT, "INVALID_FILTER")
        assert fields_of(status) == ["filter"]


async def test_a_page_token_of_another_filter(intact: Lab) -> None:
    token = make_token(intact.engine.store.page_key, bytes(16), Query(""))
    await intact.operations.List(pb.ListRequest(page_token=token))  # good for the filter that it was made for
    code, reason, status = await refused(
        intact.operations.List(pb.ListRequest(page_token=token, filter="state=RUNNING"))
    )
    assert (code, reason) == (C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    changed = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    code, reason, _ = await refused(intact.operations.List(pb.ListRequest(page_token=changed)))
    assert (code, reason) == (C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize(
    "path",
    ["/no.such.Service/Method", "/lab.v1.LabService/NoSuch", "/longshore.v1.OperationsService/NoSuch", "/x", "//"],
)
async def test_a_method_that_nobody_serves_is_unimplemented(intact: Lab, path: str) -> None:
    call: Any = intact.channel.unary_unary(path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is C.UNIMPLEMENTED


async def test_a_refusal_says_nothing_of_the_inside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("the password is swordfish")

    monkeypatch.setattr(lab.engine, "find", broken)
    code, reason, status = await refused(lab.operations.Get(pb.GetRequest(name=NAME)))
    assert (code, reason) == (C.INTERNAL, "INTERNAL")
    assert "swordfish" not in str(status)


@pytest.mark.parametrize(
    "metadata",
    [
        [("longshore-reqest-id", "1")],
        [("longshore-request-id-bin", b"1")],
        [("longshore-request-id", "1"), ("longshore-request-id", "2")],
        [("longshore-wait", "1s"), ("longshore-wait", "1s")],
    ],
)
async def test_metadata_that_would_be_ignored_is_refused(lab: Lab, metadata: list[tuple[str, str | bytes]]) -> None:
    before = lab.tables()
    code, reason, status = await refused(lab.lab.Play(lab_pb2.PlayRequest(), metadata=metadata))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert metadata[0][0] in status.message
    assert lab.tables() == before
