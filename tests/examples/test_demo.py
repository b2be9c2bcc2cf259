"""`make demo`, as a newcomer runs it, with nobody watching."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(example: str) -> tuple[str, dict[str, int]]:
    """What a demo prints, and the counts in it. It must succeed."""
    ended = subprocess.run(
        [sys.executable, ROOT / "examples" / example / "demo.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.finditer(r"^  ([a-z ]+?)  +([\d,]+)", ended.stdout, re.MULTILINE)
    return ended.stdout, {m[1].strip(): int(m[2].replace(",", "")) for m in found}


def test_the_demo_of_orders_loses_nothing_and_does_nothing_twice() -> None:
    printed, counts = run("orders")
    assert counts["started"] == 420
    assert counts["completed"] == counts["orders told to the partner"] == 368
    assert counts["refused"] == 10
    assert counts["failed"] == 52
    assert counts["articles reserved"] == 985
    assert counts["invoices"] == 67
    assert counts["tokens exchanged"] > 1
    assert re.search(r"\d+ reminders, 23 lawsuits", printed)
    assert counts["lost"] == counts["duplicated effects"] == counts["missing effects"] == 0
    assert "nothing lost, nothing done twice" in printed


def test_the_demo_of_documents_loses_no_byte() -> None:
    printed, counts = run("documents")
    # Of the three that take long; on a busy machine the shorter ones may have ended.
    assert counts["uploads under way at the kill"] >= 1
    assert counts["of their bytes acknowledged"] > 1_000_000
    assert counts["of those lost"] == counts["documents that are not what was sent"] == 0
    assert len(re.findall(r"✔ [0-9a-f]{6}", printed)) == 9
    assert "every byte is where it belongs" in printed


def test_make_demo_runs_both() -> None:
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert re.findall(r"examples/(\w+)/demo\.py", recipe[1]) == ["orders", "documents"]
