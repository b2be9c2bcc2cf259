"""What the table of gates cannot say: what a caller learns, what is written, whose a name is, and when a watch ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from gates.v1 import gates_pb2, gates_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Authenticator, ConfigError, Credentials, Principal, unauthenticated
from longshore_server.auth.identity import LOCAL
from longshore_server.errors import ServiceError
from longshore_server.rpc.authorization import PROVIDER, Authorization
from tests.conftest import State, refused
from tests.server.auth.conftest import ALL, Guarded, Metadata, start

Make = Callable[..., Awaitable[Guarded]]
UNAUTHENTICATED, NOT_FOUND = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND


async def known(guarded: Guarded, *callers: tuple[str, ...]) -> list[Metadata]:
    """What callers send, each a principal and its capabilities."""
    found = [guarded.token(*caller) for caller in callers]
    await guarded.learn()
    return found


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


# When credentials end.

LONG = Duration(seconds=3000)


def run(guarded: Guarded, name: str, sent: Metadata) -> Any:
    request = start("Open")
    return guarded.operations.Run(pb.RunRequest(type=request.type, input=request.input), metadata=sent)


def start_and_wait(guarded: Guarded, name: str, sent: Metadata) -> Any:
    request = start("Open")
    request.wait.CopyFrom(LONG)
    return guarded.operations.Start(request, metadata=sent)


WAITS: dict[str, Callable[[Guarded, str, Metadata], Any]] = {
    "Run": run,
    "Watch": lambda guarded, name, sent: guarded.operations.Watch(
        pb.WatchRequest(name=name, heartbeat_interval=Duration(seconds=300)), metadata=sent
    ),
    "a filtered Watch": lambda guarded, name, sent: guarded.operations.Watch(
        pb.WatchRequest(name=name, event_types=[operation_pb2.EVENT_TYPE_OUTPUT], conflate=True), metadata=sent
    ),
    "Wait": lambda guarded, name, sent: guarded.operations.Wait(pb.WaitRequest(name=name), metadata=sent),
    "a Wait of its own time": lambda guarded, name, sent: guarded.operations.Wait(
        pb.WaitRequest(name=name, timeout=LONG), metadata=sent
    ),
    "Start with wait": start_and_wait,
    "WaitOperation": lambda guarded, name, sent: operations_pb2_grpc.OperationsStub(guarded.channel).WaitOperation(
        operations_pb2.WaitOperationRequest(name=name, timeout=LONG), metadata=sent
    ),
    "the typed RPC with longshore-wait": lambda guarded, name, sent: gates_pb2_grpc.GatesServiceStub(
        guarded.channel
    ).Open(gates_pb2.GatesRequest(), metadata=(*sent, ("longshore-wait", "50m"))),
    "the typed stream": lambda guarded, name, sent: gates_pb2_grpc.GatesServiceStub(guarded.channel).OpenAndWatch(
        gates_pb2.GatesRequest(), metadata=sent
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WAITS)
async def test_a_watch_ends_with_the_credentials_that_opened_it(kind: str, guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL)
    short = guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    call = WAITS[kind](guarded, operation.name, short)

    async def follow() -> Any:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            return [message async for message in call]
        return await call

    following = asyncio.ensure_future(follow())
    # A heartbeat of 15 s comes six times before the end at 90 + 10 s.
    beats = 6 if kind in ("Run", "the typed stream", "a filtered Watch") else 0
    for _ in range(beats):
        await guarded.clock.armed(15)
        guarded.clock.advance(15)
    await guarded.clock.armed(10 if beats else 100)
    guarded.clock.advance((10 if beats else 100) - 0.001)
    assert not following.done()
    guarded.clock.advance(0.001)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await following
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "The credentials have expired: call again with new ones."
    assert (await guarded.get(operation.name, ada)).state == State.STATE_RUNNING, "the operation goes on"


def health_watch(guarded: Guarded, sent: Metadata) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), metadata=sent)


STREAMS: dict[str, Callable[[Guarded, str, Metadata], Any]] = {
    "Run": WAITS["Run"],
    "Watch": lambda guarded, name, sent: guarded.operations.Watch(pb.WatchRequest(name=name), metadata=sent),
    "the typed stream": WAITS["the typed stream"],
    "Health.Watch": lambda guarded, name, sent: health_watch(guarded, sent),
}


async def refused_stream(call: Any) -> tuple[str, str]:
    """What ends a stream: its code, and the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_stream_of_a_revoked_token_ends_by_the_next_heartbeat(kind: str, make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated")
    ada = guarded.token("ada", *ALL)
    kept = guarded.tokens.read_bytes()
    bob = guarded.token("bob", *ALL)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    # Several wake at the same moment: those that do not look themselves go by what the one finds that does.
    calls = [STREAMS[kind](guarded, operation.name, sent) for sent in (ada, bob, bob)]
    following = [asyncio.ensure_future(refused_stream(call)) for call in calls]
    await guarded.clock.armed(15, 3)
    guarded.clock.advance(15)
    await guarded.clock.armed(15, 3)
    assert not any(future.done() for future in following), "nothing has changed"
    guarded.tokens.write_bytes(kept)
    guarded.clock.advance(15)
    message = "The token is not known here: it was revoked, or is another server's."
    assert await asyncio.gather(*following[1:]) == [("UNAUTHENTICATED", message)] * 2
    await guarded.clock.armed(15)
    assert not following[0].done(), "who is still known goes on"
    calls[0].cancel()
    await asyncio.wait(following)


async def test_a_busy_stream_of_a_revoked_token_ends_without_a_silence(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada", *ALL))
    more = asyncio.Event()

    async def handler(request: Any, op: Any) -> Any:
        await more.wait()
        await op.progress(gates_pb2.GatesProgress(text="secret"))
        return gates_pb2.GatesResult(text="secret")

    guarded.handlers.handler = handler
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name), metadata=ada)
    following = asyncio.ensure_future(refused_stream(watch))
    await guarded.clock.armed(15)
    guarded.tokens.write_text("")
    guarded.clock.advance(1)
    more.set()
    assert (await following)[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize("change", [("eve", *ALL), ("ada", "gates.start")])
async def test_a_stream_ends_when_its_token_means_less(change: tuple[str, ...], guarded: Guarded) -> None:
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    operation = await guarded.begin("Open", ada)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name), metadata=ada)
    following = asyncio.ensure_future(refused_stream(watch))
    await guarded.clock.armed(15)
    name, *capabilities = change
    said = guarded.tokens.read_text().replace('"ada"', f'"{name}"')
    guarded.tokens.write_text(re.sub(r"capabilities = .*", f"capabilities = {capabilities}", said))
    guarded.clock.advance(15)
    assert await following == ("UNAUTHENTICATED", "The credentials stand for somebody else, or for less, than before.")


