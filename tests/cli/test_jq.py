"""What `--json` prints, read by jq in a shell's pipeline."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from longshore_server import OperationError
from tests.cli.test_cli import play
from tests.conftest import Lab

pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")


async def pipeline(lab: Lab, command: str) -> list[str]:
    """The lines that a line of a shell prints, of which no part may fail."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
             "LONGSHORE_SERVER": lab.harness.address},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, (command, out, err)
    return out.decode().splitlines()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            'call PlayNamed -d \'{"key": "c"}\' --watch --json | jq -r \'select(.type != "output") | .type\'',
            ["accepted", "started", "progress", "completed"],
        ),
        ("watch operations/named-a --json | jq -s 'map(.sequence) == [range(1; length + 1)]'", ["true"]),
        ("wait operations/named-a --json | jq -r .state", ["COMPLETED"]),
        ("get operations/named-b --json | jq -r .error.reason", ["OUT_OF_STOCK"]),
        ("ls --json | jq -r .name", ["operations/named-b", "operations/named-a"]),
        ("ls --json | jq -s length", ["2"]),
        ("count --json | jq -c '[.state, .count]'", ['["COMPLETED",1]', '["FAILED",1]']),
        ("types --json | jq -r .type | grep PlayNamed", ["lab.v1.LabService/PlayNamed"]),
        ("retry operations/named-a --completed --json | jq -r .name", ["operations/named-a"]),
        ("delete operations/named-a --json | jq -r .operation", ["operations/named-a"]),
        ("steps operations/named-a --json | jq -s length", ["0"]),
        ("logs operations/named-a --json | jq -s length", ["0"]),
    ],
)
async def test_jq_reads_each_line(lab: Lab, command: str, expected: list[str]) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.key == "b":
            raise OperationError("OUT_OF_STOCK", 'no "A1" left,\nnot \u2713 one')
        return await play(request, op)

    for key in "ab":
        await lab.end((await lab.begin("PlayNamed", key=key)).operation.name)
    assert await pipeline(lab, f"longshore {command}") == expected
