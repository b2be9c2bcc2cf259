"""What a stranger has of this project: the wheel."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel by way of the source distribution, so that both are known to be whole."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the versions that are in use here."""
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    others = (found for found in importlib.metadata.distributions() if found.name != "longshore-grpc")
    path.write_text("".join(f"{found.name}=={found.version}\n" for found in others))
    return path


@pytest.fixture(scope="session")
def clean(wheel: Path, constraints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and its base dependencies."""
    return _installed(wheel, constraints, tmp_path_factory.mktemp("clean")) / "python"


@pytest.fixture(scope="session")
def tools(wheel: Path, constraints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of an environment are that holds the wheel and its command line."""
    return _installed(f"{wheel}[cli]", constraints, tmp_path_factory.mktemp("tools"))


def _installed(what: str | Path, constraints: Path, folder: Path) -> Path:
    """Where the commands are of an environment that is made in a folder and holds something: no pip, as with uv."""
    venv.create(folder / "venv")
    commands = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    into = (sys.executable, "-m", "pip", "--python", commands / "python")
    run(*into, "install", "--quiet", "--constraint", constraints, what, cwd=folder)
    return commands
