"""The commands and their one-line helps; each command's code is imported when it is called."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, NamedTuple

import click
from click.shell_completion import CompletionItem

from longshore_client.cli.connection import before, connection_before
from longshore_client.cli.text import color, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Command(NamedTuple):
    module: str
    attribute: str
    extra: str
    help: str


_COMMANDS = {
    "call": _Command("longshore_client.cli.call", "call", "cli", "Start an operation, and follow it if asked to."),
    "ls": _Command("longshore_client.cli.listing", "ls", "cli", "List operations, newest first."),
    "count": _Command("longshore_client.cli.listing", "count", "cli", "Count operations by type and state."),
    "get": _Command("longshore_client.cli.follow", "get", "cli", "Show where an operation stands."),
    "watch": _Command("longshore_client.cli.follow", "watch", "cli", "Follow an operation to its end."),
    "wait": _Command("longshore_client.cli.follow", "wait", "cli", "Wait for an operation and print its result."),
    "cancel": _Command("longshore_client.cli.follow", "cancel", "cli", "Ask to cancel an operation."),
    "signal": _Command("longshore_client.cli.signals", "signal", "cli", "Send a signal to an operation that runs."),
    "stop": _Command("longshore_client.cli.follow", "stop", "cli", "Ask to stop, and keep what there is."),
    "retry": _Command("longshore_client.cli.ended", "retry", "cli", "Start an operation that has ended once more."),
    "delete": _Command("longshore_client.cli.ended", "delete", "cli", "Delete operations that have ended."),
    "logs": _Command("longshore_client.cli.records", "logs", "cli", "Show what an operation's code has logged."),
    "steps": _Command("longshore_client.cli.records", "steps", "cli", "Show what became of an operation's steps."),
    "jobs": _Command("longshore_client.cli.jobs", "jobs", "cli", "Show and steer the jobs behind operations."),
    "recurring": _Command(
        "longshore_client.cli.instances", "recurring", "cli", "Show and steer what runs by a schedule."
    ),
    "debounce": _Command("longshore_client.cli.instances", "debounce", "cli", "Show and steer batches of events."),
    "task": _Command("longshore_client.cli.instances", "task", "cli", "Show and steer what events drive."),
    "upload": _Command(
        "longshore_client.cli.bytes", "upload", "cli", "Start an operation that takes bytes, and send a file."
    ),
    "download": _Command("longshore_client.cli.bytes", "download", "cli", "Fetch bytes that an operation offers."),
    "types": _Command(
        "longshore_client.cli.listing", "types", "cli", "List the operation types that the server serves."
    ),
    "new": _Command("longshore_client.cli.new", "new", "cli", "Write a small project that works."),
    "dev": _Command("longshore_client.cli.dev", "dev", "cli", "Serve, and begin again when a file changes."),
    "generate": _Command("longshore_client.cli.generate", "generate", "cli", "Compile contracts to Python."),
    "completion": _Command("longshore_client.cli.completion", "completion", "cli", "Teach your shell to complete."),
    # By name only: the library must not depend on the server, which need not be installed.
    "serve": _Command("longshore_server.command", "serve", "server", "Serve contracts with your handlers."),
    "token": _Command("longshore_server.command", "token", "server", "Make a bearer token for a caller."),
}

OFFLINE = {"new", "dev", "generate", "completion", "serve", "token"}
"""These talk to no server."""

EXIT_CODES = """\b
Exit codes:
  0  done: the operation completed, or there was none to wait for
  1  the operation failed, or the handler of the instance, or that is paused and
     trigger or flush ran nothing
  2  the command line is wrong
  3  the operation was cancelled
  4  the time is up and the operation goes on
  5  the server cannot be reached
  6  the server refused
  130  interrupted by Ctrl-C; the operation goes on
"""

_EPILOG = f"""\b
Examples:
  longshore serve examples/orders/service.py:server --data ./data
  longshore call acme.orders.v1.OrdersService/Process -d '{{"order_id": "ord_123"}}' --watch
  longshore ls --filter 'state=RUNNING AND labels.tenant="acme"'
  longshore watch operations/orders-process-ord_123 --json

{EXIT_CODES}"""


class _LazyGroup(click.Group):
    """A group that knows its commands' names and helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if cmd_name not in OFFLINE or cmd_name == "serve":
            # Before it is loaded: what gRPC itself writes about connections, the commands say in words of their own. A
            # server has many callers, and its own errors are said by nobody else.
            os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if cmd_name == "serve" else "NONE")
        try:
            command = getattr(importlib.import_module(entry.module), entry.attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] in ("longshore", "longshore_client"):
                raise
            if ctx.resilient_parsing:
                return None
            raise click.ClickException(
                f'`longshore {cmd_name}` needs {error.name}: pip install "longshore-grpc[{entry.extra}]"'
            ) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}:{entry.attribute} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # What a shell completes is not yet meant: nothing is said between its lines.
        known = not args or args[0].startswith("-") or args[0] in _COMMANDS
        if not known and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], list(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name, or an option."""
        commands = [
            CompletionItem(name, help=entry.help) for name, entry in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in _COMMANDS.items()])


def run() -> int:
    """Run the command line and return the exit code. What is wrong is said in one sentence, click's words included."""
    try:
        return int(cli(prog_name="longshore", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        text = shown(error.format_message()).rstrip(".")
        if isinstance(error, click.NoSuchOption) and error.ctx and isinstance(error.ctx.command, click.Group):
            text += "; the options of a command stand behind its name"
        where = error.ctx.command_path if error.ctx is not None else "longshore"
        click.echo(f"{click.style('error: ', fg='red')}{text}; `{where} --help` shows how", err=True, color=color())
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"{click.style('error: ', fg='red')}{shown(error.format_message())}", err=True, color=color())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """Return `; did you mean ...?` if something known is close, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(wrong, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"longshore {version('longshore-grpc')}")
        ctx.exit()


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@connection_before(hidden=False)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Durable operations over gRPC: start them, follow them, and serve them.

    The options of this page are those of every command that talks to a server, and may stand before or behind its name.
    """
    given = before(ctx)
    if given and ctx.invoked_subcommand in OFFLINE:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"`longshore {ctx.invoked_subcommand}` talks to no server: leave out {options}")
    ctx.color = color()
