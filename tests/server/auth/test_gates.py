"""Every RPC of every service, crossed with every kind of caller and every way in which a contract says who may.

The table says what must come out. The row of an RPC that is not served yet fails, once it is.
"""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1 import operations_service_pb2 as pb
from tests.answers import refusals
from tests.conftest import detail, reason_of, status_of
from tests.server.auth.conftest import ALL, Guarded, Metadata
from tests.server.auth.table import (
    CALLERS,
    LRO,
    OK,
    PATHS,
    REFLECTION,
    ROWS,
    TYPES,
    Answer,
    Caller,
    passes,
    types_of,
    wanted,
)


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
        async with refusals(call):
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


@pytest.mark.parametrize("path", PATHS)
async def test_every_caller_at_every_door(path: str, crossed: Guarded) -> None:
    owner = crossed.token("owner", *ALL)

    count = itertools.count()

    async def existing(type: str, *, live: bool, about: str = "operation") -> str:
        operation = await crossed.begin(type, owner, key=f"existing-{next(count)}", done=not live)
        if not live:
            await crossed.operations.Wait(pb.WaitRequest(name=operation.name), metadata=owner)
        if about == "operation":
            return f"operations/{operation.uid}"
        return await (crossed.offer(operation, 1) if about == "download" else crossed.take(operation))

    wrong, seen = [], set()
    for row in ROWS[path]:
        for type in types_of(path, row):
            name = await existing(type, live=row.live, about=row.about) if row.exists or row.provider else ""
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


async def test_the_table_has_every_service_that_the_server_tells_of(crossed: Guarded) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = calling(crossed, f"/grpc.reflection.v1.{REFLECTION}", request, crossed.token("other"))
    answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
    told = {service.name for service in answer.list_services_response.service}
    assert told == {path.split("/")[1] for path in PATHS}


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
