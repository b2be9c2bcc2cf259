"""The guides of jobs, recurrings, debounces and tasks: their programs run, and their examples print what they say."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from longshore_server.testing import Harness

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Nobody else's ports; all else is as the guides say.
HERE = 'server.run(__import__("longshore_server").Config(listen=("127.0.0.1:0",), metrics=""))'


class Example:
    """A block of Python, and what the guide says that it prints."""

    def __init__(self, guide: Path, text: str, line: int) -> None:
        self.code = compile("\n" * line + text, guide, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        self.text = text
        self.printed = ""

    @property
    def declares(self) -> bool:
        """Whether it is part of the service; else it is done while that runs."""
        return not self.code.co_flags & inspect.CO_COROUTINE


def examples(name: str) -> list[Example]:
    """The examples of a guide, without what it has for operators and for callers."""
    guide = GUIDES / name
    text = guide.read_text("utf-8").partition("\n## For ")[0]
    found: list[Example] = []
    for match in FENCE.finditer(text):
        if match[1] == "python":
            found.append(Example(guide, match[2], text.count("\n", 0, match.start(2))))
        else:
            assert not match[1], "the test knows nothing else"
            found[-1].printed = match[2]
    return found


def services(found: list[Example]) -> list[list[Example]]:
    """The examples of each server, which is declared by the first one of them."""
    begins = [position for position, example in enumerate(found) if "\nserver = Server(" in example.text]
    return [found[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """Where the code of a guide lives."""
    made = sys.modules["guide_of_durable_work"] = ModuleType("guide_of_durable_work")
    yield made
    del sys.modules[made.__name__]


NAMES = ["jobs.md", "recurring.md", "debounce.md", "task.md"]


@pytest.mark.parametrize("name", NAMES)
def test_its_program_runs(name: str, tmp_path: Path) -> None:
    program, *_ = examples(name)
    assert program.text.count("server.run()") == 1
    (tmp_path / "program.py").write_text(program.text.replace("server.run()", HERE), "utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, program.printed), done.stderr


@pytest.mark.parametrize("name", NAMES)
async def test_its_examples_print_what_it_says(name: str, tmp_path: Path, module: ModuleType) -> None:
    for service in services(examples(name)):
        for example in service:
            if example.declares:
                exec(example.code, vars(module))
        async with Harness(module.server, tmp_path / str(id(service))).serve() as vars(module)["longshore"]:
            for example in service:
                if not example.declares:
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        await eval(example.code, vars(module))
                    assert printed.getvalue() == example.printed, example.text
