"""What the guides of recurrings, debounces and tasks have for callers: programs and commands, run over the wire."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from longshore_server.testing import Harness
from tests.cli.test_cli import command
from tests.tooling.test_guides_of_durable_work import FENCE, GUIDES, Example, examples, module

__all__ = ["module"]

HEADING = "\n## For callers in other processes\n"


@pytest.mark.parametrize("name", ["recurring.md", "debounce.md", "task.md"])
async def test_callers_get_what_it_says(name: str, tmp_path: Path, module: ModuleType) -> None:
    for example in examples(name):
        if example.declares:
            exec(example.code, vars(module))
    harness = Harness(module.server, tmp_path)
    server: Any = SimpleNamespace(harness=harness)
    text = (GUIDES / name).read_text("utf-8").partition(HEADING)[2]
    (_, code), (_, output), (_, commands) = FENCE.findall(text)
    await harness.start()
    try:
        example = Example(GUIDES / name, code.replace("localhost:50051", harness.address), 0)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            await eval(example.code, vars(module))
        assert printed.getvalue() == output
        for line in commands.splitlines():
            program, *arguments = shlex.split(line)
            done = await command(server, *arguments)
            assert (program, done.code, done.err) == ("longshore", 0, ""), line
    finally:
        await harness.stop()
