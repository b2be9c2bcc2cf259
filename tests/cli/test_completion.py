"""Shell completion: the scripts, and what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore_client.cli.completion import SHELLS
from tests.warm import longshore

COMMAND = (sys.executable, "-m", "longshore_client.cli")
STARTING = {"bash": ("bash", "--norc"), "zsh": ("zsh", "-f"), "fish": ("fish", "--no-config")}
"""The shells without what their users have set up."""
TAKING = {
    "bash": ("", "complete -p longshore", "_longshore_completion longshore"),
    "zsh": ("autoload -U compinit; compinit -D -u", "print $_comps[longshore]", "_longshore_completion"),
    "fish": ("", "complete -C 'longshore wat'", "watch\tFollow an operation to its end."),
}
"""What comes before the script, what asks whether it has been taken, and what that says."""


def answer(shell: str, line: str, **variables: str) -> str:
    """What the shell's script is answered that asks when Tab is pressed at the end of a line."""
    words = line.split(" ")
    position = words[-1] if shell == "fish" else str(len(words) - 1)
    asked = {"_LONGSHORE_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": position}
    # Whoever gives it other modules wants to see what it imports.
    command = COMMAND if variables else longshore()
    done = subprocess.run(
        command, env={**os.environ, **asked, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def completions(line: str, **variables: str) -> list[str]:
    """What bash is told."""
    return [entry.partition(",")[2] for entry in answer("bash", line, **variables).splitlines()]


def in_zsh(line: str) -> list[tuple[str, str, str]]:
    """Kind, value and help, each a line of its own: a script reads them by threes."""
    lines = answer("zsh", line).removesuffix("\n").split("\n")
    assert len(lines) % 3 == 0 or lines == [""], lines
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=False))


def in_fish(line: str) -> list[tuple[str, str, str]]:
    """Kind, value and help, all in a line: as our script takes them apart."""
    found = []
    for row in filter(None, answer("fish", line).splitlines()):
        kind, _, rest = row.partition(",")
        value, _, help = rest.partition("\t")
        found.append((kind, value, help))
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_of_its_own(shell: str) -> None:
    done = subprocess.run([*longshore(), "completion", shell], capture_output=True, text=True, check=True)
    assert f"_LONGSHORE_COMPLETE={shell}_complete" in done.stdout
    default = subprocess.run(
        [*longshore(), "completion"], env={**os.environ, "SHELL": f"/bin/{shell}"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert default.stdout == done.stdout


def test_an_unknown_shell_is_refused() -> None:
    done = subprocess.run([*longshore(), "completion", "tcsh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_shells_that_are_there_take_the_script(shell: str) -> None:
    script = subprocess.run([*longshore(), "completion", shell], capture_output=True, text=True, check=True).stdout
    before, after, said = TAKING[shell]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*STARTING[shell], "-c", f"{before}\n{script}\n{after}"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert said in done.stdout


def test_commands_are_completed_without_loading_what_they_need(tmp_path: Path) -> None:
    # A caller's installation has no server.
    (tmp_path / "longshore_server.py").write_text("raise ModuleNotFoundError(name='longshore_server')")
    (tmp_path / "grpc.py").write_text("raise RuntimeError('this is slow')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    assert completions("longshore ", PYTHONPATH=path)[:2] == ["call", "ls"]
    assert completions("longshore ser", PYTHONPATH=path) == ["serve"]


def test_nothing_is_said_between_the_lines_of_a_shell(tmp_path: Path) -> None:
    (tmp_path / "longshore_server.py").write_text("raise ModuleNotFoundError(name='longshore_server')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    completions("longshore serve --lo", PYTHONPATH=path)
    completions("longshore nothing ")


@pytest.mark.parametrize("told", [in_zsh, in_fish], ids=["zsh", "fish"])
def test_zsh_and_fish_are_told_what_a_word_means(told: Callable[[str], list[tuple[str, str, str]]]) -> None:
    everything = told("longshore ")
    assert [value for _, value, _ in everything[:2]] == ["call", "ls"]
    assert {kind for kind, _, _ in everything} == {"plain"}
    assert told("longshore wat") == [("plain", "watch", "Follow an operation to its end.")]
    assert told("longshore watch --js") == [
        ("plain", "--json", "Only events and snapshots, on stdout, one JSON object a line.")
    ]
    assert [value for _, value, _ in told("longshore ls --order old")] == ["oldest"]
    assert [value for _, value, _ in told("longshore recurring te")] == ["terminate"]
    # What stands deeper needs a click that is not older than ours.
    assert [value for _, value, _ in told("longshore recurring ls --status pa")] == ["paused"]
    assert [value for _, value, _ in told("longshore --json jobs --server x cancel --re")] == ["--reason"]
    assert told("longshore get ") == []


@pytest.mark.parametrize(
    "line",
    ["longshore serve ex", "longshore dev ex", "longshore upload Upload ex", "longshore download x --to ex",
     "longshore generate ex"],
)  # fmt: skip
def test_paths_are_left_to_the_shell(line: str) -> None:
    assert [found[:2] for found in in_zsh(line)] == [("file", "ex")]
    assert [found[:2] for found in in_fish(line)] == [("file", "ex")]
    assert answer("bash", line) == "file,ex\n"


def test_a_help_with_commas_is_whole_in_fish() -> None:
    script = subprocess.run([*longshore(), "completion", "fish"], capture_output=True, text=True, check=True).stdout
    assert script.count('string split --max 1 ","') == script.count("string split") == 1


def test_options_and_their_values_are_completed() -> None:
    assert completions("longshore --se") == ["--server"]
    assert completions("longshore --token x l") == ["ls", "logs"]
    assert completions("longshore watch --j") == ["--json"]
    assert completions("longshore generate --stubs my") == ["mypy-protobuf"]
    assert completions("longshore serve --log-format j") == ["json"]
