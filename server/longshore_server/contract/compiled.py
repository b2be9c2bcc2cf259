"""A contract as a compiler has it, before there is a service: what a server would say of it at its start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2

from longshore.v1 import channels_pb2
from longshore_server.contract.loading import load
from longshore_server.contract.source import ContractError


def problem(
    files: Collection[descriptor_pb2.FileDescriptorProto], service: str, operations: Mapping[str, str],
    lines: Mapping[str, int],
) -> str:  # fmt: skip
    """Why no server can enforce a contract, whatever its handlers and stores are; empty: there is no reason.

    `files`: that of the service and all that it imports, each after what it imports itself. `operations`, `lines`: as
    the generated base class has them.
    """
    pool = descriptor_pool.DescriptorPool()
    known = {file.name for file in files}
    for module in (empty_pb2, channels_pb2):
        # What options may name without an import.
        if module.DESCRIPTOR.name not in known:
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in files:
        pool.Add(file)
    members = {"DESCRIPTOR": pool.FindServiceByName(service), "OPERATIONS": operations, "LINES": lines}
    served = type(service, (), members | dict.fromkeys(operations.values(), _handler))()
    try:
        load([served], default_timeout=1, to_serve=False)
    except ContractError as error:
        return str(error)
    return ""


async def _handler(self: Any, request: Any, op: Any) -> None:
    """Stands for one that is as it should be."""
