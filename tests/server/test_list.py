"""List: filters, pages, and that it never knows more than Get and Watch."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from longshore_server.store import pages
from tests.conftest import Lab, State, fields_of, refused

FULL = pb.OPERATION_VIEW_FULL


async def names(lab: Lab, filter: str = "", **fields: Any) -> list[str]:
    """All pages of a list."""
    found, token = [], ""
    while True:
        page = await lab.operations.List(pb.ListRequest(filter=filter, page_token=token, **fields))
        found += [operation.name for operation in page.operations]
        token = page.next_page_token
        if not token:
            return found


@pytest.fixture
async def populated(lab: Lab) -> Lab:
    """Operations `named-0` ... `named-9`, ten seconds apart: even ones ended, every third failed, two tenants."""

    @lab.plays
    async def handler(request, op):
        if request.count % 3 == 0:
            raise OperationError("THIRD")
        if request.count % 2:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult()

    for number in range(10):
        packed = AnyMessage()
        packed.Pack(lab_pb2.PlayRequest(key=str(number), count=number))
        labels = {"tenant": "acme" if number < 5 else 'the "other"', "n.umber-1": str(number)}
        request = pb.StartRequest(type="lab.v1.LabService/PlayNamed", input=packed, labels=labels)
        name = (await lab.operations.Start(request)).operation.name
        if number % 3 == 0 or number % 2 == 0:
            await lab.end(name)
        else:
            await lab.reached(name, "started")
        lab.clock.advance(10)
    return lab


T0 = "2026-01-01T00:00:00Z"
CASES = {
    "": range(10),
    "state=RUNNING": (1, 5, 7),
    "state = STATE_RUNNING": (1, 5, 7),
    "state=FAILED": (0, 3, 6, 9),
    "state!=FAILED": (1, 2, 4, 5, 7, 8),
    "state=COMPLETED AND state=FAILED": (),
    'type="lab.v1.LabService/PlayNamed"': range(10),
    "type=lab.v1.LabService/Play": (),
    'type!="lab.v1.LabService/Play"': range(10),
    "labels.tenant=acme": range(5),
    'labels.tenant="acme"': range(5),
    "labels.tenant='acme'": range(5),
    'labels.tenant="the \\"other\\""': range(5, 10),
    "labels.tenant!=acme": range(5, 10),
    "labels.nobody=x": (),
    "labels.nobody!=x": range(10),
    'labels.n.umber-1="7"': (7,),
    "state=RUNNING AND labels.tenant=acme": (1,),
    'create_time>="2026-01-01T00:00:50Z"': range(5, 10),
    'create_time<"2026-01-01T00:00:50Z"': range(5),
    'create_time="2026-01-01T00:00:50Z"': (5,),
    'create_time="2026-01-01T01:00:50+01:00"': (5,),
    "create_time>=2026-01-01T00:00:50Z AND labels.tenant!=a:b": range(5, 10),
    'create_time!="2026-01-01T00:00:50Z"': (0, 1, 2, 3, 4, 6, 7, 8, 9),
    'create_time>"2026-01-01" AND create_time<="2026-01-01T00:00:20"': (1, 2),
    'update_time>"2026-01-01T00:00:80Z"'.replace("00:80", "01:20"): (9,),
    f'end_time>="{T0}"': (0, 2, 3, 4, 6, 8, 9),
    'end_time>"2026-01-01T00:00:40.000001Z"': (6, 8, 9),
    "owner=local": range(10),
    "owner=ada": (),
    "owner!=ada": range(10),
    "reason=THIRD": (0, 3, 6, 9),
    "reason!=THIRD": (1, 2, 4, 5, 7, 8),
    "reason=THIRD AND labels.tenant=acme": (0, 3),
    'parent=""': range(10),
    "parent=operations/named-1": (),
    'start_time>="2026-01-01T00:00:50Z"': range(5, 10),
    "  state=RUNNING   AND\tlabels.tenant = acme ": (1,),
}


@pytest.mark.parametrize("filter", CASES)
async def test_a_filter_selects_newest_first(populated: Lab, filter: str) -> None:
    expected = [f"operations/named-{number}" for number in sorted(CASES[filter], reverse=True)]
    assert await names(populated, filter) == expected
    assert await names(populated, filter, page_size=1) == expected
    assert await names(populated, filter, page_size=3) == expected
    oldest_first = await names(populated, filter, page_size=2, order_by="create_time")
    assert oldest_first == expected[::-1]
    stub: Any = lro_grpc.OperationsStub(populated.channel)
    listed = await stub.ListOperations(lro.ListOperationsRequest(name="operations", filter=filter, page_size=100))
    assert [operation.name for operation in listed.operations] == expected


@pytest.mark.parametrize("order", ["", "create_time desc", "  create_time   desc "])
async def test_the_newest_first_is_the_default_order(populated: Lab, order: str) -> None:
    assert await names(populated, order_by=order, page_size=4) == [f"operations/named-{n}" for n in range(9, -1, -1)]


@pytest.mark.parametrize("order", ["name", "create_time asc", "update_time", "create_time desc, name", "CREATE_TIME"])
async def test_another_order_is_refused(populated: Lab, order: str) -> None:
    code, reason, status = await refused(populated.operations.List(pb.ListRequest(order_by=order)))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", ["order_by"])


async def test_a_token_belongs_to_one_order(populated: Lab) -> None:
    token = (await populated.operations.List(pb.ListRequest(page_size=4))).next_page_token
    await populated.operations.List(pb.ListRequest(page_token=token, order_by="create_time desc"))
    code, reason, _ = await refused(populated.operations.List(pb.ListRequest(page_token=token, order_by="create_time")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_counts_by_type_and_state(populated: Lab) -> None:
    await populated.run("PlayAgain", key="x", count=2)

    async def count(filter: str = "") -> dict[tuple[str, int], int]:
        response = await populated.operations.Count(pb.CountRequest(filter=filter))
        assert not response.truncated
        return {(entry.type.rpartition("/")[2], entry.state): entry.count for entry in response.counts}

    failed, completed, running = State.STATE_FAILED, State.STATE_COMPLETED, State.STATE_RUNNING
    assert await count() == {
        ("PlayNamed", failed): 4, ("PlayNamed", completed): 3, ("PlayNamed", running): 3, ("PlayAgain", completed): 1,
    }  # fmt: skip
    assert await count("labels.tenant=acme") == {
        ("PlayNamed", failed): 2, ("PlayNamed", completed): 2, ("PlayNamed", running): 1,
    }  # fmt: skip
    assert await count("type=lab.v1.LabService/PlayAgain") == {("PlayAgain", completed): 1}
    assert await count("labels.nobody=x") == {}
    code, reason, _ = await refused(populated.operations.Count(pb.CountRequest(filter="state")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FILTER")


async def test_children_are_found_by_their_parent(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if request.script == "parent":
            child = await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(), name="child")
            await child.wait()
        return lab_pb2.PlayResult()

    parent = await lab.run("PlayNamed", key="p", script="parent")
    (child,) = (await lab.operations.List(pb.ListRequest(filter=f"parent={parent.name}"))).operations
    assert (child.type, child.parent) == (Lab.TYPE, f"operations/{parent.uid}")


async def test_pages_are_as_large_as_asked_for(populated: Lab) -> None:
    page = await populated.operations.List(pb.ListRequest(page_size=4))
    assert len(page.operations) == 4
    rest = await populated.operations.List(pb.ListRequest(page_size=1000, page_token=page.next_page_token))
    assert (len(rest.operations), rest.next_page_token) == (6, "")
    exact = await populated.operations.List(pb.ListRequest(page_size=10))
    assert (len(exact.operations), exact.next_page_token) == (10, "")


async def test_the_default_page_is_fifty_and_the_largest_a_thousand(lab: Lab) -> None:
    await asyncio.gather(*(lab.begin() for _ in range(1010)))
    assert len((await lab.operations.List(pb.ListRequest())).operations) == 50
    assert len((await lab.operations.List(pb.ListRequest(page_size=2**31 - 1))).operations) == 1000
    assert len(set(await names(lab, page_size=1000))) == 1010


async def test_what_begins_or_ends_between_pages_repeats_and_loses_nothing(populated: Lab) -> None:
    page = await populated.operations.List(pb.ListRequest(page_size=5))
    await populated.begin("PlayNamed", key="new", count=2)
    rest = await populated.operations.List(pb.ListRequest(page_size=50, page_token=page.next_page_token))
    assert [o.name[-1] for o in (*page.operations, *rest.operations)] == list("9876543210")


async def test_a_page_looks_at_so_many_rows_and_no_more(populated: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "EXAMINED", 3)
    filter = 'labels.tenant!="the \\"other\\""'
    page = await populated.operations.List(pb.ListRequest(filter=filter))
    assert len(page.operations) == 0
    assert page.next_page_token
    assert await names(populated, filter) == [f"operations/named-{n}" for n in (4, 3, 2, 1, 0)]
    assert await names(populated, filter, order_by="create_time") == [f"operations/named-{n}" for n in range(5)]
    assert await names(populated, "state=RUNNING", page_size=1) == [f"operations/named-{n}" for n in (7, 5, 1)]


async def test_a_token_outlives_the_server(populated: Lab) -> None:
    page = await populated.operations.List(pb.ListRequest(page_size=8))
    await populated.restart()
    rest = await populated.operations.List(pb.ListRequest(page_size=8, page_token=page.next_page_token))
    assert [o.name[-1] for o in rest.operations] == ["1", "0"]


async def test_the_input_only_when_asked_for(populated: Lab) -> None:
    basic = await populated.operations.List(pb.ListRequest(page_size=2))
    assert not any(operation.HasField("input") for operation in basic.operations)
    full = await populated.operations.List(pb.ListRequest(page_size=2, view=FULL))
    request = lab_pb2.PlayRequest()
    assert full.operations[0].input.Unpack(request)
    assert request.count == 9


async def test_a_listed_snapshot_is_the_one_that_get_gives(populated: Lab) -> None:
    for operation in (await populated.operations.List(pb.ListRequest())).operations:
        assert operation == await populated.get(operation.name)


async def test_a_list_never_knows_more_than_get(lab: Lab) -> None:
    """A commit is on the disk before it is published: a list that read it must wait for that."""

    async def play() -> None:
        for _ in range(40):
            await lab.run()

    async def look() -> None:
        while not playing.done():
            listed = await lab.engine.list([], None, 5)
            for record in listed[0]:
                known = (await lab.engine.load(record.uid)).record
                assert known.revision >= record.revision
                assert lab.engine.table.get(record.uid) is not None

    playing = asyncio.gather(*(play() for _ in range(4)))
    await asyncio.gather(look(), look(), playing)


async def test_the_catalog(lab: Lab) -> None:
    listed = await lab.operations.ListTypes(pb.ListTypesRequest())
    found = [t.type for t in listed.types]
    assert found == sorted(found)
    assert "lab.v1.LabService/PlayAndWatch" not in found
    paged, token = [], ""
    while True:
        page = await lab.operations.ListTypes(pb.ListTypesRequest(page_size=4, page_token=token))
        assert len(page.types) <= 4
        paged += [t.type for t in page.types]
        token = page.next_page_token
        if not token:
            break
    assert paged == found
    kind = await lab.operations.GetType(pb.GetTypeRequest(type=Lab.TYPE))
    assert kind == next(t for t in listed.types if t.type == Lab.TYPE)
    assert (kind.input_type, kind.progress_type, kind.result_type, kind.output_type) == (
        "lab.v1.PlayRequest", "lab.v1.PlayProgress", "lab.v1.PlayResult", "longshore.v1.DiagnosticOutput",
    )  # fmt: skip
    assert kind.streaming_method == "/lab.v1.LabService/PlayAndWatch"
    assert kind.contract.cancel_grace.seconds == 10
    assert kind.description.startswith("Cooperative cancellation")


async def test_get_by_name_and_by_uid_live_and_ended_before_and_after_a_restart(populated: Lab) -> None:
    for number, state in ((1, State.STATE_RUNNING), (2, State.STATE_COMPLETED), (3, State.STATE_FAILED)):
        one = await populated.get(f"operations/named-{number}")
        assert one.state == state
        assert await populated.get(f"operations/{one.uid}") == one
    ended = [await populated.get(f"operations/named-{number}") for number in (2, 3)]
    await populated.restart()
    assert [await populated.get(snapshot.name) for snapshot in ended] == ended


async def test_a_page_that_stock_clients_could_not_receive_is_cut_short(make_lab: Any) -> None:
    lab = await make_lab(max_payload=2_000_000)

    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(text="x" * 1_500_000)

    names = [(await lab.run()).name for _ in range(5)]
    stub = lro_grpc.OperationsStub(lab.channel)
    for method, request in ((lab.operations.List, pb.ListRequest), (stub.ListOperations, lro.ListOperationsRequest)):
        seen: list[str] = []
        token = ""
        while True:
            page: Any = await method(request(page_token=token))
            assert page.ByteSize() < 4 * 1024 * 1024
            seen += [operation.name for operation in page.operations]
            token = page.next_page_token
            if not token:
                break
            assert len(page.operations) == 2
        assert seen == names[::-1]
