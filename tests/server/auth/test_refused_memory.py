"""What is left of refused calls: nothing that holds a request, also where nobody collects garbage."""

from __future__ import annotations

import gc
import types
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from gates.v1 import gates_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb
from longshore_server.errors import ServiceError
from longshore_server.rpc.boundary import Context
from tests.conftest import reason_of, status_of, turns
from tests.faults.process import ServerProcess
from tests.server.auth.callers import Make, known
from tests.server.auth.conftest import ALL, Guarded, Metadata, start
from tests.server.auth.identities import bearer

CALLS = 5
LARGE = 3_000_000
MALFORMED = b"\x0a\xff\xff\xff\x1f" + bytes(LARGE)
UPLOAD = "/longshore.v1.TransfersService/Upload"
WRITE = "/google.bytestream.ByteStream/Write"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

Call = Callable[[Guarded, Metadata], Any]


def _unary(guarded: Guarded, sent: Metadata, data: bytes = MALFORMED) -> Any:
    channel: Any = guarded.channel
    return channel.unary_unary("/longshore.v1.OperationsService/Get")(data, metadata=sent)


def _stream(guarded: Guarded, sent: Metadata, data: bytes = MALFORMED) -> Any:
    channel: Any = guarded.channel
    return channel.unary_stream("/longshore.v1.OperationsService/Watch")(data, metadata=sent).read()


def _sending(path: str, data: bytes = MALFORMED) -> Call:
    def call(guarded: Guarded, sent: Metadata) -> Any:
        channel: Any = guarded.channel
        return channel.stream_unary(path)(iter([data, data]), metadata=sent)

    return call


def _reflecting(guarded: Guarded, sent: Metadata) -> Any:
    channel: Any = guarded.channel
    return channel.stream_stream(REFLECTION)(iter([MALFORMED]), metadata=sent).read()


def _too_many(guarded: Guarded, sent: Metadata) -> Any:
    return guarded.operations.Start(start("Gated", key="x" * LARGE), metadata=sent)


def _typed(guarded: Guarded, sent: Metadata) -> Any:
    channel: Any = guarded.channel
    call = channel.unary_unary("/gates.v1.GatesService/Gated")
    return call(gates_pb2.GatesRequest(key="x" * LARGE).SerializeToString(), metadata=sent)


def _run(guarded: Guarded, sent: Metadata) -> Any:
    request = start("Gated", key="x" * LARGE)
    return guarded.operations.Run(pb.RunRequest(type=request.type, input=request.input), metadata=sent).read()


_HEADER = transfers_pb.UploadRequest(header=transfers_pb.UploadHeader(upload="x" * LARGE)).SerializeToString()
_UNKNOWN = pb.GetRequest(name="operations/" + "x" * LARGE).SerializeToString()

CASES: dict[str, tuple[Call, bool, str]] = {
    "unary, of nobody": (_unary, False, "CREDENTIALS_MISSING"),
    "stream, of nobody": (_stream, False, "CREDENTIALS_MISSING"),
    "upload, of nobody": (_sending(UPLOAD), False, "CREDENTIALS_MISSING"),
    "write, of nobody": (_sending(WRITE), False, "CREDENTIALS_MISSING"),
    "reflection, of nobody": (_reflecting, False, "CREDENTIALS_MISSING"),
    "unary, malformed": (_unary, True, "MALFORMED_REQUEST"),
    "stream, malformed": (_stream, True, "MALFORMED_REQUEST"),
    "upload, malformed": (_sending(UPLOAD), True, "MALFORMED_REQUEST"),
    "write, malformed": (_sending(WRITE), True, "MALFORMED_REQUEST"),
    "reflection, malformed": (_reflecting, True, "MALFORMED_REQUEST"),
    "unary, no such name": (lambda guarded, sent: _unary(guarded, sent, _UNKNOWN), True, "INVALID_NAME"),
    "stream, no such name": (lambda guarded, sent: _stream(guarded, sent, _UNKNOWN), True, "INVALID_NAME"),
    "upload, no such name": (_sending(UPLOAD, _HEADER), True, "INVALID_NAME"),
    "start, one too many": (_too_many, True, "TOO_MANY_OPERATIONS"),
    "typed start, one too many": (_typed, True, "TOO_MANY_OPERATIONS"),
    "run, one too many": (_run, True, "TOO_MANY_OPERATIONS"),
}


