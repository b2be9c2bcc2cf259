"""Capabilities: those that a service declares, and the gates of its methods that ask for them."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from longshore.v1 import annotations_pb2
from longshore_server.contract.source import Declaration, Source, hint

BUILT_IN = "longshore."
"""What the names of the server's own capabilities begin with: no contract can declare or ask for one."""
MAX_CAPABILITY = 128
_CAPABILITY = re.compile(r"[a-z0-9]+([._:-][a-z0-9]+)*")


def read_capabilities(source: Source) -> frozenset[str]:
    """The names that the service declares. Raises `ContractError`."""
    declared = source.descriptor.GetOptions().Extensions[annotations_pb2.contract].capabilities
    found: set[str] = set()
    for position, capability in enumerate(declared):
        problem = _problem(capability.name, found)
        if problem is not None:
            raise source.error(f"contract.capabilities[{position}].name", problem)
        found.add(capability.name)
    return frozenset(found)


def read_gate(declaration: Declaration, option: str, capabilities: AbstractSet[str]) -> frozenset[str] | None:
    """Those of the service's `capabilities` that a gate asks for; None: the contract has no such gate.

    Raises `ContractError`.
    """
    if not declaration.contract.HasField(option):  # type: ignore[arg-type]
        return None
    names = getattr(declaration.contract, option).all_of
    for position, name in enumerate(names):
        if name in names[:position]:
            raise declaration.error(option, f"capability {name!r} is named twice")
        if name not in capabilities:
            raise declaration.error(
                option, f"capability {name!r} is not declared by the service{hint(name, capabilities)}"
            )
    return frozenset(names)


def _problem(name: str, others: AbstractSet[str]) -> str | None:
    if not name:
        return "it is missing; gates mean a capability by its name"
    if name.startswith(BUILT_IN):
        return f"{name!r} begins with {BUILT_IN!r}, as only the server's own capabilities do"
    if len(name) > MAX_CAPABILITY or not _CAPABILITY.fullmatch(name):
        return (
            f"{name!r} must be at most {MAX_CAPABILITY} lower-case letters and digits in parts joined by '.', '_', "
            "'-' or ':', for example 'orders.read'"
        )
    return f"{name!r} is declared twice" if name in others else None
