"""Finding operations of one type: as a stream of typed snapshots, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from lab.v1 import lab_pb2
from lab.v1.lab_longshore import LabClient

import longshore_client as lc
from longshore_client import listing
from tests.conftest import Lab


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[LabClient]:
    """Five named operations, of which the even ones have ended, and one of another type."""

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=request.count))
        if request.count % 2:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult(number=request.count)

    async with lc.connect(lab.harness.address) as channel:
        made = LabClient(channel)
        for number in range(5):
            labels = {"tenant": "acme" if number < 3 else "other"}
            operation = await made.play_named(lab_pb2.PlayRequest(key=str(number), count=number), labels=labels)
            await lab.reached(operation.name, "progress" if number % 2 else "completed")
        await made.play.run(lab_pb2.PlayRequest())
        yield made


async def test_operations_of_the_type_come_newest_first_and_typed(client: LabClient) -> None:
    found = [snapshot async for snapshot in client.play_named.list()]
    assert [snapshot.name for snapshot in found] == [f"operations/named-{n}" for n in (4, 3, 2, 1, 0)]
    result, progress = found[0].result, found[1].progress
    assert result is not None
    assert progress is not None
    assert (result.number, progress.number) == (4, 3)


async def test_a_filter_and_the_other_order(client: LabClient) -> None:
    found = client.play_named.list("labels.tenant=acme AND state=COMPLETED", oldest_first=True)
    assert [snapshot.name async for snapshot in found] == ["operations/named-0", "operations/named-2"]


async def test_all_pages_are_one_stream(client: LabClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGE", 2)
    assert len([snapshot async for snapshot in client.play_named.list()]) == 5


async def test_how_many_there_are_in_each_state(client: LabClient) -> None:
    assert await client.play_named.count() == {lc.State.COMPLETED: 3, lc.State.RUNNING: 2}
    assert await client.play_named.count("labels.tenant=other") == {lc.State.COMPLETED: 1, lc.State.RUNNING: 1}
    assert await client.climb.count() == {}


async def test_a_filter_that_is_none_is_refused(client: LabClient) -> None:
    with pytest.raises(lc.InvalidArgument, match="there is no field 'color'") as caught:
        await client.play_named.count("color=red")
    assert caught.value.reason == "INVALID_FILTER"
    with pytest.raises(lc.InvalidArgument):
        await anext(client.play_named.list("color=red"))