async def test_a_watch_of_health_ends_with_the_credentials_that_opened_it(make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated")
    short = guarded.token("ada", seconds=10)
    await guarded.learn()
    watch = health_watch(guarded, short)
    await watch.read()
    await guarded.clock.armed(10)
    guarded.clock.advance(10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "The credentials have expired: call again with new ones."


async def test_a_watch_of_health_that_anyone_may_have_needs_no_timer(guarded: Guarded) -> None:
    before = guarded.clock.pending
    watch = health_watch(guarded, ())
    await watch.read()
    assert guarded.clock.pending == before
    watch.cancel()


async def test_credentials_that_last_longer_than_the_operation_change_nothing(guarded: Guarded) -> None:
    short = guarded.token("ada", *ALL, seconds=100)
    await guarded.learn()
    operation = await guarded.begin("Open", short, done=True)
    watch = guarded.operations.Watch(pb.WatchRequest(name=operation.name, after_sequence=0), metadata=short)
    assert [message.event.WhichOneof("event") async for message in watch][-1] == "completed"


# The services that tools expect.


async def check(guarded: Guarded, sent: Metadata = ()) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    return await stub.Check(health_pb2.HealthCheckRequest(), metadata=sent)


async def reflect(guarded: Guarded, sent: Metadata = (), version: str = "v1") -> bytes:
    call: Any = guarded.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    async for answer in call(iter([b"\x3a\x00"]), metadata=sent):
        return bytes(answer)
    raise AssertionError("no answer")


async def test_health_is_anyones_and_reflection_is_for_who_is_known(guarded: Guarded) -> None:
    (ada,) = await known(guarded, ("ada",))
    assert (await check(guarded)).status == health_pb2.HealthCheckResponse.SERVING
    for version in ("v1", "v1alpha"):
        assert (await refused(reflect(guarded, version=version)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
        assert b"gates.v1.GatesService" in await reflect(guarded, ada, version)


async def test_both_can_be_had_otherwise(make_guarded: Make) -> None:
    guarded = await make_guarded(health="authenticated", reflection="anyone")
    (ada,) = await known(guarded, ("ada",))
    assert (await refused(check(guarded)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert (await check(guarded, ada)).status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = health_pb2_grpc.HealthStub(guarded.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(watch.__aiter__())
    assert caught.value.code() is UNAUTHENTICATED
    assert b"gates.v1.GatesService" in await reflect(guarded)
    off = await make_guarded(reflection="off")
    (bob,) = await known(off, ("bob",))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reflect(off, bob)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_authentication_everyone_may_everything(make_guarded: Make) -> None:
    guarded = await make_guarded(tokens=False)
    assert b"gates.v1.GatesService" in await reflect(guarded)
    for type in ("Gated", "Own", "Bare", "Both"):
        operation = await guarded.begin(type, ())
        assert (await guarded.operations.Cancel(pb.CancelRequest(name=operation.name))).cancel_request_time.seconds


# Authenticators.


class Fixed(Authenticator):
    """Knows one word."""

    def __init__(self, word: str, name: str) -> None:
        self.word, self.name, self.asked, self.changed = word, name, 0, False

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        self.asked += 1
        if credentials.authorization == "wrong":
            raise unauthenticated(f"{self.name} says no.")
        return Principal(self.name, frozenset(ALL), method="word") if credentials.authorization == self.word else None

    async def refresh(self, *, force: bool) -> bool:
        return self.changed or force


async def test_authenticators_are_asked_in_order_and_remembered(make_guarded: Make) -> None:
    first, second = Fixed("a", "first"), Fixed("b", "second")
    guarded = await make_guarded(authenticators=[first, second])
    (ada,) = await known(guarded, ("ada", *ALL))

    async def owner(sent: Metadata) -> str:
        return (await guarded.begin("Open", sent)).owner

    a, b, c = ((("authorization", word),) for word in "abc")
    assert [await owner(sent) for sent in (a, b, ada, a, b, ada)] == ["first", "second", "ada"] * 2
    assert (first.asked, second.asked) == (3, 2), "the files come last, and each is asked once"
    assert (await refused(owner(c)))[:2] == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    _, _, status = await refused(owner((("authorization", "wrong"),)))
    assert status.message == "first says no."
    first.changed = True
    guarded.clock.advance(1)
    before = second.asked
    assert await owner(b) == "second"
    assert second.asked == before + 1, "what was remembered is asked again once somebody has changed"


async def test_an_authenticator_that_breaks_is_an_error_and_not_a_way_in(make_guarded: Make) -> None:
    class Broken(Authenticator):
        async def authenticate(self, credentials: Credentials) -> Principal | None:
            raise RuntimeError("secret")

    guarded = await make_guarded(authenticators=[Broken()])
    code, reason, status = await refused(guarded.begin("Open", (("authorization", "x"),)))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in status.message


# Where it listens.


async def test_only_an_authenticated_server_listens_beyond_this_machine(make_guarded: Make) -> None:
    with pytest.raises(ConfigError, match=r"^listen: 0\.0\.0\.0:0 can be reached from other machines and nobody has"):
        await make_guarded(tokens=False, listen=("0.0.0.0:0",))
    for settings in ({}, {"tokens": False, "allow_unauthenticated": True}):
        guarded = await make_guarded(listen=("0.0.0.0:0",), **settings)
        assert guarded.harness.address.startswith("0.0.0.0:")
    with pytest.raises(ConfigError, match=r"^allow_unauthenticated: authentication is configured"):
        await make_guarded(allow_unauthenticated=True)


async def test_a_wrong_file_of_tokens_refuses_the_start(make_guarded: Make, tmp_path: Any) -> None:
    (tmp_path / "t.toml").write_text("[[token]]")
    with pytest.raises(ConfigError, match=r"^tokens: .*t\.toml: token\[0\]\.id: it is missing$"):
        await make_guarded(tokens=tmp_path / "t.toml")


# The provider.


async def test_only_the_provider_passes_the_providers_gate(guarded: Guarded) -> None:
    gate = Authorization(guarded.harness.running.engine)
    gate.check_provider(Principal("p", frozenset({PROVIDER})))
    gate.check_provider(LOCAL)
    with pytest.raises(ServiceError) as caught:
        gate.check_provider(Principal("p", frozenset(ALL)))
    assert caught.value.reason.name == "CAPABILITY_MISSING"
    assert caught.value.metadata == {"capability": "longshore.provider"}
