"""`longshore recurring`, `debounce` and `task`: the instances of a service's definitions, shown and steered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from google.protobuf.message import Message

from longshore.v1 import debounce_service_pb2, recurring_service_pb2, task_service_pb2
from longshore.v1.instances_pb2 import InstanceLogs
from longshore_client.cli.answers import check, purged, ran, told, values
from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.as_json import print_json, stamp
from longshore_client.cli.connection import connection_before
from longshore_client.cli.data import read_data
from longshore_client.cli.definitions import defined, print_definitions
from longshore_client.cli.plain import learn
from longshore_client.cli.records import LEVELS, PAGE, show_logs, which_lines
from longshore_client.cli.session import SECONDS, Session, with_session
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import age, counted, shown
from longshore_client.debounce import DebounceClient, DebounceSnapshot
from longshore_client.instances import WAIT, InstanceClient, InstanceSnapshot, InstanceStatus
from longshore_client.recurring import RecurringClient, RecurringSnapshot
from longshore_client.task import TaskClient, TaskSnapshot

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")
ClientT = TypeVar("ClientT", bound="InstanceClient[Any, Any]")

_COLORS = {
    InstanceStatus.ACTIVE: "cyan", InstanceStatus.PAUSED: "yellow", InstanceStatus.FAILED: "red",
}  # fmt: skip
_HEADS = ("STATUS", ">AGE", "NEXT", "WHAT")
_DUE = ("retry_time", "timers")
"""What a snapshot says of the future of a paused instance, too."""
_STATUSES = [
    status.name.lower() for status in InstanceStatus if InstanceStatus.ACTIVE <= status < InstanceStatus.NOT_FOUND
]
_DATA = click.option("-d", "--data", metavar="JSON", default="null", help="JSON, @FILE, or - for stdin.")
_EVENT_ID = click.option("--id", "event_id", metavar="KEY", help="The same key is the same event.")


def _waits(command: CommandT) -> CommandT:
    """The options of what waits for a handler."""
    timeout = click.option("--timeout", type=SECONDS, default=WAIT, show_default=True, metavar="SECONDS",
                           help="The longest wait.")  # fmt: skip
    no_wait = click.option("--no-wait", is_flag=True, help="Do not wait for the handler.")
    return no_wait(timeout(command))


@click.group(
    "recurring",
    epilog="""\b
Examples:
  longshore recurring definitions
  longshore recurring ls token-refresher --status failed
  longshore recurring start token-refresher/user-123 -d '{"refresh": "abc"}'
  longshore recurring trigger token-refresher/user-123

"""
    + EXIT_CODES,
)
@connection_before(hidden=True)
def recurring() -> None:
    """Show and steer handlers that run by a schedule. NAME is DEFINITION/ID."""


@recurring.command("start", short_help="Begin an instance with a first state.")
@click.argument("name")
@_DATA
@_waits
@with_session
async def start(session: Session, name: str, data: str, no_wait: bool, timeout: float) -> int:
    """Begin the instance NAME with a first state, unless it is there, and wait for its first run."""
    client, id = _find(RecurringClient[Any], session, name)
    started = client.start(id, read_data(data), no_wait=no_wait, timeout=timeout)
    return await ran(session, client, id, started, no_wait=no_wait)


@recurring.command("trigger", short_help="Run an instance now.")
@click.argument("name")
@_waits
@with_session
async def trigger_recurring(session: Session, name: str, no_wait: bool, timeout: float) -> int:
    """Run the instance NAME now, whatever its schedule says, and wait for the run."""
    client, id = _find(RecurringClient[Any], session, name)
    triggered = client.trigger(id, no_wait=no_wait, timeout=timeout)
    return await ran(session, client, id, triggered, no_wait=no_wait)


@click.group(
    "debounce",
    epilog="""\b
Examples:
  longshore debounce add webhooks/contact-456 -d '{"field": "email"}' --id evt_1
  longshore debounce state webhooks/contact-456
  longshore debounce flush webhooks/contact-456

