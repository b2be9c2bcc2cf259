"""What the verbs of `longshore recurring`, `debounce` and `task` print: where an instance stands, and its failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import click

from longshore_client.cli.as_json import error_dict, print_json, stamp
from longshore_client.cli.connection import command_line
from longshore_client.cli.session import FAILED, Session
from longshore_client.cli.text import shown
from longshore_client.errors import Code, LongshoreError, NotFound
from longshore_client.instances import InstanceChange, InstanceClient, InstanceStatus
from longshore_client.recurring import RecurringStarted


async def told(session: Session, name: str, call: Coroutine[Any, Any, Any]) -> None:
    """Print what a verb answers that waits for no handler."""
    _print(session, name, await call)


async def purged(session: Session, name: str, call: Coroutine[Any, Any, InstanceChange]) -> None:
    """Print what a purge answers. That nothing is left is what was asked for, also where there was nothing."""
    answer = await call
    if session.json:
        print_json({"name": name, **values(session, answer)})
    elif answer.status is InstanceStatus.NOT_FOUND:
        click.echo(shown(f"there is no {name}: nothing to purge"), err=True)
    else:
        click.echo(shown(f"{name} is purged"))


async def ran(
    session: Session, client: InstanceClient[Any, Any], id: str, call: Coroutine[Any, Any, Any], *, no_wait: bool
) -> int:
    """Print what a verb answers that waits for a handler unless `no_wait`, and why that has failed.

    Returns the exit code: that of what has failed, where the handler has, or had before so that none runs now, and
    where a trigger or flush found the instance paused. An event that waits until it goes on is accepted: 0.
    """
    answer, name = await call, client.name(id)
    taken = getattr(answer, "triggered", getattr(answer, "flushed", True))
    if answer.status is InstanceStatus.PAUSED and (not taken or answer.retry_time is None):
        _print(session, name, answer)
        if not session.json:
            what = (
                "it does not run" if _existed(answer) else "what it has accepted waits" if taken else "it was not run"
            )
            click.echo(shown(f"{what}; let it go on with: {_resume(name, id)}"), err=True)
        return 0 if taken else FAILED
    if no_wait or not (answer.status is InstanceStatus.FAILED or answer.retry_time is not None):
        _print(session, name, answer)
        return 0
    error = (await client.status(id)).last_error
    if session.json:
        _print(session, name, answer, {} if error is None else {"last_error": error_dict(error, session.types)})
        return FAILED
    _print(session, name, answer)
    why = "" if error is None else f": {error.message.rstrip('.')} ({error.reason})"
    resume = f"let it go on with: {_resume(name, id)}"
    if answer.retry_time is None:
        again = f"once it can succeed, {resume}"
    elif answer.status is InstanceStatus.PAUSED:
        again = f"it is paused, and does not run again at {stamp(answer.retry_time)} unless you {resume}"
    else:
        again = f"it runs again at {stamp(answer.retry_time)}"
    click.echo(shown(f"its handler has failed{why}; {again}"), err=True)
    return FAILED


def _resume(name: str, id: str) -> str:
    kind, definition = name.split("/")[:2]
    return command_line(f"{kind[:-1]} resume {definition}/{id}")


def check(name: str, status: InstanceStatus) -> None:
    """Refuse what there is not. Raises `NotFound`."""
    if status is InstanceStatus.NOT_FOUND:
        raise NotFound(f"there is no {name}", reason="INSTANCE_NOT_FOUND", code=Code.NOT_FOUND)


def values(session: Session, found: Any) -> dict[str, Any]:
    """An answer as JSON values, without what is not there."""
    fields = {field.name: _value(session, getattr(found, field.name)) for field in dataclasses.fields(found)}
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def _value(session: Session, value: Any) -> Any:
    match value:
        case InstanceStatus():
            return value.name
        case datetime():
            return stamp(value)
        case LongshoreError():
            return error_dict(value, session.types)
        case Mapping():
            return {key: _value(session, item) for key, item in value.items()}
    return value


def _print(session: Session, name: str, answer: Any, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    check(name, answer.status)
    if session.json:
        print_json({"name": name, **values(session, answer), **more})
        return
    click.echo(shown(f"{name} is {answer.status.name}"))
    if getattr(answer, "duplicate", False):
        click.echo("this event had been accepted before", err=True)
    if _existed(answer):
        click.echo("it existed already: nothing of what was given is used", err=True)


def _existed(answer: Any) -> bool:
    """Whether a start has found what it was to begin."""
    return isinstance(answer, RecurringStarted) and not answer.created
