"""The guides to the development loop and to callers that block, done as they say, in one project."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

from tests.tooling.test_guides_of_ends import ADDRESS, BIN, blocks


class Shell:
    """A folder, and what its commands are run with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:{folder}/s"
        self.environment = {
            **os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]), "LONGSHORE_METRICS": "off",
            "LONGSHORE_LISTEN": self.address, "PYTHONPATH": "",
        }  # fmt: skip

    async def spawn(self, *command: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe
        )

    async def run(self, *command: str) -> str:
        """What a command prints. It must succeed."""
        process = await self.spawn(*command)
        out, err = await process.communicate()
        assert process.returncode == 0, f"{command}\n{out.decode()}\n{err.decode()}"
        return out.decode()


async def test_a_project_is_begun_served_called_and_exported(tmp_path: Path) -> None:
    project, dev, export, completion = (block.commands for block in blocks("development.md"))
    caller, printed = blocks("blocking.md")
    shell = Shell(tmp_path)
    new, change = project
    (serve,) = dev
    await shell.run(*shlex.split(new))
    shell.folder = tmp_path / shlex.split(change)[1]
    assert ADDRESS in caller.text
    # Before the server is there, which would be replaced for it while it is called.
    (shell.folder / "caller.py").write_text(caller.text.replace(ADDRESS, shell.address))

    server = await shell.spawn(*shlex.split(serve))
    assert server.stderr is not None
    try:
        async for line in server.stderr:
            if b"  serving hello.v1.HelloService" in line:
                break
        assert await shell.run(sys.executable, "caller.py") == printed.text
    finally:
        server.send_signal(signal.SIGTERM)
        _, err = await server.communicate()
    assert server.returncode == 0, err.decode()

    for command in (*export, *completion):
        assert await shell.run(*shlex.split(command))
    assert (shell.folder / "build" / "protos" / "hello" / "v1" / "hello.proto").exists()
    assert (shell.folder / "build" / "contracts.binpb").exists()
