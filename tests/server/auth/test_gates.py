"""Every RPC of every service, crossed with every kind of caller and every way in which a contract says who may.

What must come out is computed here from the contract's options, apart from the server's own reading of them. An RPC
that has no row fails; so does the row of one that is not served yet, once it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from gates.v1 import gates_pb2
from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1 import annotations_pb2, operation_control_service_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.rpc.authorization import PROVIDER
from tests.conftest import detail, reason_of, status_of
from tests.server.auth.conftest import ALL, Guarded, Metadata, start

GATES = gates_pb2.DESCRIPTOR.services_by_name["GatesService"]
SERVICES: list[Any] = [
    GATES,
    pb.DESCRIPTOR.services_by_name["OperationsService"],
    operation_control_service_pb2.DESCRIPTOR.services_by_name["OperationControlService"],
    operations_pb2.DESCRIPTOR.services_by_name["Operations"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
]
PATHS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


class Type(NamedTuple):
    """Who may do what, as the contract says it: what each gate asks for, None where there is none."""

    gates: dict[str, set[str] | None]
    owned: bool


def read(method: Any) -> Type:
    option = method.GetOptions().Extensions[annotations_pb2.operation]
    gates: dict[str, set[str] | None] = {
        name: set(getattr(option, name).all_of) if option.HasField(name) else None
        for name in ("call", "observe", "cancel", "control")
    }
    if gates["observe"] is None:
        gates["observe"] = gates["call"]
    return Type(gates, option.visibility == annotations_pb2.VISIBILITY_OWNER)


def twin_of(method: Any) -> str:
    return str(method.GetOptions().Extensions[annotations_pb2.operation].watches)


TYPES = {method.name: read(method) for method in GATES.methods if not twin_of(method)}


class Caller(NamedTuple):
    """Somebody who calls. `wrong`: what is wrong with the credentials."""

    name: str
    capabilities: tuple[str, ...] = ()
    wrong: str = ""


SUBSETS = [subset for size in range(len(ALL) + 1) for subset in itertools.combinations(ALL, size)]
CALLERS = [
    Caller("nobody", wrong="CREDENTIALS_MISSING"), Caller("broken", wrong="CREDENTIALS_INVALID"),
    Caller("twice", wrong="CREDENTIALS_INVALID"), Caller("expired", ALL, wrong="CREDENTIALS_EXPIRED"),
    *(Caller(name, subset) for name in ("owner", "other") for subset in [*SUBSETS, (PROVIDER,)]),
]  # fmt: skip

Answer = tuple[str, str, str]
"""Code, reason and gate; the last two empty where there is none."""
OK: Answer = ("OK", "", "")


def missing(gate: str) -> Answer:
    return "PERMISSION_DENIED", "CAPABILITY_MISSING", gate


def passes(caller: Caller, wanted: set[str] | None) -> bool:
    return wanted is not None and wanted <= set(caller.capabilities)


def expected(caller: Caller, type: Type, gates: tuple[str, ...], *, exists: bool) -> Answer:
    """What a call has to answer that goes through `gates`."""
    if caller.wrong:
        return "UNAUTHENTICATED", caller.wrong, ""
    if exists and not (passes(caller, type.gates["observe"]) and (not type.owned or caller.name == "owner")):
        return "NOT_FOUND", "OPERATION_NOT_FOUND", ""
    return next((missing(gate) for gate in gates if not passes(caller, type.gates[gate])), OK)


class Row(NamedTuple):
    """How one RPC is called, and the gates that it goes through.

    `request` gets the type and the operation that the owner has started; `exists`: it is about that one. `gates` None:
    everyone who is known passes. `live`: about one that has not ended. `provider`: through the provider's gate instead;
    whatever the operation itself refuses counts as OK. `open`: nobody need be known. `served`: False: UNIMPLEMENTED for
    everyone, so far.
    """

    request: Callable[[str, str], Any] = lambda type, name: None
    gates: tuple[str, ...] | None = None
    exists: bool = False
    live: bool = False
    provider: bool = False
    open: bool = False
    served: bool = True
    metadata: Metadata = ()


def named(message: Any, gate: str = "observe", **fields: Any) -> Row:
    return Row(lambda type, name: message(name=name, **fields), (gate,), exists=True)


def provided(path: str) -> Row:
    """An RPC of who drives operations from outside."""
    message = message_factory.GetMessageClass(PATHS[path].input_type)
    return Row(lambda type, name: message(name=name), provider=True, live=True)


def with_wait(type: str, name: str) -> pb.StartRequest:
    request = start(type, key="wait", done=True)
    request.wait.nanos = 1000
    return request


def run(type: str, name: str) -> pb.RunRequest:
    request = start(type, key="run")
    return pb.RunRequest(type=request.type, input=request.input)


OPERATIONS, LRO = "/longshore.v1.OperationsService/", "/google.longrunning.Operations/"
CONTROL = "/longshore.v1.OperationControlService/"
SOON = Duration(nanos=1000)
ROWS: dict[str, list[Row]] = {
    OPERATIONS + "Start": [
        Row(lambda type, name: start(type, key="start"), ("call",)), Row(with_wait, ("call", "observe"))
    ],
    OPERATIONS + "Run": [Row(run, ("call", "observe"))],
    OPERATIONS + "Get": [named(pb.GetRequest), named(pb.GetRequest, view=pb.OPERATION_VIEW_FULL)],
    OPERATIONS + "List": [Row(lambda type, name: pb.ListRequest())],
    OPERATIONS + "Wait": [named(pb.WaitRequest, timeout=SOON)],
    OPERATIONS + "Watch": [named(pb.WatchRequest), named(pb.WatchRequest, after_sequence=0)],
    OPERATIONS + "Cancel": [named(pb.CancelRequest, "cancel")],
    OPERATIONS + "Stop": [named(pb.StopRequest, "cancel")],
    OPERATIONS + "Signal": [named(pb.SignalRequest, "control", signal="poke")._replace(live=True)],
    OPERATIONS + "Retry": [named(pb.RetryRequest, "call")],
    OPERATIONS + "Delete": [named(pb.DeleteRequest, "cancel")],
    OPERATIONS + "Count": [Row(lambda type, name: pb.CountRequest())],
    OPERATIONS + "ListTypes": [Row(lambda type, name: pb.ListTypesRequest())],
    OPERATIONS + "GetType": [Row(lambda type, name: pb.GetTypeRequest(type=f"gates.v1.GatesService/{type}"))],
    **{path: [provided(path)] for path in PATHS if path.startswith(CONTROL)},
    LRO + "GetOperation": [named(operations_pb2.GetOperationRequest)],
    LRO + "ListOperations": [Row(lambda type, name: operations_pb2.ListOperationsRequest())],
    LRO + "WaitOperation": [named(operations_pb2.WaitOperationRequest, timeout=SOON)],
    LRO + "CancelOperation": [named(operations_pb2.CancelOperationRequest, "cancel")],
    LRO + "DeleteOperation": [named(operations_pb2.DeleteOperationRequest, "cancel")],
    "/grpc.health.v1.Health/Check": [Row(lambda type, name: health_pb2.HealthCheckRequest(), open=True)],
    "/grpc.health.v1.Health/Watch": [Row(lambda type, name: health_pb2.HealthCheckRequest(), open=True)],
    "/grpc.health.v1.Health/List": [Row(served=False)],
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": [
        Row(lambda type, name: reflection_pb2.ServerReflectionRequest(list_services=""))
    ],
}  # fmt: skip


def typed_rows(path: str) -> list[Row]:
    """The contract's own RPCs, each about one type."""
    method = PATHS[path]

    def request(type: str, name: str) -> Any:
        return gates_pb2.GatesRequest(key="typed", done=True)

    if twin_of(method):
        return [Row(request, ("call", "observe"))]
    return [Row(request, ("call",)), Row(request, ("call", "observe"), metadata=(("longshore-wait", "1ms"),))]


