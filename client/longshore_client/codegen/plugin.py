"""The protoc plugin `protoc-gen-longshore`: one typed module per file that declares operations.

Run it as any plugin: `protoc --longshore_out=generated ...`. It takes no parameters.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

from longshore_client.codegen.emit import emit_module
from longshore_client.codegen.model import ContractError, TypeIndex, read_contracts
from longshore_client.codegen.names import output_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longshore_client.codegen.model import ServiceContract


def generate_modules(files: Iterable[descriptor_pb2.FileDescriptorProto], to_generate: Iterable[str]) -> dict[str, str]:
    """Return the text of the typed module of each file that declares operations, by path.

    Args:
        files: The files to generate for and everything that they import.
        to_generate: Names of those of the files that code is wanted for.

    Raises:
        ContractError: A contract cannot be turned into code.
    """
    by_name = {file.name: file for file in files}
    types = TypeIndex.of(by_name.values())
    modules = {}
    found = []
    for name in to_generate:
        contracts = read_contracts(by_name[name], types)
        if contracts:
            found += contracts
            modules[output_path(name)] = emit_module(by_name[name], contracts)
    if found:
        _check_as_served(by_name.values(), found)
    return modules


def _check_as_served(files: Iterable[descriptor_pb2.FileDescriptorProto], contracts: Iterable[ServiceContract]) -> None:
    """Refuse what a server would refuse at its start, in its words, where one is installed: callers need none."""
    try:
        # By name only: the library must not depend on the server.
        compiled = importlib.import_module("longshore_server.contract.compiled")
    except ModuleNotFoundError:
        return
    for contract in contracts:
        operations = {method.name: method.python_name for method in contract.methods}
        problem = compiled.problem(files, contract.full_name, operations, dict(contract.lines))
        if problem:
            raise ContractError(problem)


def respond(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Answer protoc's request; what is wrong with a contract goes into `error`, as protoc expects."""
    # Services and options read the same in every syntax, so the editions that protobuf's oldest runtime knows are fine.
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | plugin_pb2.CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS,
        minimum_edition=descriptor_pb2.EDITION_PROTO2,
        maximum_edition=descriptor_pb2.EDITION_2023,
    )
    if request.parameter:
        response.error = f"protoc-gen-longshore takes no parameters, got {request.parameter!r}"
        return response
    try:
        modules = generate_modules(request.proto_file, request.file_to_generate)
    except ContractError as error:
        response.error = str(error)
        return response
    for path, text in modules.items():
        response.file.add(name=path, content=text)
    return response


def main() -> None:
    """Read the request from standard input and write the response to standard output."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(respond(request).SerializeToString())
