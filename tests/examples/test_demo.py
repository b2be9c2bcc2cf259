"""`make demo`, as a newcomer runs it, with nobody watching."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_loses_nothing_and_does_nothing_twice() -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "examples" / "orders" / "demo.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = {m[1].strip(): int(m[2]) for m in re.finditer(r"^  ([a-z ]+?)  +(\d+)", ended.stdout, re.MULTILINE)}
    assert counts["started"] == 420
    assert counts["completed"] == 363
    assert counts["refused"] == 10
    assert counts["failed"] == 57
    assert counts["lost"] == counts["duplicated effects"] == counts["missing effects"] == 0
    assert "nothing lost, nothing done twice" in ended.stdout
