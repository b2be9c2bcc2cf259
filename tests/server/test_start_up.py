"""A signal while the server starts: the start ends in good order, and at once if it is asked for again."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = """
import asyncio
import contextlib
from longshore_server import Server
from tests.conftest import LabHandlers

@contextlib.asynccontextmanager
async def waiting(server):
    print("waits", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("tidied", flush=True)
    yield

@contextlib.asynccontextmanager
async def stubborn(server):
    while True:
        print("waits", flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    yield

server = Server(LabHandlers(), lifespan=LIFESPAN)
"""


@contextlib.contextmanager
def starting(folder: Path, lifespan: str) -> Iterator[subprocess.Popen[str]]:
    """A server that has come as far as its lifespan."""
    (folder / "service.py").write_text(SERVICE.replace("LIFESPAN", lifespan))
    command = [sys.executable, "-m", "longshore_server", "service:server", "--listen", f"unix:{folder}/s"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "contracts")])
    process = subprocess.Popen(
        [*command, "--metrics", "", "--data", "data"], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "waits\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_start(tmp_path: Path, number: signal.Signals) -> None:
    with starting(tmp_path, "waiting") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "tidied\n", "")
    # A start that was ended is no crash, of which a few in a row would put operations apart.
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "longshore.db")) as database:
        assert database.execute("SELECT count(*), count(stopped) FROM boots").fetchall() == [(1, 1)]
    assert not (tmp_path / "s").exists()


def test_a_second_signal_ends_a_start_that_does_not_end(tmp_path: Path) -> None:
    with starting(tmp_path, "stubborn") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
