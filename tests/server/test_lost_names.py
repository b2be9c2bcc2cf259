"""A template name that goes over to a new operation: the one before is called by its uid from then on, everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, first


async def go_over(lab: Lab, how: str) -> tuple[operation_pb2.OperationSnapshot, operation_pb2.OperationSnapshot]:
    """The operation that had the name and the one that has it now, both ended."""
    old = await lab.run("PlayAgain", key="k")
    assert old.name == "operations/again-k"
    if how == "after a restart":
        await lab.restart()
    if how == "a retry":
        new = (await lab.operations.Retry(pb.RetryRequest(name=old.name))).operation
    else:
        new = (await lab.begin("PlayAgain", key="k")).operation
    return old, await lab.end(new.name)


@pytest.mark.parametrize("how", ["a new start", "a retry", "after a restart"])
async def test_one_name_means_one_operation(lab: Lab, how: str) -> None:
    """Whether the old one is still in memory or not, and also after the next restart."""
    old, new = await go_over(lab, how)
    own = f"operations/{old.uid}"
    renamed = operation_pb2.OperationSnapshot()
    renamed.CopyFrom(old)
    renamed.name = own
    for _ in range(2):
        stub: Any = lro_grpc.OperationsStub(lab.channel)
        assert await lab.get(own) == await lab.end(own) == renamed, "nothing else has changed"
        assert (await first(lab.operations.Watch(pb.WatchRequest(name=own)))).snapshot == renamed
        assert (await stub.GetOperation(lro.GetOperationRequest(name=own))).name == own
        listed = (await lab.operations.List(pb.ListRequest())).operations
        assert [(each.name, each.uid) for each in listed] == [(new.name, new.uid), (own, old.uid)]
        named = (await stub.ListOperations(lro.ListOperationsRequest(name="operations"))).operations
        assert [each.name for each in named] == [new.name, own]
        assert (await lab.get(new.name)).uid == new.uid
        accepted = (await lab.events(own))[0].accepted
        assert (accepted.name, accepted.uid) == ("operations/again-k", old.uid), "its log keeps what was true then"
        await lab.restart()


async def test_names_of_a_list_delete_what_they_stand_beside(lab: Lab) -> None:
    old, new = await go_over(lab, "a retry")
    for listed in reversed((await lab.operations.List(pb.ListRequest())).operations):
        await lab.operations.Delete(pb.DeleteRequest(name=listed.name))
        left = [each.uid for each in (await lab.operations.List(pb.ListRequest())).operations]
        assert left == ([new.uid] if listed.uid == old.uid else [])


async def test_a_name_goes_over_and_its_last_owner_is_deleted_in_one_commit(lab: Lab) -> None:
    old = await lab.run("PlayAgain", key="k")
    live = await lab.engine.find(old.name)
    type = lab.engine.types["lab.v1.LabService/PlayAgain"]
    # In one step of the loop, so that both are in one transaction.
    started, _ = await asyncio.gather(
        lab.engine.start(type, lab_pb2.PlayRequest(key="k")), lab.engine.requests.delete(live)
    )
    assert started.created
    await lab.end(old.name)
    assert [each.name for each in (await lab.operations.List(pb.ListRequest())).operations] == [old.name]


async def test_a_control_tells_the_name_of_now(lab: Lab) -> None:
    old = await lab.run("PlayAgain", key="k")
    control = await lab.server.operations.control(old.name)
    assert control.name == old.name
    await lab.begin("PlayAgain", key="k")
    assert control.name == f"operations/{old.uid}"


async def test_children_are_those_of_one_parent(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> lab_pb2.PlayResult:
        if request.key:
            await (await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest())).wait()
        return lab_pb2.PlayResult()

    old, new = await go_over(lab, "a new start")

    async def children(name: str) -> list[str]:
        found = (await lab.operations.List(pb.ListRequest(filter=f'parent="{name}"'))).operations
        return [child.parent for child in found]

    one, two = f"operations/{old.uid}", f"operations/{new.uid}"
    assert [await children(name) for name in (one, two, new.name)] == [[one], [two], [two]]
