"""What the table of gates cannot say: what a caller learns, what is written, and whose a name is."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import re
from typing import Any
from uuid import UUID

import grpc
import pytest
from gates.v1 import gates_pb2, gates_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.auth.identity import Principal
from longshore_server.rpc.authorization import Authorization
from longshore_server.store import pages
from longshore_server.store.mutations import Nothing
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import new_record
from tests.conftest import State, refused
from tests.server.auth.callers import NOT_FOUND, UNAUTHENTICATED, Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata, start


async def ended(guarded: Guarded, type: str, caller: Metadata, **fields: Any) -> operation_pb2.OperationSnapshot:
    begun = await guarded.begin(type, caller, done=True, **fields)
    return await guarded.operations.Wait(pb.WaitRequest(name=begun.name), metadata=caller)


# What a caller learns.


async def test_what_may_not_be_seen_is_refused_like_what_does_not_exist(guarded: Guarded) -> None:
    ada, eve = await known(guarded, ("ada", *ALL), ("eve", *ALL))
    hidden = await guarded.begin("Own", ada)
    missing = "operations/0199d2f0-0000-7000-8000-000000000000"
    for ask in (
        lambda name: guarded.get(name, eve),
        lambda name: guarded.operations.Cancel(pb.CancelRequest(name=name), metadata=eve),
        lambda name: guarded.operations.Wait(pb.WaitRequest(name=name), metadata=eve),
        lambda name: operations_pb2_grpc.OperationsStub(guarded.channel).DeleteOperation(
            operations_pb2.DeleteOperationRequest(name=name), metadata=eve
        ),
    ):
        _, _, found = await refused(ask(hidden.name))
        _, _, nothing = await refused(ask(missing))
        assert found.SerializeToString() == nothing.SerializeToString().replace(missing.encode(), hidden.name.encode())
    assert (await guarded.get(hidden.name, ada)).state == State.STATE_RUNNING


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("request_id", ["", "r"])
async def test_a_foreign_name_tells_nothing_and_nothing_is_written(
    over: bool, same: bool, request_id: str, guarded: Guarded
) -> None:
    ada, eve = await known(guarded, ("ada", *ALL), ("eve", *ALL))
    theirs = await ended(guarded, "OwnNamed", ada, key="a") if over else await guarded.begin("OwnNamed", ada, key="a")
    before = theirs if over else await guarded.get(theirs.name, ada)
    for call in (
        guarded.operations.Start(start("OwnNamed", request_id, key="a", done=over is same), metadata=eve),
        gates_pb2_grpc.GatesServiceStub(guarded.channel).OwnNamed(
            gates_pb2.GatesRequest(key="a", done=over is same),
            metadata=(*eve, *((("longshore-request-id", request_id),) if request_id else ())),
        ),
    ):
        code, reason, status = await refused(call)
        assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_IN_USE")
        assert status.message == "operations/own-a is taken: start another."
    assert (await guarded.get(theirs.name, ada)).uid == before.uid
    # The key was not used up: with another input it still starts something of its own.
    own = await guarded.begin("OwnNamed", eve, request_id=request_id, key="b")
    assert own.owner == "eve"


async def test_a_name_that_may_be_seen_is_shared(guarded: Guarded) -> None:
    ada, eve = await known(guarded, ("ada", *ALL), ("eve", *ALL))
    theirs = await ended(guarded, "Named", ada, key="a")
    found = await guarded.operations.Start(start("Named", "r", key="a", done=True), metadata=eve)
    assert found.disposition == pb.StartResponse.DISPOSITION_EXISTING
    assert (found.operation.uid, found.operation.owner) == (theirs.uid, "ada")
    # Once it may not be seen any more, the key that was bound to it tells nothing, either.
    (blind,) = await known(guarded, ("eve", "gates.start"))
    code, reason, _ = await refused(guarded.operations.Start(start("Named", "r", key="a", done=True), metadata=blind))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_IN_USE")


async def test_who_may_start_but_not_see_is_told_what_a_new_operation_would_tell(guarded: Guarded) -> None:
    ada, blind = await known(guarded, ("ada", *ALL), ("ada", "gates.start"))
    over = await ended(guarded, "Gated", ada, request_id="r")
    assert over.HasField("result")
    again = await guarded.operations.Start(start("Gated", "r", done=True), metadata=blind)
    told = again.operation
    assert again.disposition == pb.StartResponse.DISPOSITION_EXISTING
    assert (told.name, told.owner, told.request_id, told.create_time) == (
        over.name, "ada", "r", over.create_time,
    )  # fmt: skip
    assert told.update_time == over.create_time
    assert (told.state, told.sequence, told.revision, told.attempt) == (State.STATE_PENDING, 1, 1, 0)
    for field in ("result", "error", "progress", "start_time", "end_time"):
        assert not told.HasField(field)
    call = gates_pb2_grpc.GatesServiceStub(guarded.channel).Gated(
        gates_pb2.GatesRequest(done=True), metadata=(*blind, ("longshore-request-id", "r"))
    )
    operation = await call
    assert (operation.name, operation.done, operation.metadata.value) == (over.name, False, b"")
    sent = await call.initial_metadata()
    assert (sent["longshore-disposition"], sent["longshore-sequence"]) == ("existing", "1")


async def test_who_may_start_but_not_see_is_not_told_that_it_was_deferred(guarded: Guarded) -> None:
    (blind,) = await known(guarded, ("ada", "gates.start"))
    gone = asyncio.Event()

    async def handler(request: Any, op: Any) -> Any:
        try:
            return await op.defer()
        finally:
            gone.set()

    guarded.handlers.handler = handler
    started = await guarded.begin("Gated", blind, request_id="r")
    await gone.wait()
    engine = guarded.harness.running.engine
    for _ in range(2):
        await engine.store.writer.submit(Nothing())
    assert (await engine.find(started.name)).record.deferred
    assert await guarded.begin("Gated", blind, request_id="r") == started


async def test_what_a_start_does_not_say_is_as_in_a_new_operation(guarded: Guarded) -> None:
    """Over all fields, also those that are added later."""
    said: dict[str, Any] = {
        "uid": bytes(16), "id": "a", "type": "t", "created": 1, "deadline": 2, "labels": {"a": "b"}, "owner": "ada",
        "request_id": "r", "upload": object(),
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(OperationRecord)}
    record = OperationRecord(**{**{name: f"secret {name}" for name in names}, **said})
    shown = Authorization(guarded.harness.running.engine).shown(Principal("eve", frozenset()), record)
    new = new_record(**{**said, "parent": ""})
    assert {name: getattr(shown, name) for name in names} == {name: getattr(new, name) for name in names}
    assert "secret" not in repr(vars(shown))


async def test_who_may_start_but_not_see_is_told_of_its_upload_and_of_no_download(guarded: Guarded) -> None:
    (blind,) = await known(guarded, ("ada", "gates.start"))
    started = await guarded.begin("Gated", blind, request_id="r")
    upload = await guarded.take(started)
    await guarded.offer(started)
    told = await guarded.begin("Gated", blind, request_id="r")
    assert (told.name, told.upload.name) == (started.name, upload)
    assert not told.downloads


async def test_a_page_token_tells_nothing_of_what_may_not_be_seen(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page ends after so many operations that were looked at, its position is that of one of these."""
    monkeypatch.setattr(pages, "EXAMINED", 3)
    ada, bob = await known(guarded, ("ada", *ALL), ("bob", *ALL))
    mine = [(await guarded.begin("Own", ada, key="first")).name]
    for number in range(9):
        await guarded.begin("Own", bob, key=str(number))
    mine.append((await guarded.begin("Own", ada, key="last")).name)
    hidden = [UUID(o.uid).bytes for o in (await guarded.operations.List(pb.ListRequest(), metadata=bob)).operations]
    request, seen, tokens = pb.ListRequest(filter="type!=x"), [], []
    while True:
        page = await guarded.operations.List(request, metadata=ada)
        seen += [operation.name for operation in page.operations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        tokens.append(base64.urlsafe_b64decode(page.next_page_token))
    assert seen == mine[::-1]
    assert len(tokens) > 2
    for token in tokens:
        # Not even a part of one, such as its time.
        parts = {uid[at : at + 4] for uid in hidden for at in range(13)}
        assert not any(part in token for part in parts)
        for at in range(len(token)):
            request.page_token = base64.urlsafe_b64encode(
                token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
            ).decode()
            code, reason, _ = await refused(guarded.operations.List(request, metadata=ada))
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_refusal_names_the_gate_and_what_it_asks_for(guarded: Guarded) -> None:
    (caller,) = await known(guarded, ("ada", "gates.start", "gates.see", "other.secret"))
    operation = await guarded.begin("Gated", caller)
    _, _, status = await refused(guarded.operations.Cancel(pb.CancelRequest(name=operation.name), metadata=caller))
    assert status.message == (
        "gates.v1.GatesService/Gated lets only callers with gates.cancel cancel or delete its operations."
    )
    assert b"other.secret" not in status.SerializeToString()
    bare = await guarded.begin("Bare", caller)
    _, _, status = await refused(guarded.operations.Cancel(pb.CancelRequest(name=bare.name), metadata=caller))
    assert status.message == "gates.v1.GatesService/Bare lets no caller cancel or delete its operations."


async def test_an_operation_of_a_type_that_is_gone_is_nobodys(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", *ALL))
    over = await ended(guarded, "Open", ada)
    types = guarded.harness.running.engine.types
    gone = types.pop("gates.v1.GatesService/Open")
    assert (await refused(guarded.get(over.name, ada)))[0] is NOT_FOUND
    assert not (await guarded.operations.List(pb.ListRequest(), metadata=ada)).operations
    types[gone.name] = gone
    assert (await guarded.get(over.name, ada)).name == over.name


# Whose it is.


async def test_an_idempotency_key_is_its_principals_alone(guarded: Guarded) -> None:
    ada, ada2, bob = await known(guarded, ("ada", *ALL), ("ada", "gates.start", "gates.see"), ("bob", *ALL))
    first, again, other = [await guarded.begin("Open", caller, request_id="r") for caller in (ada, ada2, bob)]
    assert first.name == again.name != other.name
    assert (first.owner, other.owner) == ("ada", "bob")
    code, reason, _ = await refused(guarded.begin("Open", bob, request_id="r", done=True))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_handlers_know_the_caller_also_after_a_crash(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", "gates.start", "gates.see"))
    operation = await guarded.begin("Gated", ada)
    await guarded.restart()
    async for message in guarded.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=0), metadata=ada):
        if message.event.progress.HasField("value") and message.event.attempt == 2:
            break
    before, after = guarded.handlers.seen
    assert before == after
    assert (after.principal, after.capabilities) == ("ada", {"gates.start", "gates.see"})


async def test_handlers_know_what_their_caller_may_do_by_the_tokens_as_they_are_now(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", "gates.start", "gates.see"))
    await ended(guarded, "Gated", ada)
    said = guarded.tokens.read_text()
    guarded.tokens.write_text(re.sub(r"capabilities = .*", 'capabilities = ["gates.see", "gates.start", "more"]', said))
    guarded.clock.advance(1)
    await ended(guarded, "Gated", ada)
    before, after = guarded.handlers.seen
    assert (before.principal, before.capabilities) == ("ada", {"gates.see", "gates.start"})
    assert (after.principal, after.capabilities) == ("ada", {"gates.see", "gates.start", "more"})


async def test_what_a_handler_starts_belongs_to_its_caller(guarded: Guarded) -> None:
    async def parent(request: Any, op: Any) -> Any:
        guarded.handlers.seen.append(op.caller)
        if not request.key:
            child = await guarded.server.operations.start(
                "gates.v1.GatesService/Own", gates_pb2.GatesRequest(key="child", done=True)
            )
            await child.wait()
        return gates_pb2.GatesResult()

    guarded.handlers.handler = parent
    (ada,) = await known(guarded, ("ada", "gates.start", "gates.see"))
    await ended(guarded, "Gated", ada)
    found = await guarded.operations.List(pb.ListRequest(), metadata=ada)
    assert [operation.owner for operation in found.operations] == ["ada", "ada"]
    first, second = guarded.handlers.seen
    assert first == second
    assert second.capabilities == {"gates.start", "gates.see"}


async def test_what_was_started_without_authentication_is_nobodys_afterwards(make_guarded: Make) -> None:
    guarded = await make_guarded(tokens=False)
    local = await guarded.begin("Own", ())
    assert local.owner == "local"
    assert (await guarded.get(local.name, ())).name == local.name
    guarded.tokens.touch()
    await guarded.restart(tokens=guarded.tokens)
    (ada,) = await known(guarded, ("ada", *ALL))
    assert (await refused(guarded.get(local.name, ada)))[0] is NOT_FOUND
    assert (await refused(guarded.get(local.name, ())))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
