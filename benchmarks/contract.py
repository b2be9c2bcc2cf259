"""The contract of the benchmarks, described in code: it needs no messages of its own, and so no generated stubs.

`bench.v1.BenchService/Work` takes a `DiagnosticOutput` whose message says what the handler does, reports
`MilestoneProgress` and returns a `CounterProgress`. Without a name template or rules: the least that a contract can be.
"""

from __future__ import annotations

from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import ServiceDescriptor

from longshore.v1 import annotations_pb2, channels_pb2
from longshore.v1 import operations_service_pb2 as pb

TYPE = "bench.v1.BenchService/Work"
TYPE_URL = "type.googleapis.com/"

WORK = "work"
"""Script: one progress, awaited, then the result."""
HANG = "hang"
"""Script: one progress, awaited, then wait for ever."""
FAN = "fan"
"""Script `fan:N:AWAIT`: wait for the gate, then N progress messages; AWAIT 1 awaits each, 0 only the last."""
OPEN_GATE = "open"
"""Script: open the gate for every `fan` that waits."""


def service() -> ServiceDescriptor:
    """The descriptor of `bench.v1.BenchService`, in the default pool."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName("bench.v1.BenchService")
    except KeyError:
        pass
    file = descriptor_pb2.FileDescriptorProto(name="bench/v1/bench.proto", package="bench.v1", syntax="proto3")
    file.dependency.extend(
        (operations_pb2.DESCRIPTOR.name, annotations_pb2.DESCRIPTOR.name, channels_pb2.DESCRIPTOR.name)
    )
    method = file.service.add(name="BenchService").method.add(
        name="Work",
        input_type="." + channels_pb2.DiagnosticOutput.DESCRIPTOR.full_name,
        output_type=".google.longrunning.Operation",
    )
    info = method.options.Extensions[operations_pb2.operation_info]
    info.response_type = channels_pb2.CounterProgress.DESCRIPTOR.full_name
    info.metadata_type = channels_pb2.MilestoneProgress.DESCRIPTOR.full_name
    method.options.Extensions[annotations_pb2.operation].SetInParent()
    pool.Add(file)
    return pool.FindServiceByName("bench.v1.BenchService")


def request(script: str) -> channels_pb2.DiagnosticOutput:
    """The input of an operation that plays `script`."""
    return channels_pb2.DiagnosticOutput(message=script)


def start_request(script: str, *, wait: int = 0) -> bytes:
    """A serialized StartRequest; `wait` in seconds, 0: answer at once."""
    message = pb.StartRequest(type=TYPE, input=_packed(script))
    if wait:
        message.wait.seconds = wait
    return message.SerializeToString()


def run_request(script: str) -> bytes:
    """A serialized RunRequest."""
    return pb.RunRequest(type=TYPE, input=_packed(script)).SerializeToString()


def _packed(script: str) -> Any:
    input = request(script)
    return Any(type_url=TYPE_URL + input.DESCRIPTOR.full_name, value=input.SerializeToString())
