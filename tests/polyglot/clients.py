"""Builds the clients in `examples/clients` by the words of docs/clients.md, with the stock tools of each language.

Everything that is fetched or made stays in the caches of these tools and in `.tools/clients`: a second build is quick.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "clients.md"
SOURCES = ROOT / "examples" / "clients"
TOOLS = ROOT / ".tools" / "clients"
CONTRACTS = (ROOT / "examples" / "orders" / "protos", ROOT / "examples" / "documents" / "protos")

GO = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
GO_PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
)
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.120.0"

NEEDS = {
    "python": (),
    "go": ("go",),
    "node": ("node", "npm"),
    "java": ("java", "mvn"),
    "rust": ("cargo",),
    "grpcurl": ("go", "jq"),
}
"""By client: the programs without which it cannot be built and run."""


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """Run a step of a build. Fails the test with all that it says."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def _build(client: str, **variables: str) -> Path:
    """Build a client as docs/clients.md says it. Returns where: what earlier builds left is there too."""
    place = TOOLS / client
    shutil.copytree(SOURCES / client, place, dirs_exist_ok=True)
    run(sys.executable, "-m", "longshore_client.cli", "generate", *CONTRACTS, "--export", place / "protos", cwd=ROOT)
    _follow(client, place, "acme", **variables)
    return place


def _follow(client: str, place: Path, contracts: str, **variables: str) -> None:
    """Do what the page says, on a machine with protoc. `contracts`: the folders in place of the `acme` of its own."""
    (said,) = re.findall(rf"```bash\n# {client}\b.*?\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL | re.IGNORECASE)
    protoc = TOOLS / "bin" / "protoc"
    protoc.parent.mkdir(parents=True, exist_ok=True)
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n', "utf-8")
    protoc.chmod(0o755)
    folders = (variables.pop("PATH", ""), str(protoc.parent), str(Path(sys.executable).parent), os.environ["PATH"])
    steps = said.replace("find acme ", f"find {contracts} ")
    run("bash", "-euo", "pipefail", "-c", steps, cwd=place, PATH=os.pathsep.join(filter(None, folders)), **variables)


def python() -> list[str]:
    return [sys.executable, str(_build("python") / "main.py")]


def go() -> list[str]:
    return [str(_build("go", PATH=_go_plugins(), **GO) / "client")]


def build_go(place: Path, contracts: str) -> Path:
    """Build the module `client` of a folder with the folder `protos`, of which `contracts` and ours are for it."""
    _follow("go", place, contracts, PATH=_go_plugins(), **GO)
    return place / "client"


def _go_plugins() -> str:
    """Where protoc finds them."""
    return os.pathsep.join(str(go_tool(package).parent) for package in GO_PLUGINS)


def go_tool(package: str) -> Path:
    """A program in Go in exactly the version that `package` names, built once."""
    path, _, version = package.partition("@")
    folder = TOOLS / "bin" / version
    program = folder / path.rpartition("/")[2]
    if not program.exists():
        run("go", "install", package, cwd=ROOT, GOBIN=str(folder), **GO)
    return program


def node() -> list[str]:
    settings = {"ignore_scripts": "true", "audit": "false", "fund": "false", "prefer_offline": "true"}
    place = _build("node", **{f"npm_config_{name}": value for name, value in settings.items()})
    return ["node", str(place / "main.js")]


def java() -> list[str]:
    target = _build("java") / "target"
    libraries = (target / "classpath").read_text("utf-8").strip()
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{target / 'classes'}:{libraries}", "client.Client"]


def rust() -> list[str]:
    return [str(_build("rust", CARGO_TARGET_DIR="target") / "target" / "debug" / "client")]


def grpcurl() -> list[str]:
    tool = go_tool(GRPCURL)
    return ["env", f"PATH={tool.parent}{os.pathsep}{os.environ['PATH']}", str(SOURCES / "grpcurl" / "client.sh")]


BUILDERS: dict[str, Callable[[], list[str]]] = {
    "python": python,
    "go": go,
    "node": node,
    "java": java,
    "rust": rust,
    "grpcurl": grpcurl,
}


@functools.cache
def command(client: str) -> list[str]:
    """What runs a client, before its arguments. Built once a session."""
    return BUILDERS[client]()
