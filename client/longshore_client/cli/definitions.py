"""`longshore recurring definitions`, and of debounces and tasks: what a server defines, and when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from longshore.v1.instances_pb2 import (
    DebounceWindow,
    InstanceDefinition,
    ListDefinitionsRequest,
    ListDefinitionsResponse,
    RecurringSchedule,
)
from longshore_client.cli.as_json import print_json
from longshore_client.cli.plain import plain
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import counted, span

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from longshore_client.cli.session import Session

_HEADS = ("DEFINITION", "WHEN", ">ATTEMPTS", "CALL", "STATE", "EVENT")


async def defined(session: Session, kind: str) -> Sequence[InstanceDefinition]:
    """The definitions of a kind, `Recurring`, `Debounce` or `Task`, by name."""
    path = f"/longshore.v1.{kind}Service/ListDefinitions"
    rpc = session.channel.calls.unary(path, ListDefinitionsRequest, ListDefinitionsResponse)
    return (await session.channel.invoke(rpc, ListDefinitionsRequest())).definitions


async def print_definitions(session: Session, kind: str) -> None:
    """Print the definitions of a kind."""
    found = await defined(session, kind)
    if session.json:
        for definition in found:
            print_json(plain(definition, session.types))
    elif found:
        rows = [_row(definition) for definition in found]
        # A kind has no events, or no times; and a service may have no capabilities.
        columns = [column for column in range(len(_HEADS)) if any(row[column].text for row in rows)]
        heads = [_HEADS[column] for column in columns]
        print_rows(heads, [[row[column] for column in columns] for row in rows], whole=True)
    else:
        click.echo("no definitions", err=True)


def _row(found: InstanceDefinition) -> list[Cell]:
    when = ""
    if found.HasField("schedule"):
        when = _schedule(found.schedule)
    elif found.HasField("window"):
        when = _window(found.window)
    texts = (
        found.name.partition("/")[2], when, str(found.retry.max_attempts or 1), found.call, found.state_type,
        found.event_type,
    )  # fmt: skip
    return [Cell(text) for text in texts]


def _schedule(schedule: RecurringSchedule) -> str:
    """`every 30 min`, or `0 9 * * 1-5 Europe/Vienna`."""
    if schedule.WhichOneof("times") == "cron":
        return f"{schedule.cron} {schedule.zone}"
    return f"every {_span(schedule.every)}{' from begin to begin' if schedule.fixed_rate else ''}"


def _window(window: DebounceWindow) -> str:
    """`after 5 min or 3 events`, or `after 5 min of quiet, 1 h or 3 events`."""
    bounds = [f"{_span(window.flush_after)}{' of quiet' if window.trailing else ''}"]
    if window.HasField("max_wait"):
        bounds.append(_span(window.max_wait))
    if window.HasField("max_events"):
        bounds.append(counted(window.max_events, "event"))
    *others, last = bounds
    return f"after {', '.join(others)} or {last}" if others else f"after {last}"


def _span(duration: Duration) -> str:
    return span(duration.ToMicroseconds() / 1_000_000)
