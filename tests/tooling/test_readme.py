"""The README as a stranger has it: its text, the wheel, an empty environment, and no file of this repository.

What depends on the machine is put in: the port, and the wheel in place of a checkout.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from longshore_server.testing.reservation import Reservation

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RUN = """
import ast, asyncio, inspect, sys, types
module = types.ModuleType("readme")
done = eval(compile(sys.stdin.read(), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), vars(module))
if inspect.isawaitable(done):
    asyncio.run(done)
print(module.result.receipt)
"""
"""Runs a block that may await, as `python -m asyncio` does."""


class Block(NamedTuple):
    """One block of code."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, without comments."""
        lines = (line.removeprefix("$ ") for line in self.text.splitlines())
        return [line for line in lines if shlex.split(line, comments=True)]

    @property
    def file(self) -> Path:
        """The file that its first line names."""
        found = re.match(r"(?://|#) (\S+\.(?:proto|py))\n", self.text)
        assert found is not None, self.text
        return Path(found[1])


def blocks() -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2]) for match in found]


MAKE, CONTRACT, HANDLER, SERVE, CALL, CLIENT, BLOCKING, GRPCURL, PROJECT = blocks()
INSTALL, GENERATE, START = SERVE.commands


class Stranger:
    """Somebody in an empty folder who types what the README says."""

    def __init__(self, folder: Path, constraints: Path) -> None:
        self.folder = folder
        self._port = Reservation()  # nobody else gets it while the server is down
        self.address = self._port.address
        bin = folder / "venv" / "bin"
        self.environment = {
            "HOME": str(folder), "PATH": os.pathsep.join([str(bin), os.environ["PATH"]]),
            "PIP_CONSTRAINT": str(constraints), "LONGSHORE_METRICS": "off",
            "LONGSHORE_SERVER": self.address,
        }  # fmt: skip

    def types(self, command: str, text: str = "") -> str:
        """What a command prints. It must succeed."""
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, input=text, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def here(self, text: str) -> str:
        """With the address that the README's has become on this machine."""
        assert re.search(r"(localhost|127\.0\.0\.1):50051", text)
        return re.sub(r"(localhost|127\.0\.0\.1):50051", self.address, text)

    async def begins(self, command: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *shlex.split(command, comments=True), cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe
        )

    async def serves(self) -> asyncio.subprocess.Process:
        process = await self.begins(self.here(START))
        where = re.escape(self.address)
        await read_to(process, rf"serving acme\.orders\.v1\.OrdersService \(1 operation\)  on {where} ")
        return process


async def read_to(process: asyncio.subprocess.Process, pattern: str) -> str:
    """The first line of its stderr with a pattern."""
    said = b""
    assert process.stderr is not None
    async for line in process.stderr:
        said += line
        if re.search(pattern, line.decode()):
            return line.decode()
    raise AssertionError(f"{pattern} never came\n{said.decode()}")


@pytest.fixture
async def stranger(wheel: Path, constraints: Path, tmp_path: Path) -> Stranger:
    """With what the README says to install."""
    stranger = Stranger(tmp_path, constraints)
    await asyncio.to_thread(venv.create, tmp_path / "venv", with_pip=True)
    assert "../longshore[" in INSTALL
    await asyncio.to_thread(stranger.types, INSTALL.replace("../longshore", str(wheel)))
    return stranger


@pytest.mark.timeout(300)  # the five minutes that it may take, with the setting up of an environment
async def test_its_text_alone_makes_a_service_that_is_killed_and_goes_on(stranger: Stranger) -> None:
    for block in (CONTRACT, HANDLER):
        path = stranger.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    # The server is killed in the time that the warehouse takes, however long this takes to come to that.
    service = stranger.folder / HANDLER.file
    service.write_text(HANDLER.text.replace("sleep(10)", "sleep(3600)"))
    await asyncio.to_thread(stranger.types, GENERATE)
    server = await stranger.serves()
    try:
        call, ls = CALL.commands
        watch = await stranger.begins(call)
        await read_to(watch, "Shipping ord_123")
        assert "ship  Shipping ord_123" in await asyncio.to_thread(stranger.types, ls)
        server.kill()
        await server.communicate()
        await read_to(watch, "does not answer; trying again")
        service.write_text(HANDLER.text)
        server = await stranger.serves()
        out, said = await watch.communicate()
        assert json.loads(out) == {"order_id": "ord_123", "receipt": "receipt-ord_123"}
        assert "completed in" in said.decode()
        steps = stranger.types("longshore steps operations/orders-process-ord_123 --json")
        charge, ship = (json.loads(line) for line in steps.splitlines())
        assert (charge["attempt"], ship["attempt"]) == (1, 2), "what is done is not done again"

        client, blocking = await asyncio.gather(
            calls(stranger, CLIENT, "ord_124"), calls(stranger, BLOCKING, "ord_125")
        )
        assert client == ["charge Charging the card", "ship Shipping ord_124", "receipt-ord_124"]
        assert blocking == ["receipt-ord_125"]
        await with_nothing_of_ours(stranger)
        server.send_signal(signal.SIGTERM)
        await server.communicate()
        assert server.returncode == 0
        await a_project(stranger)
    finally:
        if server.returncode is None:
            server.kill()
            await server.communicate()


async def calls(stranger: Stranger, block: Block, order: str) -> list[str]:
    """What a client prints of an order of its own."""
    text = stranger.here(block.text).replace("ord_123", order)
    return (await asyncio.to_thread(stranger.types, f"python -c {shlex.quote(RUN)}", text)).splitlines()


async def with_nothing_of_ours(stranger: Stranger) -> None:
    """grpcurl, or where there is none a stand-in that knows of the server what reflection tells."""
    stand_in = shlex.join([sys.executable, str(Path(__file__).with_name("grpcurl.py"))])
    grpcurl = "grpcurl" if "grpcurl" in stranger.types("command -v grpcurl || true") else stand_in
    start, watch = (stranger.here(command).replace("grpcurl", grpcurl, 1) for command in GRPCURL.commands)
    (started,) = documents(await asyncio.to_thread(stranger.types, start))
    assert (started["name"], started["done"]) == ("operations/orders-process-ord_123", True)
    assert started["response"]["receipt"] == "receipt-ord_123"
    first, *_ = documents(await asyncio.to_thread(stranger.types, watch))
    assert first["snapshot"]["state"] == "STATE_COMPLETED"


async def a_project(stranger: Stranger) -> None:
    """What `longshore new` writes, served. What else it does is seen in test_new.py and tests/cli/test_dev.py."""
    new, cd, dev = PROJECT.commands
    await asyncio.to_thread(stranger.types, new)
    stranger.folder /= cd.removeprefix("cd ")
    stranger.environment["LONGSHORE_LISTEN"] = "127.0.0.1:0"
    server = await stranger.begins(dev)
    try:
        await read_to(server, r"serving hello\.v1\.HelloService \(1 operation\)  on ")
    finally:
        server.terminate()
        await server.communicate()


def documents(text: str) -> list[Any]:
    """The JSON values of a text, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_every_block_has_its_part_in_these_tests() -> None:
    kinds = [block.language for block in blocks()]
    assert kinds == ["", "proto", "python", "", "", "python", "python", "", ""]
    assert [shlex.split(command, comments=True) for command in MAKE.commands] == [["make", "demo"], ["make", "test"]]
    assert [len(block.commands) for block in (SERVE, CALL, GRPCURL, PROJECT)] == [3, 2, 2, 3]