ROWS.update({path: typed_rows(path) for path in PATHS if path.startswith("/gates.v1.")})


def test_every_rpc_has_a_row() -> None:
    new = {"/grpc.health.v1.Health/List"}  # the lowest version that we run on does not know it
    assert ROWS.keys() - new == PATHS.keys() - new


def test_every_option_about_access_is_crossed() -> None:
    """Two of each: what a gate may be, and who sees what it lets through."""
    for gate in ("call", "observe", "cancel", "control"):
        found = [type.gates[gate] for type in TYPES.values()]
        assert set() in found, f"nobody lets everyone {gate}"
        assert any(found), gate
        assert any(wanted is not None and len(wanted) > 1 for wanted in found), gate
    assert any(type.gates["cancel"] is None for type in TYPES.values())
    assert {type.owned for type in TYPES.values()} == {True, False}


@pytest.fixture
async def crossed(guarded: Guarded) -> Guarded:
    """A server that knows every caller of the table."""
    for caller in CALLERS:
        metadata(guarded, caller)
    await guarded.learn()
    guarded.clock.advance(60)
    return guarded


def metadata(guarded: Guarded, caller: Caller) -> Metadata:
    match caller.wrong, caller.name:
        case "CREDENTIALS_MISSING", _:
            return ()
        case _, "broken":
            return (("authorization", f"Bearer longshore_00000000_{'A' * 43}"),)
        case _, "twice":
            return (*guarded.token("owner", *ALL), *guarded.token("owner", *ALL))
        case "CREDENTIALS_EXPIRED", _:
            return guarded.token("owner", *caller.capabilities, seconds=30)
    return guarded.token(caller.name, *caller.capabilities)


async def answer(call: Any) -> Answer:
    """How a call ends; a stream counts as OK with its first message."""
    try:
        if isinstance(call, (grpc.aio.UnaryStreamCall, grpc.aio.StreamStreamCall)):
            async for _ in call:
                call.cancel()
                return OK
            raise AssertionError("a stream ended without a message")
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return "UNIMPLEMENTED", "", ""
        status = status_of(error)
        info = detail(status, error_details_pb2.ErrorInfo)
        assert set(info.metadata) <= {"gate", "type", "capability"}, "and nothing about the caller"
        return error.code().name, reason_of(status), info.metadata.get("gate", "")
    return OK


