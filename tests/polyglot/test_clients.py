"""Stories of callers with the stubs of their language alone; docs/clients.md has the table of them.

Each client is a program of `examples/clients`. It is given an address, a story and what that is about, and prints lines
of JSON: what is asserted here is what it has seen.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from acme.documents.v1 import documents_pb2, documents_pb2_grpc
from acme.orders.v1 import orders_pb2, orders_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import status_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import transfers_service_pb2 as bytes_pb
from tests.conftest import refused
from tests.polyglot import clients, stories
from tests.polyglot.service import CARD_LIMIT, Dock
from tests.proxy import Damage, How, Proxy, always
from tests.server.transfers.fetching import pattern

# The first build of a client takes its time.
pytestmark = pytest.mark.timeout(900)

SIZE = (3 << 20) + 7
LIMIT = 300
"""Seconds in which a client goes on; one that is wrong may try for ever. A safety net only: no test waits for it."""
PAUSE = 0.15
"""Seconds that a client lets go by, at least, before it asks again."""
SHIPPED = {"sequence": 6, "event": "completed", "status": "ready_to_ship"}
EVENTS = [
    {"sequence": 1, "event": "accepted"},
    {"sequence": 2, "event": "started"},
    {"sequence": 3, "event": "progress", "step": "reserve"},
    {"sequence": 4, "event": "progress", "step": "charge"},
    {"sequence": 5, "event": "progress", "step": "ship"},
    SHIPPED,
]


class Telling:
    """A client that goes through a story, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            text = await self._process.stdout.readline()
        if not text:
            await self.rest()
            raise AssertionError("it says nothing more")
        return json.loads(text)  # type: ignore[no-any-return]

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """The next lines."""
        return [await self.line() for _ in range(count)]

    async def rest(self) -> list[dict[str, Any]]:
        """What it says until its end, which is a good one."""
        async with asyncio.timeout(LIMIT):
            out, err = await self._process.communicate()
        assert self._process.returncode == 0, f"{out.decode()}\n{err.decode()}"
        return [json.loads(text) for text in out.decode().splitlines()]

    async def failure(self) -> str:
        """What it says at its end, which is a bad one and the next that it does."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            assert not (more := await self._process.stdout.readline()), more
            _, err = await self._process.communicate()
        assert self._process.returncode
        return err.decode()

    def end(self) -> None:
        """For a test that has failed."""
        if self._process.returncode is None:
            self._process.kill()


Tells = Callable[..., Any]


@pytest.fixture(scope="module", params=list(stories.CLIENTS))
def client(request: pytest.FixtureRequest) -> list[str]:
    """What runs a client."""
    return built(request.param)


def built(client: str) -> list[str]:
    """What runs it."""
    missing = [need for need in clients.NEEDS[client] if shutil.which(need) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    return clients.command(client)


@pytest.fixture
async def begin() -> AsyncIterator[Tells]:
    """Starts programs: `await begin(what runs it, *arguments)`."""
    told: list[Telling] = []

    async def start(command: list[str], *arguments: object) -> Telling:
        process = await asyncio.create_subprocess_exec(
            *command, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )  # fmt: skip
        told.append(Telling(process))
        return told[-1]

    yield start
    for each in told:
        each.end()


@pytest.fixture
def tells(client: list[str], begin: Tells) -> Tells:
    """Starts a client: `await tells(address, story, what it is about ...)`."""
    return functools.partial(begin, client)


@pytest.fixture
def all_tell(begin: Tells) -> Tells:
    """Starts all clients with a story, each about what is named as it is: `await all_tell(address, story)`."""
    commands = {name: built(name) for name in stories.CLIENTS}

    async def start(address: str, story: str) -> list[Telling]:
        return [await begin(command, address, story, name) for name, command in commands.items()]

    return start


@pytest.fixture
async def dock(tmp_path: Path) -> AsyncIterator[Dock]:
    # Two operations that have not ended are as many as there may be: the next start is refused for now.
    found = Dock(tmp_path / "data", max_live=2)
    async with found.harness.serve():
        yield found


@pytest.fixture
async def channel(dock: Dock) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(dock.address) as found:
        yield found


async def test_start(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    told = await (await tells(dock.address, "start", "1")).rest()
    name = "operations/orders-process-1"
    assert told == [{"name": name, "disposition": "created"}, {"name": name, "disposition": "existing"}]
    found = await operations_service_pb2_grpc.OperationsServiceStub(channel).Get(pb.GetRequest(name=name))
    assert (found.request_id, dict(found.labels)) == ("checkout-1", {"tenant": "acme"})


async def test_watch(dock: Dock, tells: Tells) -> None:
    async with Proxy(dock.address) as proxy:
        client = await tells(proxy.address, "watch", "1")
        told = await client.lines(4)
        proxy.cut()
        assert await client.line() == {"resumed_after": 4}
        dock.orders.shipping.set()
        told += await client.rest()
        assert proxy.connections > 1
    assert told == EVENTS


async def test_restart(dock: Dock, tells: Tells) -> None:
    client = await tells(dock.address, "watch", "1")
    told = await client.lines(4)
    await dock.harness.crash()
    dock.orders.shipping.set()
    await dock.harness.start()
    told += await client.rest()
    assert {"resumed_after": 4} in told
    events = [line for line in told if "event" in line]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [event["step"] for event in events if event["event"] == "progress"] == [
        "reserve", "charge", "reserve", "charge", "ship",
    ]  # fmt: skip
    assert events[4]["event"] == "attempt_failed"
    assert events[-1] == SHIPPED | {"sequence": len(events)}


async def test_drain(tmp_path: Path, tells: Tells) -> None:
    dock = Dock(tmp_path / "data", drain=600.0)
    await dock.harness.start()
    client = await tells(dock.address, "watch", "1")
    told = await client.lines(4)
    began = time.monotonic()
    stopping = asyncio.create_task(dock.harness.stop())
    # It is refused at once as often as it asks, so the time between is its own.
    assert await client.lines(5) == [{"resumed_after": 4}] * 5
    assert time.monotonic() - began > 4 * PAUSE
    dock.orders.shipping.set()
    await stopping
    async with dock.harness.serve():
        told += await client.rest()
    assert [line for line in told if "event" in line] == EVENTS


async def test_silence(tmp_path: Path, all_tell: Tells) -> None:
    """All at once: no library doubts a connection before ten seconds of the real clock are over."""
    dock = Dock(tmp_path / "data")
    async with dock.harness.serve(), Proxy(dock.address) as proxy:
        telling = await all_tell(proxy.address, "watch")
        told = [await client.lines(4) for client in telling]
        proxy.freeze()
        assert [await client.line() for client in telling] == [{"resumed_after": 4}] * len(telling)
        dock.orders.shipping.set()
        for seen, client in zip(told, telling, strict=True):
            assert seen + await client.rest() == EVENTS


async def test_elsewhere(dock: Dock, tells: Tells) -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with Proxy(dock.address) as proxy:
        client = await tells(proxy.address, "watch", "1")
        await client.lines(4)
        proxy.server = f"127.0.0.1:{port}"
        proxy.cut()
        assert await client.line() == {"resumed_after": 4}
        # grpcurl asks it first what it can do.
        assert re.search("UNIMPLEMENTED|not support the reflection API", await client.failure(), re.IGNORECASE)
    await other.stop(None)


async def test_wait(dock: Dock, tells: Tells) -> None:
    client = await tells(dock.address, "wait", "1")
    await dock.clock.armed(5)
    dock.clock.advance(5)
    assert await client.line() == {"state": "STATE_RUNNING"}
    dock.orders.shipping.set()
    assert await client.rest() == [{"state": "STATE_COMPLETED", "status": "ready_to_ship"}]


async def test_signal(dock: Dock, tells: Tells) -> None:
    dock.orders.shipping.set()
    assert await (await tells(dock.address, "signal", "1")).rest() == [
        {"number": 1, "duplicate": False},
        {"number": 1, "duplicate": True},
        {"state": "STATE_COMPLETED", "status": "approved by Kim"},
    ]


async def test_cancel(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    told = await (await tells(dock.address, "cancel", "1")).rest()
    found = await _found(channel)
    assert [line["state"] for line in told] == ["STATE_CANCELLED"]
    assert status(told[0]["error"]) == MessageToDict(found.error)
    assert found.error.code == grpc.StatusCode.CANCELLED.value[0]
    assert found.cancel_reason == "changed my mind"


async def test_failure(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    told = await (await tells(dock.address, "failure", "1")).rest()
    found = await _found(channel)
    assert [line["state"] for line in told] == ["STATE_FAILED"]
    assert status(told[0]["error"]) == MessageToDict(found.error)
    assert told[0]["error"]["details"][0]["metadata"] == {"limit": str(CARD_LIMIT)}


async def test_list(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    dock.orders.shipping.set()
    orders = orders_pb2_grpc.OrdersServiceStub(channel)
    names = []
    for number in range(6):
        metadata = (("longshore-label-tenant", "acme" if number else "other"), ("longshore-wait", "60s"))
        started = await orders.Process(orders_pb2.ProcessOrderRequest(order_id=str(number)), metadata=metadata)
        names += [started.name] if number else []
    told = await (await tells(dock.address, "list", "acme")).rest()
    assert told == [{"names": names[:2:-1]}, {"names": names[2:0:-1]}, {"names": names[:1]}]


async def test_upload(dock: Dock, tells: Tells, channel: grpc.aio.Channel, tmp_path: Path) -> None:
    sent = pattern(SIZE)
    (tmp_path / "sent").write_bytes(sent)
    # Whichever connection the bytes go over: some clients take a new one for each call.
    plan = always(lambda: None if proxy.stalled.is_set() else Damage(How.STALL, SIZE // 2))
    async with Proxy(dock.address, plan) as proxy:
        client = await tells(proxy.address, "upload", "tides.csv", tmp_path / "sent")
        await proxy.stalled.wait()
        operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        (operation,) = (await operations.List(pb.ListRequest())).operations
        # Some of it is durable.
        async for message in operations.Watch(pb.WatchRequest(name=operation.name)):
            if max(message.snapshot.upload.committed_size, message.event.transfer.upload.committed_size):
                break
        proxy.cut()
        began, *resumed, committed, ended = await client.rest()
        assert proxy.connections > 1
    assert began == {"resumed_at": 0}
    assert all(0 < line["resumed_at"] <= SIZE // 2 for line in resumed)
    assert resumed
    assert committed == {"committed": SIZE, "sha256": hashlib.sha256(sent).hexdigest()}
    assert ended["download"].startswith("downloads/")
    assert (dock.data / "stores" / "uploads" / "tides.csv").read_bytes() == sent


async def test_download(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    offered = pattern(SIZE)
    name = await _offered(channel, offered)
    async with Proxy(dock.address, iter([Damage(How.STALL, SIZE // 2, down=True)])) as proxy:
        telling = await tells(proxy.address, "download", name)
        begun = await telling.line()
        await proxy.stalled.wait()
        proxy.go_on()
        resumed, told = await telling.rest()
    assert 0 < begun["begun"] <= resumed["resumed_at"] <= SIZE // 2
    assert told == {"size": SIZE, "sha256": hashlib.sha256(offered).hexdigest()}


async def test_refusals(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    told = await (await tells(dock.address, "refusals", "1")).rest()
    # What is refused has changed nothing: the same calls are told the same.
    orders = orders_pb2_grpc.OrdersServiceStub(channel)
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    transfers = transfers_service_pb2_grpc.TransfersServiceStub(channel)
    name = (await _found(channel)).name
    listed = await operations.List(pb.ListRequest(filter='type="acme.documents.v1.DocumentsService/Upload"'))
    header = bytes_pb.UploadHeader(upload=listed.operations[0].upload.name, total_size=3)

    def order(key: str) -> orders_pb2.ProcessOrderRequest:
        items = [orders_pb2.OrderItem(sku="tea", quantity=1)]
        return orders_pb2.ProcessOrderRequest(order_id=key, items=items, amount=1200)

    async def beyond() -> AsyncIterator[bytes_pb.UploadRequest]:
        yield bytes_pb.UploadRequest(header=header)
        yield bytes_pb.UploadRequest(chunk=bytes_pb.UploadChunk(offset=1, data=b"ea", crc32c=0))

    same = (("longshore-request-id", "1"),)
    again: dict[str, Callable[[], Awaitable[Any]]] = {
        "invalid": lambda: orders.Process(order("")),
        "unknown": lambda: operations.Get(pb.GetRequest(name="operations/nobody")),
        "reused": lambda: orders.Process(order("1-2"), metadata=same),
        "running": lambda: operations.Delete(pb.DeleteRequest(name=name)),
        "offset": lambda: transfers.Upload(beyond()),
        "full": lambda: orders.Process(order("1-3")),
    }
    assert [line["call"] for line in told] == list(again)
    kinds = set()
    for line in told:
        expected = (await refused(again[line["call"]]()))[2]
        assert status(line["refusal"]) == MessageToDict(expected)
        kinds |= {detail.type_url.rpartition(".")[2] for detail in expected.details}
    assert kinds == {"ErrorInfo", "BadRequest", "PreconditionFailure", "ResourceInfo", "RetryInfo"}


async def test_longrunning(dock: Dock, tells: Tells) -> None:
    dock.orders.shipping.set()
    assert await (await tells(dock.address, "longrunning", "1")).rest() == [{"step": "ship", "status": "ready_to_ship"}]


async def test_longrunning_error(dock: Dock, tells: Tells) -> None:
    (told,) = await (await tells(dock.address, "longrunning_error", "1")).rest()
    assert told["code"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    # Not every operation client keeps the details of an operation's error.
    assert told.get("reason", "CARD_DECLINED") == "CARD_DECLINED"


async def test_longrunning_cancelled(dock: Dock, tells: Tells) -> None:
    assert await (await tells(dock.address, "longrunning_cancelled", "1")).rest() == [{"cancelled": True}]


async def test_longrunning_deadline(dock: Dock, tells: Tells, channel: grpc.aio.Channel) -> None:
    told = await (await tells(dock.address, "longrunning_deadline", "1")).rest()
    assert told == [{"deadline": True, "done": False}]
    dock.orders.shipping.set()
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    ended = await operations.Wait(pb.WaitRequest(name="operations/orders-process-1"))
    assert ended.state == ended.STATE_COMPLETED, "it went on"


def test_every_cell_of_the_table_is_a_test() -> None:
    telling = {"tells", "all_tell"}
    seen = {
        name for name, test in globals().items()
        if name.startswith("test_") and telling & getattr(test, "__annotations__", {}).keys()
    }  # fmt: skip
    assert seen == {f"test_{story}" for story in stories.STORIES}
    assert list(stories.CLIENTS) == [
        name for name in stories.CLIENTS if name in clients.BUILDERS and name in clients.NEEDS
    ]


def status(told: dict[str, Any]) -> dict[str, Any]:
    """What a client has told of a status, all of it, as JSON that is told by any client alike.

    To be compared as that: in the bytes of a detail the entries of a map may come in any order.
    """
    return MessageToDict(ParseDict(told, status_pb2.Status()))


async def _found(channel: grpc.aio.Channel) -> Any:
    """The order 1."""
    stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
    return await stub.Get(pb.GetRequest(name="operations/orders-process-1"))


async def _offered(channel: grpc.aio.Channel, data: bytes) -> str:
    """A download of some bytes."""
    started = await documents_pb2_grpc.DocumentsServiceStub(channel).Upload(documents_pb2.UploadRequest(key="offered"))
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    upload = (await operations.Get(pb.GetRequest(name=started.name))).upload.name

    async def pieces() -> AsyncIterator[bytes_pb.UploadRequest]:
        import google_crc32c

        yield bytes_pb.UploadRequest(header=bytes_pb.UploadHeader(upload=upload))
        for at in range(0, len(data), 1 << 18):
            piece = data[at : at + (1 << 18)]
            chunk = bytes_pb.UploadChunk(offset=at, data=piece, crc32c=google_crc32c.value(piece))
            yield bytes_pb.UploadRequest(chunk=chunk)
        digest = hashlib.sha256(data).digest()
        yield bytes_pb.UploadRequest(commit=bytes_pb.UploadCommit(total_size=len(data), sha256=digest))

    await transfers_service_pb2_grpc.TransfersServiceStub(channel).Upload(pieces())
    ended = await operations.Wait(pb.WaitRequest(name=started.name))
    name: str = ended.downloads[0].name
    return name
