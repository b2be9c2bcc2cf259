"""`longshore ls`, `count` and `types`: what the server has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.cli.as_json import print_json, snapshot_dict
from longshore_client.cli.render import describe
from longshore_client.cli.session import Session, with_session
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import age, shown
from longshore_client.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longshore_client.snapshot import Snapshot

_COLORS = {
    State.RUNNING: "cyan",
    State.CANCELLING: "yellow",
    State.COMPLETED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
}
_PAGE = 500
_HEADS = ("NAME", "TYPE", "STATE", ">AGE", "PROGRESS")
_ORDERS = {"newest": "create_time desc", "oldest": "create_time"}
_FILTER = click.option(
    "--filter",
    "filter_",
    default="",
    metavar="EXPR",
    help="Comparisons joined by AND over state, type, owner, labels.KEY, reason, parent, create_time, start_time, "
    "update_time and end_time.",
)


@click.command(
    "ls",
    epilog="""\b
Examples:
  longshore ls
  longshore ls --filter 'state=RUNNING AND labels.tenant="acme"'
  longshore ls --filter 'reason=OUT_OF_STOCK AND create_time>"2026-01-01T00:00:00Z"' --all --json | jq -r .name
  longshore ls --filter 'state=RUNNING' --order oldest --limit 10
""",
)
@_FILTER
@click.option(
    "--order", type=click.Choice(list(_ORDERS)), default="newest", show_default=True, help="Which come first."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The most operations to show.")
@click.option("--all", "everything", is_flag=True, help="Show all, however many.")
@with_session
async def ls(session: Session, filter_: str, order: str, limit: int, everything: bool) -> None:
    """List operations, newest first."""
    count = 0
    token = ""
    while True:
        size = _PAGE if everything else min(_PAGE, limit - count)
        request = pb.ListRequest(filter=filter_, page_size=size, page_token=token, order_by=_ORDERS[order])
        page = await session.channel.invoke(session.channel.calls.list, request)
        for operation_type in {snapshot.type for snapshot in page.operations}:
            await session.types.learn(operation_type)
        rows = [session.types.codec.snapshot(snapshot) for snapshot in page.operations]
        if session.json:
            for snapshot in rows:
                print_json(snapshot_dict(snapshot, session.types))
        else:
            _print_rows(session, rows, header=count == 0)
        count += len(rows)
        token = page.next_page_token
        if not token or (not everything and count >= limit):
            break
    if not session.json:
        if count == 0:
            click.echo("no operations" + (" match the filter" if filter_ else ""), err=True)
        elif token:
            click.echo(f"there are more than {count}: --limit N or --all shows them", err=True)


@click.command(
    "count",
    epilog="""\b
Examples:
  longshore count
  longshore count --filter 'labels.tenant="acme" AND end_time>"2026-01-01T00:00:00Z"' --json
""",
)
@_FILTER
@with_session
async def count(session: Session, filter_: str) -> None:
    """Count operations by type and state."""
    found = await session.channel.invoke(session.channel.calls.count, pb.CountRequest(filter=filter_))
    rows = [(entry.type, State(entry.state).name, entry.count) for entry in found.counts]
    if session.json:
        for type_, state, number in rows:
            print_json({"type": type_, "state": state, "count": number})
    elif rows:
        type_width = max(len(row[0]) for row in rows)
        width = max(5, *(len(str(row[2])) for row in rows))
        click.echo(click.style(f"{'TYPE':<{type_width}}  {'STATE':<10}  {'COUNT':>{width}}", bold=True))
        for type_, state, number in rows:
            colored = click.style(f"{state:<10}", fg=_COLORS.get(State[state]))
            click.echo(f"{shown(type_):<{type_width}}  {colored}  {number:>{width}}")
    if not rows and not session.json:
        click.echo("no operations" + (" match the filter" if filter_ else ""), err=True)
    if found.truncated:
        click.echo("there are more: only the newest were counted; a filter narrows it down", err=True)


@click.command("types", epilog="\b\nExample:\n  longshore types --json | jq -r .type")
@with_session
async def types(session: Session) -> None:
    """List the operation types that the server serves."""
    catalog = await session.channel.invoke(session.channel.calls.list_types, pb.ListTypesRequest())
    for info in catalog.types:
        if session.json:
            print_json(session.types.to_dict(info))
            continue
        click.echo(click.style(shown(info.type), bold=True))
        description = " ".join(info.description.split())
        if description:
            click.echo(f"  {shown(description)}")
        for label, name in (
            ("input", info.input_type),
            ("progress", info.progress_type),
            ("output", info.output_type),
            ("result", info.result_type),
        ):
            click.echo(f"  {label:<9} {'none' if name == 'google.protobuf.Empty' else shown(name)}")
        for signal in info.contract.signals:
            click.echo(f"  {'signal':<9} {shown(f'{signal.name}: {_full(signal.payload_type, info.type)}')}")
    if not catalog.types and not session.json:
        click.echo("the server serves no operation types", err=True)


def _full(name: str, type_: str) -> str:
    """A message that a contract may name as from its own package, in full. Packages begin with small letters."""
    package = type_.rpartition("/")[0].rpartition(".")[0]
    own = package and name and ("." not in name or name[0].isupper())
    return f"{package}.{name}" if own else name


def _print_rows(session: Session, rows: Sequence[Snapshot[Any, Any]], *, header: bool) -> None:
    wide = [_row(session, row) for row in rows]
    # Commands take such names and types, too.
    narrow = [[Cell(line[0].text.partition("/")[2]), Cell(line[1].text.partition("/")[2]), *line[2:]] for line in wide]
    print_rows(_HEADS, wide, header=header, narrow=narrow)


def _row(session: Session, row: Snapshot[Any, Any]) -> list[Cell]:
    if row.error is not None:
        what = f"{row.error.message} ({row.error.reason})"
    elif row.progress is not None and not row.state.terminal:
        what = "  ".join(part for part in describe(row.progress, session.types) if part)
    else:
        what = ""
    return [
        # The package is the same for all in most places; `get` shows it.
        Cell(row.name), Cell(row.type.rpartition(".")[2]), Cell(row.state.name, _COLORS.get(row.state)),
        Cell(age(row.create_time)), Cell(what),
    ]  # fmt: skip
