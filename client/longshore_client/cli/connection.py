"""The options that say which server, and how to talk to it. They may stand behind a command, or anywhere before it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

DEFAULT_SERVER = "localhost:50051"

_FILE = click.Path(exists=True, dir_okay=False)
_OPTIONS: dict[str, dict[str, Any]] = {
    "server": {
        "metavar": "ADDRESS",
        "default": DEFAULT_SERVER,
        "help": "host:port or unix:PATH.  [env: LONGSHORE_SERVER; default: localhost:50051]",
    },
    "token": {"metavar": "TOKEN", "help": "Who you are; @FILE reads it.  [env: LONGSHORE_TOKEN]"},
    "tls": {"is_flag": True, "help": "Talk over TLS.  [env: LONGSHORE_TLS]"},
    "tls-ca": {
        "type": _FILE,
        "metavar": "FILE",
        "help": "Who signs the server's certificate; implies --tls.  [env: LONGSHORE_TLS_CA]",
    },
    "tls-client-cert": {
        "type": _FILE,
        "metavar": "FILE",
        "help": "Your own certificate; implies --tls.  [env: LONGSHORE_TLS_CLIENT_CERT]",
    },
    "tls-client-key": {"type": _FILE, "metavar": "FILE", "help": "Its private key.  [env: LONGSHORE_TLS_CLIENT_KEY]"},
    "json": {"is_flag": True, "help": "Only events and snapshots, on stdout, one JSON object a line."},
}


class _Option(click.Option):
    """One that a command takes from before its own name where it is not behind it."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        given, name = before(ctx), self.name or ""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.COMMANDLINE:
            given[name] = value
        elif name in given:
            return given[name], ParameterSource.COMMANDLINE
        return value, source


def before(ctx: click.Context) -> dict[str, Any]:
    """What was given of these options by now, by the names of parameters: for a command and the groups before it."""
    given: dict[str, Any] = ctx.meta.setdefault(__name__, {})
    return given


def command_line(text: str) -> str:
    """A command for the user to type, with what was given to this one; a token only as the file that has it."""
    words = ["longshore", text]
    for name, value in before(click.get_current_context()).items():
        if name != "json" and (name != "token" or str(value).startswith("@")):
            option = f"--{name.replace('_', '-')}"
            words.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    return " ".join(words)


def connection(command: CommandT) -> CommandT:
    """Give a command the options, in the order in which its help shows them."""
    for name, option in reversed(_OPTIONS.items()):
        variable = None if name == "json" else f"LONGSHORE_{name.upper().replace('-', '_')}"
        command = click.option(f"--{name}", cls=_Option, envvar=variable, **option)(command)
    return command


def connection_before(*, hidden: bool) -> Callable[[CommandT], CommandT]:
    """Let a group take the options for the command that follows. `hidden`: its help leaves them to that command."""

    def give(group: CommandT) -> CommandT:
        for name, option in reversed(_OPTIONS.items()):
            group = click.option(f"--{name}", cls=_Option, expose_value=False, hidden=hidden, **option)(group)
        return group

    return give