@pytest.fixture
def uncollected() -> Iterator[Callable[[], list[Any]]]:
    """Nobody collects; the function gives all that only a collection would have freed."""

    def garbage() -> list[Any]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            return list(gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    gc.collect()
    gc.disable()
    yield garbage
    gc.enable()


def _ours(thing: Any) -> bool:
    if isinstance(thing, types.FrameType):
        return "longshore_server" in thing.f_code.co_filename
    return isinstance(thing, (ServiceError, grpc.aio.AbortError, grpc.aio.ServicerContext, Context))


async def _reason(call: Awaitable[Any]) -> str:
    # Not `refused`: what that raises is part of a cycle that holds the call, and its request.
    try:
        await call
    except grpc.aio.AioRpcError as error:
        # A client of grpcio that is refused while it sends may lose the answer to its own failure to send.
        return "" if error.details() == "Internal error from Core" else reason_of(status_of(error))
    return "none"


async def _reasons(call: Callable[[], Awaitable[Any]], count: int) -> list[str]:
    """What so many calls are refused for; one whose answer the client has lost is made again."""
    heard: list[str] = []
    while len(heard) < count:
        heard += filter(None, [await _reason(call())])
    return heard


async def _refusals(guarded: Guarded, call: Call, sent: Metadata, reason: str) -> None:
    assert await _reasons(lambda: call(guarded, sent), CALLS) == [reason] * CALLS
    await turns()


@pytest.mark.parametrize("case", CASES)
async def test_nothing_is_left_of_a_refused_call(
    case: str, make_guarded: Make, uncollected: Callable[[], list[Any]]
) -> None:
    call, authenticated, reason = CASES[case]
    guarded = await make_guarded(max_live_per_owner=1, max_input=LARGE + 100)
    (ada,) = await known(guarded, ("ada", *ALL))
    await guarded.begin("Gated", ada)
    sent = ada if authenticated else ()
    await _refusals(guarded, call, sent, reason)
    gc.collect()
    await _refusals(guarded, call, sent, reason)
    left = uncollected()
    assert [thing for thing in left if _ours(thing)] == []
    held = [each for thing in left for each in gc.get_referents(thing) if isinstance(each, (bytes, str))]
    assert [len(each) for each in held if len(each) >= LARGE] == []


BYTES = (5 << 20) - 1000


def _whole(path: str, data: bytes) -> Callable[[Any, Metadata], Any]:
    return lambda channel, sent: channel.unary_unary(path)(data, metadata=sent)


def _too_large() -> bytes:
    input = AnyMessage(
        type_url="type.googleapis.com/acme.orders.v1.ProcessOrderRequest", value=b"\x1a\x00" * (BYTES // 2)
    )
    return pb.StartRequest(type="acme.orders.v1.OrdersService/Process", input=input).SerializeToString()


MANY: dict[str, tuple[Callable[[Any, Metadata], Any], bool, str]] = {
    "unary, of nobody": (
        _whole("/longshore.v1.OperationsService/Get", bytes(BYTES)), False, "CREDENTIALS_MISSING",
    ),
    "unary, malformed": (_whole("/longshore.v1.OperationsService/Get", bytes(BYTES)), True, "MALFORMED_REQUEST"),
    "stream, malformed": (
        lambda channel, sent: channel.unary_stream("/longshore.v1.OperationsService/Watch")(
            bytes(BYTES), metadata=sent
        ).read(), True, "MALFORMED_REQUEST",
    ),
    "upload, of nobody": (
        lambda channel, sent: channel.stream_unary(UPLOAD)(iter([bytes(BYTES)]), metadata=sent), False,
        "CREDENTIALS_MISSING",
    ),
    "start, too large": (_whole("/longshore.v1.OperationsService/Start", _too_large()), True, "INPUT_TOO_LARGE"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
async def test_forty_large_refused_calls_leave_the_memory_of_the_server_as_it_was(case: str, tmp_path: Path) -> None:
    call, authenticated, reason = MANY[case]
    tokens = tmp_path / "tokens.toml"
    token = bearer(tokens, "ada", "orders.read", "orders.write")
    sent = (("authorization", f"Bearer {token}"),) if authenticated else ()
    server = ServerProcess(
        tmp_path / "data", "--tokens", str(tokens), "--max-input", "1024",
        service=Path(__file__).parents[3] / "examples/orders/service.py",
    )  # fmt: skip

    def resident() -> int:
        assert server.process is not None
        return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096

    try:
        await server.start()
        async with server.channel() as channel:
            assert await _reasons(lambda: call(channel, sent), 10) == [reason] * 10
            before = resident()
            assert await _reasons(lambda: call(channel, sent), 40) == [reason] * 40
            # Kept, they would be 200 MiB.
            assert resident() - before < 60 << 20
    finally:
        await server.close()
