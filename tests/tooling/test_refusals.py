"""Nothing is without a test that refuses it: no RPC, no option of a contract, no verb of the command line.

Holds the tables of refusals against the descriptors and starts no server, so that `make check` can run it; `make test`
runs what the tables say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest

from longshore_client.cli.app import OFFLINE, cli
from tests.server.auth.table import (
    CALLERS,
    NEW,
    OK,
    OURS,
    PATHS,
    ROWS,
    TYPES,
    VERBS,
    Answer,
    Caller,
    Row,
    types_of,
    wanted,
)
from tests.server.test_contract import CAPABILITIES, SECOND_METHODS
from tests.server.test_contract_mistakes import CASES
from tests.server.test_transfer_mistakes import CASES as TRANSFERS

PEOPLE = {"contract.capabilities.title", "contract.capabilities.description", "signals.description"}
"""Texts that only people read: there is no wrong one."""


def leaves(message: Any, prefix: str) -> Iterator[str]:
    """The paths of a message's fields, and instead of one that holds a message of ours, those of its fields."""
    for field in message.fields:
        path = prefix + field.name
        ours = field.message_type is not None and field.message_type.file.package == "longshore.v1"
        if ours:
            yield from leaves(field.message_type, f"{path}.")
        else:
            yield path


def options() -> set[str]:
    """All that a contract can declare, as refusals name it."""
    return {
        path
        for module in OURS
        for name, extension in module.DESCRIPTOR.extensions_by_name.items()
        for path in leaves(extension.message_type, "" if name == "operation" else f"{name}.")
    }


def refused_at_start_up() -> Iterator[tuple[str, str]]:
    """Each option that a refusal names, with the test."""
    rows = [
        *((f"test_a_method_is_refused[{case}]", message) for case, (_, message) in CASES.items()),
        *((f"test_a_transfer_is_refused[{case}]", message) for case, (_, message) in TRANSFERS.items()),
        *((f"test_a_second_method_is_refused[{case}]", message) for case, (_, message) in SECOND_METHODS.items()),
        *((f"test_a_capability_is_refused[{case}]", f"option contract.capabilities{problem}")
          for case, (_, problem) in CAPABILITIES.items()),
    ]  # fmt: skip
    for test, message in rows:
        if named := re.search(r"\boption ([a-z_.0-9\[\]]+):", message):
            yield re.sub(r"\[\d+\]", "", named[1]), test


def crossings(path: str) -> Iterator[tuple[Row, str, Caller, Answer]]:
    """What the table says of an RPC: for each row, type and caller, what comes out."""
    for row in ROWS.get(path, ()):
        for type in types_of(path, row):
            for caller in CALLERS:
                yield row, type, caller, wanted(caller, row, type)


def refused_at_calls() -> Iterator[tuple[str, str]]:
    """Each option about callers that refuses one, with the test."""
    for path in PATHS:
        test = f"test_every_caller_at_every_door[{path}]"
        for row, type, caller, (code, _, gate) in crossings(path):
            if code == "PERMISSION_DENIED" and gate:
                yield f"{gate}.all_of", test
            if code == "NOT_FOUND" and TYPES[type].owned and wanted(caller._replace(name="owner"), row, type) == OK:
                yield "visibility", test


def test_every_rpc_has_its_row() -> None:
    without, stale = sorted(PATHS.keys() - ROWS.keys()), sorted(ROWS.keys() - PATHS.keys() - NEW)
    assert not without, f"{', '.join(without)}: add a row to tests/server/auth/table.py"
    assert not stale, "these RPCs are no more"


@pytest.mark.parametrize("path", sorted(PATHS.keys() & ROWS.keys()))
def test_every_rpc_refuses_somebody(path: str) -> None:
    """Whoever is not known and, at each gate that asks for something, who lacks it."""
    for row in ROWS[path]:
        if row.open or not row.served:
            continue
        refused = {(code, gate) for of, _, _, (code, _, gate) in crossings(path) if of is row}
        assert ("UNAUTHENTICATED", "") in refused
        if row.provider:
            assert ("PERMISSION_DENIED", "") in refused
        for gate in row.gates or ():
            if any(asks_more(TYPES[type].gates, row, gate) for type in types_of(path, row)):
                hidden = row.exists and gate == "observe"
                assert (("NOT_FOUND", "") if hidden else ("PERMISSION_DENIED", gate)) in refused, gate


def asks_more(gates: dict[str, set[str] | None], row: Row, gate: str) -> bool:
    """Whether a gate refuses anybody whom those before it let through."""
    before = (row.gates or ())[: (row.gates or ()).index(gate)]
    held = set().union(*(gates[name] or () for name in before))
    needed = gates[gate]
    return needed is None or not needed <= held


def test_every_option_has_a_test_that_refuses_it() -> None:
    tests: dict[str, set[str]] = {path: set() for path in options() - PEOPLE}
    for path, test in (*refused_at_start_up(), *refused_at_calls()):
        tests.get(path, set()).add(test)
    without = sorted(path for path, found in tests.items() if not found)
    assert not without, (
        f"nothing refuses {', '.join(without)}: add a row to tests/server/test_contract_mistakes.py, or to "
        "tests/server/auth/table.py what it keeps callers from"
    )
    assert options() >= PEOPLE


def test_every_option_about_callers_keeps_somebody_out() -> None:
    """At a call, and not at start-up only."""
    kept = {path for path, _ in refused_at_calls()}
    assert kept == {path for path in options() if path.endswith(".all_of") or path == "visibility"}


def test_every_kind_of_gate_is_crossed() -> None:
    """Two of each: what a gate may be, and who sees what it lets through."""
    for gate in ("call", "observe", "cancel", "control"):
        found = [type.gates[gate] for type in TYPES.values()]
        assert set() in found, f"nobody lets everyone {gate}"
        assert any(found), gate
        assert any(wanted is not None and len(wanted) > 1 for wanted in found), gate
    assert any(type.gates["cancel"] is None for type in TYPES.values())
    assert {type.owned for type in TYPES.values()} == {True, False}


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Everything that can be run, by what is typed for it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_every_verb_that_calls_the_server_has_its_row() -> None:
    verbs = dict(commands(cli))
    calling = {name for name, verb in verbs.items() if any("--server" in option.opts for option in verb.params)}
    without, stale = sorted(calling - VERBS.keys()), sorted(VERBS.keys() - calling)
    assert not without, f"{', '.join(without)}: add a verb to tests/server/auth/table.py"
    assert not stale, "these verbs are no more"
    assert set(verbs) - calling == OFFLINE