def calling(guarded: Guarded, path: str, request: Any, sent: Metadata) -> Any:
    method = PATHS[path]
    message = message_factory.GetMessageClass(method.input_type)
    serialize = message.SerializeToString
    request = message() if request is None else request
    if method.client_streaming:
        return guarded.channel.stream_stream(path, request_serializer=serialize)(iter([request]), metadata=sent)
    make = guarded.channel.unary_stream if method.server_streaming else guarded.channel.unary_unary
    return make(path, request_serializer=serialize)(request, metadata=sent)


def types_of(path: str, row: Row) -> Iterator[str]:
    """The types that a row is crossed with."""
    if path.startswith("/gates.v1."):
        yield twin_of(PATHS[path]) or PATHS[path].name
    elif row.gates is None:
        yield "Open"
    else:
        yield from TYPES


def wanted(caller: Caller, row: Row, type: str) -> Answer:
    """What must come out."""
    if not row.served:
        return "UNIMPLEMENTED", "", ""
    if row.open:
        return OK
    if row.provider and not caller.wrong:
        return OK if PROVIDER in caller.capabilities else missing("")
    found = expected(caller, TYPES[type], row.gates or (), exists=row.exists)
    # Of the types with a template, the owner came first and has the name.
    taken = bool(row.gates) and not row.exists and type.endswith("Named") and caller.name == "other"
    if found == OK and taken and expected(caller, TYPES[type], (), exists=True) != OK:
        return "ALREADY_EXISTS", "NAME_IN_USE", ""
    return found


@pytest.mark.parametrize("path", PATHS)
async def test_every_caller_at_every_door(path: str, crossed: Guarded) -> None:
    owner = crossed.token("owner", *ALL)

    count = itertools.count()

    async def existing(type: str, *, live: bool) -> str:
        operation = await crossed.begin(type, owner, key=f"existing-{next(count)}", done=not live)
        if not live:
            await crossed.operations.Wait(pb.WaitRequest(name=operation.name), metadata=owner)
        return f"operations/{operation.uid}"

    wrong, seen = [], set()
    for row in ROWS[path]:
        for type in types_of(path, row):
            name = await existing(type, live=row.live) if row.exists or row.provider else ""
            for caller in CALLERS:
                sent = (*metadata(crossed, caller), *row.metadata)
                got, want = (
                    await answer(calling(crossed, path, row.request(type, name), sent)),
                    wanted(caller, row, type),
                )
                if row.provider and got[0] in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):
                    got = OK
                seen.add(want)
                if got != want:
                    wrong.append((type, caller, got, want))
                if path.endswith(("/Delete", "/DeleteOperation", "/Retry")) and got == OK:
                    name = await existing(type, live=False)
    assert not wrong, wrong[:10]
    if any(row.served and row.gates for row in ROWS[path]) and not path.startswith("/gates.v1.GatesService/Open"):
        assert OK in seen
        assert {code for code, _, _ in seen} > {"UNAUTHENTICATED", "OK"}, "somebody is refused for a capability"


async def test_an_unknown_method_is_unknown_to_everyone(crossed: Guarded) -> None:
    call: Any = crossed.channel.unary_unary("/gates.v1.GatesService/Nothing")
    assert await answer(call(b"")) == ("UNIMPLEMENTED", "", "")


@pytest.mark.parametrize("caller", [c for c in CALLERS if not c.wrong], ids=str)
async def test_a_list_holds_what_the_caller_may_see(caller: Caller, guarded: Guarded) -> None:
    owner, other = guarded.token("owner", *ALL), guarded.token("other", *ALL)
    sent = metadata(guarded, caller)
    await guarded.learn()
    visible = set()
    for name, type in TYPES.items():
        for who, starter in (("owner", owner), ("other", other)):
            begun = await guarded.begin(name, starter, key=who)
            if passes(caller, type.gates["observe"]) and (not type.owned or caller.name == who):
                visible.add(begun.name)
    found = await guarded.operations.List(pb.ListRequest(), metadata=sent)
    assert {operation.name for operation in found.operations} == visible
    counts = (await guarded.operations.Count(pb.CountRequest(), metadata=sent)).counts
    assert sum(entry.count for entry in counts) == len(visible)
    list_all = guarded.channel.unary_unary(
        LRO + "ListOperations", request_serializer=operations_pb2.ListOperationsRequest.SerializeToString,
        response_deserializer=operations_pb2.ListOperationsResponse.FromString,
    )  # fmt: skip
    listed, token = set(), ""
    for _ in range(40):
        answer = await list_all(operations_pb2.ListOperationsRequest(page_size=3, page_token=token), metadata=sent)
        listed |= {operation.name for operation in answer.operations}
        token = answer.next_page_token
        if not token:
            break
    assert listed == visible
    filtered = await guarded.operations.List(pb.ListRequest(filter='type="gates.v1.GatesService/Own"'), metadata=sent)
    own = {operation.name for operation in found.operations if operation.type.endswith("/Own")}
    assert {operation.name for operation in filtered.operations} == own
