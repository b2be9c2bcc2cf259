"""Reads what a contract declares out of the descriptors that protoc hands over."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from google.longrunning import operations_pb2

from longshore.v1 import annotations_pb2
from longshore_client.codegen.names import snake_case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf import descriptor_pb2

EMPTY = "google.protobuf.Empty"
DIAGNOSTIC_OUTPUT = "longshore.v1.DiagnosticOutput"
OPERATION = "google.longrunning.Operation"
# The server's rule: in code these names stand between quotes.
SIGNAL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

# Field numbers of descriptor.proto: protobuf addresses comments by the path of numbers that leads to an element.
_FILE_SERVICE = 6
_SERVICE_METHOD = 2


class ContractError(Exception):
    """A contract that cannot be turned into code; the text names file, line, method and field.

    Args:
        problem: Where, and what is wrong.
        unknown: The name of a message that no file here defines. Default: that is not the problem.
        advice: What to do about it, where the problem does not say it.
    """

    def __init__(self, problem: str, *, unknown: str = "", advice: str = "") -> None:
        super().__init__(f"{problem}; {advice}" if advice else problem)
        self.problem = problem
        self.unknown = unknown


@dataclass(frozen=True)
class MessageType:
    """A message type and the file that defines it."""

    full_name: str
    proto_file: str
    nested_name: str
    """The name inside its file: `Outer.Inner` for a nested message."""


@dataclass(frozen=True)
class OperationMethod:
    """One operation type of a contract."""

    name: str
    python_name: str
    input: MessageType
    progress: MessageType
    output: MessageType
    result: MessageType
    comment: str
    signals: tuple[tuple[str, MessageType], ...]
    """What callers may send to it: names and payloads."""
    sends: bool
    """Whether callers send bytes with it."""


@dataclass(frozen=True)
class ServiceContract:
    """A service with at least one operation type."""

    name: str
    full_name: str
    comment: str
    methods: tuple[OperationMethod, ...]
    lines: tuple[tuple[str, int], ...]
    """Where each method that carries the option stands in the file, from 1: the server's errors name it."""


