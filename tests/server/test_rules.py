"""`buf.validate` rules: one that is wrong itself refuses start-up, one that fails on an input refuses that input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as cpb_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from longshore_server import ContractError, Server
from longshore_server.contract import loading, rules
from longshore_server.contract.rules import MAX_HELD
from longshore_server.errors import Reason, ServiceError
from longshore_server.testing import Harness
from tests.conftest import fields_of, refused
from tests.server.contracts import F, handle, method, service

NUMBERS = itertools.count(1)
MESSAGES = ("Input", "Progress", "Output", "Result", "Poke")
OPTIONS = """output_type: "Output" unbounded: true control {} signals { name: "poke" payload_type: "Poke" }"""
DECIDED = 'cel { id: "a" message: "m" expression: "int(this) > 5" }'


def contract(ruled: str, rule: str = "", message_rule: str = "", kind: str = "key") -> ServiceDescriptor:
    """A service whose message `ruled` has a rule on the field `kind` of the message that it holds, or on that."""
    package = f"ruled{next(NUMBERS)}.v1"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(
        ["google/longrunning/operations.proto", wrappers_pb2.DESCRIPTOR.name, "longshore/v1/annotations.proto",
         "buf/validate/validate.proto"]
    )  # fmt: skip
    for name in MESSAGES:
        message = file.message_type.add(name=name)
        inner = message.nested_type.add(name="Inner")
        inner.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
        inner.field.add(name="keys", number=2, type=F.TYPE_STRING, label=F.LABEL_REPEATED)
        inner.field.add(name="count", number=3, type=F.TYPE_INT32, label=F.LABEL_OPTIONAL)
        inner.field.add(
            name="maybe", number=4, type=F.TYPE_MESSAGE, type_name=".google.protobuf.Int32Value", label=F.LABEL_OPTIONAL
        )
        message.field.add(
            name="inner", number=1, type=F.TYPE_MESSAGE, type_name=f".{package}.{name}.Inner", label=F.LABEL_REPEATED
        )
        # What holds itself has an end all the same.
        message.field.add(
            name="self", number=2, type=F.TYPE_MESSAGE, type_name=f".{package}.{name}", label=F.LABEL_OPTIONAL
        )
        if name == ruled:
            [field] = [field for field in inner.field if field.name == kind]
            if rule:
                text_format.Parse(rule, extension(field.options, validate_pb2.field))
            if message_rule:
                text_format.Parse(message_rule, extension(inner.options, validate_pb2.message))
    play = file.service.add(name="Orders").method.add()
    play.CopyFrom(method(options=OPTIONS))
    play.input_type = f".{package}.Input"
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Orders")


def extension(options: Any, which: Any) -> Any:
    return options.Extensions[which]


def load(descriptor: ServiceDescriptor) -> None:
    loading.load([service(descriptor)], default_timeout=1)


def refusal(descriptor: ServiceDescriptor) -> str:
    with pytest.raises(ContractError) as caught:
        load(descriptor)
    return str(caught.value).replace(f"{descriptor.file.package}.proto", "FILE").replace(descriptor.file.package, "PKG")


def cel(expression: str) -> str:
    return f'cel {{ id: "a" message: "m" expression: "{expression}" }}'


MISTAKES = {
    "CEL that is none": (cel("this.foo("), "failed to compile expression a: ERROR: <input>:1:10: Syntax error"),
    "a CEL function that there is not": (cel("foo(this)"), "failed to compile expression a"),
    "CEL of another type": (cel("this + 5"), "error evaluating a: No matching overloads found : _+_(string, int64)"),
    "CEL of another type where something is set": (
        f"ignore: IGNORE_IF_ZERO_VALUE {cel('this > 5')}",
        "error evaluating a: No matching overloads found : _>_(string, int64)",
    ),
    "CEL that answers neither yes nor no": (cel("5"), "expression a outputs an unexpected type"),
    "CEL of a name that there is not": (cel("that == 'x'"), 'error evaluating a: No value with name "that"'),
    "a rule for another type": ("int32 { gte: 1 }", 'expected rule "buf.validate.FieldRules.string"'),
    "a regular expression that is none": ('string { pattern: "(" }', "failed to compile program string.pattern"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_rule_that_is_wrong_refuses_the_start(case: str) -> None:
    rule, problem = MISTAKES[case]
    assert refusal(contract("Input", rule)).startswith(
        f"FILE: PKG.Input.Inner.key: option (buf.validate.field): {problem}"
    )


@pytest.mark.parametrize("ruled", MESSAGES)
def test_the_rules_of_all_that_is_sent_are_compiled(ruled: str) -> None:
    assert refusal(contract(ruled, 'string { pattern: "(" }')).startswith(f"FILE: PKG.{ruled}.Inner.key: option")


def test_a_rule_on_items_and_one_on_the_message_are_compiled() -> None:
    found = refusal(contract("Input", f"repeated {{ items {{ {cel('this + 5')} }} }}", kind="keys"))
    assert found.startswith("FILE: PKG.Input.Inner.keys: option (buf.validate.field): error evaluating a")
    found = refusal(contract("Input", message_rule=cel("this.kex == ''")))
    assert found == "FILE: PKG.Input.Inner: option (buf.validate.message): error evaluating a: no_such_field : kex"


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (DECIDED, "key"),
        (cel("this > 5"), "count"),
        (cel("this > 5"), "maybe"),
        ("string { min_len: 9 max_len: 3 }", "key"),
    ],
)
def test_a_rule_that_some_input_may_keep_starts(rule: str, kind: str) -> None:
    load(contract("Input", rule, kind=kind))


def packed(descriptor: ServiceDescriptor, name: str, *keys: str) -> AnyMessage:
    kind = message_factory.GetMessageClass(descriptor.file.message_types_by_name[name])
    found = AnyMessage()
    found.Pack(kind(self={"inner": [{"key": key} for key in keys]}))
    return found


@pytest.mark.parametrize("ruled", ["Input", "Poke", "Progress"])
async def test_what_a_rule_fails_on_is_refused_with_its_place(ruled: str, tmp_path: Path) -> None:
    descriptor = contract(ruled, DECIDED)

    async def play(self: Any, request: Any, op: Any) -> Any:
        return await op.defer()

    harness = Harness(Server(service(descriptor, play=play if ruled != "Input" else handle)), tmp_path)
    await harness.start()
    try:
        async with grpc.aio.insecure_channel(harness.address) as channel:
            operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
            control = cpb_grpc.OperationControlServiceStub(channel)
            kind = f"{descriptor.full_name}/Play"

            async def send(*keys: str) -> Any:
                value = packed(descriptor, ruled, *keys)
                if ruled == "Input":
                    return await operations.Start(pb.StartRequest(type=kind, input=value))
                if ruled == "Poke":
                    return await operations.Signal(pb.SignalRequest(name=name, signal="poke", payload=value))
                return await control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=value))

            if ruled != "Input":
                empty = packed(descriptor, "Input")
                name = (await operations.Start(pb.StartRequest(type=kind, input=empty))).operation.name
                await control.ReportStarted(cpb.ReportStartedRequest(name=name))
            await send("6", "7")
            for keys in (("6", "aaa"), ("6", "7", "")):
                code, reason, status = await refused(send(*keys))
                assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
                assert fields_of(status) == [f"self.inner[{len(keys) - 1}].key"]
                assert "its rule cannot be decided: error evaluating a: cannot convert string to int" in status.message
            assert (await refused(send(*("",) * (rules.MAX_MESSAGES + 1))))[1] == "INPUT_TOO_LARGE"
            code, reason, status = await refused(send(*("6",) * MAX_HELD, "aaa"))
            assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", [""])
    finally:
        await harness.stop()


HELD: dict[str, Callable[[int], Any]] = {
    "one beside the other": lambda count: {"inner": [{}] * count},
    "inside another one": lambda count: {"self": {"inner": [{}] * (count - 1)}},
    "one in each of many": lambda count: {"inner": [{"maybe": {}}] * (count // 2)},
}


@pytest.mark.parametrize("case", HELD)
def test_more_messages_than_can_be_checked_in_a_moment_are_refused(case: str) -> None:
    descriptor = contract("Input", DECIDED)
    kind = message_factory.GetMessageClass(descriptor.file.message_types_by_name["Input"])

    def check(count: int) -> ServiceError:
        message = kind(**HELD[case](count))
        with pytest.raises(ServiceError) as caught:
            rules.check_rules(message, message.ByteSize())
        return caught.value

    # An empty key is one that the rule cannot decide.
    assert check(rules.MAX_MESSAGES).reason is Reason.INVALID_ARGUMENT
    found = check(rules.MAX_MESSAGES + 2)
    assert (found.reason, found.metadata) == (Reason.INPUT_TOO_LARGE, {"limit": str(rules.MAX_MESSAGES)})
