"""A real server in a process of its own, on files that outlive it, and the eyes to read those files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from tests.warm import KILL, longshore

HERE = Path(__file__).parent
SERVICE = "torture.v1.TortureService"
STEERED = "torture.v1.SteeredService"
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    # A server that comes back is found at once; a test has no reason to be polite. The least back-off stays as it is:
    # in truth it says how long an attempt to connect may take.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
]
USUAL = 0.7
"""Seconds that a server takes to start where nothing else is done."""


class Effect(NamedTuple):
    """One line of the ledger. `key` is `-` for a note that is no step's."""

    key: str
    uid: str
    name: str
    attempt: int
    token: str


class ServerProcess:
    """`python -m longshore_server` on one data directory, as often as it takes."""

    def __init__(
        self, data: Path, *flags: str, environment: Mapping[str, str] | None = None,
        service: Path = HERE / "service.py", warm: bool = False,
    ) -> None:  # fmt: skip
        """`warm`: forked from a process that has imported all, which is not for tests of the process itself."""
        self.data = data
        self.service = service
        # A Unix socket's path may have 108 bytes; pytest's own directories can be longer than that.
        self._sockets = tempfile.TemporaryDirectory(prefix="longshore-faults-")
        self.address = f"unix:{self._sockets.name}/s"
        self.flags = flags
        self.environment = dict(environment or {})
        self._warm = warm
        self.said: list[str] = []
        """Every line that the servers have written to stderr."""
        self.pace = 1.0
        """How many times as long as usual the last start took. All that a test gives time to needs as much more."""
        self._more = asyncio.Condition()
        self.process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._serving: asyncio.Future[bool] | None = None

    async def launch(self) -> None:
        """Start a process, without waiting for it to serve."""
        program = (*longshore(), "serve") if self._warm else (sys.executable, "-m", "longshore_server")
        command = [
            *program, f"{self.service}:server", "--listen", self.address,
            "--data", str(self.data), "--metrics", "", "--log-level", "warning", *self.flags,
        ]  # fmt: skip
        self.process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, env={**os.environ, **self.environment}, limit=1 << 20
        )
        self._launched = time.monotonic()
        self._serving = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self.process, self._serving))

    async def start(self) -> None:
        """Start a process and return once it serves."""
        await self.launch()
        if not await self.serving():
            raise AssertionError("the server did not start:\n" + "\n".join(self.said[-50:]))

    async def serving(self) -> bool:
        """Return once it serves (true) or has ended before that (false)."""
        assert self._serving is not None
        return await asyncio.shield(self._serving)

    async def says(self, text: str) -> None:
        """Return once a line with `text` has been written."""
        async with self._more:
            await self._more.wait_for(lambda: any(text in line for line in self.said))

    async def ended(self) -> int:
        """Return its exit code once it has ended; a signal's number is negative."""
        assert self.process is not None
        assert self._reader is not None
        code = await self.process.wait()
        await self._reader
        return code

    async def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing is told."""
        await self._signal(KILL if self._warm else signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return await self._signal(signal.SIGTERM)

    async def close(self) -> None:
        """After the test: leave no process behind."""
        if self.process is not None and self.process.returncode is None:
            await self.kill()
        self._sockets.cleanup()

    def channel(self) -> grpc.aio.Channel:
        """A stock channel to it."""
        return grpc.aio.insecure_channel(self.address, options=OPTIONS)

    async def _signal(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    async def _read(self, process: asyncio.subprocess.Process, serving: asyncio.Future[bool]) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            text = line.decode("utf-8", "replace").rstrip()
            async with self._more:
                self.said.append(text)
                self._more.notify_all()
            # The announcement's second line comes, or not, in the same write.
            if "  serving " in text and not serving.done():
                self.pace = max(1.0, (time.monotonic() - self._launched) / USUAL)
                serving.set_result(True)
        if not serving.done():
            serving.set_result(False)

    # What is on the disk.

    def ledger(self) -> list[Effect]:
        """Every line of the ledger, in order."""
        path = self.data / "ledger.tsv"
        if not path.exists():
            return []
        lines = [line.split("\t") for line in path.read_text("ascii").splitlines()]
        return [Effect(key, uid, name, int(attempt), token) for key, uid, name, attempt, token in lines]

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The SQLite file itself, read only."""
        path = (self.data / "longshore.db").as_uri()
        with contextlib.closing(sqlite3.connect(f"{path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection


class Supervisor:
    """Inside the block, starts a server whenever the last one was killed. Any other end is an error."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._deaths = 0
        self._more = asyncio.Condition()

    async def __aenter__(self) -> Self:
        test = asyncio.current_task()
        assert test is not None
        self._task = asyncio.create_task(self._run())
        # Whoever waits in the block would wait for ever.
        self._task.add_done_callback(lambda done: None if done.cancelled() else test.cancel())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def restarts(self, count: int) -> None:
        """Return once it has started `count` servers; fails where it has started more.

        What a caller was answered says nothing of this: a process that dies after its commit may have answered before.
        """
        async with self._more:
            await self._more.wait_for(lambda: self._deaths >= count)
        assert self._deaths == count

    async def _run(self) -> None:
        while True:
            code = await self._server.ended()
            if code != -9:
                raise AssertionError(f"the server ended with {code}:\n" + "\n".join(self._server.said[-50:]))
            await self._server.launch()
            async with self._more:
                self._deaths += 1
                self._more.notify_all()


class Caller:
    """A stock client of one server: generated stubs and nothing of ours."""

    def __init__(self, server: ServerProcess) -> None:
        self.channel = server.channel()
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def start(self, method: str, request: Any, service: str = SERVICE, **fields: Any) -> pb.StartResponse:
        """Start an operation of `torture.v1.TortureService`, as soon as there is a server."""
        start = pb.StartRequest(type=f"{service}/{method}", **fields)
        start.input.Pack(request)
        return await self.operations.Start(start, wait_for_ready=True)

    async def events(self, name: str) -> list[Any]:
        """The whole log, once the operation has ended."""
        request = pb.WatchRequest(name=name, after_sequence=0)
        call = self.operations.Watch(request, wait_for_ready=True)
        return [message.event async for message in call if message.HasField("event")]

    async def end(self, name: str) -> Any:
        """The snapshot, once the operation has ended."""
        return await self.operations.Wait(pb.WaitRequest(name=name), wait_for_ready=True)


@contextlib.asynccontextmanager
async def served(data: Path, *flags: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[ServerProcess]:
    """A server that serves, and none after the block. With an environment it may have code that is loaded first."""
    server = ServerProcess(data, *flags, environment=environment, warm=environment is None)
    try:
        await server.start()
        yield server
    finally:
        await server.close()
