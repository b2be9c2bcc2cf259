"""`longshore dev`: serve while somebody writes, and begin again whenever a contract or a handler has changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from watchfiles import Change, DefaultFilter, awatch

from longshore_client.codegen.compile import CompileError, compile_protos

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROTOS = Path("protos")
_OPTIONS = ("--protos", "--out")
"""Those of this command itself."""
_GENERATED = ("_pb2.py", "_pb2_grpc.py", "_longshore.py")
"""What follows from a contract: to look at that is enough."""
_NO_FILES_FAULT = 78
"""With this a server ends whose start no change of a file would mend."""
_ordinary = DefaultFilter()

_EPILOG = """\b
Examples:
  longshore dev service:server
  longshore dev shop/service.py:server --protos shop/protos --out shop --listen unix:shop.sock --data shop-data
"""


@click.command("dev", epilog=_EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar="SERVER", shell_complete=click.Path().shell_complete)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--protos",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    help="The contracts, which are compiled when one of them changes.  [default: protos, if there is such a folder]",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="DIR",
    help="Where the Python goes.  [default: here]",
)  # fmt: skip
@click.pass_context
def dev(ctx: click.Context, target: str, options: tuple[str, ...], protos: Path | None, out: Path) -> None:
    """Serve SERVER as `longshore serve` does, and begin again when a file below this folder changes.

    Operations go on in the new server. It takes the old one's place once it has loaded: of a contract that cannot be
    compiled and of code that cannot be loaded the old one knows nothing, and it comes back for code that cannot be
    started. What is wrong is said, and waits for the next change; at the first start only if a change can mend it. All
    further options are those of `longshore serve`.
    """
    for name in (option.partition("=")[0] for option in options if option.startswith("--")):
        # Nearly one of ours: `longshore serve` would know neither.
        if close := get_close_matches(name, _OPTIONS, cutoff=0.8):
            raise click.NoSuchOption(name, possibilities=close, ctx=ctx)
    if protos is None and _PROTOS.is_dir():
        protos = _PROTOS
    asyncio.run(_Development(target, options, protos, out).run())


class _Server:
    """A process that serves the files as they were when it began, while it is told to.

    It ends when its line is closed, and so when this process does, in whatever way.
    """

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self.process = process
        self.serves = False
        """Whether its end would come as a surprise."""
        self._line = line

    @classmethod
    async def begin(cls, command: Iterable[str], environment: Mapping[str, str]) -> _Server:
        """Begin to load."""
        line, theirs = socket.socketpair()
        line.setblocking(False)
        with theirs:
            # In a session of its own: Ctrl-C reaches it through us, once, as any other signal does.
            process = await asyncio.create_subprocess_exec(
                *command, f"--lifeline={theirs.fileno()}", pass_fds=[theirs.fileno()], env=environment,
                start_new_session=True,
            )  # fmt: skip
        return cls(process, line)

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self.process.returncode is not None

    async def turn(self) -> bool:
        """Return once it has come further: it has read its options, waits to open, serves, or stands aside. False: it
        has ended instead, and has said why."""
        try:
            return bool(await asyncio.get_running_loop().sock_recv(self._line, 1))
        except ConnectionError:
            return False

    def open(self) -> None:
        """Have it take its place."""
        self._tell()

    async def stand_aside(self) -> None:
        """Have it leave its place, where it serves, and wait until it has. It can open again."""
        if self.serves:
            self.serves = False
            self._tell()
            await self.turn()

    async def stop(self, number: signal.Signals | None = None) -> None:
        """End it in good order, by a signal if one was sent to us."""
        self.serves = False
        if not self.ended and number is not None:
            self.process.send_signal(number)
        else:
            self._line.close()
        await self.process.wait()
        self._line.close()

    def _tell(self) -> None:
        with contextlib.suppress(ConnectionError):  # its next turn does not come
            self._line.send(b"\n")


class _Development:
    """A server, and the files that it is made of."""

    def __init__(self, target: str, options: Iterable[str], protos: Path | None, out: Path) -> None:
        self._command = (sys.executable, "-m", "longshore_client.cli", "serve", target, *options)
        self._protos = protos
        self._out = out
        self._watched = {Path.cwd(), *([protos.resolve()] if protos is not None else [])}
        # Whoever has just changed a handler does not wait for what the old one is doing.
        self._environment = {"LONGSHORE_DRAIN": "0", **os.environ}
        self._server: _Server | None = None
        """The last one that has served."""
        self._new: _Server | None = None
        """The one that is to take its place."""
        self._ends: set[asyncio.Task[None]] = set()
        self._by: signal.Signals | None = None
        self._asked = asyncio.Event()
        """Set when the developer wants to stop."""

    async def run(self) -> None:
        """Serve until a signal."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._ask, number)
        changes = awatch(*self._watched, watch_filter=self._matters, stop_event=self._asked)
        change = asyncio.ensure_future(anext(changes, None))
        try:
            if await self._generate(change):
                await self._renew(change)
            while (found := await change) is not None:
                change = asyncio.ensure_future(anext(changes, None))
                names = sorted({Path(path).name for _, path in found})
                _say(f"{', '.join(names)} changed")
                if not any(name.endswith(".proto") for name in names) or await self._generate(change):
                    await self._renew(change)
        finally:
            if self._server is not None:
                await self._server.stop(self._by)

    def _ask(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            for server in (self._server, self._new):
                if server is not None and not server.ended:
                    server.process.kill()
        # To the server a hang-up means something else.
        self._by = number if number is signal.SIGINT else signal.SIGTERM
        self._asked.set()

    def _matters(self, change: Change, path: str) -> bool:
        if self._protos is not None and path.endswith(_GENERATED):
            return False
        return path.endswith((".py", ".proto")) and _ordinary(change, path)

    async def _generate(self, change: asyncio.Future[Any]) -> bool:
        """Compile the contracts; False if that cannot be done, which is said."""
        if self._protos is None:
            return True
        try:
            await asyncio.to_thread(compile_protos, [self._protos], self._out)
        except CompileError as error:
            click.echo(f"{click.style('error: ', fg='red')}{error}", err=True)
            await self._go_on(change)
            return False
        return True

    async def _renew(self, change: asyncio.Future[Any]) -> None:
        """Put a server of the files as they are now in the old one's place, unless it cannot be loaded or started, or
        they change before it is. Raises `Exit` where the command line is wrong, or what else no file holds."""
        old = self._server
        new = self._new = await _Server.begin(self._command, self._environment)
        understood = await _turn(new, change)
        if understood and await _turn(new, change):
            if old is not None:
                await old.stand_aside()
            if await self._serves(new, change):
                self._server = new
                if old is not None:
                    await old.stop()
                return
        await new.stop()
        if change.done():
            return
        code = new.process.returncode or 0
        if old is None and (code == _NO_FILES_FAULT or not understood):
            raise click.exceptions.Exit(2 if code == _NO_FILES_FAULT else code)
        await self._go_on(change)

    async def _serves(self, server: _Server, change: asyncio.Future[Any]) -> bool:
        """Open a server; False: it cannot, and has said why, or the files have changed before it could."""
        server.open()
        server.serves = await _turn(server, change)
        if server.serves:
            end = asyncio.create_task(_tell_end(server))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)
        return server.serves

    async def _go_on(self, change: asyncio.Future[Any]) -> None:
        """The files are not fit to be served: the old server is, if there is one."""
        old = self._server
        if old is not None and (old.serves or await self._serves(old, change)):
            _say("the server goes on as it was; waiting for the next change")
            return
        if old is not None:
            await old.stop()
            self._server = None
        if not change.done():
            _say("no server runs; waiting for the next change")


async def _turn(server: _Server, change: asyncio.Future[Any]) -> bool:
    """Whether a server comes further before the files change."""
    turned = asyncio.ensure_future(server.turn())
    await asyncio.wait([turned, change], return_when=asyncio.FIRST_COMPLETED)
    if turned.done():
        return turned.result()
    turned.cancel()
    return False


async def _tell_end(server: _Server) -> None:
    await server.process.wait()
    if server.serves:
        server.serves = False
        _say("the server has ended; waiting for the next change")


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)
