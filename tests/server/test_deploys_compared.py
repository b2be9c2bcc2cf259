"""What a contract may change under operations that live, and what it may not: one change after the other."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server.testing import Harness
from tests.conftest import refused
from tests.server.deploying import (
    AMOUNT,
    BLUE,
    GONE,
    RENAMED,
    SIGNAL,
    TYPE,
    UNSIGNALLED,
    Deploy,
    Shop,
    contract,
    kind,
    moved,
    refusal_of,
    root,
    shop,
    template,
)

__all__ = ["shop"]


ITEMS = 'type_name: ".shop.v1.Item" label: LABEL_REPEATED }\n  field { name: "card"'
CASH = 'name: "cash" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL oneof_index: 0'
CHANNELS = 'dependency: "longshore/v1/channels.proto"'
EMPTY = "google.protobuf.Empty"
INCOMPATIBLE: dict[str, tuple[list[tuple[str, str]], str]] = {
    "a renamed field": ([('name: "amount"', 'name: "total"')], RENAMED),
    "a changed type": (
        [(AMOUNT, AMOUNT.replace("INT32", "INT64"))], kind("shop.v1.Input.amount", "int32", "int64"),
    ),
    "a changed label": (
        [(AMOUNT, AMOUNT.replace("OPTIONAL", "REPEATED"))], kind("shop.v1.Input.amount", "int32", "repeated int32"),
    ),
    "another message in a field": (
        [(ITEMS, ITEMS.replace("Item", "Approval"))],
        kind("shop.v1.Input.items", "repeated shop.v1.Item", "repeated shop.v1.Approval"),
    ),
    "a removed field": ([(AMOUNT, "")], GONE),
    "a removed field while other numbers are reserved": (
        [(AMOUNT, "reserved_range { start: 7 end: 12 } reserved_range { start: 13 end: 14 }")], GONE,
    ),
    "a field with another number": (
        [(AMOUNT, AMOUNT.replace("number: 12", "number: 9"))],
        "shop.v1.Input.amount had number 12, and has 9; numbers are for ever: set it back",
    ),
    "a field that left its oneof": (
        [(CASH, CASH.removesuffix(" oneof_index: 0"))],
        moved("shop.v1.Input.cash", "in oneof 'payment'", "in no oneof"),
    ),
    "a field that joined a oneof": (
        [(AMOUNT, AMOUNT.replace(" }", " oneof_index: 0 }"))],
        moved("shop.v1.Input.amount", "in no oneof", "in oneof 'payment'"),
    ),
    "a field deep inside": (
        [('name: "sku"', 'name: "code"')],
        "shop.v1.Item.sku (number 1) is now called 'code'; call it 'sku' again, or give 'code' a number of its own",
    ),
    "a map of something else": (
        [('name: "value" number: 2 type: TYPE_STRING', 'name: "value" number: 2 type: TYPE_BYTES')],
        kind("shop.v1.Input.NotesEntry.value", "string", "bytes"),
    ),
    "an enum value that is gone": (
        [(BLUE, "")],
        "shop.v1.Color.BLUE (2) is gone; give it back, or write `reserved 2;` where it may be forgotten",
    ),
    "an enum value with another number": (
        [(BLUE, BLUE.replace("2", "3"))],
        "shop.v1.Color.BLUE was 2, and is 3; numbers are for ever: set it back",
    ),
    "an enum value with another name": (
        [(BLUE, BLUE.replace("BLUE", "GREEN"))],
        "shop.v1.Color.BLUE (2) is now called 'GREEN'; call it 'BLUE' again, or give the new value a number of its own",
    ),
    "another input": (
        [('input_type: ".shop.v1.Input"', 'input_type: ".shop.v1.Item"'), ("buy-{key}", "buy-{sku}")],
        root("the input", "shop.v1.Input", "shop.v1.Item"),
    ),
    "another progress": (
        [('metadata_type: "Progress"', 'metadata_type: "Approval"')],
        root("the progress", "shop.v1.Progress", "shop.v1.Approval"),
    ),
    "another result": (
        [('response_type: "Result"', f'response_type: "{EMPTY}"'),
         (CHANNELS, f'{CHANNELS} dependency: "google/protobuf/empty.proto"')],
        root("the result", "shop.v1.Result", EMPTY),
    ),
    "another output": (
        [("control {} ", 'control {} output_type: "Approval" ')],
        root("the output", "longshore.v1.DiagnosticOutput", "shop.v1.Approval"),
    ),
    "another payload of a signal": (
        [('payload_type: "Approval"', 'payload_type: "Unused"')],
        root("the payload of signal 'approve'", "shop.v1.Approval", "shop.v1.Unused"),
    ),
    "a removed signal": ([(SIGNAL, "")], UNSIGNALLED),
    "another template": ([("buy-{key}", "purchase-{key}")], template("buy-{key}", "purchase-{key}")),
    "no template": ([('id_template: "buy-{key}"', "")], template("buy-{key}", "absent")),
}  # fmt: skip


@pytest.mark.parametrize("case", INCOMPATIBLE)
async def test_a_contract_that_has_changed_under_live_operations_is_refused(shop: Shop, case: str) -> None:
    edits, problem = INCOMPATIBLE[case]
    await shop.buy()
    found = await shop.refusal(*edits)
    if case == "another input":
        # The template goes with it.
        found = found.replace(f"  1 operation of {TYPE}: {template('buy-{key}', 'buy-{sku}')}\n", "")
    assert found == refusal_of(problem)
    # A refused start has changed nothing: the version that they were started under goes on.
    version = await shop.deploy()
    version.finish = True
    assert len(shop.stored()) == 1


LOOK = """
method {
  name: "Look" input_type: ".shop.v1.Unused" output_type: ".google.longrunning.Operation"
  options {
    [google.longrunning.operation_info] { response_type: "Result" metadata_type: "Progress" }
    [longshore.v1.operation] {}
  }
}
"""
COMPATIBLE: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "a new field": [(AMOUNT, AMOUNT + ' field { name: "tip" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }')],
    "a new message": [('message_type { name: "Unused"', 'message_type { name: "More" } message_type { name: "Unused"')],
    "a new enum value": [(BLUE, BLUE + ' value { name: "GREEN" number: 3 }')],
    "a second name for an enum value": [
        ('name: "Color"', 'name: "Color" options { allow_alias: true }'),
        (BLUE, BLUE + ' value { name: "AZURE" number: 2 }'),
    ],
    "a removed field whose number is reserved": [(AMOUNT, "reserved_range { start: 12 end: 13 }")],
    "a removed enum value whose number is reserved": [(BLUE, "reserved_range { start: 2 end: 2 }")],
    "a message that nobody uses is gone": [
        ('message_type { name: "Unused" field { name: "by" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }', ""),
    ],
    "explicit presence": [
        (AMOUNT, AMOUNT.replace(" }", " oneof_index: 1 proto3_optional: true }")),
        ('oneof_decl { name: "payment" }', 'oneof_decl { name: "payment" } oneof_decl { name: "_amount" }'),
    ],
    "new options": [("control {} ", "control {} timeout { seconds: 60 } max_crashes: 3 ")],
    "a new signal": [(SIGNAL, SIGNAL + ' signals { name: "refuse" payload_type: "Approval" }')],
    "a new method": [
        ('service {\n  name: "Shop"\n', f'service {{ name: "Shop" {LOOK}'),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", COMPATIBLE)
async def test_a_contract_that_still_fits_goes_on(shop: Shop, case: str) -> None:
    name = await shop.buy(amount=7, items=[{"sku": "A1", "color": 2}], notes={"a": "b"})
    deployed = Deploy(contract(*COMPATIBLE[case]))
    deployed.finish = True
    await shop.stop(crash=True)
    shop.harness = Harness(deployed.server, shop.data)
    await shop.harness.start()
    async with grpc.aio.insecure_channel(shop.harness.address) as shop.channel:
        operations = operations_service_pb2_grpc.OperationsServiceStub(shop.channel)
        ended = await operations.Wait(pb.WaitRequest(name=name))
    assert ended.state == ended.STATE_COMPLETED
    (request,) = deployed.inputs
    assert (request.key, request.items[0].sku, request.notes["a"]) == ("a", "A1", "b")


async def test_operations_that_have_ended_refuse_nothing(shop: Shop) -> None:
    shop.deployed.finish = True
    await shop.operations.Wait(pb.WaitRequest(name=await shop.buy()))
    await shop.deploy(*INCOMPATIBLE["a renamed field"][0])
    assert len(shop.stored()) == 2


async def test_a_retry_of_an_input_that_means_something_else_today_is_refused(shop: Shop) -> None:
    shop.deployed.finish = True
    first = await shop.operations.Wait(pb.WaitRequest(name=await shop.buy(amount=3)))
    name = f"operations/{first.uid}"
    await shop.deploy(*COMPATIBLE["a new field"])
    shop.deployed.finish = True
    again = await shop.operations.Retry(pb.RetryRequest(name=name))
    await shop.operations.Wait(pb.WaitRequest(name=again.operation.name))
    await shop.deploy(*INCOMPATIBLE["a changed type"][0])
    for uid in (first.uid, again.operation.uid):
        retry = shop.operations.Retry(pb.RetryRequest(name=f"operations/{uid}"))
        code, reason, status = await refused(retry)
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WRONG_INPUT_TYPE")
        assert status.message == (
            "name: its input was written under another contract: shop.v1.Input.amount was int32, and is int64; "
            "start a new one"
        )
    # What is another message only for what it sends back can be started again.
    await shop.deploy(*INCOMPATIBLE["another progress"][0])
    await shop.operations.Retry(pb.RetryRequest(name=name))


async def test_a_version_that_no_operation_refers_to_is_dropped(shop: Shop) -> None:
    shop.deployed.finish = True
    name = await shop.buy()
    await shop.operations.Wait(pb.WaitRequest(name=name))
    (first,) = shop.stored()
    changed = COMPATIBLE["a new field"]
    await shop.deploy(*changed)
    kept, second = shop.stored()
    assert kept == first
    await shop.operations.Delete(pb.DeleteRequest(name=name))
    assert len(shop.stored()) == 2
    await shop.deploy(*changed)
    assert shop.stored() == [second]


async def test_comments_and_other_methods_make_no_new_version(shop: Shop) -> None:
    await shop.buy()
    await shop.deploy(*COMPATIBLE["a message that nobody uses is gone"])
    assert len(shop.stored()) == 1


def test_the_fields_of_a_descriptor_that_are_compared_are_all_that_change_meaning() -> None:
    """A new field of FieldDescriptorProto must be looked at before it can be ignored."""
    compared = {"name", "number", "label", "type", "type_name", "default_value", "oneof_index", "proto3_optional"}
    harmless = {"extendee", "json_name", "options"}
    assert {field.name for field in descriptor_pb2.FieldDescriptorProto.DESCRIPTOR.fields} == compared | harmless
