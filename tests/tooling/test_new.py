"""`longshore new`: what it refuses, and that the project which it writes works for somebody who has only the wheel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tooling.conftest import run

LONGSHORE = (sys.executable, "-m", "longshore_client.cli")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Orders", "must be lower-case letters, digits and '-'"),
        ("my_orders", "must be lower-case letters, digits and '-'"),
        ("orders-", "must be lower-case letters, digits and '-'"),
        ("../orders", "must be lower-case letters, digits and '-'"),
        ("import", "'import' means something else in Python"),
        ("json", "'json' means something else in Python"),
        ("google", "'google' means something else in Python"),
        ("tests", "'tests' means something else in Python"),
        ("taken", "there is a taken here already"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    done = subprocess.run([*LONGSHORE, "new", name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: NAME: ")
    assert why in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_the_project_has_the_given_name_everywhere(tmp_path: Path) -> None:
    written = run(*LONGSHORE, "new", "my-orders", cwd=tmp_path).split()
    folder = tmp_path / "my-orders"
    files = {str(path.relative_to(tmp_path)): path for path in folder.rglob("*") if path.is_file()}
    assert sorted(files) == sorted(written)
    assert {"my-orders/.gitignore", "my-orders/protos/my_orders/v1/my_orders.proto"} <= files.keys()
    for path in files.values():
        assert "widgets" not in path.read_text().lower(), path


class Stranger:
    """Somebody in an empty folder, with the wheel, make and a package index."""

    def __init__(self, folder: Path, wheel: Path, constraints: Path) -> None:
        self.folder, self.wheel = folder, wheel
        self.address = f"unix:{folder}/s"
        self.environment = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "PIP_CONSTRAINT": str(constraints),
            "LONGSHORE_LISTEN": self.address, "LONGSHORE_SERVER": self.address,
            "LONGSHORE_METRICS": "off",
        }  # fmt: skip

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What a command prints. It must succeed."""
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def stranger(wheel: Path, constraints: Path, tmp_path: Path) -> Stranger:
    return Stranger(tmp_path, wheel, constraints)


@pytest.mark.timeout(600)  # two environments are set up
async def test_from_the_wheel_to_a_service_that_is_killed_and_goes_on(stranger: Stranger) -> None:
    venv.create(stranger.folder / "venv", with_pip=True)
    tools = stranger.folder / "venv" / "bin"
    stranger.run(tools / "pip", "install", "--quiet", f"{stranger.wheel}[cli]")
    stranger.run(tools / "longshore", "new", "orders")
    folder = stranger.folder / "orders"
    # What came from no index is not asked of one: there the name may be somebody else's.
    assert f'"longshore-grpc[server] @ file://{stranger.wheel}"' in (folder / "pyproject.toml").read_text()
    commands, call, client = (text for _, text in blocks(folder / "README.md"))
    assert re.findall(r"^make (\w+)", commands, re.MULTILINE) == ["dev", "test", "check"]
    assert "2 passed" in stranger.run("make", "test", cwd=folder)
    assert "Success" in stranger.run("make", "check", cwd=folder)

    process = await asyncio.create_subprocess_exec(
        "make", "dev", cwd=folder, env=stranger.environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"  serving orders.v1.OrdersService (1 operation)" in line:
                break
        quick = call.strip().replace('"parts": 20', '"parts": 1')
        made = await asyncio.to_thread(stranger.run, "/bin/sh", "-c", quick, cwd=folder)
        assert json.loads(made) == {"parts": ["tea 1"]}
        (folder / "caller.py").write_text(client.replace("localhost:50051", stranger.address))
        said = await asyncio.to_thread(stranger.run, ".venv/bin/python", "caller.py", cwd=folder)
        assert said.startswith("operations/")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
    assert (folder / "data" / "longshore.db").exists()

    # What its Dockerfile installs.
    stranger.run(".venv/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", stranger.folder, ".", cwd=folder)
    names = set(zipfile.ZipFile(stranger.folder / "orders-0.1.0-py3-none-any.whl").namelist())
    assert {"orders/service.py", "orders/v1/orders_longshore.py", "orders/v1/orders_pb2.py"} <= names


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The blocks of code of a page: language and text."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
