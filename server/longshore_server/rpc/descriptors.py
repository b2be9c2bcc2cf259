"""The descriptors as reflection gives them out: those of Python's pool, and what stock tools miss in it.

- A method is found by its name, as a service is; ghz asks for nothing else.
- `grpc.reflection.v1` is described, as all that is listed; grpcio-reflection brings v1alpha, with the same messages.
- Fields carry their JSON names, as protoc writes them; without them grpcurl writes JSON that is not proto3's.
"""

from __future__ import annotations

import functools

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

_V1ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"


class DescribedFile:
    """A file, as far as grpcio-reflection looks at it."""

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self.name = file.name

    @property
    def dependencies(self) -> list[DescribedFile]:
        return [DescribedFile(file) for file in self._file.dependencies]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:  # noqa: N802 - the name that is called
        """As `FileDescriptor.CopyToProto`, with JSON names."""
        self._file.CopyToProto(proto)
        for message in proto.message_type:
            _name_fields(message)


class DescriptorPool:
    """A pool, as far as grpcio-reflection asks it. What it does not have raises `KeyError`."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool
        self.FindMessageTypeByName = pool.FindMessageTypeByName
        self.FindExtensionByNumber = pool.FindExtensionByNumber
        self.FindAllExtensions = pool.FindAllExtensions

    def FindFileByName(self, name: str) -> DescribedFile:  # noqa: N802 - the name that is called
        return DescribedFile(self._find("FindFileByName", name))

    def FindFileContainingSymbol(self, symbol: str) -> DescribedFile:  # noqa: N802 - the name that is called
        finder = "FindFileContainingSymbol"
        try:
            return DescribedFile(self._find(finder, symbol))
        except KeyError:
            service, _, method = symbol.rpartition(".")
            file = self._find(finder, service)
            described = file.services_by_name.get(service.rpartition(".")[2])
            if described is None or method not in described.methods_by_name:
                raise
            return DescribedFile(file)

    def _find(self, finder: str, name: str) -> FileDescriptor:
        """What a finder of the pool gives or, where that has nothing, the same of reflection's own."""
        try:
            found: FileDescriptor = getattr(self._pool, finder)(name)
        except KeyError:
            found = getattr(_reflection_v1(), finder)(name)
        return found


@functools.cache
def _reflection_v1() -> descriptor_pool.DescriptorPool:
    """`grpc/reflection/v1/reflection.proto`, made of v1alpha's."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{_V1ALPHA}.", f".{_V1}.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
            method.output_type = method.output_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _name_fields(message: DescriptorProto) -> None:
    for field in message.field:
        if not field.json_name:
            field.json_name = _json_name(field.name)
    for nested in message.nested_type:
        _name_fields(nested)


def _json_name(name: str) -> str:
    """As protoc makes it: `order_id` is `orderId`."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)
