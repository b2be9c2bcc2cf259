"""The guides of steps, retries, stops, retention and limits, done as they say: compiled, served, called, compared."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from longshore_server import StepRetry
from longshore_server.config import Config

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
BIN = Path(sys.executable).parent
ADDRESS = "localhost:50051"


class Block(NamedTuple):
    """One block of code."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def timeless(text: str) -> str:
    """What was printed, whenever that was and however long it took."""
    return re.sub(r"\d+\.\d s\b", "N s", re.sub(r"^[-\d]+T[:.\d]+Z", "TIME", text, flags=re.MULTILINE))


def blocks(name: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", (GUIDES / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2]) for match in found]


class Guide:
    """A folder with a guide's contract and service, and the server that it makes of them."""

    def __init__(self, folder: Path, contract: Block, service: Block) -> None:
        self.folder = folder
        package = re.search(r"^package (.*);$", contract.text, re.MULTILINE)
        assert package is not None
        name = package[1].split(".")[1]
        proto = folder.joinpath("protos", *package[1].split("."), f"{name}.proto")
        proto.parent.mkdir(parents=True)
        proto.write_text(contract.text)
        (folder / "service.py").write_text(service.text)
        self._environment = {
            **os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]), "LONGSHORE_METRICS": "127.0.0.1:0",
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }  # fmt: skip

    async def shell(self, command: str) -> str:
        """What a command prints. It must succeed."""
        process = await self._spawn("/bin/sh", "-c", command)
        out, err = await process.communicate()
        assert process.returncode == 0, f"{command}\n{out.decode()}\n{err.decode()}"
        return out.decode()

    async def run(self, client: Block) -> str:
        """What a program prints that may await at its top level."""
        assert ADDRESS in client.text
        (self.folder / "client.py").write_text(client.text.replace(ADDRESS, self._environment["LONGSHORE_SERVER"]))
        # As `python -m asyncio` reads a file: await works outside of functions.
        return await self.shell("python -c '" + _RUN + "'")

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        await self.shell("longshore generate protos --out .")
        process = await self._spawn("longshore", *shlex.split("serve service.py:server --listen 127.0.0.1:0"))
        assert process.stderr is not None
        said = ""
        try:
            while (found := re.search(r"  on (127\.0\.0\.1:\d+) ", said)) is None:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
            self._environment["LONGSHORE_SERVER"] = found[1]
            yield
        finally:
            process.kill()
            await process.wait()

    async def _spawn(self, *command: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self._environment, stdout=pipe, stderr=pipe
        )


_RUN = """
import ast, asyncio, inspect
code = compile(open("client.py").read(), "client.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
async def main():
    done = eval(code, {})
    if inspect.isawaitable(done):
        await done
asyncio.run(main())
"""


async def test_retries(tmp_path: Path) -> None:
    contract, service, client, printed, once_more, shell = blocks("retries.md")
    guide = Guide(tmp_path, contract, service)
    async with guide.served():
        assert await guide.run(client) == printed.text
        assert await guide.run(once_more) == "True\n"
        rows = [await guide.shell(command) for command in shell.commands]
        assert rows == ['{"rows": "4"}\n', '{"rows": "5"}\n'], "one for each operation but the one that kept its step"


async def test_steps(tmp_path: Path) -> None:
    contract, service, client, printed, seen, shell = blocks("steps.md")
    guide = Guide(tmp_path, contract, service)
    async with guide.served():
        assert await guide.run(client) == printed.text
        told = "".join([f"$ {command}\n{await guide.shell(command)}" for command in seen.commands])
        assert timeless(told) == timeless(seen.text)
        for command in shell.commands:
            name = (await guide.shell(command)).strip()
            snapshot = json.loads(await guide.shell(f"longshore get {name} --json"))
            assert "retried_from" in snapshot
    table = re.findall(r"^\| `(\w+)` \|", (GUIDES / "steps.md").read_text(), re.MULTILINE)
    assert table == [field.name for field in dataclasses.fields(StepRetry) if field.init]


@pytest.mark.parametrize("name", ["operations.md", "channels.md", "watching.md", "stopping.md", "retention.md"])
async def test_a_guide_prints_what_it_says(name: str, tmp_path: Path) -> None:
    contract, service, client, printed, *more = blocks(name)
    guide = Guide(tmp_path, contract, service)
    async with guide.served():
        assert await guide.run(client) == printed.text
        for block in more:
            for command in block.commands:
                await guide.shell(command)
        if name == "retention.md":
            assert await guide.shell("longshore ls --all --json") == ""


def test_limits() -> None:
    settings, client = blocks("limits.md")
    table = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \|", (GUIDES / "limits.md").read_text(), re.MULTILINE)
    assert {name: int(default.replace(",", "")) for name, default in table} == {
        name: getattr(Config(), name) for name in tomllib.loads(settings.text)
    }
    assert Config(**tomllib.loads(settings.text)).queue_per_owner == 100
    made: dict[str, object] = {}
    exec(client.text, made)
    assert {"patient", "in_a_hurry"} <= made.keys()
