"""`longshore dev`: serve while somebody writes, and begin again whenever a contract or a handler has changed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from watchfiles import Change, DefaultFilter, awatch

from longshore_client.codegen.compile import CompileError, compile_protos

if TYPE_CHECKING:
    from collections.abc import Iterable

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
@click.argument("target", metavar="SERVER")
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

    Operations go on in the new server. What is wrong is said, and waits for the next change; of a contract that cannot
    be compiled the old server knows nothing. All further options are those of `longshore serve`.
    """
    if protos is None and _PROTOS.is_dir():
        protos = _PROTOS
    asyncio.run(_Development(target, options, protos, out).run())


class _Development:
    """A server, and the files that it is made of."""

    def __init__(self, target: str, options: Iterable[str], protos: Path | None, out: Path) -> None:
        self._command = (sys.executable, "-m", "longshore_client.cli", "serve", target, *options)
        self._protos = protos
        self._out = out
        self._watched = {Path.cwd(), *([protos.resolve()] if protos is not None else [])}
        # Whoever has just changed a handler does not wait for what the old one is doing.
        self._environment = {"LONGSHORE_DRAIN": "0", **os.environ}
        self._server: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[None] | None = None
        self._stopping = False
        self._asked = asyncio.Event()
        """Set when the developer wants to stop."""

    async def run(self) -> None:
        """Serve until a signal."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._ask)
        changes = awatch(*self._watched, watch_filter=self._matters, stop_event=self._asked)
        first = asyncio.ensure_future(anext(changes, None))
        try:
            if await self._generate():
                await self._start()
            while (found := await first) is not None:
                first = asyncio.ensure_future(anext(changes, None))
                names = sorted({Path(path).name for _, path in found})
                _say(f"{', '.join(names)} changed")
                if not any(name.endswith(".proto") for name in names) or await self._generate():
                    await self._stop()
                    await self._start()
        finally:
            await self._stop()

    def _ask(self) -> None:
        if self._asked.is_set() and self._server is not None and self._server.returncode is None:
            # The second signal is the server's, too: it leaves at once.
            self._server.terminate()
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
            _say("waiting for the next change")
            return False
        return True

    async def _start(self) -> None:
        if not self._asked.is_set():
            # In a session of its own: Ctrl-C reaches it through us, once, as any other signal does.
            self._server = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, start_new_session=True
            )
            self._ended = asyncio.create_task(self._tell_end(self._server))

    async def _stop(self) -> None:
        if self._server is not None and self._ended is not None:
            self._stopping = True
            if self._server.returncode is None:
                self._server.terminate()
            await self._ended
            self._stopping = False

    async def _tell_end(self, server: asyncio.subprocess.Process) -> None:
        await server.wait()
        if not self._stopping:
            _say("the server has ended; waiting for the next change")


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)
