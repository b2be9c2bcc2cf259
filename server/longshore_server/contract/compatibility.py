"""Whether today's contract still understands the operations that were started under an earlier one.

What an operation type means to its operations is written down as descriptors: its messages and its options. What was
written under the one version must mean the same under the other. Added fields, messages, enum values and options always
do; a field that is gone does once its number is reserved, which says that its data may be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.longrunning import operations_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from longshore.v1 import annotations_pb2
from longshore_server.contract.types import OperationType


class Mismatch(NamedTuple):
    """One thing that no longer means what it did. `where` names a field, a message or an option."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where} {self.problem}; {self.remedy}"


# What is written down.


def describe(type: OperationType) -> bytes:
    """The type's descriptors, a serialized `FileDescriptorSet`: its method, and all messages that can reach it.

    Names in the options are made full, so that they can be read without the rest of the contract. What belongs to other
    methods, and comments, are left out: they make no new version.
    """
    wanted: dict[FileDescriptor, dict[str, Descriptor | EnumDescriptor]] = {}
    roots = [type.input, type.progress, type.output, type.result, *(s.payload for s in type.signals.values())]
    waiting: list[Any] = [*(root.DESCRIPTOR for root in roots), type.method.output_type]
    while waiting:
        found = _outermost(waiting.pop())
        if found.name not in wanted.setdefault(found.file, {}):
            wanted[found.file][found.name] = found
            waiting.extend(_referred(found))
    home = type.method.containing_service.file
    wanted.setdefault(home, {})
    files = {file.name: _reduced(file, list(kept.values())) for file, kept in wanted.items()}
    service = files[home.name].service.add(name=type.method.containing_service.name)
    service.method.append(_method(type))
    _depend(files[home.name], {_file_of(files, type.method.input_type), _file_of(files, type.method.output_type)})
    return FileDescriptorSet(file=_in_order(files)).SerializeToString(deterministic=True)


def _method(type: OperationType) -> MethodDescriptorProto:
    proto = MethodDescriptorProto()
    type.method.CopyToProto(proto)
    proto.options.Clear()
    info = proto.options.Extensions[operations_pb2.operation_info]
    info.response_type = type.result.DESCRIPTOR.full_name
    info.metadata_type = type.progress.DESCRIPTOR.full_name
    contract = proto.options.Extensions[annotations_pb2.operation]
    contract.CopyFrom(type.contract)
    contract.output_type = type.output.DESCRIPTOR.full_name
    for signal in contract.signals:
        signal.payload_type = type.signals[signal.name].payload.DESCRIPTOR.full_name
    return proto


def _outermost(found: Any) -> Any:
    while found.containing_type is not None:
        found = found.containing_type
    return found


def _referred(found: Descriptor | EnumDescriptor) -> Iterator[Descriptor | EnumDescriptor]:
    """The messages and enums that the fields of a message, and of those inside it, are of."""
    if isinstance(found, EnumDescriptor):
        return
    for field in found.fields:
        if field.message_type is not None:
            yield field.message_type
        elif field.enum_type is not None:
            yield field.enum_type
    for nested in found.nested_types:
        yield from _referred(nested)


def _reduced(file: FileDescriptor, kept: Sequence[Descriptor | EnumDescriptor]) -> FileDescriptorProto:
    """The file with these messages and enums alone."""
    whole = FileDescriptorProto()
    file.CopyToProto(whole)
    proto = FileDescriptorProto(name=whole.name, package=whole.package, syntax=whole.syntax)
    if whole.syntax == "editions":
        # How its fields are encoded stands in the options.
        proto.edition = whole.edition
        proto.options.CopyFrom(whole.options)
    names = {found.name for found in kept}
    proto.message_type.extend(message for message in whole.message_type if message.name in names)
    proto.enum_type.extend(enum for enum in whole.enum_type if enum.name in names)
    for message in proto.message_type:
        _drop_extensions(message)
    _depend(proto, {_outermost(other).file.name for found in kept for other in _referred(found)})
    return proto


def _drop_extensions(message: DescriptorProto) -> None:
    message.ClearField("extension")
    for nested in message.nested_type:
        _drop_extensions(nested)


def _depend(proto: FileDescriptorProto, names: set[str]) -> None:
    proto.dependency[:] = sorted({*proto.dependency, *names} - {proto.name})


def _file_of(files: Mapping[str, FileDescriptorProto], message: Descriptor) -> str:
    return files[message.file.name].name


