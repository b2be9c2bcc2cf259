"""`longshore get`, `watch`, `wait`, `cancel` and `stop`: one operation that exists."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from longshore_client import events
from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.as_json import print_json, print_result, snapshot_dict
from longshore_client.cli.connection import command_line
from longshore_client.cli.render import renderer
from longshore_client.cli.session import (
    CANCELLED,
    FAILED,
    SECONDS,
    STILL_RUNNING,
    Session,
    operation_name,
    with_session,
)
from longshore_client.cli.text import shown
from longshore_client.errors import OperationCancelled, OperationFailed, StillRunning
from longshore_client.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from longshore_client.cli.render import Renderer
    from longshore_client.events import EventBase
    from longshore_client.operation import OperationHandle
    from longshore_client.snapshot import Snapshot

_KINDS: dict[str, type[EventBase]] = {
    "accepted": events.Accepted,
    "started": events.Started,
    "progress": events.Progress,
    "output": events.Output,
    "attempt_failed": events.AttemptFailed,
    "cancelling": events.Cancelling,
    "stopping": events.Stopping,
    "signal": events.Signalled,
    "transfer": events.Transfer,
    "offered": events.Offered,
}
_ENDS = {State.COMPLETED: 0, State.FAILED: FAILED, State.CANCELLED: CANCELLED}


async def follow(
    session: Session,
    handle: OperationHandle[Any, Any, Any, Any],
    *,
    after: int,
    types: Iterable[type[EventBase]],
    conflate: bool = False,
    timeout: float | None,
    title: bool,
    begin: datetime | None = None,
    show: Renderer | None = None,
    come_back: Callable[[int], str] | None = None,
) -> int:
    """Show an operation's events to its end, print its result, and return the exit code that says how it ended.

    Args:
        begin: When it was accepted. Default: with the first event that comes.
        show: What shows them. Default: whatever fits the terminal.
        come_back: What to say after Ctrl-C, by the sequence of the last event. Default: the command that watches on.
    """
    if title and not session.json:
        click.echo(shown(handle.name), err=True)
    show = show or renderer(session.types, as_json=session.json, name=handle.name, begin=begin)

    def watch_on(last: int) -> str:
        return f"{handle.name} goes on. Come back with: {command_line(f'watch {handle.name} --after {last}')}"

    code: int | None = None
    last = after
    limit = asyncio.timeout(timeout)
    try:
        async with limit, aclosing(handle.watch(after, types=types, conflate=conflate)) as stream:
            async for event in stream:
                last = event.sequence
                session.come_back = (come_back or watch_on)(last)
                show.event(event)
                match event:
                    case events.Completed():
                        code = 0
                        if not session.json:
                            print_result(event.result, session.types)
                    case events.Failed():
                        code = FAILED
                    case events.Cancelled():
                        code = CANCELLED
                    case _:
                        pass
            if code is None:
                # The end is not among the events: the log no longer holds it, or the caller had seen it before.
                snapshot = await handle.get()
                code = _ENDS.get(snapshot.state, STILL_RUNNING)
                show.ended(snapshot)
                if not session.json and snapshot.state is State.COMPLETED:
                    print_result(snapshot.result, session.types)
    except TimeoutError:
        if not limit.expired():
            raise
        raise StillRunning(handle.name, timeout or 0.0) from None
    finally:
        show.close()
    return code


async def settle(session: Session, handle: OperationHandle[Any, Any, Any, Any], timeout: float | None) -> int:
    """Wait for the end and print the result, or with --json the last snapshot; return the exit code."""
    session.come_back = f"{handle.name} goes on. Come back with: {command_line(f'wait {handle.name}')}"
    code = 0
    try:
        result = await handle.wait(timeout)
    except OperationFailed:
        if not session.json:
            raise
        code = FAILED
    except OperationCancelled:
        if not session.json:
            raise
        code = CANCELLED
    else:
        if not session.json:
            print_result(result, session.types)
    if session.json:
        print_json(snapshot_dict(await handle.get(), session.types))
    return code


async def started(
    session: Session, handle: OperationHandle[Any, Any, Any, Any], *, watch: bool, wait: bool, timeout: float | None
) -> int | None:
    """What a command does with an operation that it has started: follow it, wait for it, or print its name."""
    if watch:
        return await follow(session, handle, after=0, types=(), timeout=timeout, title=True)
    if wait or timeout is not None:
        if not session.json:
            click.echo(shown(handle.name), err=True)
        return await settle(session, handle, timeout)
    if session.json:
        print_json(snapshot_dict(await handle.get(), session.types))
    else:
        click.echo(shown(handle.name))
        if not handle.created:
            click.echo("it existed already", err=True)
    return None


async def attach(session: Session, name: str) -> OperationHandle[Any, Any, Any, Any]:
    """Attach by name, with what is needed to read its payloads."""
    from longshore.v1 import operations_service_pb2 as pb

    request = pb.GetRequest(name=operation_name(name))
    snapshot = await session.channel.invoke(session.channel.calls.get, request)
    return await session.types.attach(snapshot.name, snapshot.type)


@click.command("get", epilog="\b\nExample:\n  longshore get operations/orders-process-ord_123 --json | jq .state")
@click.argument("name")
@with_session
async def get(session: Session, name: str) -> None:
    """Show where the operation NAME stands."""
    handle = await attach(session, name)
    snapshot = await handle.get()
    if session.json:
        print_json(snapshot_dict(snapshot, session.types))
    else:
        _print_snapshot(session, snapshot)


@click.command(
    "watch",
    epilog=f"\b\nExamples:\n  longshore watch orders-process-ord_123\n"
    f"  longshore watch operations/orders-process-ord_123 --after 12 --json\n\n{EXIT_CODES}",
)
@click.argument("name")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Begin after event N.  [default: 0]")
@click.option(
    "--type", "kinds", multiple=True, type=click.Choice(list(_KINDS)), help="Only these events, and the last."
)
@click.option("--conflate", is_flag=True, help="Skip progress that is no longer the latest.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="The longest wait.")
@with_session
async def watch(
    session: Session,
    name: str,
    after: int,
    kinds: tuple[str, ...],
    conflate: bool,
    timeout: float | None,
) -> int:
    """Follow the operation NAME from its first event to its end.

    Restarts of the server are bridged. Ctrl-C leaves the operation running and says how to come back.
    """
    handle = await attach(session, name)
    types = [_KINDS[kind] for kind in kinds]
    # The first event that comes need not be the first there was.
    begin = (await handle.get()).create_time if after or types else None
    return await follow(
        session, handle, after=after, types=types, conflate=conflate, timeout=timeout, title=True, begin=begin
    )


@click.command("wait", epilog=f"\b\nExample:\n  longshore wait orders-process-ord_123 --timeout 30\n\n{EXIT_CODES}")
@click.argument("name")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="The longest wait.")
@with_session
async def wait(session: Session, name: str, timeout: float | None) -> int:
    """Wait until the operation NAME has ended, and print its result."""
    return await settle(session, await attach(session, name), timeout)


@click.command("cancel", epilog='\b\nExample:\n  longshore cancel orders-process-ord_123 --reason "ordered twice"')
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the operation.")
@with_session
async def cancel(session: Session, name: str, reason: str) -> None:
    """Ask to cancel the operation NAME. Repeating it does no harm."""
    handle = await attach(session, name)
    _print_asked(session, await handle.cancel(reason), "cancel")


@click.command("stop", epilog='\b\nExample:\n  longshore stop orders-process-ord_123 --reason "good enough"')
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in its log.")
@with_session
async def stop(session: Session, name: str, reason: str) -> None:
    """Ask the operation NAME to stop and to keep what there is. Repeating it does no harm.

    What its handler then returns is the result. An attempt that waits to be made again is made at once, as the last.
    """
    handle = await attach(session, name)
    _print_asked(session, await handle.stop(reason), "stop")


def _print_asked(session: Session, snapshot: Snapshot[Any, Any], verb: str) -> None:
    """Where an operation stands that was asked to do something, and how to follow it."""
    if session.json:
        print_json(snapshot_dict(snapshot, session.types))
        return
    state = snapshot.state.name
    if snapshot.state.terminal:
        click.echo(f"{shown(snapshot.name)} has ended: {state}")
    else:
        click.echo(f"{shown(snapshot.name)} is asked to {verb}: {state}")
        click.echo(shown(f"follow it with: {command_line(f'watch {snapshot.name}')}"), err=True)


def _print_snapshot(session: Session, snapshot: Snapshot[Any, Any]) -> None:
    """Field by field, the payloads as JSON."""
    import json

    fields = snapshot_dict(snapshot, session.types)
    width = max(map(len, fields)) + 2
    for field, value in fields.items():
        text = str(value) if isinstance(value, (str, int)) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{click.style(f'{field:<{width}}', bold=True)}{shown(text)}")
