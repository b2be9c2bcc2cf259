"""A pod on this machine: a service of Longshore and, beside it, an application that calls it over a Unix socket.

They are started and ended in the order that Kubernetes keeps for a sidecar: the application lives only while there is
one to call. Type numbers of orders; Ctrl-C ends it.

python examples/sidecar/pod.py [DIRECTORY [ADDRESS]]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HERE = Path(__file__).parent
ORDERS = HERE.parent / "orders"


class Pod:
    """Two processes.

    Args:
        directory: Where the data are, and the socket that both know.
        address: Where they meet. Default: that socket.
    """

    def __init__(self, directory: Path, address: str = "") -> None:
        self._data = directory / "data"
        self._address = address or f"unix:{directory / 'longshore.sock'}"
        self._sidecar: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Until the application has ended, by itself or as a signal says; its exit code."""
        keeping = asyncio.create_task(self._keep_sidecar())
        try:
            await self._ready()
            application = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE / "application.py"), self._address,
                env={**os.environ, "PYTHONPATH": str(ORDERS)},
            )  # fmt: skip
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, _terminate, application)
            code = await application.wait()
            note(f"application ended with {code}")
            return code
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            if self._sidecar is not None:
                _terminate(self._sidecar)
                note(f"sidecar ended with {await self._sidecar.wait()}")

    async def _keep_sidecar(self) -> None:
        """Start it, and start it again whenever it ends."""
        while True:
            self._sidecar = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "longshore_server", str(ORDERS / "service.py:server"),
                "--listen", self._address, "--data", str(self._data), "--metrics", "off",
                # Ctrl-C is for the application, which still needs it.
                start_new_session=True,
            )  # fmt: skip
            note(f"sidecar is {self._sidecar.pid}")
            note(f"sidecar ended with {await self._sidecar.wait()}, and begins again")

    async def _ready(self) -> None:
        """Return once the sidecar says that it serves."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            request = health_pb2.HealthCheckRequest()
            health: Any = health_pb2_grpc.HealthStub(channel)
            async for answer in health.Watch(request, wait_for_ready=True):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


def note(text: str) -> None:
    print(f"pod: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        directory, *address = sys.argv[1:] or [temporary]
        sys.exit(asyncio.run(Pod(Path(directory), *address).run()))