def _in_order(files: Mapping[str, FileDescriptorProto]) -> list[FileDescriptorProto]:
    """Each file after those that it depends on, as every reader of a set expects them."""
    ordered: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for other in files[name].dependency:
                add(other)
            ordered[name] = files[name]

    for name in sorted(files):
        add(name)
    return list(ordered.values())


# What is compared.


def compare_signal(name: str, before: str, now: str | None) -> Mismatch | None:
    """What no longer fits signals of this name whose payloads are of the type `before`. `now`: None for no signal."""
    if now is None:
        # Whoever has not ended may wait for it: a wait without a timeout is written down only once it is over.
        return Mismatch(
            f"signal {name!r}", "is gone: operations that wait for it, or have had it, would fail",
            "declare it again until they have ended",
        )  # fmt: skip
    return None if before == now else _retyped(f"the payload of signal {name!r}", before, now)


def compare(before: bytes, now: bytes) -> list[Mismatch]:
    """What in `now` no longer fits operations that were started under `before`; both as `describe` gives them."""
    return _Comparison(_Contract(before), _Contract(now)).run()


def compare_input(before: bytes, now: bytes) -> list[Mismatch]:
    """What in `now` no longer fits an input that was written under `before`."""
    return _Comparison(_Contract(before), _Contract(now)).run_input()


def _retyped(role: str, old: str, new: str) -> Mismatch:
    return Mismatch(role, f"was {old}, and is {new}", f"declare {old} again, or another method with {new}")


class _Contract:
    """A stored contract, read again."""

    def __init__(self, data: bytes) -> None:
        self.types: dict[str, DescriptorProto | EnumDescriptorProto] = {}
        files = FileDescriptorSet.FromString(data).file
        for file in files:
            self._add(f"{file.package}." if file.package else "", file.message_type, file.enum_type)
        (method,) = (method for file in files for service in file.service for method in service.method)
        info = method.options.Extensions[operations_pb2.operation_info]
        self.options = method.options.Extensions[annotations_pb2.operation]
        self.channels = {
            "input": method.input_type.removeprefix("."), "progress": info.metadata_type,
            "output": self.options.output_type, "result": info.response_type,
        }  # fmt: skip
        self.signals = {signal.name: signal.payload_type for signal in self.options.signals}

    def _add(self, prefix: str, messages: Sequence[DescriptorProto], enums: Sequence[EnumDescriptorProto]) -> None:
        for enum in enums:
            self.types[prefix + enum.name] = enum
        for message in messages:
            self.types[prefix + message.name] = message
            self._add(f"{prefix}{message.name}.", message.nested_type, message.enum_type)