@dataclass
class TypeIndex:
    """Every message type of a set of files, by full name."""

    types: dict[str, MessageType] = field(default_factory=dict)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each message: the full name of what a field holds, by the field's name; empty for what is no message."""

    @classmethod
    def of(cls, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> TypeIndex:
        """Index all messages of the files, nested ones included."""
        index = cls()
        for file in files:
            for nested_name, message in _nested(file.message_type, ""):
                full_name = f"{file.package}.{nested_name}" if file.package else nested_name
                index.types[full_name] = MessageType(full_name, file.name, nested_name)
                index.fields[full_name] = {item.name: item.type_name.removeprefix(".") for item in message.field}
        # The default output is available to contracts that do not import the file it lives in.
        index.types.setdefault(
            DIAGNOSTIC_OUTPUT, MessageType(DIAGNOSTIC_OUTPUT, "longshore/v1/channels.proto", "DiagnosticOutput")
        )
        index.types.setdefault(EMPTY, MessageType(EMPTY, "google/protobuf/empty.proto", "Empty"))
        return index

    def has(self, message: str, path: str) -> bool:
        """Whether a message has a field at a path: `order_id`, `document.key`."""
        for name in path.split("."):
            if name not in self.fields.get(message, {}):
                return False
            message = self.fields[message][name]
        return True

    def resolve(self, name: str, package: str) -> MessageType | None:
        """Find a type by the name that an option gives: a bare one means the contract's own package."""
        name = name.removeprefix(".")
        local = f"{package}.{name}" if package else name
        candidates = (name, local) if "." in name else (local, name)
        return next((self.types[candidate] for candidate in candidates if candidate in self.types), None)


def _nested(
    messages: Iterable[descriptor_pb2.DescriptorProto], prefix: str
) -> Iterator[tuple[str, descriptor_pb2.DescriptorProto]]:
    for message in messages:
        if message.options.map_entry:
            continue
        yield prefix + message.name, message
        yield from _nested(message.nested_type, f"{prefix}{message.name}.")


def read_contracts(file: descriptor_pb2.FileDescriptorProto, types: TypeIndex) -> list[ServiceContract]:
    """Return the contracts of one file, in the order of the file.

    Raises:
        ContractError: An option names what does not exist, or two methods would get the same Python name.
    """
    contracts = []
    for index, service in enumerate(file.service):
        contract = _ServiceReader(file, types, index, service).read()
        if contract.methods:
            contracts.append(contract)
    return contracts


class _ServiceReader:
    """Reads one service; knows where it stands in the file, for error texts and comments."""

    def __init__(
        self,
        file: descriptor_pb2.FileDescriptorProto,
        types: TypeIndex,
        index: int,
        service: descriptor_pb2.ServiceDescriptorProto,
    ) -> None:
        self._file = file
        self._types = types
        self._path = (_FILE_SERVICE, index)
        self._service = service

    def read(self) -> ServiceContract:
        methods = []
        lines = []
        taken: dict[str, str] = {}
        for index, method in enumerate(self._service.method):
            if not method.options.HasExtension(annotations_pb2.operation):
                continue
            lines.append((method.name, self._line(index)))
            declared = method.options.Extensions[annotations_pb2.operation]
            if declared.watches:
                self._check_twin(index, method, declared)
                continue
            operation = self._operation(index, method, declared)
            if operation.python_name in taken:
                raise self._error(
                    index,
                    f"is called {operation.python_name!r} in Python, as {taken[operation.python_name]} is; rename one",
                )
            taken[operation.python_name] = method.name
            methods.append(operation)
        package = self._file.package
        full_name = f"{package}.{self._service.name}" if package else self._service.name
        return ServiceContract(self._service.name, full_name, self._comment(self._path), tuple(methods), tuple(lines))

    def _operation(
        self,
        index: int,
        method: descriptor_pb2.MethodDescriptorProto,
        declared: annotations_pb2.OperationContract,
    ) -> OperationMethod:
        if method.output_type.removeprefix(".") != OPERATION:
            raise self._error(index, f"has the option longshore.v1.operation, so it must return {OPERATION}")
        if method.client_streaming:
            raise self._error(index, "is an operation, so its request cannot be a stream")
        for position, name in enumerate(declared.errors):
            self._type(index, f"option longshore.v1.operation: errors[{position}]", name)
        input = self._type(index, "the request", method.input_type)
        self._check_paths(index, declared, input)
        info = method.options.Extensions[operations_pb2.operation_info]
        return OperationMethod(
            name=method.name,
            python_name=snake_case(method.name),
            input=input,
            progress=self._type(index, "option google.longrunning.operation_info: metadata_type", info.metadata_type),
            output=self._type(
                index, "option longshore.v1.operation: output_type", declared.output_type or DIAGNOSTIC_OUTPUT
            ),
            result=self._type(index, "option google.longrunning.operation_info: response_type", info.response_type),
            comment=self._comment((*self._path, _SERVICE_METHOD, index)),
            signals=tuple(self._signals(index, declared).items()),
            sends=declared.transfer.direction == annotations_pb2.TRANSFER_DIRECTION_SEND,
        )

    def _check_paths(self, index: int, declared: annotations_pb2.OperationContract, input: MessageType) -> None:
        """What else must be so of fields that options name, their types for example, the server says at its start."""
        transfer = declared.transfer
        paths = [("id_template", path) for path in PLACEHOLDER.findall(declared.id_template)]
        paths += [("transfer.key_path", transfer.key_path), ("transfer.content_type_path", transfer.content_type_path),
                  ("transfer.metadata_path", transfer.metadata_path)]  # fmt: skip
        for option, path in paths:
            if path and not self._types.has(input.full_name, path):
                raise self._error(
                    index, f"option longshore.v1.operation: {option}: {path!r} is not a field of {input.full_name}"
                )

    def _signals(self, index: int, declared: annotations_pb2.OperationContract) -> dict[str, MessageType]:
        found: dict[str, MessageType] = {}
        for position, signal in enumerate(declared.signals):
            where = f"option longshore.v1.operation: signals[{position}]"
            if not SIGNAL_NAME.fullmatch(signal.name):
                raise self._error(
                    index,
                    f"{where}.name: {signal.name!r} must be at most 63 lower-case letters, digits, '_' and '-', the "
                    "first one a letter, for example 'approve'",
                )
            if signal.name in found:
                raise self._error(
                    index, f"{where}.name: {signal.name!r} is declared twice; give each signal a name of its own"
                )
            found[signal.name] = self._type(index, f"{where}.payload_type", signal.payload_type)
        return found

    def _check_twin(
        self,
        index: int,
        method: descriptor_pb2.MethodDescriptorProto,
        declared: annotations_pb2.OperationContract,
    ) -> None:
        if not method.server_streaming:
            raise self._error(index, f"option longshore.v1.operation: watches: only a stream of {OPERATION} can watch")
        names = [
            other.name
            for other in self._service.method
            if other.options.HasExtension(annotations_pb2.operation)
            and not other.options.Extensions[annotations_pb2.operation].watches
        ]
        if declared.watches not in names:
            known = ", ".join(names) or "none"
            raise self._error(
                index,
                f'option longshore.v1.operation: watches: "{declared.watches}" is not an operation of this service '
                f"(it has: {known})",
            )

    def _type(self, index: int, where: str, name: str) -> MessageType:
        if not name:
            raise self._error(index, f"{where} is missing: name a message, or {EMPTY} for none")
        found = self._types.resolve(name, self._file.package)
        if found is None:
            package = self._file.package
            bare = [known for known in self._types.types if known.rpartition(".")[0] == package]
            close = get_close_matches(name, [*self._types.types, *(known.rpartition(".")[2] for known in bare)], n=1)
            advice = f'did you mean "{close[0]}"?' if close else "define it, or import the file that does"
            raise self._error(index, f'{where}: there is no message "{name}"', unknown=name, advice=advice)
        return found

    def _error(self, method_index: int, text: str, *, unknown: str = "", advice: str = "") -> ContractError:
        line = self._line(method_index)
        where = f"{self._file.name}:{line}" if line else self._file.name
        place = f"{where}: {self._service.name}.{self._service.method[method_index].name}"
        return ContractError(f"{place}: {text}", unknown=unknown, advice=advice)

    def _line(self, method_index: int) -> int:
        """Line of a method, from 1; 0 when the descriptors do not say."""
        path = [*self._path, _SERVICE_METHOD, method_index]
        return next((location.span[0] + 1 for location in self._locations(path)), 0)

    def _comment(self, path: Sequence[int]) -> str:
        return next((location.leading_comments for location in self._locations(path)), "")

    def _locations(self, path: Sequence[int]) -> Iterator[descriptor_pb2.SourceCodeInfo.Location]:
        wanted = list(path)
        return (location for location in self._file.source_code_info.location if list(location.path) == wanted)
