"""A call inside the process is the call over a connection: the same scenarios by both ways, and what callers see of
them compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from bytes.v1.bytes_pb2 import BytesRequest
from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1 import lab_longshore
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers
from tests.conftest import status_of, turns
from tests.server.testing_kit.worlds import WAYS, World
from tests.server.transfers import sender

PLAY = "lab.v1.LabService/Play"
NAMED = "lab.v1.LabService/PlayNamed"
GET = "/longshore.v1.OperationsService/Get"

Scenario = Callable[[World], Awaitable[Any]]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Decorator: what the function returns is the same by both ways."""
    SCENARIOS.append(function)
    return function


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each scenario is a test."""
    if "play" in metafunc.fixturenames:
        metafunc.parametrize("play", SCENARIOS, ids=[play.__name__ for play in SCENARIOS])


async def test_callers_see_the_same_by_both_ways(play: Scenario, tmp_path: Path) -> None:
    seen = []
    for way in WAYS:
        async with World(way, tmp_path / way).serve() as world:
            seen.append(await play(world))
    wire, process = seen
    assert process == wire
    assert wire, "a scenario that sees nothing compares nothing"


def packed(**fields: Any) -> AnyMessage:
    message = AnyMessage()
    message.Pack(PlayRequest(**fields))
    return message


def shown(metadata: Any) -> list[tuple[str, str | bytes]]:
    """What is ours of metadata, without what differs from run to run."""
    return [(k, v) for k, v in metadata if k.startswith("longshore-") and k != "longshore-uid"]


async def failure(call: Awaitable[Any]) -> Any:
    """Code, message, details and metadata of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailing = [(key, value) for key, value in error.trailing_metadata() or ()]
    status = status_of(error) if trailing else None
    return error.code(), error.details(), trailing, status, list(error.initial_metadata() or ())


async def gone(world: World) -> bool:
    """Return once the server has no stream open any more."""
    while world.harness.running.engine.watches.count:
        await turns()
    return True


