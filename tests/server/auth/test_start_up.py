"""A request to read the files again that comes while the server starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.server.auth.test_client import PATHS

SERVICE = """
import asyncio
import contextlib
import sys
from longshore_server import Server
from tests.server.auth.conftest import Handlers

@contextlib.asynccontextmanager
async def waiting(server):
    print("begins", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    yield

print("loads", flush=True)
sys.stdin.readline()
server = Server(Handlers(), lifespan=waiting)
"""


def test_a_hangup_while_the_server_starts_does_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "tokens.toml").touch()
    arguments = ("service:server", "--listen", f"unix:{tmp_path}/s", "--metrics", "", "--tokens", "tokens.toml")
    with subprocess.Popen(
        [sys.executable, "-m", "longshore_server", *arguments], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": PATHS}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for stage in ("loads\n", "begins\n"):
                assert process.stdout.readline() == stage
                process.send_signal(signal.SIGHUP)
                process.stdin.write("\n")
                process.stdin.flush()
            assert "serving gates.v1.GatesService" in process.stderr.readline(), "and nothing was read again before"
            process.send_signal(signal.SIGHUP)
            assert "read tokens.toml again" in process.stderr.readline()
        finally:
            process.kill()
