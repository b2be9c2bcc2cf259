"""`longshore serve`: load a server, serve until a signal, stop in good order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from longshore_server import config as configuration
from longshore_server import mistakes
from longshore_server.auth.files import FileError
from longshore_server.auth.tokens import append, make
from longshore_server.clock import SystemClock
from longshore_server.config import Config, ConfigError
from longshore_server.handler.texts import counted
from longshore_server.instance_lifecycle import Kind
from longshore_server.lifeline import NO_FILES_FAULT, Lifeline
from longshore_server.rpc.addresses import ListenError
from longshore_server.server import Running, Server
from longshore_server.store.database import StoreError
from longshore_server.target import LoadError, TargetError, load_server
from longshore_server.telemetry import logs

log = logging.getLogger(__name__)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that is not empty, which Python would take for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


_FILE = _Path(path_type=Path, dir_okay=False)


def _setting(field: str, help: str, *declarations: str, **attributes: Any) -> Callable[[FunctionT], FunctionT]:
    """The option of one field of `Config`, whose default is shown and applies there when it is not given."""
    match getattr(Config, field):
        case bool(default):
            shown = "yes" if default else "no"
        case float(default):
            shown = f"{default:g}"
        case None | "" | ():
            shown = "none"
        case tuple(default):
            shown = ", ".join(default)
        case default:
            shown = str(default)
    names = declarations or (f"--{field.replace('_', '-')}",)
    return click.option(*names, field, default=None, help=f"{help} [default: {shown}]", **attributes)


@click.command()
@click.argument("target", metavar="SERVER", shell_complete=click.Path().shell_complete)
@_setting("listen", "HOST:PORT or unix:PATH; may be repeated.", multiple=True, metavar="ADDRESS")
@_setting("socket_mode", "Who may call by Unix sockets.", type=click.Choice(["0600", "0660", "0666"]))
@_setting("socket_group", "The group of these sockets.", metavar="NAME|NUMBER")
@_setting("data", "Directory that holds everything.", type=_Path(path_type=Path))
@_setting("stores", "Where bytes are; may be repeated.", "--store", multiple=True, metavar="NAME=URL")
@_setting("sinks", "Where lifecycle events go; may be repeated.", "--sink", multiple=True, metavar="NAME=URL")
@_setting("max_outbox", "Lifecycle events kept for sinks that are behind.", type=int, metavar="N")
@_setting("max_outbox_bytes", "Bytes of them.", type=int, metavar="BYTES")
@_setting("metrics", "Where Prometheus reads metrics, or off.", metavar="HOST:PORT")
@_setting("allow_unauthenticated", "Listen beyond this machine without authentication.", is_flag=True)
@_setting("tokens", "File with the hashes of bearer tokens; see `longshore token`.", type=_FILE)
@_setting("jwt_keys", "JWKS that JSON Web Tokens are checked by.", metavar="PATH|URL")
@_setting("jwt_issuer", "What `iss` must be.", metavar="TEXT")
@_setting("jwt_audience", "What `aud` must hold.", metavar="TEXT")
@_setting("jwt_claim", "The claim that holds the capabilities.", metavar="NAME")
@_setting("jwt_skew", "How far the issuer's clock may be off.", type=float, metavar="SECONDS")
@_setting("jwt", "One of several issuers, as a TOML table; may be repeated.", multiple=True, metavar="TABLE")
@_setting("tls_cert", "The listener's certificate, in PEM.", type=_FILE)
@_setting("tls_key", "Its private key, in PEM.", type=_FILE)
@_setting("tls_client_ca", "Who signs the certificates that callers must show.", type=_FILE)
@_setting("tls_identities", "File with the principals of client certificates.", type=_FILE)
@_setting("health", "Who may ask for health.", type=click.Choice(["anyone", "authenticated"]))
@_setting("reflection", "Who may use reflection.", type=click.Choice(["anyone", "authenticated", "off"]))
@_setting("concurrency", "Attempts of one type that may run at once.", type=int, metavar="N")
@_setting("concurrency_per_owner", "Those of one caller.", type=int, metavar="N")
@_setting("queue", "Operations of one type that may wait for a slot.", type=int, metavar="N")
@_setting("queue_per_owner", "Those of one caller.", type=int, metavar="N")
@_setting("max_live", "Operations that have not ended.", type=int, metavar="N")
@_setting("max_live_per_owner", "Those of one caller.", type=int, metavar="N")
@_setting("default_timeout", "Life of operations whose contract has no timeout.", type=float, metavar="SECONDS")
@_setting("default_retention", "Life of ended ones whose contract has no retention.", type=float, metavar="SECONDS")
@_setting("log_retention", "Life of the lines that handlers log.", type=float, metavar="SECONDS")
@_setting("drain", "Time for running attempts when the server stops.", type=float, metavar="SECONDS")
@_setting("max_events", "Events of one operation that are kept; older ones are dropped.", type=int, metavar="N")
@_setting("max_input", "The largest input.", type=int, metavar="BYTES")
@_setting("max_payload", "The largest result, progress or output.", type=int, metavar="BYTES")
@_setting("max_watches", "Watches, and calls that wait, that may be open at once.", type=int, metavar="N")
@_setting("max_watches_per_owner", "Those of one caller.", type=int, metavar="N")
@_setting("max_transfers", "Uploads and downloads that may be under way at once.", type=int, metavar="N")
@_setting("max_transfers_per_owner", "Those of one caller.", type=int, metavar="N")
@_setting("log_format", "For people or for machines.", type=click.Choice(["text", "json"]))
@_setting("log_level", "The least that is logged.", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--config", "file", type=_FILE, help="TOML file with the same settings.")
@click.option("--lifeline", "descriptor", type=int, hidden=True)
def serve(target: str, file: Path | None, descriptor: int | None, **flags: Any) -> None:
    """Serve SERVER: MODULE:NAME or path/to/file.py:NAME of a `longshore_server.Server`.

    \b
    It exits with
      0    after it has stopped as a signal has asked it to
      1    when it cannot go on or has not stopped well
      2    when it cannot start, and says why
      130  after a second signal

    \b
    Every setting can be given in three ways, of which the first one counts:
      --max-input 65536
      LONGSHORE_MAX_INPUT=65536     in the environment
      max_input = 65536             in the TOML file of --config

    \b
    Examples:
      longshore serve service:server
      longshore serve examples/orders/service.py:server --listen 127.0.0.1:50051 --data data
    """
    # Until there is a server that could read its files again: unhandled, the signal would end the start. Not SIG_IGN,
    # which programs that the service starts would inherit.
    signal.signal(signal.SIGHUP, lambda *_: None)
    form = flags["log_format"] or "text"
    origin: dict[str, str] = {}
    logs.configure(form, "info")  # what is wrong with the settings is said in that form too
    serves = asyncio.Event()
    try:
        config = configuration.load(flags, file=file, origin=origin)
        form = config.log_format
        logs.configure(form, config.log_level)
        lifeline = None if descriptor is None else Lifeline(descriptor, config.drain)
        server = load_server(target)
        code = _run(lambda: _serve(server, config, lifeline, serves))
    except (ConfigError, LoadError, ListenError, StoreError) as error:
        _tell(form, configuration.located(error, origin))
        # Of those of a store some are about contracts and definitions, which are files.
        elsewhere = isinstance(error, ConfigError | TargetError | ListenError)
        sys.exit(NO_FILES_FAULT if elsewhere and descriptor is not None else 2)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the service's own code may raise anything
        _tell_mistake(form, error)
        sys.exit(1 if serves.is_set() else 2)
    sys.exit(code)


@click.command()
@click.argument("principal")
@click.option("--capability", "capabilities", multiple=True, metavar="NAME", help="What it may do; may be repeated.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Its life. Not given: it does not expire.")
@click.option(
    "--tokens", envvar="LONGSHORE_TOKENS", required=True, type=_FILE,
    help="The file that `longshore serve --tokens` reads.  [env: LONGSHORE_TOKENS]",
)  # fmt: skip
def token(principal: str, capabilities: tuple[str, ...], days: float | None, tokens: Path) -> None:
    """Make a bearer token for PRINCIPAL and print it, once: the file keeps only its hash.

    A server that reads the file knows the token within a second.

    \b
    Example:
      longshore token checkout --capability orders.write --capability orders.read --days 90 --tokens tokens.toml
    """
    try:
        expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{days:g} days do not end before the year 10000", param_hint="--days") from None
    try:
        made = make(principal, capabilities, expires)
        append(tokens, made)
    except (ValueError, FileError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(made.token)
    until = "does not expire" if expires is None else f"expires at {expires:%Y-%m-%dT%H:%M:%SZ}"
    click.echo(f"added to {tokens}; it {until} and is not shown again", err=True)


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    factory = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def _serve(server: Server, config: Config, lifeline: Lifeline | None, serves: asyncio.Event) -> int:
    # Collections of the oldest generation walk every live operation; new garbage is what matters.
    gc.set_threshold(50_000, 20, 50)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked: asyncio.Future[signal.Signals] = loop.create_future()

    def ask(by: signal.Signals) -> None:
        if asked.done():
            _exit_now()
        asked.set_result(by)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    if lifeline is not None:
        # After a signal this is no second one.
        lifeline.on_end = lambda: loop.call_soon_threadsafe(lambda: None if asked.done() else ask(signal.SIGTERM))

    def give_up(_: object) -> None:
        task.cancel()

    # A lifespan may wait for something for ever: until the server serves, a signal ends its start.
    asked.add_done_callback(give_up)
    code = None
    try:
        while code is None:
            made = Running(server, config, SystemClock())
            if lifeline is not None:
                await lifeline.turn()
            async with made as running:
                asked.remove_done_callback(give_up)
                serves.set()
                code = await _until_end(running, asked, lifeline)
            serves.clear()
            if running.engine.executor.running:
                # A handler that swallows its cancellation would keep the event loop, and so the process, alive.
                sys.stderr.flush()
                os._exit(code or 0)
            asked.add_done_callback(give_up)
    except asyncio.CancelledError:
        if asked.done():
            return 0
        raise
    return code


async def _until_end(running: Running, asked: asyncio.Future[signal.Signals], lifeline: Lifeline | None) -> int | None:
    """Serve until there is a reason to stop, and stop. Returns the exit code; None: it was told to stand aside."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _keep(lambda: loop.create_task(running.reload())))
    gc.freeze()
    _announce(running)
    failed = asyncio.ensure_future(running.failed.wait())
    aside = asyncio.ensure_future(asyncio.Event().wait() if lifeline is None else lifeline.turn())
    await asyncio.wait((asked, failed, aside), return_when=asyncio.FIRST_COMPLETED)
    code = 0 if asked.done() else 1 if failed.done() else None
    failed.cancel()
    aside.cancel()
    if code != 1:
        by_hand = asked.done() and asked.result() is signal.SIGINT
        _say(running.config, "stopping; press Ctrl-C again to stop at once" if by_hand else "stopping")
    try:
        await running.stop()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - so may the end of its lifespan
        _tell_mistake(running.config.log_format, error)
        code = 1
    return code


