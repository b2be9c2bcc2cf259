"""The option `-d`: what a user writes as JSON, and the message that it becomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from longshore_client.cli.session import Session


def read_data(data: str) -> Any:
    """Read the option's JSON from where it is."""
    try:
        if data == "-":
            text = sys.stdin.read()
        elif data.startswith("@"):
            text = Path(data[1:]).read_text(encoding="utf-8")
        else:
            text = data
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"-d: {data[1:] or 'stdin'} cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        ) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"-d is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error


def to_message(session: Session, values: Any, name: str) -> Message:
    """Make a message of the type `name`, which is loaded, or say what does not fit."""
    try:
        return session.types.parse(values, session.types.get(name))
    except ValueError as error:
        fields = ", ".join(field.name for field in session.types.get(name).DESCRIPTOR.fields)
        # The first line says it; the rest repeats the fields in a form for programmers.
        text = str(error).partition("\n")[0].rstrip(".")
        raise click.UsageError(f"-d does not fit {name}: {text}; its fields are {fields or 'none'}") from error
