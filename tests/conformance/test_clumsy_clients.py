"""Callers that do it wrong, and what stands between them and the server: each with what comes of it.

In every case the server goes on as if they were not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2
from lab.v1.lab_longshore import LabClient

import longshore_client as lc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server.clock import SECOND
from longshore_server.rpc import listener
from tests.conftest import Lab
from tests.http2 import END_STREAM, Connection, Kind
from tests.proxy import Proxy

LIST_TYPES = "/longshore.v1.OperationsService/ListTypes"
WATCH = "/longshore.v1.OperationsService/Watch"
INITIAL_WINDOW_SIZE = 4


@pytest.fixture
async def busy(lab: Lab) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """An operation that is under way; it reports so many times when it is told to, and ends with the test."""
    orders: asyncio.Queue[int] = asyncio.Queue()
    done: asyncio.Queue[None] = asyncio.Queue()

    @lab.plays
    async def play(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        while count := await orders.get():
            for number in range(count):
                await op.progress(lab_pb2.PlayProgress(text=f"{number}" * 100))
            done.put_nowait(None)
        return lab_pb2.PlayResult(text="played")

    async def report(count: int) -> None:
        orders.put_nowait(count)
        if count:
            await done.get()

    yield report
    orders.put_nowait(0)


async def _answers(lab: Lab) -> None:
    """The server does what it is there for."""
    assert (await lab.operations.ListTypes(pb.ListTypesRequest())).types


async def _next(watch: Any) -> pb.WatchResponse:
    """The next message of a watch that has not ended."""
    message = await watch.read()
    assert isinstance(message, pb.WatchResponse)
    return message


async def _status(raw: Connection) -> bytes:
    """The trailers of stream 1, as they are."""
    while True:
        frame = await raw.frame_of(Kind.HEADERS)
        if frame.flags & END_STREAM:
            return frame.payload


# --- those who speak something else ------------------------------------------------------------------------------


async def test_json_under_a_content_type_of_its_own_is_malformed(lab: Lab) -> None:
    body = json.dumps({"name": "operations/x"}).encode()
    before = lab.tables()
    for content_type in ("application/json", "application/grpc+json", "text/html"):
        async with Connection(lab.harness.address) as raw:
            await raw.call(1, WATCH, body, content_type=content_type)
            trailers = await _status(raw)
        assert b"grpc-status\x013" in trailers, "INVALID_ARGUMENT, whatever the body is called"
    assert lab.tables() == before
    await _answers(lab)


async def test_http_1_is_answered_by_the_end_of_the_connection(lab: Lab) -> None:
    host, _, port = lab.harness.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: longshore\r\n\r\n")
    answer = await reader.read()
    assert not answer.startswith(b"HTTP/1"), "what it is told is the greeting of HTTP/2, and then no more"
    writer.close()
    await _answers(lab)


async def test_tls_against_a_plain_port_ends_in_the_handshake(lab: Lab) -> None:
    host, _, port = lab.harness.address.rpartition(":")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(host, int(port), ssl=trusting)
    async with grpc.aio.secure_channel(lab.harness.address, grpc.ssl_channel_credentials()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await operations_service_pb2_grpc.OperationsServiceStub(channel).ListTypes(pb.ListTypesRequest())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await _answers(lab)


async def test_a_frame_that_no_protocol_knows_ends_its_connection_alone(lab: Lab) -> None:
    async with Connection(lab.harness.address) as raw:
        # A message for a stream that was never opened.
        await raw.send(Kind.DATA, 0, 7, b"\0\0\0\0\0")
        with contextlib.suppress(ConnectionError):  # that may have been enough
            await raw.send(Kind.HEADERS, 0x4, 1, b"\xff\xff\xff\xff\xff\xff")
        with pytest.raises(EOFError):
            await raw.frame_of(Kind.DATA)
    await _answers(lab)


# --- those who do not listen -------------------------------------------------------------------------------------


async def test_who_never_reads_costs_nothing_and_misses_nothing(
    lab: Lab, busy: Callable[[int], Awaitable[None]]
) -> None:
    name = (await lab.begin()).operation.name
    async with Connection(lab.harness.address, [(INITIAL_WINDOW_SIZE, 0)]) as raw:
        await raw.call(1, WATCH, pb.WatchRequest(name=name, after_sequence=0).SerializeToString())
        await raw.frame_of(Kind.HEADERS)
        await busy(3000)
        await busy(0)
        snapshot = await lab.end(name)
        assert snapshot.sequence == 3003, "accepted, started, the reports, the end: nobody waited for it"
        live = lab.engine.table.get(bytes.fromhex(snapshot.uid.replace("-", "")))
        assert len(live.ring) <= 256, "what it has not read is in the log, not in memory"
        # Then it reads after all.
        room = struct.pack("!I", 1 << 30)
        await raw.send(Kind.WINDOW_UPDATE, 0, 0, room)
        await raw.send(Kind.WINDOW_UPDATE, 0, 1, room)
        received = b""
        while not (frame := await raw.frame_of(Kind.DATA, Kind.HEADERS)).flags & END_STREAM:
            received += frame.payload
    assert b"grpc-status\x010" in frame.payload
    assert [message.event.sequence for message in _messages(received)] == list(range(1, 3004))


async def test_a_caller_whose_machine_is_gone_is_found_out(
    make_lab: Callable[..., Awaitable[Lab]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No FIN and no RST come from a machine that lost its power: only the answer to a ping that does not come tells."""
    own = {"grpc.keepalive_time_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
    assert own.keys() <= dict(listener.OPTIONS).keys(), "the server asks whether its callers are still there"
    monkeypatch.setattr(listener, "OPTIONS", tuple((dict(listener.OPTIONS) | own).items()))
    lab = await make_lab()

    @lab.plays
    async def play(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        await asyncio.Event().wait()
        raise AssertionError

    name = (await lab.begin()).operation.name
    async with Connection(lab.harness.address) as raw:
        await raw.call(1, WATCH, pb.WatchRequest(name=name).SerializeToString())
        await raw.frame_of(Kind.DATA)
        assert lab.engine.watches.count == 1
        # The ping may have come before the answer, where that took long.
        while await raw.frame() is not None:
            pass
    while lab.engine.watches.count:
        await lab.catch_up()
    await _answers(lab)


# --- what stands in between --------------------------------------------------------------------------------------


async def test_a_connection_that_is_sent_away_resumes_on_the_next_one(
    make_lab: Callable[..., Awaitable[Lab]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOAWAY, as load balancers and `max_connection_age` send it: streams get a moment, then they are cut."""
    aged = (("grpc.max_connection_age_ms", 400), ("grpc.max_connection_age_grace_ms", 100))
    monkeypatch.setattr(listener, "OPTIONS", (*listener.OPTIONS, *aged))
    lab = await make_lab()
    steps: asyncio.Queue[str] = asyncio.Queue()

    @lab.plays
    async def play(request: lab_pb2.PlayRequest, op: Any) -> lab_pb2.PlayResult:
        while note := await steps.get():
            await op.progress(lab_pb2.PlayProgress(text=note))
        return lab_pb2.PlayResult(text="played")

    async with Proxy(lab.harness.address) as proxy, lc.connect(proxy.address) as channel:

        async def report() -> None:
            for _ in range(4):
                await proxy.opened.acquire()
                steps.put_nowait("another connection")
            steps.put_nowait("")

        op = await LabClient(channel).play(lab_pb2.PlayRequest())
        reporting = asyncio.create_task(report())
        seen = [event.sequence async for event in op.watch(after=0)]
        await reporting
    assert seen == list(range(1, 8)), "accepted, started, four reports, the end"


class IdleProxy(Proxy):
    """Closes a connection on which nothing has passed for a while, as load balancers do; by the clock of the test."""

    def __init__(self, server: str, clock: Any, seconds: float) -> None:
        super().__init__(server)
        self._clock = clock
        self._seconds = seconds
        self._timer: Any = None

    def passed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(self._clock.now() + int(self._seconds * SECOND), self.cut)


async def test_heartbeats_keep_a_watch_alive_behind_a_proxy_that_cuts_what_is_idle_for_30_s(
    lab: Lab, busy: Callable[[int], Awaitable[None]]
) -> None:
    name = (await lab.begin()).operation.name
    async with (
        IdleProxy(lab.harness.address, lab.clock, 30) as proxy,
        grpc.aio.insecure_channel(proxy.address) as channel,
    ):
        await lab.reached(name, "started")
        watch = operations_service_pb2_grpc.OperationsServiceStub(channel).Watch(pb.WatchRequest(name=name))
        assert (await _next(watch)).HasField("snapshot")
        for _ in range(40):
            await lab.clock.armed(15)  # silence counts from when the server is done with the last message
            lab.clock.advance(15)
            assert (await _next(watch)).HasField("heartbeat")
        await busy(1)
        assert (await _next(watch)).event.HasField("progress")
        assert proxy.connections == 1, "ten quiet minutes, and the stream is the same"
        watch.cancel()


async def test_without_them_the_same_proxy_cuts_it(lab: Lab, busy: Callable[[int], Awaitable[None]]) -> None:
    name = (await lab.begin()).operation.name
    request = pb.WatchRequest(name=name)
    request.heartbeat_interval.FromSeconds(300)
    async with (
        IdleProxy(lab.harness.address, lab.clock, 30) as proxy,
        grpc.aio.insecure_channel(proxy.address) as channel,
    ):
        watch = operations_service_pb2_grpc.OperationsServiceStub(channel).Watch(request)
        assert (await _next(watch)).HasField("snapshot")
        lab.clock.advance(31)
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await _next(watch)
    assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


# --- very many of them -------------------------------------------------------------------------------------------


async def test_10_000_idle_watches(lab: Lab, busy: Callable[[int], Awaitable[None]]) -> None:
    name = (await lab.begin()).operation.name
    async with contextlib.AsyncExitStack() as stack:
        watches = []
        for number in range(10):
            options = [("grpc.use_local_subchannel_pool", 1), ("test.number", number)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(lab.harness.address, options=options))
            stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
            watches += [stub.Watch(pb.WatchRequest(name=name)) for _ in range(1000)]
        snapshots = await asyncio.gather(*map(_next, watches))
        assert all(message.HasField("snapshot") for message in snapshots)
        await _answers(lab)
        await busy(1)
        reports = await asyncio.gather(*map(_next, watches))
        assert {message.event.sequence for message in reports} == {3}
        await busy(0)
        ends = await asyncio.gather(*map(_next, watches))
        assert all(message.event.HasField("completed") for message in ends)
        assert set(await asyncio.gather(*(watch.code() for watch in watches))) == {grpc.StatusCode.OK}


def _messages(data: bytes) -> list[pb.WatchResponse]:
    """The messages of a stream, each with five bytes before it: whether it is compressed, and its length."""
    found, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("!I", data, position + 1)
        found.append(pb.WatchResponse.FromString(data[position + 5 : position + 5 + length]))
        position += 5 + length
    return found