"""
    + EXIT_CODES,
)
@connection_before(hidden=True)
def debounce() -> None:
    """Show and steer batches of events. NAME is DEFINITION/ID."""


@debounce.command("add", short_help="Add an event to the open batch.")
@click.argument("name")
@_DATA
@_EVENT_ID
@_waits
@with_session
async def add(session: Session, name: str, data: str, event_id: str | None, no_wait: bool, timeout: float) -> int:
    """Add an event to the open batch of the instance NAME, which it begins where there is none."""
    client, id = _find(DebounceClient[Any, Any], session, name)
    added = client.add(id, read_data(data), event_id=event_id, no_wait=no_wait, timeout=timeout)
    return await ran(session, client, id, added, no_wait=no_wait)


@debounce.command("flush", short_help="Hand the open batch over now.")
@click.argument("name")
@_waits
@with_session
async def flush(session: Session, name: str, no_wait: bool, timeout: float) -> int:
    """Hand the open batch of the instance NAME over now, and wait for its handler."""
    client, id = _find(DebounceClient[Any, Any], session, name)
    flushed = client.flush(id, no_wait=no_wait, timeout=timeout)
    return await ran(session, client, id, flushed, no_wait=no_wait)


@debounce.command("clear", short_help="Discard what was collected.")
@click.argument("name")
@with_session
async def clear(session: Session, name: str) -> None:
    """Discard all that the instance NAME has collected and not handled, dead letters too.

    Callers need the capability longshore.provider.
    """
    client, id = _find(DebounceClient[Any, Any], session, name)
    await told(session, client.name(id), client.clear(id))


@click.group(
    "task",
    epilog="""\b
Examples:
  longshore task send order/order-789 -d '{"@type": "Paid", "amount": 12}' --id payment-7
  longshore task get order/order-789
  longshore task terminate order/order-789 --reason 'a test'

"""
    + EXIT_CODES,
)
@connection_before(hidden=True)
def task() -> None:
    """Show and steer state machines that events drive. NAME is DEFINITION/ID."""


@task.command("send", short_help="Send an event to an instance.")
@click.argument("name")
@_DATA
@_EVENT_ID
@click.option("--expected-version", type=int, metavar="VERSION", help="Refuse it unless the state is of this version.")
@_waits
@with_session
async def send(
    session: Session, name: str, data: str, event_id: str | None, expected_version: int | None, no_wait: bool,
    timeout: float,
) -> int:  # fmt: skip
    """Send an event to the instance NAME, which it begins where there is none, and wait for the event's handler."""
    client, id = _find(TaskClient[Any, Any], session, name)
    sent = client.send(
        id, read_data(data), event_id=event_id, expected_version=expected_version, no_wait=no_wait, timeout=timeout
    )
    return await ran(session, client, id, sent, no_wait=no_wait)


@task.command("trigger", short_help="Let an instance execute now.")
@click.argument("name")
@_waits
@with_session
async def trigger_task(session: Session, name: str, no_wait: bool, timeout: float) -> int:
    """Let the instance NAME execute, after what it had accepted before, and wait for that."""
    client, id = _find(TaskClient[Any, Any], session, name)
    triggered = client.trigger(id, no_wait=no_wait, timeout=timeout)
    return await ran(session, client, id, triggered, no_wait=no_wait)


