"""Builds the clients in `examples/clients` from exported protos, with the stock tools of each language.

Everything that is fetched or made stays in the caches of these tools and in `.tools/clients`: a second build is quick.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from longshore_client.codegen.export import export_protos

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "examples" / "clients"
TOOLS = ROOT / ".tools" / "clients"
CONTRACTS = (ROOT / "examples" / "orders" / "protos", ROOT / "examples" / "documents" / "protos")

GO = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
GO_PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
}
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


def _workplace(client: str) -> Path:
    """The folder that a client is built in, with its sources and the protos; what earlier builds left is there too."""
    place = TOOLS / client
    shutil.copytree(SOURCES / client, place, dirs_exist_ok=True)
    export_protos(CONTRACTS, place / "protos")
    return place


def _names(place: Path, *folders: str) -> list[str]:
    """The exported protos of some folders, as protoc is given them."""
    protos = place / "protos"
    return [
        path.relative_to(protos).as_posix() for folder in folders for path in sorted((protos / folder).rglob("*.proto"))
    ]


def python() -> list[str]:
    place = _workplace("python")
    stubs = ["--python_out=.", "--grpc_python_out=."]
    run(sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *stubs, *_names(place, "acme", "longshore"), cwd=place)
    return [sys.executable, str(place / "main.py")]


def go() -> list[str]:
    place = _workplace("go")
    build_go(place, "client", _names(place, "acme", "longshore"))
    return [str(place / "client")]


def build_go(place: Path, module: str, names: list[str]) -> None:
    """Build the program `client` of a folder with the folder `protos`, of which `names` are compiled for it."""
    arguments = ["-Iprotos"]
    for plugin, package in GO_PLUGINS.items():
        kind = plugin.removeprefix("protoc-gen-")
        arguments += [f"--plugin={plugin}={go_tool(package)}", f"--{kind}_out=.", f"--{kind}_opt=module={module}"]
        arguments += [f"--{kind}_opt=M{name}={module}/gen/{Path(name).parent}" for name in names]
    run(sys.executable, "-m", "grpc_tools.protoc", *arguments, *names, cwd=place)
    run("go", "build", "-mod=readonly", "-o", "client", ".", cwd=place, **GO)


def go_tool(package: str) -> Path:
    """A program in Go in exactly the version that `package` names, built once."""
    path, _, version = package.partition("@")
    folder = TOOLS / "bin" / version
    program = folder / path.rpartition("/")[2]
    if not program.exists():
        run("go", "install", package, cwd=ROOT, GOBIN=str(folder), **GO)
    return program


def node() -> list[str]:
    place = _workplace("node")
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", cwd=place)
    return ["node", str(place / "main.js")]


def java() -> list[str]:
    place = _workplace("java")
    run("mvn", "-q", "-B", "compile", cwd=place)
    libraries = (place / "target" / "classpath").read_text("utf-8").strip()
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{place / 'target' / 'classes'}:{libraries}", "client.Client"]


def rust() -> list[str]:
    place = _workplace("rust")
    # Where others have protoc itself.
    protoc = place / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n', "utf-8")
    protoc.chmod(0o755)
    run("cargo", "build", "--locked", "--quiet", cwd=place, PROTOC=str(protoc), CARGO_TARGET_DIR="target")
    return [str(place / "target" / "debug" / "client")]


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
