"""The line to the program that has begun a server: what it may say, and what its end does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

PROGRAM = """
import asyncio, signal, sys, threading
from longshore_server import lifeline
lifeline._PATIENCE = PATIENCE
line = lifeline.Lifeline(int(sys.argv[1]), 0)
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await line.turn()
    print("opens", flush=True)
    WAITS
    print("stops", flush=True)
asyncio.run(main())
"""


@contextlib.contextmanager
def program(waits: str, patience: float = 60.0) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """One that holds the end of a line and waits to open, and the other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        text = PROGRAM.replace("WAITS", waits).replace("PATIENCE = PATIENCE", f"PATIENCE = {patience}")
        command = [sys.executable, "-c", text, str(theirs.fileno())]
        with subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                theirs.close()
                assert ours.recv(1)
                assert ours.recv(1)
                yield process, ours
            finally:
                process.kill()


def opened(process: subprocess.Popen[str], line: socket.socket) -> None:
    """Return once it is told to open and has done so."""
    line.send(b"\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "opens\n"


def test_it_opens_when_it_is_told_to_and_stops_when_the_line_ends() -> None:
    with program("await stop.wait()") as (process, line):
        opened(process, line)
        line.close()
        assert process.communicate(timeout=60) == ("stops\n", "")
        assert process.returncode == 0


def test_it_stands_aside_and_opens_again_when_it_is_told_to() -> None:
    with program("await line.turn(); await line.turn(); await stop.wait()") as (process, line):
        opened(process, line)
        for _ in range(2):
            assert line.recv(1)
            line.send(b"\n")
        line.close()
        assert process.communicate(timeout=60) == ("stops\n", "")


def test_one_that_has_stood_aside_in_time_is_not_ended_later() -> None:
    spy = "lifeline.faulthandler.cancel_dump_traceback_later = lambda: print('lives on', flush=True)"
    with program(f"{spy}; await line.turn(); await line.turn(); await stop.wait()") as (process, line):
        opened(process, line)
        assert line.recv(1)
        line.send(b"\n")
        assert process.stdout is not None
        assert process.stdout.readline() == "lives on\n"


def test_what_it_starts_does_not_hold_the_line() -> None:
    starts = "child = await asyncio.create_subprocess_exec('sleep', '600', close_fds=False)"
    with program(f"{starts}; print(child.pid, flush=True); import os; os._exit(0)") as (process, line):
        opened(process, line)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        line.settimeout(60)
        try:
            assert line.recv(1) == b"", "while that goes on"
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("told", ["by its end", "to stand aside"])
def test_an_event_loop_that_is_held_up_does_not_keep_it_and_is_told(told: str) -> None:
    holds = "print('holds', flush=True); threading.Event().wait()"
    waits = f"turn = asyncio.ensure_future(line.turn()); await asyncio.sleep(0); {holds}"
    with program(waits, patience=0.01) as (process, line):
        opened(process, line)
        assert line.recv(1)
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        line.close() if told == "by its end" else line.send(b"\n")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert "<string>:11: this holds the event loop up" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_needs_no_line_to_end(number: signal.Signals) -> None:
    with program("await stop.wait()") as (process, line):
        opened(process, line)
        process.send_signal(number)
        process.wait(60)
        assert line.recv(1) == b""