def _tell_mistake(form: str, error: Exception | SystemExit) -> None:
    """Say what a service has raised."""
    sentence, trace = mistakes.explain(error)
    if form == "text" and trace:
        click.echo(trace, err=True)
    _tell(form, sentence, error if trace else None)


def _tell(form: str, problem: str, error: Exception | SystemExit | None = None) -> None:
    if form == "json":
        log.critical("%s", problem, exc_info=error)
    else:
        click.echo(f"error: {problem}", err=True)


def _keep(start: Callable[[], asyncio.Task[None]]) -> Callable[[], None]:
    """Starts tasks and keeps them until they are done: the event loop by itself would lose one."""
    tasks: set[asyncio.Task[None]] = set()

    def run() -> None:
        task = start()
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return run


def _exit_now() -> None:
    """The second signal: leave as a crash would. What is acknowledged is durable; attempts go on at the next start."""
    os._exit(130)


def _announce(running: Running) -> None:
    from importlib.metadata import version

    services = Counter(name.rpartition("/")[0] for name in running.engine.types)
    listed = ", ".join(f"{name} ({counted(count, 'operation')})" for name, count in services.items())
    listed = listed or "no operations"
    metrics = f"   metrics {running.metrics.address}" if running.metrics else ""
    where = ", ".join(running.addresses)
    _say(
        running.config,
        f"longshore {version('longshore-grpc')}  serving {listed}  on {where}   data {running.config.data}{metrics}",
    )
    if declared := _declared(running):
        _say(running.config, declared)
    if running.recovered:
        _say(running.config, f"recovered {counted(running.recovered, 'operation')}")


def _declared(running: Running) -> str:
    """The queues of jobs and the definitions of instances, by name; empty: there are none."""
    names = {"jobs": sorted(running.engine.jobs.queues)}
    for kind in Kind:
        names[kind.name.lower()] = sorted(name for of, name in running.engine.instances.definitions if of is kind)
    return "   ".join(f"{kind} {', '.join(found)}" for kind, found in names.items() if found)


def _say(config: Config, text: str) -> None:
    """To people as it is; to machines as one more line of the log."""
    if config.log_format == "json":
        log.info("%s", text)
    else:
        click.echo(f"  {text}", err=True)
