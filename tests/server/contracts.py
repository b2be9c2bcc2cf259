"""Contracts that tests make at run time, and what a server says of one that it cannot enforce."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import ServiceDescriptor

from longshore.v1 import annotations_pb2
from longshore_server import ContractError
from longshore_server.contract import loading

NUMBERS = itertools.count(1)
F = descriptor_pb2.FieldDescriptorProto


def method(name: str = "Play", options: str | None = "", **changes: Any) -> descriptor_pb2.MethodDescriptorProto:
    """A method of a contract; `options`: the text of its operation option, None for a method that has none."""
    proto = descriptor_pb2.MethodDescriptorProto(
        name=name, input_type=changes.pop("input", ".PKG.Input"),
        output_type=changes.pop("output", ".google.longrunning.Operation"),
        server_streaming=changes.pop("stream", False), client_streaming=changes.pop("takes_stream", False),
    )  # fmt: skip
    if options is not None:
        text_format.Parse(options, proto.options.Extensions[annotations_pb2.operation])
        # proto3 text drops nothing, but an empty option has to be present all the same.
        proto.options.Extensions[annotations_pb2.operation].SetInParent()
    info = changes.pop("info", ("Result", "Progress"))
    if info is not None:
        proto.options.Extensions[operations_pb2.operation_info].response_type = info[0]
        proto.options.Extensions[operations_pb2.operation_info].metadata_type = info[1]
    return proto


def contract(
    *methods: descriptor_pb2.MethodDescriptorProto, service: str | annotations_pb2.Contract = ""
) -> ServiceDescriptor:
    """A service descriptor made at run time, in a package of its own. `service`: its contract option, or the text."""
    package = f"made{next(NUMBERS)}.v1"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(
        ["google/longrunning/operations.proto", "longshore/v1/annotations.proto", "longshore/v1/channels.proto"]
    )
    for name in ("Input", "Progress", "Result", "Other"):
        message = file.message_type.add(name=name)
        message.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
        message.field.add(name="count", number=2, type=F.TYPE_INT32, label=F.LABEL_OPTIONAL)
        message.field.add(name="keys", number=3, type=F.TYPE_STRING, label=F.LABEL_REPEATED)
        message.field.add(
            name="inner", number=4, type=F.TYPE_MESSAGE, type_name=f".{package}.{name}", label=F.LABEL_OPTIONAL
        )
    made = file.service.add(name="Orders")
    for proto in methods:
        copy = made.method.add()
        copy.CopyFrom(proto)
        copy.input_type = copy.input_type.replace("PKG", package)
        copy.output_type = copy.output_type.replace("PKG", package)
    if isinstance(service, annotations_pb2.Contract):
        made.options.Extensions[annotations_pb2.contract].CopyFrom(service)
    elif service:
        text_format.Parse(service, made.options.Extensions[annotations_pb2.contract])
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Orders")


async def handle(self: Any, request: Any, op: Any) -> Any:
    """A handler as it should be."""


def service(descriptor: ServiceDescriptor, **members: Any) -> Any:
    declared = [m.name for m in descriptor.methods]
    option = annotations_pb2.operation
    names = {m.name: m.name.lower() for m in descriptor.methods if not m.GetOptions().Extensions[option].watches}
    found = {"DESCRIPTOR": descriptor, "OPERATIONS": names, "LINES": dict.fromkeys(declared, 7)}
    return type("Orders", (), {**found, **dict.fromkeys(names.values(), handle), **members})()


def refusal(
    *methods: descriptor_pb2.MethodDescriptorProto, service_options: str | annotations_pb2.Contract = "", **members: Any
) -> str:
    """The message of the refusal, with the made-up package taken out."""
    descriptor = contract(*methods, service=service_options)
    with pytest.raises(ContractError) as caught:
        loading.load([service(descriptor, **members)], default_timeout=1)
    package = descriptor.file.package
    return str(caught.value).replace(f"{package}.proto", "FILE").replace(package, "PKG")