def _share(group: click.Group, make: Callable[..., InstanceClient[Any, Any]], messages: Any) -> None:
    """Give a group the commands that all three have. `messages`: the module of the kind's messages."""

    kind = (group.name or "").capitalize()

    @group.command("definitions", short_help="List what the server defines.")
    @with_session
    async def definitions(session: Session) -> None:
        """List the definitions that the server has, by name: when they run, how often a run that fails is made, the
        capability of who may call them, and the types of their states and events. --json shows all that they declare.

        Each instance has one handler at a time. Instances are paused one by one: `ls --status paused` lists those.

        Callers need the capability longshore.provider.
        """
        await print_definitions(session, kind)

    @group.command("ls", short_help="List instances, those of a definition oldest first.")
    @click.argument("definition", required=False)
    @click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False), help="Only those that stand so.")
    @with_session
    async def ls(session: Session, definition: str | None, status: str | None) -> None:
        """List the instances of DEFINITION, or of every definition, the oldest first.

        Callers need the capability longshore.provider.
        """
        only = InstanceStatus[status.upper()] if status else None
        names = [definition] if definition else [each.name.partition("/")[2] for each in await defined(session, kind)]
        rows = []
        for name in names:
            async for found in make(session.channel, name).list(only):
                if session.json:
                    print_json(values(session, found))
                else:
                    rows.append(_row(found, found.id if definition else f"{name}/{found.id}"))
        print_rows(("ID" if definition else "NAME", *_HEADS), rows)
        if not rows and not session.json:
            click.echo("no instances", err=True)

    @group.command("get", short_help="Show where an instance stands.")
    @click.argument("name")
    @with_session
    async def get(session: Session, name: str) -> None:
        """Show where the instance NAME stands."""
        client, id = _find(make, session, name)
        found = await client.status(id)
        check(found.name, found.status)
        if session.json:
            print_json(values(session, found))
            return
        for field, value in values(session, found).items():
            held = "; not before it is resumed" if field in _DUE and found.status is InstanceStatus.PAUSED else ""
            click.echo(f"{field.removesuffix('_time').replace('_', ' '):<15} {shown(_text(value))}{held}")

    @group.command("state", short_help="Print the state of an instance.")
    @click.argument("name")
    @with_session
    async def state(session: Session, name: str) -> None:
        """Print the state of the instance NAME as JSON."""
        client, id = _find(make, session, name)
        found = await client.get_state(id)
        check(client.name(id), found.status)
        value = found.state
        if isinstance(value, Message):
            await learn(session.types, value)
            value = session.types.to_dict(value)
        if session.json:
            print_json({"state": value, "status": found.status.name, "version": found.version})
        elif value is None:
            click.echo("no state", err=True)
        else:
            print_json(value)

    ask = getattr(messages, f"List{kind}LogsRequest")

    @group.command("logs", short_help="Show what handlers have logged.")
    @click.argument("name")
    @which_lines
    @with_session
    async def logs(session: Session, name: str, level: str, limit: int | None) -> None:
        """Show what the handlers of the instance NAME have logged, its latest lines, in order.

        Callers need the capability longshore.provider.
        """
        client, id = _find(make, session, name)
        rpc = session.channel.calls.unary(f"/longshore.v1.{kind}Service/List{kind}Logs", ask, InstanceLogs)
        request = ask(name=client.name(id), level=LEVELS[level], page_size=PAGE)
        await show_logs(session, rpc, request, limit, lambda page: check(request.name, InstanceStatus(page.status)))

    @group.command("pause", short_help="Let no handler begin.")
    @click.argument("name")
    @with_session
    async def pause(session: Session, name: str) -> None:
        """Let no handler of the instance NAME begin until it is resumed; one that runs comes to its end.

        Callers need the capability longshore.provider.
        """
        client, id = _find(make, session, name)
        await told(session, client.name(id), client.pause(id))

    @group.command("resume", short_help="Let an instance go on.")
    @click.argument("name")
    @with_session
    async def resume(session: Session, name: str) -> None:
        """Let the instance NAME go on, which is paused or has failed.

        Callers need the capability longshore.provider.
        """
        client, id = _find(make, session, name)
        await told(session, client.name(id), client.resume(id))

    @group.command("terminate", short_help="End an instance.")
    @click.argument("name")
    @click.option("--reason", default="", metavar="TEXT", help="Why, for people.")
    @click.option("--purge", is_flag=True, help="Leave nothing of it; else its last state is kept.")
    @with_session
    async def terminate(session: Session, name: str, reason: str, purge: bool) -> None:
        """End the instance NAME: its handler, its timers, and what waits.

        With --purge it is also done, with exit code 0, where there is no such instance. Callers need the capability
        longshore.provider.
        """
        client, id = _find(make, session, name)
        answer = purged if purge else told
        await answer(session, client.name(id), client.terminate(id, reason, purge=purge))


_share(recurring, RecurringClient[Any], recurring_service_pb2)
_share(debounce, DebounceClient[Any, Any], debounce_service_pb2)
_share(task, TaskClient[Any, Any], task_service_pb2)


def _find(make: Callable[..., ClientT], session: Session, name: str) -> tuple[ClientT, str]:
    """The client and the id that a name means: `DEFINITION/ID`, or the full name that commands print."""
    parts = name.split("/")
    if len(parts) == 4 and parts[2] == "instances":
        parts = parts[1::2]
    if len(parts) != 2 or not all(parts):
        raise click.UsageError(f"NAME: {name!r} is not of the form DEFINITION/ID")
    return make(session.channel, parts[0]), parts[1]


def _text(value: Any) -> str:
    """A value on the line of a field."""
    if isinstance(value, dict):
        return f"{value['message']} ({value['reason']})" if "reason" in value else _timers(value)
    return str(value)


def _timers(timers: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {time}" if name else time for name, time in sorted(timers.items()))


def _row(found: InstanceSnapshot, name: str) -> list[Cell]:
    error = found.last_error
    what, due = "", None
    match found:
        case RecurringSnapshot():
            what, due = counted(found.run_count, "run"), found.next_run_time
        case DebounceSnapshot():
            what = f"{counted(found.event_count, 'event')}, {counted(found.dead_letters, 'dead letter')}"
            due = found.flush_time
        case TaskSnapshot():
            what = f"{counted(found.event_count, 'event')}, {counted(found.execute_count, 'execution')}"
            due = found.schedule_time
    if found.stop_reason:
        what = found.stop_reason
    elif error is not None:
        what = f"{error.message} ({error.reason})"
    due = found.retry_time or due if found.status is InstanceStatus.ACTIVE else None
    return [
        Cell(name), Cell(found.status.name, _COLORS.get(found.status)),
        Cell(age(found.create_time) if found.create_time else ""), Cell(stamp(due) if due else ""), Cell(what),
    ]  # fmt: skip
