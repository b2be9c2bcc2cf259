"""`longshore new`: what it refuses, and that the project which it writes works for somebody who has only the wheel."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tooling.conftest import ROOT, run

TEMPLATE = ROOT / "client" / "longshore_client" / "template"
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
        ("data", "'data' means something else in Python"),
        ("none", "its class None would mean something else in Python"),
        ("server", "its class Server would mean something else in Python"),
        ("workshop", "its class Workshop would mean something else in Python"),
        ("make-request", "its class MakeRequest would mean something else in Python"),
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
        assert path.suffix == ".whl" or "widgets" not in path.read_text().lower(), path


def test_its_imports_are_in_order_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("bakery", "zoo"):  # before and after the names in the template
        run(*LONGSHORE, "new", name, cwd=tmp_path)
        (tmp_path / name / name / "v1").mkdir()  # as it is when its contract is compiled
        for module in ("pb2", "longshore"):
            (tmp_path / name / name / "v1" / f"{name}_{module}.py").touch()
        run(sys.executable, "-m", "ruff", "check", "--select", "I", name, cwd=tmp_path)


def installed(folder: Path, direct: dict[str, Any], *record: str) -> subprocess.CompletedProcess[str]:
    """What `longshore new orders` says where a Longshore is installed that came from elsewhere than an index."""
    (notes := folder / "site" / "longshore_grpc-7.0.dist-info").mkdir(parents=True, exist_ok=True)
    (notes / "METADATA").write_text("Metadata-Version: 2.4\nName: longshore-grpc\nVersion: 7.0\n")
    (notes / "direct_url.json").write_text(json.dumps(direct))
    (notes / "RECORD").write_text("".join(f"{path},,\n" for path in record))
    return subprocess.run(
        [*LONGSHORE, "new", "orders"], cwd=folder, env=os.environ | {"PYTHONPATH": str(notes.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_projects_wheel_is_made_of_what_is_installed_as_its_origin_may_be_gone(tmp_path: Path) -> None:
    ours = {"shipped/x.py": b"1", "shipped/x.proto": b"2, 3", "longshore_grpc-7.0.dist-info/licenses/LICENSE": b"L"}
    others = ["../bin/longshore", "shipped/__pycache__/x.cpython-311.pyc", "longshore_grpc-7.0.dist-info/INSTALLER"]
    for path, data in (ours | dict.fromkeys(others, b"")).items():
        (tmp_path / "site" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / path).write_bytes(data)
    notes = [f"longshore_grpc-7.0.dist-info/{name}" for name in ("METADATA", "RECORD", "direct_url.json")]
    done = installed(tmp_path, {"url": "file:///gone.whl", "archive_info": {}}, *ours, *others, *notes)
    assert done.returncode == 0, done.stderr
    made = zipfile.ZipFile(tmp_path / "orders" / "wheels" / "longshore_grpc-7.0-py3-none-any.whl")
    record = {path: (digest, size) for path, digest, size in csv.reader(made.read(notes[1]).decode().splitlines())}
    assert set(made.namelist()) == set(record) == {*ours, *notes[:2]}
    assert {path: made.read(path) for path in ours} == ours
    assert record["shipped/x.py"] == ("sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s", "1")


def test_sources_that_are_used_where_they_lie_and_make_no_wheel_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    gone = f"file://{tmp_path}/gone"
    done = installed(tmp_path, {"url": gone, "dir_info": {"editable": True}})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: Longshore came from {gone}, and pip makes no wheel of that now: ")
    assert not (tmp_path / "orders").exists()


@pytest.mark.parametrize("docker", ["false", "nonesuch"])
def test_no_image_without_a_container_engine_and_a_sentence_that_says_so(docker: str, tmp_path: Path) -> None:
    shutil.copy(TEMPLATE / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "image", f"DOCKER={docker}"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"]},  # not the one of a make that runs this test
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, ""), "before anything is installed"
    said, _ = done.stderr.splitlines()
    assert (
        said == f"{docker} does not answer: install it or start its daemon, or name another: make image DOCKER=podman"
    )


class Stranger:
    """Somebody in an empty folder, with the wheel, make and a package index."""

    def __init__(self, folder: Path, constraints: Path) -> None:
        self.folder = folder
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
def stranger(constraints: Path, tmp_path: Path) -> Stranger:
    return Stranger(tmp_path, constraints)


@pytest.mark.timeout(600)  # two environments are set up
async def test_from_the_wheel_to_a_service_that_is_killed_and_goes_on(
    stranger: Stranger, tools: Path, wheel: Path
) -> None:
    stranger.run(tools / "longshore", "new", "orders")
    folder = stranger.folder / "orders"
    # What came from no index is not asked of one: there the name may be somebody else's.
    assert f'"longshore-grpc[server] @ {{root:uri}}/wheels/{wheel.name}"' in (folder / "pyproject.toml").read_text()
    assert content(folder / "wheels" / wheel.name) == content(wheel)
    commands, call, client = (text for _, text in blocks(folder / "README.md"))
    assert re.findall(r"^make (\w+)", commands, re.MULTILINE) == ["dev", "test", "check", "image"]
    assert "2 passed" in stranger.run("make", "test", cwd=folder)
    assert "Success" in stranger.run("make", "check", cwd=folder)

    # Before the server is there, which would be replaced for it while it is called.
    (folder / "caller.py").write_text(client.replace("localhost:50051", stranger.address))
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
        said = await asyncio.to_thread(stranger.run, ".venv/bin/python", "caller.py", cwd=folder)
        assert said.startswith("operations/")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
    assert (folder / "data" / "longshore.db").exists()


def content(wheel: Path) -> dict[str, list[bytes]]:
    """The files of a wheel; the lines of each, as those of the record have no order."""
    opened = zipfile.ZipFile(wheel)
    return {name: sorted(opened.read(name).splitlines()) for name in opened.namelist()}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The blocks of code of a page: language and text."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
