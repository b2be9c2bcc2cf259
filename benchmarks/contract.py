"""The contract of the benchmarks, described in code: it needs no messages of its own, and so no generated stubs.

`bench.v1.BenchService/Work` takes a `DiagnosticOutput` whose message says what the handler does, reports
`MilestoneProgress` and returns a `CounterProgress`. Without a name template or rules: the least that a contract can be.
`bench.v1.GuardedService/Work` is the same behind gates, and its input has rules. `bench.v1.ExportService/Work` offers
an object.
"""

from __future__ import annotations

from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, field_mask_pb2, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor

from longshore.v1 import annotations_pb2, channels_pb2
from longshore.v1 import operations_service_pb2 as pb

TYPE = "bench.v1.BenchService/Work"
GUARDED = "bench.v1.GuardedService/Work"
CARRIED = "bench.v1.CarriedService/Work"
EXPORT = "bench.v1.ExportService/Work"
MAY_CALL, MAY_OBSERVE = "bench.call", "bench.observe"
"""The capabilities that the gates of `GUARDED` ask for."""
TYPE_URL = "type.googleapis.com/"

WORK = "work"
"""Script: one progress, awaited, then the result."""
HANG = "hang"
"""Script: one progress, awaited, then wait for ever."""
FAN = "fan"
"""Script `fan:N:AWAIT`: wait for the gate, then N progress messages; AWAIT 1 awaits each, 0 only the last."""
OPEN_GATE = "open"
"""Script: open the gate for every `fan` that waits."""

_VALIDATE = "buf/validate/validate.proto"
_RULED = "bench.v1.RuledInput"
"""The input of `GUARDED`: the field of `DiagnosticOutput` that scripts are in, with rules."""


def service() -> ServiceDescriptor:
    """The descriptor of `bench.v1.BenchService`, in the default pool."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/v1/bench.proto", package="bench.v1", syntax="proto3")
    method = _method(file, "BenchService", channels_pb2.DiagnosticOutput.DESCRIPTOR.full_name)
    method.options.Extensions[annotations_pb2.operation].SetInParent()
    return _added(file)


def carried() -> ServiceDescriptor:
    """The descriptor of `bench.v1.CarriedService`: its operations take bytes into the store `files`."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/v1/carried.proto", package="bench.v1", syntax="proto3")
    method = _method(file, "CarriedService", channels_pb2.DiagnosticOutput.DESCRIPTOR.full_name)
    transfer = method.options.Extensions[annotations_pb2.operation].transfer
    transfer.direction = annotations_pb2.TRANSFER_DIRECTION_SEND
    transfer.store, transfer.key_path = "files", "message"
    return _added(file)


def guarded() -> ServiceDescriptor:
    """The descriptor of `bench.v1.GuardedService`: its twin with gates, capabilities and `buf.validate` rules."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/v1/guarded.proto", package="bench.v1", syntax="proto3")
    file.dependency.append(_VALIDATE)
    field = channels_pb2.DiagnosticOutput.DESCRIPTOR.fields_by_name["message"]
    ruled = file.message_type.add(name=_RULED.rpartition(".")[2]).field.add(
        name=field.name, number=field.number, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )  # fmt: skip
    rules = ruled.options.Extensions[_field_rules()]
    rules.required = True
    rules.string.max_len = 64
    rules.string.pattern = "^[a-z]+(:[0-9]+)*$"
    options = _method(file, "GuardedService", _RULED).options.Extensions[annotations_pb2.operation]
    options.call.all_of.append(MAY_CALL)
    options.observe.all_of.append(MAY_OBSERVE)
    for name in (MAY_CALL, MAY_OBSERVE):
        file.service[0].options.Extensions[annotations_pb2.contract].capabilities.add(name=name, title=name)
    return _added(file)


def exporting() -> ServiceDescriptor:
    """The descriptor of `bench.v1.ExportService`, whose operations offer the object that their script names."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/v1/export.proto", package="bench.v1", syntax="proto3")
    method = _method(file, "ExportService", channels_pb2.DiagnosticOutput.DESCRIPTOR.full_name)
    transfer = method.options.Extensions[annotations_pb2.operation].transfer
    transfer.direction = annotations_pb2.TRANSFER_DIRECTION_RECEIVE
    transfer.store, transfer.key_path = "files", "message"
    return _added(file)


def _method(file: descriptor_pb2.FileDescriptorProto, service: str, input: str) -> descriptor_pb2.MethodDescriptorProto:
    file.dependency.extend(
        (operations_pb2.DESCRIPTOR.name, annotations_pb2.DESCRIPTOR.name, channels_pb2.DESCRIPTOR.name)
    )
    method = file.service.add(name=service).method.add(
        name="Work", input_type="." + input, output_type=".google.longrunning.Operation"
    )
    info = method.options.Extensions[operations_pb2.operation_info]
    info.response_type = channels_pb2.CounterProgress.DESCRIPTOR.full_name
    info.metadata_type = channels_pb2.MilestoneProgress.DESCRIPTOR.full_name
    return method


def _added(file: descriptor_pb2.FileDescriptorProto) -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(f"{file.package}.{file.service[0].name}")


def _field_rules() -> Any:
    """The option `(buf.validate.field)`; protovalidate has its file, though for another pool."""
    import protovalidate

    pool = descriptor_pool.Default()
    pool.FindFileByName(field_mask_pb2.DESCRIPTOR.name)  # one of its imports, which nothing else here loads
    pool.AddSerializedFile(type(protovalidate.Violation().proto).desc().file.proto.to_binary())
    message_factory.GetMessageClassesForFiles([_VALIDATE], pool)
    return pool.FindExtensionByName("buf.validate.field")


def request(script: str) -> channels_pb2.DiagnosticOutput:
    """The input of an operation that plays `script`."""
    return channels_pb2.DiagnosticOutput(message=script)


def start_request(script: str, *, wait: int = 0, type: str = TYPE) -> bytes:
    """A serialized StartRequest; `wait` in seconds, 0: answer at once."""
    message = pb.StartRequest(type=type, input=_packed(script, type))
    if wait:
        message.wait.seconds = wait
    return message.SerializeToString()


def run_request(script: str, *, type: str = TYPE) -> bytes:
    """A serialized RunRequest."""
    return pb.RunRequest(type=type, input=_packed(script, type)).SerializeToString()


def _packed(script: str, type: str) -> AnyMessage:
    input = request(script)
    name = _RULED if type == GUARDED else input.DESCRIPTOR.full_name
    return AnyMessage(type_url=TYPE_URL + name, value=input.SerializeToString())
