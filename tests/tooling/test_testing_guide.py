"""docs/guides/testing.md: a project made of its blocks, whose tests pass, each of them with the fixtures of the kit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "testing.md"
FILES = ("service.py", "pyproject.toml", "conftest.py", "test_time.py", "test_waiting.py", "test_crash.py",
         "test_every_crash.py", "test_callers.py", "alone.py")  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The guide's files. A block of tests goes on where the one before it ended, with its imports."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    imports = ""
    for name, text in zip(FILES, blocks, strict=True):
        if name == "test_time.py":
            imports = text[: text.index("async def")]
        before = imports if name.startswith("test_") and name != "test_time.py" else ""
        (tmp_path / name).write_text(before + text, "utf-8")
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # This project's own contracts and settings are not the guide's.
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT / 'examples' / 'approvals'}"}
    # What this run of pytest was told is not for that of the project.
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_the_guides_tests_pass(project: Path) -> None:
    done = run(project, "-m", "pytest", "-q", "-W", "error", "-p", "no:anyio", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^13 passed", done.stdout, re.MULTILINE), done.stdout


def test_the_guides_program_runs_without_pytest(project: Path) -> None:
    done = run(project, "alone.py")
    assert (done.returncode, done.stdout) == (0, "['reserve 6']\n"), done.stdout + done.stderr


def test_a_project_that_does_not_say_which_server_is_told_to(project: Path) -> None:
    (project / "conftest.py").write_text('pytest_plugins = ["longshore_server.testing.plugin"]\n', "utf-8")
    done = run(project, "-m", "pytest", "-q", "-p", "no:anyio", "-p", "no:cacheprovider", "test_time.py")
    assert done.returncode != 0
    assert "write a fixture named longshore_server that returns it" in done.stdout


def test_without_fakes_the_lifespan_is_the_servers_own(project: Path) -> None:
    conftest = project / "conftest.py"
    text = conftest.read_text("utf-8")
    conftest.write_text(text[: text.index("@pytest.fixture\ndef longshore_services")], "utf-8")
    done = run(project, "-m", "pytest", "-q", "-p", "no:anyio", "-p", "no:cacheprovider", "test_callers.py")
    assert done.returncode != 0
    assert "the shop is far away" in done.stdout
