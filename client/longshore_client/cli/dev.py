"""`longshore dev`: serve while somebody writes, and begin again whenever a contract or a handler has changed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from watchfiles import Change, DefaultFilter, awatch

from longshore_client.codegen.compile import CompileError, compile_protos

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROTOS = Path("protos")
_GENERATED = ("_pb2.py", "_pb2_grpc.py", "_longshore.py")
"""What follows from a contract: to look at that is enough."""
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
def dev(target: str, options: tuple[str, ...], protos: Path | None, out: Path) -> None:
    """Serve SERVER as `longshore serve` does, and begin again when a file below this folder changes.

    Operations go on in the new server. It takes the old one's place once it has loaded: of a contract that cannot be
    compiled and of code that cannot be loaded the old one knows nothing. What is wrong is said, and waits for the next
    change. All further options are those of `longshore serve`.
    """
    if protos is None and _PROTOS.is_dir():
        protos = _PROTOS
    asyncio.run(_Development(target, options, protos, out).run())


class _Server:
    """A process that serves the files as they were when it began, once it is told to open.

    It ends when its line is closed, and so when this process does, in whatever way.
    """

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self.process = process
        self.stopping = False
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

    async def loaded(self) -> bool:
        """Return once it could open; False: it has ended instead, and has said why."""
        return bool(await asyncio.get_running_loop().sock_recv(self._line, 1))

    def open(self) -> None:
        """Have it take its place."""
        self._line.send(b"\n")

    async def stop(self, number: signal.Signals | None = None) -> None:
        """End it in good order, by a signal if one was sent to us."""
        self.stopping = True
        if self.process.returncode is None and number is not None:
            self.process.send_signal(number)
        else:
            self._line.close()
        await self.process.wait()
        self._line.close()


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
        self._end: asyncio.Task[None] | None = None
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
            if await self._generate():
                await self._renew(change)
            while (found := await change) is not None:
                change = asyncio.ensure_future(anext(changes, None))
                names = sorted({Path(path).name for _, path in found})
                _say(f"{', '.join(names)} changed")
                if not any(name.endswith(".proto") for name in names) or await self._generate():
                    await self._renew(change)
        finally:
            if self._server is not None:
                await self._server.stop(self._by)

    def _ask(self, number: signal.Signals) -> None:
        if self._asked.is_set() and self._server is not None and self._server.process.returncode is None:
            self._server.process.kill()
        # To the server a hang-up means something else.
        self._by = number if number is signal.SIGINT else signal.SIGTERM
        self._asked.set()

    def _matters(self, change: Change, path: str) -> bool:
        if self._protos is not None and path.endswith(_GENERATED):
            return False
        return path.endswith((".py", ".proto")) and _ordinary(change, path)

    async def _generate(self) -> bool:
        """Compile the contracts; False if that cannot be done, which is said."""
        if self._protos is None:
            return True
        try:
            await asyncio.to_thread(compile_protos, [self._protos], self._out)
        except CompileError as error:
            click.echo(f"{click.style('error: ', fg='red')}{error}", err=True)
            self._wait()
            return False
        return True

    async def _renew(self, change: asyncio.Future[Any]) -> None:
        """Put a server of the files as they are now in the old one's place, unless it cannot be loaded, or they change
        before it is."""
        new = await _Server.begin(self._command, self._environment)
        loaded = asyncio.ensure_future(new.loaded())
        await asyncio.wait([loaded, change], return_when=asyncio.FIRST_COMPLETED)
        if loaded.done() and loaded.result():
            if self._server is not None:
                await self._server.stop()
            self._server = new
            self._end = asyncio.create_task(_tell_end(new))
            new.open()
            return
        loaded.cancel()
        await new.stop()
        if not change.done():
            self._wait()

    def _wait(self) -> None:
        runs = self._server is not None and self._server.process.returncode is None
        _say(f"{'the server goes on as it was; ' if runs else ''}waiting for the next change")


async def _tell_end(server: _Server) -> None:
    await server.process.wait()
    if not server.stopping:
        _say("the server has ended; waiting for the next change")


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)
