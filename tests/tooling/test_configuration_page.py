"""docs/configuration.md: its examples are taken as they are, and what it says of mistakes is what is said of them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from longshore_server import LocalStore, config
from tests.warm import longshore

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
MISTAKES, ISSUERS, CODE, STORES = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def loaded(folder: Path, text: str) -> config.Config:
    file = folder / "settings.toml"
    file.write_text(text)
    return config.load({}, file=file, origin={})


def test_issuers_and_stores_are_understood(tmp_path: Path) -> None:
    assert [issuer.prefix for issuer in loaded(tmp_path, ISSUERS).issuers] == ["acme:", "partner:"]
    (store,) = loaded(tmp_path, STORES).stores
    assert store.name == "uploads"
    made: dict[str, object] = {}
    names = {"Server": lambda service, stores: stores, "Documents": object, "LocalStore": LocalStore}
    exec(CODE, names, made)
    assert isinstance(made["server"]["uploads"], LocalStore)  # type: ignore[index]


@pytest.mark.parametrize("line", MISTAKES.splitlines())
def test_a_mistake_is_told_in_these_words(line: str, tmp_path: Path) -> None:
    settings, variables = {
        "error: settings.toml: queue": ("queue = -1", {}),
        "error: settings.toml: there": ("max_inputs = 1", {}),
        "error: LONGSHORE_LOG_LEVEL:": ("", {"LONGSHORE_LOG_LEVEL": "loud"}),
    }[line[:27]]
    (tmp_path / "settings.toml").write_text(settings)
    done = subprocess.run(
        [*longshore(), "serve", "service:server", "--config", "settings.toml"],
        cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    shown, _, more = line.partition(", ...")
    assert done.stderr.startswith(shown)
    assert done.stderr == f"{shown}\n" or line != shown
