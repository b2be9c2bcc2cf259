"""The README, done as it says: its contract compiled, its handler served by its command, its callers calling.

Only what depends on the machine is put in: the port, and a stand-in for grpcurl where there is none.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
import venv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from acme.orders.v1.orders_pb2 import ProcessOrderResult

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "orders"
BIN = Path(sys.executable).parent
ADDRESS = "localhost:50051"
LIFESPAN = """
def lifespan(server):
    return Ledger(server.config.data / "ledger.db")
"""


class Block(NamedTuple):
    """One block of code."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, without comments."""
        lines = (line.removeprefix("$ ") for line in self.text.splitlines())
        return [line for line in lines if shlex.split(line, comments=True)]


def blocks() -> list[Block]:
    text = README.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2))) for match in found]


MAKE, CONTRACT, HANDLER, SERVE, CLIENT, BLOCKING, GRPCURL, CALL, INSTALL = blocks()


class Project(NamedTuple):
    """A folder with the README's contract and service, and what a shell in it needs."""

    folder: Path
    environment: dict[str, str]

    def shell(self, command: str, cwd: Path | None = None) -> str:
        """What a command prints. It must succeed."""
        done = subprocess.run(
            command, shell=True, cwd=cwd or self.folder, env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The example's messages and steps around the README's contract and handler."""
    orders = tmp_path / "examples" / "orders"
    contract = orders / "protos" / "acme" / "orders" / "v1" / "orders.proto"
    contract.parent.mkdir(parents=True)
    whole = (EXAMPLE / "protos" / "acme" / "orders" / "v1" / "orders.proto").read_text()
    contract.write_text(re.sub(r"^service .*?^}\n", lambda _: CONTRACT.text, whole, flags=re.MULTILINE | re.DOTALL))
    assert CONTRACT.text in contract.read_text()
    shutil.copy(EXAMPLE / "ledger.py", orders)
    # The example's own module, under another name: imports and steps for the README's class. Its lifespan begins what
    # the example's own server runs.
    shutil.copy(EXAMPLE / "service.py", orders / "whole.py")
    (orders / "service.py").write_text(f"from whole import *\ndel Orders, server\n{LIFESPAN}\n{HANDLER.text}")
    tools = tmp_path / "bin"
    tools.mkdir()
    stand_in = tools / "grpcurl"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("grpcurl.py")}" "$@"\n')
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(BIN), os.environ["PATH"], str(tools)])
    return Project(tmp_path, {**os.environ, "PATH": path, "LONGSHORE_METRICS": "127.0.0.1:0"})


@pytest.fixture
async def address(project: Project) -> AsyncIterator[str]:
    """Where the README's service is served, by the README's commands."""
    (compile,) = (command for command in INSTALL.commands if command.startswith("longshore generate"))
    project.shell(compile, project.folder / "examples" / "orders")
    (serve,) = SERVE.commands
    process = await asyncio.create_subprocess_exec(
        *shlex.split(serve.replace("127.0.0.1:50051", "127.0.0.1:0")), cwd=project.folder, env=project.environment,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    try:
        while "  serving " not in said:
            line = await process.stderr.readline()
            assert line, said
            said += line.decode()
        found = re.search(r"serving acme\.orders\.v1\.OrdersService \(1 operation\)  on (127\.0\.0\.1:\d+) ", said)
        assert found is not None, said
        yield found[1]
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
        assert await process.wait() == 0, said + rest.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_it_shows_works(project: Project, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    namespace = await run_python(CLIENT, address)
    assert namespace["result"] == ProcessOrderResult(order_id="ord_123", status="ready_to_ship")
    assert capsys.readouterr().out.splitlines() == ["charge Charging the card", "ship Shipping ord_123"]

    blocking = await run_python(BLOCKING, address)
    assert blocking["result"] == namespace["result"]

    async def shell(command: str) -> str:
        return await asyncio.to_thread(project.shell, command.replace(ADDRESS, address))

    start, watch = GRPCURL.commands
    (started,) = documents(await shell(start))
    assert (started["name"], started["done"]) == ("operations/orders-process-ord_123", True)
    assert started["response"]["status"] == "ready_to_ship"
    first, *_ = documents(await shell(watch))
    assert first["snapshot"]["state"] == "STATE_COMPLETED"

    project.environment["LONGSHORE_SERVER"] = address
    call, ls = CALL.commands
    assert json.loads(await shell(call)) == {"order_id": "ord_123", "status": "ready_to_ship"}
    assert await shell(ls) == "", "nothing runs any more"


async def run_python(block: Block, address: str) -> dict[str, Any]:
    """Run a block that may await, and return its variables. A trace shows the README's lines."""
    assert ADDRESS in block.text
    source = "\n" * block.line + block.text.replace(ADDRESS, address)
    module = types.ModuleType("readme")
    done = eval(compile(source, README, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), vars(module))
    if inspect.isawaitable(done):
        await done
    return vars(module)


def documents(text: str) -> list[Any]:
    """The JSON values of a text, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_its_installation_brings_the_server_and_the_command_line(tmp_path: Path) -> None:
    install, _, new = INSTALL.commands
    venv.create(tmp_path / "venv", with_pip=True)
    path = os.pathsep.join([str(tmp_path / "venv" / "bin"), os.environ["PATH"]])
    # The versions that are tested here; what is newer is for `make lock`.
    environment = {**os.environ, "PATH": path, "PIP_CONSTRAINT": str(ROOT / "constraints" / "highest.txt")}
    environment.pop("PYTHONPATH", None)
    fresh = Project(tmp_path, environment)
    fresh.shell(install, ROOT)
    for command in ("call", "ls", "types", "generate", "serve"):
        assert "Usage: " in fresh.shell(f"longshore {command} --help")
    fresh.shell(new)
    assert (tmp_path / "hello" / "Makefile").exists()
    assert str(tmp_path) in fresh.shell("python -c 'import longshore_server; print(longshore_server.__file__)'")


def test_every_block_has_its_part_in_these_tests() -> None:
    kinds = [block.language for block in blocks()]
    assert kinds == ["", "proto", "python", "", "python", "python", "", "", ""]
    assert [shlex.split(command, comments=True) for command in MAKE.commands] == [["make", "demo"], ["make", "test"]]
    assert [len(block.commands) for block in (SERVE, GRPCURL, CALL, INSTALL)] == [1, 2, 2, 3]
