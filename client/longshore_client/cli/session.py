"""What every command that talks to a server shares: the connection, the errors as sentences, the exit codes."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec

import click

from longshore_client.advice import Trouble, trouble
from longshore_client.channel import Channel, connect
from longshore_client.cli.connection import DEFAULT_SERVER, command_line, connection
from longshore_client.cli.reflection import Types
from longshore_client.cli.text import shown
from longshore_client.credentials import is_local, tls
from longshore_client.errors import (
    CallError,
    LongshoreError,
    NotFound,
    OperationCancelled,
    OperationFailed,
    StillRunning,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from longshore_client.outage import CANNOT_WRITE
from longshore_client.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import grpc

P = ParamSpec("P")

FAILED = 1
CANCELLED = 3
STILL_RUNNING = 4
UNREACHABLE = 5
REFUSED = 6
INTERRUPTED = 130


class _Seconds(click.FloatRange):
    """A time to wait: not negative, and finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is no number of seconds", param, ctx)
        return found


SECONDS = _Seconds(min=0)

# A person waits for the first answer; once there was one, the server is worth a longer wait.
_FIRST_CONTACT = 1.5
_RECONNECT = 300.0


@dataclass
class Session:
    """One command's connection to the server."""

    server: str
    json: bool
    channel: Channel
    types: Types
    come_back: str = field(default="")
    """What to say after Ctrl-C; set while an operation is followed."""
    _told: bool = field(default=False, init=False)

    def lost(self, target: str, error: CallError) -> None:  # noqa: ARG002 - people know it by the name they gave
        """Tell about an outage; before the first contact the error at the end says all."""
        self._told = self.channel.outage.contacted
        if self._told:
            # A server whose disk is full does answer: who looks at the network finds nothing.
            full = error.reason in CANNOT_WRITE
            what = f": {shown(error.message.rstrip('.'))}" if full else " does not answer"
            click.echo(f"{self.server}{what}; trying again", err=True)

    def back(self, target: str, seconds: float) -> None:  # noqa: ARG002
        """Tell about the end of an outage that was told about."""
        if self._told:
            click.echo(f"back after {seconds:.1f} s", err=True)


def with_session(command: Callable[Concatenate[Session, P], Coroutine[Any, Any, int | None]]) -> Callable[P, None]:
    """Make a click callback of a coroutine: the options of a connection, that connection, and errors as exit codes.

    What the coroutine returns is the exit code; None is 0.
    """

    @connection
    @functools.wraps(command)
    def callback(*args: P.args, **kwargs: P.kwargs) -> None:
        server, json = _with_port(str(kwargs.pop("server"))), bool(kwargs.pop("json"))
        token, credentials = _read_token(kwargs.pop("token")), _read_tls(kwargs)
        if token is not None and credentials is None and not is_local(server):
            raise click.UsageError(f"--token: it would go to {server} in plain text; give --tls as well")
        sessions: list[Session] = []

        async def run() -> int | None:
            retry = Retry(give_up_after=_RECONNECT, first_contact=_FIRST_CONTACT)
            async with connect(server, credentials=credentials, token=token, retry=retry) as channel:
                session = Session(server, json, channel, Types(channel))
                channel.outage.listener = session
                sessions.append(session)
                return await command(session, *args, **kwargs)

        try:
            sys.exit(asyncio.run(run()) or 0)
        except KeyboardInterrupt:
            click.echo("", err=True)
            come_back = sessions[0].come_back if sessions else ""
            fail(shown(come_back) or "interrupted", INTERRUPTED, label="")
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; the interpreter must not try to flush to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(INTERRUPTED)
        except LongshoreError as error:
            sentence, code = explain(error, server)
            if sessions and _may_go_on(error) and (come_back := sessions[0].come_back):
                sentence = f"{sentence}; {come_back}"
            fail(shown(sentence), code)

    return callback


def _may_go_on(error: LongshoreError) -> bool:
    """Whether what was followed is there still, although this command has given up."""
    return isinstance(error, Unavailable) or (isinstance(error, CallError) and error.retry_after is not None)


