"""Shell completion: the scripts, and what they are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore_client.cli.completion import SHELLS

COMMAND = (sys.executable, "-m", "longshore_client.cli")


def completions(line: str, **variables: str) -> list[str]:
    """What the shell's script asks for when Tab is pressed at the end of a line."""
    words = line.split(" ")
    asked = {"_LONGSHORE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        COMMAND, env={**os.environ, **asked, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [entry.partition(",")[2] for entry in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_of_its_own(shell: str) -> None:
    done = subprocess.run([*COMMAND, "completion", shell], capture_output=True, text=True, check=True)
    assert f"_LONGSHORE_COMPLETE={shell}_complete" in done.stdout
    default = subprocess.run(
        [*COMMAND, "completion"], env={**os.environ, "SHELL": f"/bin/{shell}"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert default.stdout == done.stdout


def test_an_unknown_shell_is_refused() -> None:
    done = subprocess.run([*COMMAND, "completion", "tcsh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr


def test_bash_itself_takes_the_script() -> None:
    script = subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p longshore"], capture_output=True, text=True, check=True
    )
    assert "_longshore_completion longshore" in done.stdout


def test_commands_are_completed_without_loading_what_they_need(tmp_path: Path) -> None:
    # A caller's installation has no server.
    (tmp_path / "longshore_server.py").write_text("raise ModuleNotFoundError(name='longshore_server')")
    (tmp_path / "grpc.py").write_text("raise RuntimeError('this is slow')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    assert completions("longshore ", PYTHONPATH=path)[:2] == ["call", "ls"]
    assert completions("longshore ser", PYTHONPATH=path) == ["serve"]


def test_options_and_their_values_are_completed() -> None:
    assert completions("longshore --se") == ["--server"]
    assert completions("longshore watch --j") == ["--json"]
    assert completions("longshore generate --stubs my") == ["mypy-protobuf"]
    assert completions("longshore serve --log-format j") == ["json"]
