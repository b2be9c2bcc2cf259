"""Bytes sent and fetched by a client in Go, made of what the stock protoc plugins write from the exported protos.

The first run gets Go's modules, and builds; both stay in Go's own caches and in `.tools/`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore_client.codegen.export import export_protos
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import pattern

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("go")
TOOLS = ROOT / ".tools" / "go"
PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
}
MODULES = ("google/api/", "google/rpc/")
"""Files whose Go packages are modules of their own."""
SIZE = (5 << 20) + 7

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="needs go"),
    # The first build takes its time.
    pytest.mark.timeout(900),
]


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def plugin(name: str, package: str) -> Path:
    """A protoc plugin in exactly this version."""
    folder = TOOLS / package.rpartition("/")[2]
    if not (folder / name).exists():
        run("go", "install", package, cwd=SOURCE, GOBIN=str(folder))
    return folder / name


@pytest.fixture(scope="module")
def client() -> Path:
    """The client, built."""
    build = TOOLS / "polyglot"
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(SOURCE, build)
    protos = build / "protos"
    exported = export_protos([ROOT / "protos"], protos)
    names = [path.as_posix() for path in exported if not path.as_posix().startswith(MODULES)]
    arguments = [f"-I{protos}"]
    for plug, package in PLUGINS.items():
        kind = plug.removeprefix("protoc-gen-")
        arguments += [f"--plugin={plug}={plugin(plug, package)}", f"--{kind}_out={build}"]
        arguments += [f"--{kind}_opt=M{name}=polyglot/gen/{Path(name).parent}" for name in names]
        arguments.append(f"--{kind}_opt=module=polyglot")
    run(sys.executable, "-m", "grpc_tools.protoc", *arguments, *names, cwd=build)
    run("go", "build", "-mod=readonly", "-o", build / "client", ".", cwd=build)
    return build / "client"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BytesLab]:
    found = BytesLab(tmp_path / "data")
    await found.start()
    yield found
    await found.stop()


async def test_a_client_in_go_sends_and_fetches_by_both_faces(client: Path, lab: BytesLab, tmp_path: Path) -> None:
    sent, offered = pattern(SIZE), pattern(SIZE + 1)[::-1]
    (tmp_path / "sent").write_bytes(sent)

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        if request.key != "offered":
            await op.transfer.completed()
        return PlayResult()

    await lab.server.stores["exports"].put("offered", offered)
    process = await asyncio.create_subprocess_exec(
        client, lab.harness.address, tmp_path / "sent", "offered", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    outcomes: dict[str, Any] = json.loads(out)
    for call, key in (("Upload", "by/upload"), ("Write", "by/write")):
        outcome = outcomes[call]
        assert SIZE // 3 <= outcome["resumed"] <= 2 * SIZE // 3, call
        assert outcome["refused"] == "WRONG_OFFSET", call
        assert outcome["committed"] == str(outcome["resumed"]), call
        assert (outcome["size"], outcome["sha256"]) == (SIZE, hashlib.sha256(sent).hexdigest()), call
        assert (lab.data / "stores" / "uploads" / key).read_bytes() == sent, call
    for call in ("Download", "Read"):
        outcome = outcomes[call]
        assert 0 < outcome["resumed"] < len(offered), call
        assert (outcome["size"], outcome["sha256"]) == (len(offered), hashlib.sha256(offered).hexdigest()), call
