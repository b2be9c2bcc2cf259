"""What the pages at the root tell people to run exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    code = " ".join(CODE.findall((ROOT / page).read_text()))
    named = {word for arguments in re.findall(r"\bmake((?: +[a-z][a-z-]*)+)", code) for word in arguments.split()}
    assert named <= TARGETS


def test_every_public_target_says_what_it_does() -> None:
    documented = set(re.findall(r"^([a-z][a-z-]*):.*## .", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"install", "demo", "test", "check", "generate", "bench", "torture"} <= documented