async def read_to_end(call: Any) -> grpc.StatusCode:
    """Read a stream to its end, and tell how that was."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@scenario
async def a_start_and_its_end(world: World) -> Any:
    started = await world.operations.Start(pb.StartRequest(type=NAMED, input=packed(key="a"), labels={"of": "me"}))
    ended = await world.operations.Wait(pb.WaitRequest(name=started.operation.name))
    for snapshot in (started.operation, ended):
        snapshot.uid = ""
    return started, ended


@scenario
async def a_typed_start_with_metadata_both_ways(world: World) -> Any:
    metadata = (("longshore-request-id", "one"), ("longshore-label-of", "me"))
    first = world.lab.PlayNamed(PlayRequest(key="a"), metadata=metadata)
    answers = [await first]
    await world.operations.Wait(pb.WaitRequest(name=answers[0].name))
    again = world.lab.PlayNamed(PlayRequest(key="a"), metadata=metadata)
    answers.append(await again)
    assert all(isinstance(answer, operations_pb2.Operation) for answer in answers)
    told = [(shown(await call.initial_metadata()), list(await call.trailing_metadata())) for call in (first, again)]
    return [answer.name for answer in answers], told, await first.code(), await first.details(), first.done()


@scenario
async def a_refusal_with_its_details(world: World) -> Any:
    return [
        await failure(world.operations.Get(pb.GetRequest(name="operations/unknown"))),
        await failure(world.operations.Get(pb.GetRequest(name="nonsense"))),
        await failure(world.operations.Start(pb.StartRequest(type=PLAY), metadata=(("longshore-nonsense", "x"),))),
        await failure(world.operations.Start(pb.StartRequest(type="lab.v1.LabService/Nothing"))),
    ]


@scenario
async def a_refusal_of_a_stream(world: World) -> Any:
    call = world.operations.Watch(pb.WatchRequest(name="operations/unknown"))
    first = await failure(anext(aiter(call)))
    return first, await call.code(), await call.details(), call.done()


@scenario
async def bytes_that_are_no_request(world: World) -> Any:
    return await failure(world.channel.unary_unary(GET)(b"\xff\xff"))  # type: ignore[arg-type]


@scenario
async def a_method_that_nobody_serves(world: World) -> Any:
    code, _, *rest = await failure(world.channel.unary_unary("/nobody.Serves/This")(b""))  # type: ignore[arg-type]
    return code, rest


@scenario
async def metadata_that_no_connection_carries(world: World) -> Any:
    seen = []
    for pair in (("Upper", "case"), ("no-bin", b"bytes")):
        try:
            await world.operations.Get(pb.GetRequest(name="operations/x"), metadata=(pair,))
        except Exception as error:  # noqa: BLE001 - gRPC's own has no public name
            seen.append(isinstance(error, grpc.aio.AioRpcError))
    return seen


@scenario
async def a_stream_to_its_end(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        for number in range(3):
            await op.progress(PlayProgress(text=str(number)))
        return PlayResult(text="done")

    run = world.operations.Run(pb.RunRequest(type=PLAY, input=packed()))
    kinds = [message.event.WhichOneof("event") async for message in run if message.HasField("event")]
    typed = world.lab.PlayAndWatch(PlayRequest())
    metadata = [message.metadata.value async for message in typed]
    ended = [await call.code() for call in (run, typed)]
    return kinds[-4:], metadata[-1:], shown(await typed.initial_metadata())[:1], ended, await failure_of_more(run)


async def failure_of_more(call: Any) -> Any:
    """What comes after the end of a stream."""
    return await anext(aiter(call), "nothing")


@scenario
async def a_stream_that_is_read_message_by_message(world: World) -> Any:
    call = world.operations.Run(pb.RunRequest(type=PLAY, input=packed()))
    count = 0
    while await call.read() is not grpc.aio.EOF:
        count += 1
    return count > 0, await call.read() is grpc.aio.EOF, await call.code(), call.cancel()


@scenario
async def more_than_a_connection_takes_ahead(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        for number in range(40):
            await op.progress(PlayProgress(text=f"{number:04}" * 5_000))
        return PlayResult()

    started = await world.operations.Start(pb.StartRequest(type=PLAY, input=packed()))
    await world.operations.Wait(pb.WaitRequest(name=started.operation.name))
    watch = world.operations.Watch(pb.WatchRequest(name=started.operation.name, after_sequence=0))
    return [len(m.event.progress.value.value) async for m in watch if m.event.HasField("progress")]


@scenario
async def a_deadline(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    call = world.operations.Run(pb.RunRequest(type=PLAY, input=packed()), timeout=5.0)
    await anext(aiter(call))
    remaining = call.time_remaining()
    ending = asyncio.ensure_future(read_to_end(call))
    await world.spend(5.0)
    # A connection may add that it has removed the stream.
    details = "Deadline Exceeded" in await call.details()
    return 0 < remaining <= 5.0, await ending, details, call.cancelled(), await gone(world)


@scenario
async def a_call_that_its_caller_cancels(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    name = (await world.operations.Start(pb.StartRequest(type=PLAY, input=packed()))).operation.name
    seen: list[Any] = []
    for call in (
        world.operations.Watch(pb.WatchRequest(name=name)),
        world.operations.Wait(pb.WaitRequest(name=name)),
    ):
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call.add_done_callback(told.set_result)
        if hasattr(call, "__aiter__"):
            await anext(aiter(call))
        seen.append((call.done(), call.cancel(), call.cancel(), call.done(), call.cancelled(), (await told) is call))
        seen.append((await call.code(), await call.details()))
        with pytest.raises(asyncio.CancelledError):
            await (anext(aiter(call)) if hasattr(call, "__aiter__") else call)
    return seen, await gone(world), (await world.operations.Get(pb.GetRequest(name=name))).state


@scenario
async def a_task_that_is_cancelled_while_it_waits(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    name = (await world.operations.Start(pb.StartRequest(type=PLAY, input=packed()))).operation.name
    seen: list[Any] = []
    watch = world.operations.Watch(pb.WatchRequest(name=name))
    await anext(aiter(watch))
    wait = world.operations.Wait(pb.WaitRequest(name=name))
    for call, waiting in ((watch, anext(aiter(watch))), (wait, wait)):
        task = asyncio.ensure_future(waiting)
        while world.harness.running.engine.watches.count < 2 - len(seen):
            await turns()
        await turns()  # until it waits
        task.cancel()
        done, _ = await asyncio.wait([task])
        seen.append((done.pop().cancelled(), call.cancelled(), await call.code()))
    return seen, await gone(world)


@scenario
async def a_message_that_is_changed_after_it_was_sent(world: World) -> Any:
    request = pb.StartRequest(type=NAMED, input=packed(key="before"))
    call = world.operations.Start(request)
    request.input.Pack(PlayRequest(key="after"))
    name = (await call).operation.name
    first, second = [await world.operations.Get(pb.GetRequest(name=name)) for _ in range(2)]
    first.labels["mine"] = "alone"
    return world.way == "wire" or name.endswith("before"), dict(second.labels), first is second


@scenario
async def messages_that_are_too_large(world: World) -> Any:
    code, details, *_ = await failure(world.operations.Get(pb.GetRequest(name="x" * (20 << 20))))

    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        return PlayResult(text="x" * 5_000_000)

    started = await world.operations.Start(pb.StartRequest(type=PLAY, input=packed()))
    await failure(world.operations.Wait(pb.WaitRequest(name=started.operation.name)))
    too_much = await failure(world.operations.Get(pb.GetRequest(name=started.operation.name)))
    return code, details.split(" ")[:2], too_much[0]


@scenario
async def bytes_that_are_sent(world: World) -> Any:
    data = b"0123456789" * 20_000

    @world.plays
    async def play(request: Any, op: Any) -> Any:
        stored = await op.transfer.completed()
        return PlayResult(number=stored.size)

    started = await world.operations.Start(
        pb.StartRequest(type="bytes.v1.BytesService/Upload", input=upload_input("in/a"))
    )
    grant = started.operation.upload
    answer = await sender.upload(world.transfers, grant.name, data)
    ended = await world.operations.Wait(pb.WaitRequest(name=started.operation.name))
    return answer.state, answer.committed_size, answer.digests.sha256, ended.state


def upload_input(key: str) -> AnyMessage:
    message = AnyMessage()
    message.Pack(BytesRequest(key=key))
    return message


@scenario
async def bytes_that_are_written_and_not_iterated(world: World) -> Any:
    @world.plays
    async def play(request: Any, op: Any) -> Any:
        await op.transfer.completed()

    started = await world.operations.Start(
        pb.StartRequest(type="bytes.v1.BytesService/Upload", input=upload_input("in/b"))
    )
    call = world.transfers.Upload()
    await call.wait_for_connection()
    await call.write(sender.header(started.operation.upload.name))
    await call.write(sender.chunk(0, b"abc"))
    await call.done_writing()
    answer = await call
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(sender.chunk(3, b"d"))
    return answer.upload.committed_size, await call.code()


@scenario
async def bytes_that_are_refused_amid_the_sending(world: World) -> Any:
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[transfers.UploadRequest]:
        yield sender.header("uploads/nonsense")
        await asyncio.Event().wait()
        sent.set()

    return await failure(world.transfers.Upload(requests())), sent.is_set()


@scenario
async def a_sender_that_breaks(world: World) -> Any:
    async def requests() -> AsyncIterator[transfers.UploadRequest]:
        yield sender.header("uploads/x")
        raise RuntimeError("out of paper")

    call = world.transfers.Upload(requests())
    with pytest.raises(asyncio.CancelledError):
        await call
    return await call.code(), call.cancelled()


@scenario
async def a_server_that_is_killed_under_its_calls(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    call = world.operations.Run(pb.RunRequest(type=PLAY, input=packed()))
    await anext(aiter(call))
    await world.harness.crash()
    broken = await read_to_end(call)
    code, _, trailing, *_ = await failure(world.operations.Get(pb.GetRequest(name="operations/x")))
    return broken, code, trailing


@scenario
async def a_channel_that_is_closed(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        await asyncio.Event().wait()
        return PlayResult()

    call = world.operations.Run(pb.RunRequest(type=PLAY, input=packed()))
    await call.read()
    reading = asyncio.ensure_future(call.read())  # older versions of gRPC find only calls with a task of their own
    await world.channel.close()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(grpc.aio.UsageError):
        await world.operations.Get(pb.GetRequest(name="operations/x"))
    return await call.code(), await gone(world)


@scenario
async def the_client_library(world: World) -> Any:
    @world.plays
    async def play(request: PlayRequest, op: Any) -> PlayResult:
        op.progress(PlayProgress(text="begun"))
        if request.key == "wait":
            await op.cancelled.wait()
        return PlayResult(text=f"played {request.key}")

    lab: lab_longshore.LabClient = world.client
    played = await lab.play_named(PlayRequest(key="one"), labels={"of": "me"})
    events = [type(event).__name__ async for event in played.watch()]
    reports: list[str] = []
    ran = await lab.play_named.run(PlayRequest(key="two"), on_progress=lambda p: reports.append(p.text))
    with pytest.raises(lc.AlreadyExists) as exists:
        await lab.play_named(PlayRequest(key="one", script="other"), request_id="k")
    with pytest.raises(lc.NotFound) as missing:
        await lab.play.attach("operations/none").get()
    waiting = await lab.play_named(PlayRequest(key="wait"))
    await waiting.cancel("enough")
    with pytest.raises(lc.OperationCancelled) as cancelled:
        await waiting.wait()
    listed = [snapshot.name async for snapshot in lab.play_named.list()]
    errors = [(type(e.value), e.value.reason, e.value.message) for e in (exists, missing, cancelled)]
    return (await played.wait()).text, events, ran.text, reports, errors, listed, await lab.play_named.count()
