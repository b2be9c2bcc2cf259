"""Processes of the command line that have all their imports behind them.

A processor takes up to a second to import what a command needs, and hundreds of tests run one. `longshore` gives a
command that behaves like `python -m longshore_client.cli` and takes a tenth of that: one process imports everything and
then forks for each. What a test sees is a process all the same, with its folder, environment, arguments, output,
signals and exit code. Not for tests of terminals, of what is imported or of how long a start takes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import sys

KILL = signal.SIGUSR1
"""Stands for SIGKILL, which a process cannot pass on."""


@functools.cache
def longshore() -> tuple[str, ...]:
    """The command, to which a test adds arguments. The process that forks begins now and ends with this one."""
    import subprocess
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="longshore-warm-")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder.name}/s")
    listener.listen(64)
    with listener:
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())], pass_fds=[listener.fileno()], stdin=subprocess.PIPE
        )
    atexit.register(folder.cleanup)
    atexit.register(process.communicate)  # its end of the pipe closes, which ends it
    return sys.executable, "-ISs", __file__, f"{folder.name}/s"


def ask(address: str, arguments: list[str]) -> None:
    """Have a process forked that takes this one's place, pass signals on to it, and end as it does."""
    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, KILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # until there is somebody to pass them on to
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(request)
        for descriptor in (0, 1, 2):  # who reads what it writes must see the end of that
            os.close(descriptor)
        child = answer(connection)

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL if number == KILL else number)

        for number in passed:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        code = answer(connection)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def answer(connection: socket.socket) -> int:
    """The next number from the process that forks; fails where that has ended."""
    answered = connection.recv(4)
    if not answered:
        os._exit(70)
    return int.from_bytes(answered, "big", signed=True)


def serve(listener: socket.socket) -> None:
    """Fork for each who asks, until nobody is left who could. Returns in the forks, which are then the command."""
    import gc
    import selectors

    library = sys.path[1:]  # not this folder, which Python has put first
    sys.path[:] = library
    warm_up()
    gc.freeze()
    with selectors.DefaultSelector() as both:
        both.register(listener, selectors.EVENT_READ)
        both.register(0, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while all(key.fd != 0 for key, _ in both.select()):
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    both.close()
                    listener.close()
                    if become(connection, library):
                        return
    os._exit(0)


def warm_up() -> None:
    """Import what commands import, which starts no thread: those die in a fork. No contract of ours, which they learn
    from servers."""
    import importlib

    from longshore_client.cli import app

    for command in app._COMMANDS.values():
        importlib.import_module(command.module)
    assert os.listdir("/proc/self/task") == [str(os.getpid())]  # noqa: PTH208


def become(connection: socket.socket, library: list[str]) -> bool:
    """Take the place of the process that asks (true), in a fork that another one waits for."""
    import select

    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as reader:
        request = json.loads(reader.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child:
        for descriptor in (0, 1, 2, *descriptors):
            os.close(descriptor)
        connection.sendall(child.to_bytes(4, "big", signed=True))
        if connection.fileno() in select.select([os.pidfd_open(child), connection.fileno()], [], [])[0]:
            os.kill(child, signal.SIGKILL)  # whoever asked is gone
        _, status = os.waitpid(child, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        os._exit(0)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [request["folder"], *path, *library]
    sys.argv = ["longshore", *request["arguments"]]
    return True


def run(argument: str, *arguments: str) -> None:
    """As a program: with the descriptor of a listener it forks, with the address of one it asks."""
    if argument.isdecimal():
        with socket.socket(fileno=int(argument)) as listener:
            serve(listener)
        from longshore_client.cli import main

        main()
    else:
        ask(argument, list(arguments))


if __name__ == "__main__":
    run(*sys.argv[1:])