class _Comparison:
    def __init__(self, before: _Contract, now: _Contract) -> None:
        self._before = before
        self._now = now
        self._found: list[Mismatch] = []
        self._seen: set[str] = set()

    def run(self) -> list[Mismatch]:
        for channel, name in self._before.channels.items():
            self._root(f"the {channel}", name, self._now.channels[channel])
        for signal, name in self._before.signals.items():
            mismatch = compare_signal(signal, name, self._now.signals.get(signal))
            if mismatch is None:
                self._type(name)
            else:
                self._found.append(mismatch)
        sent, sends = (
            contract.options.transfer.direction == annotations_pb2.TRANSFER_DIRECTION_SEND
            for contract in (self._before, self._now)
        )
        if sent != sends:
            # All else that a contract says of bytes is written down with the upload, or is for later offers.
            self._note(
                "option transfer.direction",
                "is TRANSFER_DIRECTION_SEND only now: nobody can send the bytes of operations that began without"
                if sends
                else "is not TRANSFER_DIRECTION_SEND any more: nobody would take the bytes that callers send",
                "set it back, or declare another method with the new one",
            )
        old, new = self._before.options.id_template, self._now.options.id_template
        if old != new:
            self._note(
                "option id_template",
                f"was {old or 'absent'!r}, and is {new or 'absent'!r}: "
                "names would no longer tell which operation is meant",
                "set it back, or declare another method with the new one",
            )
        return self._found

    def run_input(self) -> list[Mismatch]:
        self._root("the input", self._before.channels["input"], self._now.channels["input"])
        return self._found

    def _note(self, where: str, problem: str, remedy: str) -> None:
        self._found.append(Mismatch(where, problem, remedy))

    def _root(self, role: str, old: str, new: str) -> None:
        if old != new:
            self._found.append(_retyped(role, old, new))
        else:
            self._type(old)

    def _type(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        old, new = self._before.types[name], self._now.types[name]
        if isinstance(old, EnumDescriptorProto) and isinstance(new, EnumDescriptorProto):
            self._enum(name, old, new)
        elif isinstance(old, DescriptorProto) and isinstance(new, DescriptorProto):
            self._message(name, old, new)
        else:
            kinds = ("an enum", "a message") if isinstance(old, EnumDescriptorProto) else ("a message", "an enum")
            self._note(name, f"was {kinds[0]}, and is {kinds[1]}", "give the new one a name of its own")

    def _message(self, name: str, old: DescriptorProto, new: DescriptorProto) -> None:
        fields = {field.number: field for field in new.field}
        by_name = {field.name: field for field in new.field}
        for field in old.field:
            where = f"{name}.{field.name}"
            other = fields.get(field.number)
            if other is not None:
                self._field(where, field, other, _oneof(old, field), _oneof(new, other))
            elif field.name in by_name:
                self._note(
                    where, f"had number {field.number}, and has {by_name[field.name].number}",
                    "numbers are for ever: set it back",
                )  # fmt: skip
            elif not _reserved(new, field.number):
                self._note(
                    where, f"(number {field.number}) is gone",
                    f"give it back, or write `reserved {field.number};` where its data may be forgotten",
                )  # fmt: skip
        known = {field.number for field in old.field}
        for field in new.field:
            if field.label == FieldDescriptorProto.LABEL_REQUIRED and field.number not in known:
                self._note(f"{name}.{field.name}", "is required, and was not there before", "make it optional")

    def _field(
        self, where: str, old: FieldDescriptorProto, new: FieldDescriptorProto, old_oneof: str, new_oneof: str
    ) -> None:
        if old.name != new.name:
            self._note(
                where, f"(number {old.number}) is now called {new.name!r}",
                f"call it {old.name!r} again, or give {new.name!r} a number of its own",
            )  # fmt: skip
        elif (old_kind := _kind(old)) != (new_kind := _kind(new)):
            self._note(
                where, f"was {old_kind}, and is {new_kind}",
                f"make it {old_kind} again, or add the new one under another name and number",
            )  # fmt: skip
        elif old_oneof != new_oneof:
            self._note(
                where, f"was {_place(old_oneof)}, and is {_place(new_oneof)}",
                "put it back, or add the new one under another name and number",
            )  # fmt: skip
        elif old.default_value != new.default_value:
            self._note(where, f"had the default {old.default_value!r}, and has {new.default_value!r}", "set it back")
        elif new.label == FieldDescriptorProto.LABEL_REQUIRED != old.label:
            self._note(where, "was not required, and is", "make it optional again")
        elif old.type_name:
            self._type(old.type_name.removeprefix("."))

    def _enum(self, name: str, old: EnumDescriptorProto, new: EnumDescriptorProto) -> None:
        names: dict[int, set[str]] = {}
        for value in new.value:
            names.setdefault(value.number, set()).add(value.name)
        numbers = {value.name: value.number for value in new.value}
        for value in old.value:
            where = f"{name}.{value.name}"
            if value.name in names.get(value.number, ()):
                continue
            if value.name in numbers:
                self._note(
                    where, f"was {value.number}, and is {numbers[value.name]}", "numbers are for ever: set it back"
                )
            elif value.number in names:
                self._note(
                    where, f"({value.number}) is now called {min(names[value.number])!r}",
                    f"call it {value.name!r} again, or give the new value a number of its own",
                )  # fmt: skip
            elif not _reserved(new, value.number):
                self._note(
                    where, f"({value.number}) is gone",
                    f"give it back, or write `reserved {value.number};` where it may be forgotten",
                )  # fmt: skip


def _reserved(proto: DescriptorProto | EnumDescriptorProto, number: int) -> bool:
    # The end of a range belongs to it in enums, and not in messages.
    last = 0 if isinstance(proto, EnumDescriptorProto) else 1
    return any(span.start <= number <= span.end - last for span in proto.reserved_range)


def _oneof(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """The oneof that a field belongs to; empty: none. One that only carries a field's presence is none."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _place(oneof: str) -> str:
    return f"in oneof {oneof!r}" if oneof else "in no oneof"


def _kind(field: FieldDescriptorProto) -> str:
    """A field's type as one writes it. What maps hold is compared as the fields of their entries."""
    kind = field.type_name.removeprefix(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind
