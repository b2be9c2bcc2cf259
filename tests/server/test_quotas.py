"""Bounds on what callers can fill: in all, and for each of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import State, detail, refused, retry_after

TOO_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_OPERATIONS")


def facts(status: Any) -> dict[str, str]:
    return dict(detail(status, error_details_pb2.ErrorInfo).metadata)


async def test_operations_that_have_not_ended(make_lab: Any) -> None:
    lab = await make_lab(max_live=2, max_live_per_owner=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    first = await lab.begin(request_id="one")
    await lab.begin("PlayOn")  # the local principal, who is everyone, has no bound of its own
    before = lab.tables()
    code, reason, status = await refused(lab.begin("PlayThrough"))
    assert (code, reason, retry_after(status)) == (*TOO_MANY, 5)
    assert facts(status) == {"limit": "2", "scope": "server"}
    assert status.message == "2 operations have not ended already: try again later."
    assert lab.tables() == before
    assert (await lab.begin(request_id="one")).operation.uid == first.operation.uid
    await lab.restart()
    assert (await refused(lab.begin()))[:2] == TOO_MANY, "those of the last server count"
    gate.set()
    await lab.end(first.operation.name)
    assert (await lab.begin("PlayThrough")).disposition == pb.StartResponse.DISPOSITION_CREATED


async def test_operations_of_one_caller(make_callers: Any) -> None:
    lab = await make_callers(max_live=100, max_live_per_owner=2)
    await lab.start("ada")
    await lab.start("ada", "TrySteadily")
    code, reason, status = await refused(lab.start("ada", "TryUnless"))
    assert (code, reason, retry_after(status)) == (*TOO_MANY, 5)
    assert facts(status) == {"limit": "2", "scope": "caller"}
    assert status.message == "2 operations have not ended already for ada: try again later."
    bobs = (await lab.start("bob")).operation
    assert (bobs.owner, bobs.state) == ("bob", State.STATE_RUNNING)
    lab.ended.set()
    await lab.catch_up()
    assert (await lab.start("ada")).operation.owner == "ada"


async def test_operations_of_one_caller_that_wait_for_a_slot(make_callers: Any) -> None:
    lab = await make_callers(concurrency=1, queue=3, queue_per_owner=2)
    await lab.start("ada")
    await lab.start("ada")
    name = (await lab.start("ada")).operation.name
    code, reason, status = await refused(lab.start("ada"))
    assert (code, reason, retry_after(status)) == (*TOO_MANY, 1)
    assert facts(status) == {"limit": "2", "scope": "caller", "type": "lab.v1.RetryService/Try"}
    await lab.operations.Cancel(pb.CancelRequest(name=name), metadata=lab.who("ada"))
    await lab.start("ada")  # in the place that is free again
    await lab.start("ada", "TrySteadily")  # each type has a queue of its own
    assert (await lab.start("bob")).operation.state == State.STATE_PENDING
    _, _, status = await refused(lab.start("bob"))
    assert facts(status) == {"limit": "3", "scope": "server", "type": "lab.v1.RetryService/Try"}


async def test_watches_of_one_caller(make_callers: Any) -> None:
    lab = await make_callers(max_watches=3, max_watches_per_owner=2)
    name = (await lab.start("ada")).operation.name

    def watch(who: str) -> Any:
        return lab.operations.Watch(pb.WatchRequest(name=name), metadata=lab.who(who))

    opened = [watch("ada"), watch("ada")]
    for call in opened:
        await call.read()
    code, reason, status = await refused(watch("ada").read())
    assert (code, reason, retry_after(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES", 5)
    assert facts(status) == {"limit": "2", "scope": "caller"}
    opened.append(watch("bob"))
    await opened[-1].read()
    assert facts((await refused(watch("bob").read()))[2]) == {"limit": "3", "scope": "server"}
    opened[0].cancel()
    while lab.engine.watches.count == 3:
        await lab.catch_up()
    await watch("ada").read()


async def test_what_handlers_start_is_never_refused(make_lab: Any) -> None:
    lab = await make_lab(max_live=1)

    @lab.plays
    async def handler(request, op):
        if request.script == "parent":
            child = await lab.server.operations.start("lab.v1.LabService/PlayOn", lab_pb2.PlayRequest())
            return await child.wait()
        return lab_pb2.PlayResult()

    assert (await lab.run(script="parent")).state == State.STATE_COMPLETED


async def test_whatever_becomes_of_a_start_its_place_is_free_at_last(make_lab: Any) -> None:
    lab = await make_lab(concurrency=2, queue=2, max_live=6)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    async def one(number: int) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await lab.begin("PlayNamed" if number % 3 else "Play", key=f"k{number % 5}", request_id=f"r{number % 7}")

    calls = [asyncio.ensure_future(one(number)) for number in range(60)]
    await asyncio.sleep(0)
    for call in calls[::4]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await lab.catch_up()
    counted = lab.engine._live.count
    assert 0 < counted == len(lab.engine.table.live)
    gate.set()
    for live in list(lab.engine.table.live.values()):
        await lab.end(live.record.name)
    await lab.catch_up()
    assert (lab.engine._live.count, lab.engine._live._owners) == (0, {})
    bounds = [bound for waiting in lab.engine.executor._waiting.values() for bound in (waiting.slots, waiting.places)]
    assert [(bound.count, bound._owners) for bound in bounds] == [(0, {})] * len(bounds)
