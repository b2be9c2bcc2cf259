"""The command line before a command runs: an interrupt then, and what gRPC is told about its own lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Something is done, in the thread that imports, at the very moment in which a module is asked for: no clock takes part.
AT = """
import signal, sys
from importlib.abc import MetaPathFinder

def do():
    {do}

class At(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}" and self in sys.meta_path:
            sys.meta_path.remove(self)
            do()

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
sys.meta_path.insert(0, At())
from longshore_client.cli import main
main()
"""


def started(module: str, do: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What became of a command in which something was done when it imported a module."""
    base = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    command, environment = [sys.executable, "-c", AT.format(module=module, do=do), *arguments], {**base, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("longshore_client.cli.app", "wait"),
        ("click", "wait"),
        ("longshore_client.cli.follow", "wait"),
        ("grpc", "wait"),
        ("longshore_server.command", "serve"),
    ],
)
def test_an_interrupt_while_a_command_starts_leaves_no_trace(module: str, command: str) -> None:
    done = started(module, "signal.raise_signal(signal.SIGINT)", command, "x", "--server", "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


@pytest.mark.parametrize(
    ("command", "given", "found"),
    [
        ("wait", {}, "NONE"),
        ("wait", {"GRPC_VERBOSITY": "INFO"}, "INFO"),
        ("serve", {}, "ERROR"),
        ("serve", {"GRPC_VERBOSITY": "DEBUG"}, "DEBUG"),
    ],
)
def test_what_grpc_says_itself_is_settled_before_it_is_loaded(command: str, given: dict[str, str], found: str) -> None:
    done = started("grpc", 'import os; os.write(1, os.environ.get("GRPC_VERBOSITY", "").encode()); os._exit(0)',
                   command, "x", **given)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, found, "")