def _read_token(given: object) -> str | None:
    token = str(given) if given else ""
    if token.startswith("@"):
        try:
            token = Path(token[1:]).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token: {token[1:]} cannot be read: {error}") from None
    if not token.isascii() or not token.isprintable():
        raise click.UsageError("--token: a token has only printable ASCII characters")
    return token or None


def _read_tls(options: dict[str, Any]) -> grpc.ChannelCredentials | None:
    """Take the options of TLS out of `options` and make credentials of them."""
    wanted, ca = options.pop("tls"), options.pop("tls_ca")
    certificate, key = options.pop("tls_client_cert"), options.pop("tls_client_key")
    if not (wanted or ca or certificate or key):
        return None
    try:
        return tls(ca, certificate=certificate, key=key)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--tls-client-cert: {error}") from None


def _with_port(server: str) -> str:
    """A bare host means our port; gRPC would take 443."""
    return server if ":" in server else f"{server}:{DEFAULT_SERVER.rpartition(':')[2]}"


_TROUBLE = {
    Trouble.ADDRESS: "is no address that can be found: give --server HOST:PORT, without http://, or unix:PATH",
    Trouble.PLAIN: "does not speak TLS: leave out --tls and the like, or name the port that does with --server",
    Trouble.UNTRUSTED: "has a certificate that is not trusted: say who signs it with --tls-ca",
    Trouble.NAME: "has a certificate of another name: give --server the name that stands in it",
    Trouble.FILES: "cannot be asked over TLS: see whether the files that were given hold certificates",
    Trouble.HTTP1: "speaks HTTP/1 and not gRPC: give --server the address that `longshore serve` names first",
    Trouble.CLOSED: "closes the connection: it may want TLS (--tls, or --tls-ca), or a certificate (--tls-client-cert)",
}


def explain(error: LongshoreError, server: str) -> tuple[str, int]:
    """Put an error into one sentence that says what to do, and find its exit code."""
    match error:
        case StillRunning() if "/instances/" in error.operation:
            return f"{error.message}; --no-wait does not wait for it", STILL_RUNNING
        case StillRunning():
            return f"{error.message}; come back with `{command_line(f'wait {error.operation}')}`", STILL_RUNNING
        case OperationFailed():
            return f"{error.operation} failed: {error.message} ({error.reason})", FAILED
        case OperationCancelled():
            return f"{error.operation} was cancelled: {error.message}", CANCELLED
        case Unavailable() if error.domain != "longshore":
            found = trouble(error)
            if found in _TROUBLE:
                return f"{server} {_TROUBLE[found]}", UNREACHABLE
            ways_out = "start one with `longshore serve`, or name another with --server or LONGSHORE_SERVER"
            return f"no Longshore server answers at {server}: {ways_out}", UNREACHABLE
        case Unavailable():
            return f"{server} is not available: {error.message} ({error.reason}); try again later", UNREACHABLE
        case Unimplemented() if error.domain != "longshore":
            return f"{server} answers but is not a Longshore server: name another with --server", REFUSED
        case Unauthenticated():
            return f"{error.message.rstrip('.')}; give a token by --token or LONGSHORE_TOKEN", REFUSED
        case NotFound() if "OPERATION" in error.reason:
            return f"{error.message.rstrip('.')}; `longshore ls` shows what exists", REFUSED
        case CallError() if error.field_violations:
            broken = [
                f"{item.field}: {item.description}"
                for item in error.field_violations
                if item.description not in error.message
            ]
            return f"{error.message.rstrip('.')}: {'; '.join(broken)}" if broken else error.message, REFUSED
        case CallError() if error.retry_after is not None:
            return f"{error.message.rstrip('.')}; try again in {error.retry_after:g} s", REFUSED
        case _:
            return f"{error.message} ({error.reason})", REFUSED


def fail(sentence: str, code: int, *, label: str = "error: ") -> NoReturn:
    """Print one sentence to stderr and exit."""
    click.echo(f"{click.style(label, fg='red') if label else ''}{sentence}", err=True)
    sys.exit(code)


def operation_name(text: str) -> str:
    """Accept `operations/x` and plain `x`."""
    return text if text.startswith("operations/") else f"operations/{text}"
