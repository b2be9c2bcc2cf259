"""What Prometheus reads from the metrics port: calls by method and code, and what commits cost."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf import duration_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.histogram import Histogram
from longshore_server.rpc import longrunning, operations
from tests.conftest import Lab, first, refused

SAMPLE = re.compile(r"(\w+?)(?:_(bucket|count|sum))?(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


@pytest.fixture
async def lab(make_lab: Callable[..., Awaitable[Lab]]) -> Lab:
    return await make_lab(metrics="127.0.0.1:0")


class Metrics:
    """One reading of the port."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, str | None, frozenset[tuple[str, str]]], float] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                match = SAMPLE.fullmatch(line)
                assert match is not None, line
                self._found[match[1], match[2], frozenset(LABEL.findall(match[3] or ""))] = float(match[4])

    def of(self, name: str, kind: str | None = "count", **labels: str) -> float:
        """One value; 0 where there is none."""
        return self._found.get((name, kind, frozenset(labels.items())), 0.0)

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {dict(labels)[label] for found, _, labels in self._found if found == name}

    def buckets(self, name: str, **labels: str) -> list[float]:
        """The cumulative counts, in the order of their bounds."""
        found = {
            float(dict(at)["le"]): value
            for (metric, kind, at), value in self._found.items()
            if metric == name and kind == "bucket" and labels.items() <= dict(at).items()
        }
        return [found[bound] for bound in sorted(found)]

    def calls(self, method: str, code: str) -> float:
        """How many calls of a method of ours ended with a code."""
        return self.of("longshore_rpc_seconds", method=f"{operations.SERVICE}/{method}", code=code)


async def read(lab: Lab) -> Metrics:
    """What Prometheus would read now."""
    url = f"http://{lab.harness.running.metrics.address}/metrics"  # type: ignore[union-attr]  # the fixture asks for it
    return Metrics((await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode())


async def settled(lab: Lab) -> Metrics:
    """The same, once every call that a caller has left is over at the server, too."""
    await lab.harness.running.listener.stop(1.0)
    return await read(lab)


async def test_calls_are_counted_by_method_and_code(lab: Lab) -> None:
    gone = pb.GetRequest(name="operations/nope")
    for _ in range(3):
        await refused(lab.operations.Get(gone))
    name = (await lab.begin()).operation.name
    await lab.end(name)
    assert await lab.kinds(name) == ["accepted", "started", "completed"]
    await refused(first(lab.operations.Watch(pb.WatchRequest(name=name, after_sequence=-1))))
    await lab.lab.Play(lab_pb2.PlayRequest())
    await lro_grpc.OperationsStub(lab.channel).GetOperation(lro.GetOperationRequest(name=name))
    found = await settled(lab)
    counts = {
        (method, code): found.calls(method, code)
        for method in ("Start", "Get", "Wait", "Watch") for code in ("OK", "NOT_FOUND", "INVALID_ARGUMENT", "CANCELLED")
    }  # fmt: skip
    assert {key: count for key, count in counts.items() if count} == {
        ("Start", "OK"): 1, ("Wait", "OK"): 1, ("Get", "NOT_FOUND"): 3, ("Watch", "OK"): 1,
        ("Watch", "INVALID_ARGUMENT"): 1,
    }  # fmt: skip
    assert found.of("longshore_rpc_seconds", method=Lab.TYPE, code="OK") == 1
    assert found.of("longshore_rpc_seconds", method=f"{longrunning.SERVICE}/GetOperation", code="OK") == 1


async def test_a_call_that_the_caller_leaves_is_cancelled(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")  # and leaves its watch
    await lab.catch_up()
    call: Any = lab.operations.Wait(pb.WaitRequest(name=name))
    while not lab.engine.watches.count:
        await lab.catch_up()
    call.cancel()
    found = await settled(lab)
    assert (found.calls("Watch", "CANCELLED"), found.calls("Watch", "OK")) == (1, 0)
    assert (found.calls("Wait", "CANCELLED"), found.calls("Wait", "OK")) == (1, 0)


async def test_the_time_of_a_call_is_that_from_its_request_to_its_end(lab: Lab) -> None:
    reached, gate = asyncio.Semaphore(0), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        reached.release()
        await gate.wait()
        return lab_pb2.PlayResult()

    before = perf_counter()
    request = pb.StartRequest(type=Lab.TYPE, wait=duration_pb2.Duration(seconds=60))
    start = asyncio.ensure_future(lab.operations.Start(request))
    run = lab.operations.Run(pb.RunRequest(type=Lab.TYPE))
    await reached.acquire()
    await reached.acquire()
    begun = perf_counter()
    await read(lab)
    opened = perf_counter()
    gate.set()
    await start
    assert [message async for message in run]
    after = perf_counter()
    found = await settled(lab)
    for method in ("Start", "Run"):
        labels = {"method": f"{operations.SERVICE}/{method}", "code": "OK"}
        assert opened - begun < found.of("longshore_rpc_seconds", "sum", **labels) < after - before
        assert found.buckets("longshore_rpc_seconds", **labels)[-1] == 1


async def test_no_caller_can_make_up_a_label(lab: Lab) -> None:
    async def call(path: str, data: bytes = b"") -> grpc.StatusCode:
        method: Any = lab.channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(data)
        return caught.value.code()

    for path in ("/longshore.v1.OperationsService/Nope", "/no.such.v1.Service/Nope", "/lab.v1.LabService/play"):
        assert await call(path) is grpc.StatusCode.UNIMPLEMENTED
    assert await call("/longshore.v1.OperationsService/Get", b"\xff") is grpc.StatusCode.INVALID_ARGUMENT
    await refused(lab.begin("NoSuchType"))
    found = await settled(lab)
    assert found.labels("longshore_rpc_seconds", "method") == {
        "longshore.v1.OperationsService/Start", "longshore.v1.OperationsService/Get"
    }  # fmt: skip
    assert found.labels("longshore_rpc_seconds", "code") <= {code.name for code in grpc.StatusCode}


async def test_commits_are_timed_and_their_changes_counted(lab: Lab) -> None:
    before = await read(lab)
    begun = perf_counter()
    names = [started.operation.name for started in await asyncio.gather(*(lab.begin() for _ in range(40)))]
    for name in names:
        await lab.end(name)
    await lab.catch_up()
    took = perf_counter() - begun
    found = await read(lab)

    def more(name: str, kind: str) -> float:
        return found.of(name, kind) - before.of(name, kind)

    commits = more("longshore_store_commit_seconds", "count")
    changes = more("longshore_store_commit_changes", "sum")
    assert 0 < commits == more("longshore_store_commit_changes", "count")
    assert 0 < more("longshore_store_commit_seconds", "sum") < took
    assert changes >= 2 * 40, "the acceptance and the end of each"
    assert commits < changes, "those that came together went together"
    buckets = found.buckets("longshore_store_commit_changes")
    assert buckets == sorted(buckets)
    assert buckets[-1] == found.of("longshore_store_commit_changes")


@pytest.mark.parametrize(("value", "bucket"), [(0, 0), (1, 0), (1.001, 1), (2, 1), (3, 2)])
def test_a_bound_belongs_to_its_bucket(value: Any, bucket: int) -> None:
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert histogram.counts == [int(n == bucket) for n in range(3)]
    assert histogram.sum == value
